"""What a primary keeps durably about a group, and what it makes of it at a start.

Pure. `verdict` is the recovery decision: a killed process and a lost power
supply are one case with one answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from common.errors import StateMismatchError
from common.ports import FileIdentity
from common.replication.lineage import (
    NO_ID,
    CycleName,
    Fork,
    SenderState,
    ToldFork,
)
from common.replication.session_messages import VolumeOffer
from common.storage.bitmap import Bitmap
from common.storage.geometry import Geometry

FORMAT_VERSION = 2
FORMAT_VERSION_GROWN = 3
"""Of a record of a group with a volume that has grown: earlier releases refuse it by
its version, for they would take the larger device to be another one."""

FORMAT_VERSION_SUPERSEDED = 4
"""Of a record that tells of two lines of data: earlier releases refuse it."""

FORMAT_VERSION_JOINING = 5
"""Of a record of a group with a volume that is joining: earlier releases would hold
nothing back of it, and tell the remote of no cycle that completes it."""

COPYING = "copying"
"""Of a joining volume: some of its first copy no cycle has taken yet."""

COMPLETING = "completing"
"""Of a joining volume: every cycle has all of it that the remote may lack."""

SENT_AHEAD_BYTES = 256 << 20
"""In a first copy, what may have been sent beyond the last track durably acked: many
times what is acked between two saves and on its way. Wrong, it costs bytes only."""


@dataclass(frozen=True, slots=True)
class VolumeState:
    """`full`: no durable bitmap counts yet, every track is carried.

    `suspect`: the device was altered behind the daemon's back; every track is
    compared by its hash. `identity` is the device's at the last clean stop, or at the
    start since.

    Of a volume that has grown, `first_bytes` is the size that it began with. Tracks
    from `carried_from_bytes` on are carried, though no durable bitmap says so.
    `growing_bytes` is the size that it is to have: its device may be so long.

    `joining`: `COPYING` or `COMPLETING` while no point is known that has the volume,
    which was added to a group that had points; else None.
    """

    volume_id: bytes
    size_bytes: int
    track_bytes: int
    region_bytes: int
    full: bool = True
    suspect: bool = False
    identity: FileIdentity | None = None
    first_bytes: int | None = None
    growing_bytes: int | None = None
    carried_from_bytes: int | None = None
    joining: str | None = None

    def grown(self, size_bytes: int) -> VolumeState:
        """Return this state with a larger size: what is new is carried."""
        carried_from = self.carried_from_bytes
        if carried_from is None:
            carried_from = self.size_bytes
        return replace(
            self,
            size_bytes=size_bytes,
            first_bytes=self.first_bytes or self.size_bytes,
            growing_bytes=None,
            carried_from_bytes=carried_from,
        )

    @property
    def has_grown(self) -> bool:
        return self.first_bytes is not None or self.growing_bytes is not None


VERSIONS = (
    FORMAT_VERSION,
    FORMAT_VERSION_GROWN,
    FORMAT_VERSION_SUPERSEDED,
    FORMAT_VERSION_JOINING,
)

ROLE_KEYS = ("superseded", "handing", "gives_up", "reclaimed")

GROWTH_KEYS = ("first_bytes", "growing_bytes", "carried_from_bytes")


@dataclass(frozen=True, slots=True)
class GroupState:
    """One durable record a group; `cycle_number` is the newest ever begun.

    `epoch` and `receipt` are of the newest session recorded here, `relation_id` the
    remote's newest relation known; see `common.replication.lineage`. Durable acked
    bits count if they were saved under `acked_tag`.

    `superseded`: the remote has taken over, in another lineage. From then on hosts may
    not write, and nothing is sent. `handing`: the remote is asked to take over by
    agreement, and has not answered; hosts may not write either. `gives_up`: this site
    is to receive from it, its sending role ends. `reclaimed`: this site was superseded,
    and an operator had it go on from its own data, in a lineage of its own; the other
    site is told so.
    """

    group: str
    group_id: bytes
    lineage: bytes
    cycle_number: int = 0
    cycle_id: bytes = b""
    committed_number: int | None = None
    committed_cycle_id: bytes = b""
    committed_cut_ns: int | None = None
    current_as_of_ns: int | None = None
    committed_label: str | None = None
    relation_id: bytes = NO_ID
    acked_tag: bytes = NO_ID
    epoch: int = 0
    receipt: bytes = NO_ID
    suspended: bool = False
    clean: bool = False
    volumes: dict[str, VolumeState] = field(default_factory=dict)
    superseded: ToldFork | None = None
    handing: Fork | None = None
    gives_up: bool = False
    reclaimed: ToldFork | None = None

    def with_volume(self, name: str, volume: VolumeState) -> GroupState:
        return replace(self, volumes={**self.volumes, name: volume})

    def offers(self) -> tuple[VolumeOffer, ...]:
        """Return the group's volumes as the other site is told of them."""
        return tuple(
            VolumeOffer(name, volume.volume_id, volume.size_bytes, volume.track_bytes)
            for name, volume in self.volumes.items()
        )

    def judged(self, progress_count: int = 0) -> SenderState:
        """Return what a session is judged by; 0: no acked bit is relied on."""
        newest = committed = None
        if self.cycle_id:
            newest = CycleName(self.cycle_number, self.cycle_id)
        if self.committed_number is not None:
            committed = CycleName(self.committed_number, self.committed_cycle_id)
        return SenderState(
            self.group_id,
            self.lineage,
            self.epoch,
            self.receipt,
            newest,
            committed,
            self.relation_id,
            progress_count,
        )


def to_record(state: GroupState) -> dict[str, Any]:
    """Return the msgpack-able form; docs/internals/disk-formats.md lists the keys."""
    record: dict[str, Any] = {
        name: getattr(state, name)
        for name in GroupState.__slots__
        if name not in {"volumes", *ROLE_KEYS}
    }
    has_grown = any(volume.has_grown for volume in state.volumes.values())
    record["version"] = FORMAT_VERSION_GROWN if has_grown else FORMAT_VERSION
    if (state.superseded, state.handing, state.reclaimed) != (None, None, None):
        record["version"] = FORMAT_VERSION_SUPERSEDED
        record["superseded"] = state.superseded and _told_record(state.superseded)
        record["handing"] = state.handing and _fork_record(state.handing)
        record["gives_up"] = state.gives_up
        if state.reclaimed is not None:
            record["reclaimed"] = _told_record(state.reclaimed)
    if any(volume.joining for volume in state.volumes.values()):
        record["version"] = FORMAT_VERSION_JOINING
    record["volumes"] = {
        name: _volume_record(volume) for name, volume in state.volumes.items()
    }
    return record


def _told_record(told: ToldFork) -> dict[str, Any]:
    return {**_fork_record(told.fork), "is_known": told.is_known}


def _fork_record(fork: Fork) -> dict[str, Any]:
    return {
        "lineage": fork.lineage,
        "parent": fork.parent,
        "point": [fork.cycle.number, fork.cycle.cycle_id],
        "cut_ns": fork.cut_ns,
        "at_ns": fork.at_ns,
    }


def _told(record: dict[str, Any]) -> ToldFork:
    return ToldFork(_fork(record), record["is_known"])


def _fork(record: dict[str, Any]) -> Fork:
    return Fork(
        record["lineage"],
        record["parent"],
        CycleName(*record["point"]),
        record["cut_ns"],
        record["at_ns"],
    )


def _volume_record(volume: VolumeState) -> dict[str, Any]:
    record = {key: getattr(volume, key) for key in VolumeState.__slots__}
    record["identity"] = volume.identity and identity_numbers(volume.identity)
    if not volume.has_grown:
        for key in GROWTH_KEYS:
            del record[key]
    if volume.joining is None:
        del record["joining"]
    return record


def from_record(record: dict[str, Any], path: str) -> GroupState:
    """Read `to_record`'s form; an unknown version is refused by name."""
    record = dict(record)
    version = record.pop("version", None)
    if version not in VERSIONS:
        raise StateMismatchError(
            f"{path}: format version {version} is not one of "
            f"{', '.join(map(str, VERSIONS))}, those that this farshore reads; run the "
            "release that wrote it, or upgrade"
        )
    superseded, handing, reclaimed = (
        record.pop(key, None) for key in ("superseded", "handing", "reclaimed")
    )
    volumes = {
        name: VolumeState(
            **{**v, "identity": v["identity"] and FileIdentity(*v["identity"])}
        )
        for name, v in record.pop("volumes").items()
    }
    return GroupState(
        **record,
        volumes=volumes,
        superseded=superseded and _told(superseded),
        handing=handing and _fork(handing),
        reclaimed=reclaimed and _told(reclaimed),
    )


def identity_numbers(identity: FileIdentity) -> list[int]:
    return [getattr(identity, name) for name in FileIdentity.__slots__]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a volume starts with: see `primary_site.changes`."""

    carried: Bitmap
    suspect: Bitmap | None
    acked: Bitmap
    full: bool
    altered: bool


def _is_another(
    known: FileIdentity | None, found: FileIdentity, *, clean: bool
) -> bool:
    """Tell whether a device is not the one that was there, or was altered meanwhile.

    After an unclean stop when it was last written is unknown; but a file that a backup
    was restored to has another inode, unless that wrote into the old one.
    """
    if clean:
        return known != found
    return known is not None and known.inode != found.inode


def verdict(
    geometry: Geometry,
    saved: VolumeState | None,
    *,
    clean: bool,
    identity: FileIdentity,
    changed: Bitmap,
    acked: Bitmap,
    hot: set[int],
    has_committed: bool = True,
    is_seeded: bool = False,
) -> Verdict:
    """Decide what must be sent, from what is durable.

    New volume: everything. Clean stop and the same device: the durable bitmaps.
    Unclean: their union with every track of a hot region; all of it travels as
    hashes first, so that what B already holds costs no bytes; but in a first copy
    (`has_committed` no point yet) not what was never sent, unless it is there by other
    means (`is_seeded`): then a first copy is a comparison. Clean, but the device is
    another one or was written since; or unclean, and another file lies in its place:
    everything, by hashes. What the volume has grown
    by, and no commit has covered yet: all of it, and it is not only suspected.
    """
    tracks = geometry.track_count
    none = Bitmap(tracks)
    if saved is None:
        everything = Bitmap.full(tracks)
        suspect = everything if is_seeded else None
        return Verdict(everything, suspect, none, full=True, altered=False)
    if _is_another(saved.identity, identity, clean=clean):
        everything = Bitmap.full(tracks)
        return Verdict(everything, everything, none, full=True, altered=True)
    for region in hot:
        first, count = geometry.region_tracks(region)
        changed.set_range(first, count)
        acked.clear_range(first, count)
    carried = Bitmap.full(tracks) if saved.full else changed
    suspect = carried if saved.suspect or not clean else None
    if saved.full and not (saved.suspect or clean or has_committed):
        suspect = _perhaps_sent(geometry, acked)
    if is_seeded and not has_committed:
        suspect = carried
    if saved.carried_from_bytes is not None and not saved.full:
        if suspect is not None:
            suspect = carried.copy()
        with_grown_by(carried, geometry, saved)
    return Verdict(carried, suspect, acked, full=saved.full, altered=saved.suspect)


def with_grown_by(changed: Bitmap, geometry: Geometry, saved: VolumeState) -> Bitmap:
    """Mark, in place, what a volume has grown by and no commit has covered yet.

    From its old last track on, of which the remote was sent a part if it was cut short.
    """
    if saved.carried_from_bytes is not None:
        first = saved.carried_from_bytes // geometry.track_bytes
        changed.set_range(first, geometry.track_count - first)
    return changed


def _perhaps_sent(geometry: Geometry, acked: Bitmap) -> Bitmap:
    """Return what a first copy may have sent: it goes through a volume in order.

    Acked tracks are among it: they count for nothing where the remote committed the
    copy and the answer was lost.
    """
    end = 0
    for first, count in acked.runs():
        end = first + count
    end += SENT_AHEAD_BYTES // geometry.track_bytes
    sent = Bitmap(geometry.track_count)
    sent.set_range(0, min(end, geometry.track_count))
    return sent
