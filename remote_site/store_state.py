"""What a remote keeps durably about a group: one record for all its volumes.

Pure. docs/internals/disk-formats.md lists the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.errors import StateMismatchError
from common.replication.lineage import (
    NO_ID,
    CycleName,
    Fork,
    ReceiverState,
    SenderState,
)
from common.replication.session_messages import VolumeOffer
from remote_site.membership import ALWAYS, Membership

FORMAT_VERSION = 3
FORMAT_VERSION_TAKEN = 4
"""Of the record of a group that was taken over, or that sent before it received:
earlier releases refuse it by its version, for they would go on to receive."""

NO_LINEAGE = NO_ID
"""Of a group that is bound, and not yet ready to receive: no sender has it."""

FORMAT_VERSION_HISTORY = 5
"""Of a record that knows of merged journals, of kept points or of a catalogue."""

FORMAT_VERSION_MEMBERS = 6
"""Of a record of which not every point has every volume: earlier releases would take
the journals of the others to be lost."""

VERSIONS = range(FORMAT_VERSION, FORMAT_VERSION_MEMBERS + 1)

POINT_FIELDS_BEFORE = 6
"""Of a point in a record of an earlier version."""


@dataclass(frozen=True, slots=True)
class Point:
    """A recovery point; `number` is its cycle's. Times: wall clock of the primary.

    `sizes`: bytes of each of its volumes, where any has grown since; else empty.
    `journal_bytes`: of all its journals, once they are finished; 0: not known.
    `generation`: how often other points' journals were merged into its own, which
    their names tell. `is_kept`: an operator's word, until it is taken back.
    """

    number: int
    cycle_id: bytes
    cut_ns: int
    current_as_of_ns: int
    label: str | None
    sizes: tuple[int, ...] = ()
    journal_bytes: int = 0
    generation: int = 0
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class Takeover:
    """From this record on the group receives nothing more.

    Once it `is_done` the devices hold the point `fork.cycle`, or what hosts have made
    of it since, and the group sends in lineage `fork.lineage`.
    """

    fork: Fork
    is_done: bool = False


@dataclass(frozen=True, slots=True)
class Divided:
    """Point `number` is what this site had when it gave up sending.

    Until a point comes after it, senders are told that `common` is the newest one:
    the devices are as at that cycle, but for what this site has changed since, which
    bitmaps beside the record say. None: nobody knows, all of it is compared.
    """

    number: int
    common: CycleName | None


@dataclass(frozen=True, slots=True)
class KeptFork:
    """Point `number` keeps what was written in `lineage`, given up at `at_ns`."""

    number: int
    lineage: bytes
    at_ns: int


@dataclass(frozen=True, slots=True)
class StoreState:
    """`points` oldest first; `relations[i]` names the journals of `points[i]`.

    `relation_id` is the open relation: the newest point's, or before the first
    point one that was made when the group was bound. `created[i]` tells whether
    this store made the device of `volumes[i]`, so that it held zeroes only.

    `begun`, `is_noted`, `progress_count`, `shown_epoch`, `shown` and `given` are what
    an older copy of the sender, or of this state, is known by: see
    `common.replication.lineage`.

    `growing[i]`: the device of `volumes[i]` may have been extended up to so many
    bytes; 0, or all of it empty: it is as long as its volume.

    `lineage` is the one that was received, also after a `takeover`.

    `members[i]`: the points that have `volumes[i]`; all of it empty: every point has
    every volume. Those that have left are in `volumes`, too, while a point has them.
    """

    group: str
    group_id: bytes
    lineage: bytes
    peer: str
    epoch: int
    relation_id: bytes
    volumes: tuple[VolumeOffer, ...]
    created: tuple[bool, ...]
    points: tuple[Point, ...] = ()
    relations: tuple[bytes, ...] = ()
    begun: CycleName | None = None
    is_noted: bool = False
    progress_count: int = 0
    shown_epoch: int = 0
    shown: bytes = NO_ID
    given: bytes = NO_ID
    growing: tuple[int, ...] = ()
    takeover: Takeover | None = None
    divided: Divided | None = None
    forks: tuple[KeptFork, ...] = ()
    members: tuple[Membership, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.members) in {0, len(self.volumes)}
        assert len(self.growing) in {0, len(self.volumes)}
        assert all(len(p.sizes) in {0, len(self.volumes)} for p in self.points)
        assert len(self.points) == len(self.relations)
        assert len(self.volumes) == len(self.created)
        assert not self.points or self.relation_id == self.relations[-1]
        assert all(
            a.number < b.number
            for a, b in zip(self.points, self.points[1:], strict=False)
        )

    def with_point(self, point: Point, relation_id: bytes) -> StoreState:
        return replace(
            self,
            points=(*self.points, point),
            relations=(*self.relations, relation_id),
            relation_id=relation_id,
            is_noted=False,
            progress_count=0,
        )

    def since(self, number: int) -> StoreState:
        """Return this state without the points before `number`."""
        dropped = sum(point.number < number for point in self.points)
        return replace(
            self, points=self.points[dropped:], relations=self.relations[dropped:]
        )

    # -- what was taken over, or given up ----------------------------------------------

    @property
    def is_on_its_way_back(self) -> bool:
        """Tell whether devices go back to a point, for which all may be needed."""
        return self.takeover is not None and not self.takeover.is_done

    @property
    def is_divided(self) -> bool:
        """Tell whether the devices still hold what this site wrote itself."""
        newest = self.points[-1].number if self.points else None
        return self.divided is not None and self.divided.number == newest

    @property
    def committed(self) -> CycleName | None:
        """The point that a sender may rely on: the newest, or what is common."""
        if self.is_divided:
            assert self.divided is not None
            return self.divided.common
        newest = self.points[-1] if self.points else None
        return CycleName(newest.number, newest.cycle_id) if newest else None

    def received_from(
        self, lineage: bytes, peer: str, divided: Divided | None, fork: KeptFork | None
    ) -> StoreState:
        """Return this state as one that receives another line of data, from now on.

        What was remembered of the sender before counts for no other one.
        """
        return replace(
            self,
            lineage=lineage,
            peer=peer,
            begun=None,
            shown_epoch=0,
            shown=NO_ID,
            given=NO_ID,
            takeover=None,
            divided=divided,
            forks=self.forks if fork is None else (*self.forks, fork),
        )

    def without(
        self, numbers: frozenset[int], into: int, journal_bytes: int, relation: bytes
    ) -> StoreState:
        """Return this state with points merged into the one before them."""
        points: list[Point] = []
        relations: list[bytes] = []
        for point, name in zip(self.points, self.relations, strict=True):
            if point.number in numbers:
                continue
            if point.number == into:
                point = replace(
                    point,
                    journal_bytes=journal_bytes,
                    generation=point.generation + 1,
                )
                name = relation
            points.append(point)
            relations.append(name)
        assert len(points) + len(numbers) == len(self.points)
        return replace(self, points=tuple(points), relations=tuple(relations))

    @property
    def kept_numbers(self) -> set[int]:
        """Points that stay whatever rules say: by an operator's word, and forks."""
        kept = {point.number for point in self.points if point.is_kept}
        return kept | {fork.number for fork in self.forks}

    def kept(self, number: int, *, is_kept: bool) -> StoreState:
        """Return this state with a point kept, or no longer."""
        points = tuple(
            replace(point, is_kept=is_kept) if point.number == number else point
            for point in self.points
        )
        return replace(self, points=points)

    # -- volumes that come and leave ---------------------------------------------------

    @property
    def memberships(self) -> tuple[Membership, ...]:
        """The membership of each of `volumes`."""
        return self.members or (ALWAYS,) * len(self.volumes)

    @property
    def current(self) -> tuple[VolumeOffer, ...]:
        """The volumes that the group has: joining ones, too, but none that has left."""
        return tuple(
            offer
            for offer, member in zip(self.volumes, self.memberships, strict=True)
            if not member.has_left
        )

    def has(self, number: int, index: int) -> bool:
        """Tell whether point `number` has `volumes[index]`."""
        return self.memberships[index].has(number)

    def offers_at(self, number: int) -> list[VolumeOffer]:
        """Return the volumes that point `number` has."""
        return [v for i, v in enumerate(self.volumes) if self.has(number, i)]

    # -- volumes that grow -------------------------------------------------------------

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(offer.size_bytes for offer in self.volumes)

    def size_at(self, point: Point, index: int) -> int:
        """Return the bytes of `volumes[index]` at a point."""
        return (point.sizes or self.sizes)[index]

    def will_grow(self, index: int, size_bytes: int) -> StoreState:
        """Return the intent: from here on the device may be so long."""
        growing = list(self.growing or [0] * len(self.volumes))
        growing[index] = size_bytes
        return replace(self, growing=tuple(growing))

    def grown(self, index: int, size_bytes: int) -> StoreState:
        """Return this state with a larger volume; its points keep their sizes."""
        growing, volumes = list(self.growing), list(self.volumes)
        assert growing[index] == size_bytes, "recorded before"
        growing[index] = 0
        volumes[index] = replace(volumes[index], size_bytes=size_bytes)
        return replace(
            self,
            volumes=tuple(volumes),
            growing=tuple(growing) if any(growing) else (),
            points=tuple(sized(point, self.sizes) for point in self.points),
        )

    # -- what the sender is judged by --------------------------------------------------

    def met_by(self, sender: SenderState) -> StoreState:
        """Return this state as it counts for a sender.

        One that knows of no point carries every track, and has nothing in common: it
        has let go of what was, for an older copy of this state that knew of nothing.
        """
        divided = self.divided
        is_forgotten = sender.committed is None and sender.lineage == self.lineage
        if divided is None or not (self.is_divided and is_forgotten):
            return self
        return replace(self, divided=replace(divided, common=None))

    @property
    def has_taken_common(self) -> bool:
        """Tell whether it has taken over from a point that its sender may have.

        What this site had before it gave that up is none.
        """
        own = 0 if self.divided is None else self.divided.number
        return self.takeover is not None and self.takeover.fork.cycle.number > own

    def judged(self) -> ReceiverState:
        """Return what a session is judged by, before it begins."""
        return ReceiverState(
            self.group_id,
            self.lineage,
            self.shown_epoch,
            self.shown,
            self.given,
            self.begun,
            self.committed,
            self.is_noted,
            self.relation_id,
            self.progress_count,
        )

    def met(self, sender: SenderState, new_receipt: bytes) -> StoreState:
        """Return this state with a session more, whose HELLO showed `sender`.

        A receipt given and not shown yet is given again: the sender may have recorded
        it without being heard since. A sender that has seen later sessions than this
        state proves it an older copy; their numbers are not used again.
        """
        given = self.given
        if given in (NO_ID, sender.receipt) or sender.receipt != self.shown:
            given = new_receipt
        epoch = max(self.epoch, sender.epoch) + 1
        state = self.met_by(sender)
        noted = self.is_noted or state.committed in (None, sender.committed)
        return replace(
            state,
            epoch=epoch,
            shown_epoch=sender.epoch,
            shown=sender.receipt,
            given=given,
            is_noted=noted,
        )

    def heard(self) -> StoreState:
        """Return this state once the sender has recorded the session it is in.

        A sender says anything about cycles only after that, and after it has recorded
        the newest point: both are proved by the first such message.
        """
        return replace(
            self,
            shown_epoch=self.epoch,
            shown=self.given,
            is_noted=bool(self.points),
        )


def sized(point: Point, sizes: tuple[int, ...]) -> Point:
    """Return the point with its sizes written down, which are these now."""
    return point if point.sizes else replace(point, sizes=sizes)


def to_record(
    state: StoreState, catalogue: list[int] | None = None, catalogued: int = 0
) -> dict[str, Any]:
    """Return the msgpack-able form.

    The first `catalogued` points are in a catalogue, which `catalogue` names.
    """
    record: dict[str, Any] = {name: getattr(state, name) for name in state.__slots__}
    for key in ("takeover", "divided", "forks", "members"):
        del record[key]
    tail = state.points[catalogued:]
    version = FORMAT_VERSION
    if state.takeover is not None:
        version = FORMAT_VERSION_TAKEN
        record["takeover"] = _takeover_record(state.takeover)
    if state.divided is not None or state.forks:
        version = FORMAT_VERSION_TAKEN
        record["divided"] = state.divided and _divided_record(state.divided)
        record["forks"] = [_values(fork) for fork in state.forks]
    record["volumes"] = [_values(offer) for offer in state.volumes]
    record["relations"] = list(state.relations[catalogued:])
    record["begun"] = state.begun and _values(state.begun)
    record["version"], record["points"] = version, [_values(point) for point in tail]
    if catalogue is not None or any(map(_has_history, tail)):
        record["version"] = FORMAT_VERSION_HISTORY
        record["oldest"] = state.points[0].number
        record["catalogue"] = catalogue
    else:
        record["points"] = [_values(point)[:POINT_FIELDS_BEFORE] for point in tail]
    if any(member != ALWAYS for member in state.members):
        record["version"] = FORMAT_VERSION_MEMBERS
        record["members"] = [_values(member) for member in state.members]
    return record


def _divided_record(divided: Divided) -> list[Any]:
    return [divided.number, divided.common and _values(divided.common)]


def _divided(values: list[Any]) -> Divided:
    number, common = values
    return Divided(number, common and CycleName(*common))


def _has_history(point: Point) -> bool:
    return bool(point.journal_bytes or point.generation or point.is_kept)


def _values(
    record: VolumeOffer | Point | CycleName | KeptFork | Membership,
) -> list[Any]:
    return [getattr(record, name) for name in record.__slots__]


def _takeover_record(takeover: Takeover) -> dict[str, Any]:
    fork = takeover.fork
    return {
        "lineage": fork.lineage,
        "parent": fork.parent,
        "point": _values(fork.cycle),
        "cut_ns": fork.cut_ns,
        "at_ns": fork.at_ns,
        "is_done": takeover.is_done,
    }


def _takeover(record: dict[str, Any]) -> Takeover:
    fork = Fork(
        record["lineage"],
        record["parent"],
        CycleName(*record["point"]),
        record["cut_ns"],
        record["at_ns"],
    )
    return Takeover(fork, record["is_done"])


def point_values(point: Point, relation: bytes) -> list[Any]:
    """Return a point as a catalogue has it."""
    return [relation, *_values(point)]


def from_point_values(values: list[Any]) -> tuple[Point, bytes]:
    return _point(values[1:]), values[0]


def _point(values: list[Any]) -> Point:
    point = Point(*values)
    return replace(point, sizes=tuple(point.sizes))


def from_record(
    record: dict[str, Any],
    path: str,
    catalogued: Sequence[tuple[Point, bytes]] = (),
) -> StoreState:
    """Read `to_record`'s form; an unknown version is refused by name.

    `catalogued`: what the catalogue that the record names has, oldest first.
    """
    record = dict(record)
    version = record.pop("version", None)
    if version not in VERSIONS:
        raise StateMismatchError(
            f"{path}: format version {version} is not one from {FORMAT_VERSION} to "
            f"{FORMAT_VERSION_MEMBERS}, which this farshore reads; run the release "
            "that wrote it, or upgrade"
        )
    if "takeover" in record:
        record["takeover"] = _takeover(record["takeover"])
    if record.get("divided") is not None:
        record["divided"] = _divided(record["divided"])
    record["forks"] = tuple(KeptFork(*values) for values in record.get("forks", ()))

    record.pop("catalogue", None)
    oldest = record.pop("oldest", 0)
    known = [each for each in catalogued if each[0].number >= oldest]
    record["volumes"] = tuple(VolumeOffer(*fields) for fields in record["volumes"])
    record["points"] = (
        *(point for point, _ in known),
        *(_point(values) for values in record["points"]),
    )
    record["growing"] = tuple(record.get("growing", ()))
    record["members"] = tuple(Membership(*each) for each in record.get("members", ()))
    record["begun"] = record["begun"] and CycleName(*record["begun"])
    record["created"] = tuple(record["created"])
    record["relations"] = (*(name for _, name in known), *record["relations"])
    return StoreState(**record)
