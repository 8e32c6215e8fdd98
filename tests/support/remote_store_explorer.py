"""Crash the remote store at every write and flush, recover, compare.

The store's own code runs on a `CrashDisk`. The explorer plays the sender and keeps
the image of every cut. What recovery opens has to be, byte for byte and for all
volumes, the image of one cut (I1), no older than the newest that was acknowledged
(I2), with an epoch, a begun cycle and a progress count that are no older either.

Whoever adds another way to open a remote's state (a takeover's roll-back to a point)
adds it to `WAYS`: every image is then recovered in each of these ways.
"""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from common.errors import StorageError
from common.replication.cycle_messages import Encoding
from common.replication.delta import apply_difference
from common.replication.lineage import CycleName, SenderState
from common.replication.session_messages import VolumeOffer
from common.replication.tracks import TrackRecord, run_hash, track_hash
from common.storage.extents import HOLE_AND_ZERO
from remote_site import store_record
from remote_site.applier import apply_tracks
from remote_site.group_disk import GroupDisk, StoreSettings
from remote_site.history import History
from remote_site.recovery_point import PointImage
from remote_site.retention import Drop
from remote_site.secondary import SecondaryVolume
from remote_site.store_state import Point
from tests.support.crash.disk import CrashDisk
from tests.support.crash.exploration import Exploration, ViolationError

SETTINGS = StoreSettings(
    group="orders",
    state_directory="/state/orders",
    journal_directory="/journal/orders",
    devices={"data": "/devices/data.img", "log": "/devices/log.img"},
)
OFFERS = (
    VolumeOffer("data", b"d" * 16, 8 * 4096, 4096),
    VolumeOffer("log", b"l" * 16, 3 * 8192 - 1536, 8192),
)
GROUP_ID, LINEAGE, PEER = b"g" * 16, b"L" * 16, "amsterdam"
SENDER = SenderState(GROUP_ID, LINEAGE)
CYCLES = 4
HISTORY_SHARE = 0.3

ATTEMPTS_MAX = 50
"""Tries of one cycle under injected errors before it counts as stuck (I11)."""

Images = tuple[bytes, ...]
Way = Callable[[GroupDisk], None]
Lie = Callable[["RemoteExploration", str, str], bool]


@dataclass
class Cycle:
    cycle_id: bytes
    images: Images


@dataclass(slots=True)
class Told:
    """What the peer was told is durable: recovery finds that, or something newer."""

    point: int = 0
    epoch: int = 0
    begun: int = 0
    progress: int = 0
    """Of the relation that point `point` opened."""
    stays: frozenset[int] = frozenset()
    """Points that stay whatever comes."""


class RemoteExploration(Exploration):
    """Cycles, abandoned ones, repeats and restarts in between."""

    COMPONENT = "remote"
    DEEP_SHARE = 0.01
    DEEP_IMAGES = 3
    SETTINGS = SETTINGS
    WAYS: tuple[Way, ...] = (GroupDisk.open,)

    def __init__(
        self,
        seed: int,
        *,
        images_per_step: int = 12,
        lie: Lie | None = None,
        retained: int | None = None,
        error_odds: float | None = None,
        has_history: bool | None = None,
    ) -> None:
        super().__init__(seed, images_per_step=images_per_step)
        if lie is not None:
            self.lies = lambda operation, path: lie(self, operation, path)
        kinds = ((1, 0.0), (1, 0.0), (3, 0.0), (2, 0.05))
        self.retained, self.error_odds = self.rng.choice(kinds)
        if retained is not None:
            self.retained = retained
        if error_odds is not None:
            self.error_odds = error_odds
        # By chance of its own: other seeds do what they did without history.
        self.has_history = random.Random(seed ^ 0x415709).random() < HISTORY_SHARE
        if has_history is not None:
            self.has_history = has_history
        self.merges = 0
        self.errors_met = 0
        self.phase = "running"
        self.history: dict[int, Cycle] = {}
        self.offers = OFFERS
        """With the sizes that they have by now."""
        self.current = [bytearray(offer.size_bytes) for offer in OFFERS]
        self.told = Told()
        self.is_bound = False
        self._identities = itertools.count(1)
        files = self.new_disk()
        files.make_directory("/devices")
        self.watch(files)
        self.store = self._open(files)

    def _identity(self) -> bytes:
        return next(self._identities).to_bytes(16, "big")

    def _open(self, files: CrashDisk, way: Way = GroupDisk.open) -> GroupDisk:
        store = GroupDisk(
            files,
            self.SETTINGS,
            retain=self._retain,
            new_identity=self._identity,
            settled=self._settled,
        )
        before, self.phase = self.phase, "recovering"
        try:
            way(store)
        finally:
            self.phase = before
        return store

    def _retain(self, points: Sequence[Point]) -> set[int]:
        kept = {point.number for point in points[-self.retained :]}
        return kept | self._settled(points)

    def _settled(self, points: Sequence[Point]) -> set[int]:
        """With history every second point stays for ever."""
        if not self.has_history:
            return set()
        return {point.number for point in points if point.number % 2}

    def _thin(self, store: GroupDisk) -> None:
        """Merge what is due, as a daemon does after a commit."""
        history = History(store)
        history.seal()
        while (step := history.plan()) is not None:
            if isinstance(step, Drop):
                history.drop(step)
                continue
            merge = history.merge(step)
            assert merge is not None
            try:
                while merge.step() is not None:
                    pass
                done = merge.finish()
            except StorageError:
                merge.abandon()
                raise
            assert done
            self.merges += 1

    # -- the sender --------------------------------------------------------------------

    def explore(self) -> None:
        room = store_record.TAIL_POINTS_MAX, store_record.TAIL_POINTS_LEFT
        if self.has_history:  # a catalogue comes with the second point
            store_record.TAIL_POINTS_MAX = store_record.TAIL_POINTS_LEFT = 1
        try:
            self._explore()
        finally:
            store_record.TAIL_POINTS_MAX, store_record.TAIL_POINTS_LEFT = room

    def _explore(self) -> None:
        self.store.bind(GROUP_ID, LINEAGE, PEER, OFFERS)
        self.is_bound = True
        self._new_epoch()
        for number in range(1, CYCLES + 1):
            self._mutate()
            self._note(number)
            self._synchronise(number)
            if self.rng.random() < 0.4:
                self._restart()
        self.at_step("end", "")

    def _synchronise(self, number: int) -> None:
        for _ in range(ATTEMPTS_MAX):
            if self.rng.random() < 0.3:
                self._abandoned_cycle(self.store)
                if self.rng.random() < 0.5:
                    self._restart()
            self.disk.inject = self._injected_error
            try:
                self._cycle(self.store, number)
            except StorageError:
                self.errors_met += 1
                self.disk.inject = None
                self._after_error()
            finally:
                self.disk.inject = None
            if self.told.point == number:
                return
        raise ViolationError("the same calls, repeated, never come to an end")

    def _cycle(self, store: GroupDisk, number: int) -> None:
        store.begin_cycle(CycleName(number, self.history[number].cycle_id))
        self.told.begun = number
        self.promised()
        self._send(store)
        self._commit(store, number)
        self.told.point, self.told.progress = number, 0
        self.told.stays |= self._settled(store.points)
        self.promised()
        if self.rng.random() < 0.3:
            store.advance_current(number, number * 1000 + 500)
        if self.has_history:
            self._thin(store)

    def _injected_error(self, operation: str, _path: str) -> int | None:
        if self.rng.random() >= self.error_odds:
            return None
        if operation in {"datasync", "sync_directory", "read"}:
            return errno.EIO
        if operation in {"write", "write_zeroes", "create", "truncate"}:
            return errno.ENOSPC
        return None

    def _after_error(self) -> None:
        """After a failed flush nothing works until a power cut and a new start; any
        other error leaves the point as it was, and the call can be repeated."""
        if self.store.guard.failed is None:
            if self.told.point:
                self._check(self.store)
            return
        number = max(self.history)
        for call in (
            self.store.flush,
            lambda: self.store.new_epoch(SENDER),
            lambda: self.store.commit_point(number + 1, b"never" * 4, 0, None),
            lambda: self._abandoned_cycle(self.store),
        ):
            try:
                call()
            except StorageError:
                continue
            raise ViolationError("something worked after a failed flush")
        self._start_from(self.some_power_cut())

    def _start_from(self, files: CrashDisk) -> None:
        self.watch(files)
        self.store = self._open(files)
        self.told = self._told_by(self.store)
        self.promised()
        self._new_epoch()

    def _told_by(self, store: GroupDisk) -> Told:
        """Return what the peer hears of a store that was recovered: no crash may take
        it back."""
        point, state = self._check(store), store.state
        assert state is not None
        begun = 0 if state.begun is None else state.begun.number
        stays = frozenset(self._settled(store.points))
        return Told(point, state.epoch, begun, state.progress_count, stays)

    def hello(self, store: GroupDisk) -> None:
        """What a sender says of its volumes before a session: here nothing new."""

    def _new_epoch(self) -> None:
        self.hello(self.store)
        epoch = self.store.new_epoch(SENDER)
        assert epoch > self.told.epoch
        self.told.epoch = epoch
        self.promised()

    def _note(self, number: int) -> None:
        images = tuple(bytes(volume) for volume in self.current)
        self.history[number] = Cycle(self.cut_rng.randbytes(16), images)

    def _mutate(self) -> None:
        for offer, volume in zip(self.offers, self.current, strict=True):
            for _ in range(self.rng.randrange(1, 4)):
                for offset, data in self._random_write(offer):
                    volume[offset : offset + len(data)] = data

    def _random_write(self, offer: VolumeOffer) -> list[tuple[int, bytes]]:
        tracks = -(-offer.size_bytes // offer.track_bytes)
        first = self.rng.randrange(tracks)
        count = min(self.rng.randrange(1, 4), tracks - first)
        offset = first * offer.track_bytes
        length = min(count * offer.track_bytes, offer.size_bytes - offset)
        kind = self.rng.random()
        if kind < 0.25:
            return [(offset, bytes(length))]
        if kind < 0.6:
            return [(offset, bytes([self.rng.randrange(1, 256)]) * length)]
        return [(offset, self.rng.randbytes(length))]

    def sent(self, store: GroupDisk) -> list[tuple[SecondaryVolume, bytearray]]:
        """Return the volumes that the sender has, with what they are to hold."""
        return list(zip(store.volumes, self.current, strict=True))

    def whole(self, store: GroupDisk, number: int) -> frozenset[int]:
        """Return the volumes, by index, of which a cycle completes the first copy."""
        return frozenset()

    def _abandoned_cycle(self, store: GroupDisk) -> None:
        """Tracks of a cycle that never ends; the next one sends them again."""
        for volume, _ in self.sent(store):
            offer = volume.offer
            for offset, data in self._random_write(offer):
                first = offset // offer.track_bytes
                self._apply(volume, [_record(offer, first, data)])
        if self.rng.random() < 0.5:
            self._flush(store)

    def _apply(self, volume: SecondaryVolume, records: list[TrackRecord]) -> None:
        """Send some as differences to the newest point, and whole what lacks its base.

        As a sender does that believes the secondary holds what the point holds.
        """
        newest = self.history.get(self.told.point)
        sent, whole = [], {}
        for record in records:
            whole[record.first, record.count] = record
            has_base = newest is not None and record.data is not None
            if has_base and self.rng.random() < 0.5:
                assert newest is not None
                image = self.image_of(newest, volume)
                record = _difference(volume.offer, record, image)
            sent.append(record)
        refused = apply_tracks(volume, sent)
        if refused:
            assert apply_tracks(volume, [whole[run] for run in refused]) == []

    def image_of(self, cycle: Cycle, volume: SecondaryVolume) -> bytes:
        """Return what a sender takes a secondary to hold since that cycle."""
        return cycle.images[self.offers.index(volume.offer)]

    def _flush(self, store: GroupDisk) -> None:
        progress = store.flush()
        if store is self.store:
            self.told.progress = progress
            self.promised()

    def _send(self, store: GroupDisk) -> None:
        """Send what differs, and some that does not, in several frames, in any order.

        The secondary tells what differs, by hashes: as after a restart.
        """
        for volume, content in self.sent(store):
            offer, wanted = volume.offer, bytes(content)
            tracks = -(-offer.size_bytes // offer.track_bytes)
            hashes = b"".join(
                track_hash(wanted[start : start + offer.track_bytes])
                for start in range(0, offer.size_bytes, offer.track_bytes)
            )
            runs = volume.differing(0, tracks, hashes)
            if self.rng.random() < 0.3:
                runs.append((self.rng.randrange(tracks), 1))
            self.rng.shuffle(runs)
            records = []
            for first, count in runs:
                start = first * offer.track_bytes
                end = min(start + count * offer.track_bytes, offer.size_bytes)
                records.append(_record(offer, first, wanted[start:end]))
            cut = self.rng.randrange(len(records) + 1)
            for frame in (records[:cut], records[cut:]):
                if frame:
                    self._apply(volume, frame)
            if self.rng.random() < 0.3:
                self._flush(store)

    def _commit(self, store: GroupDisk, number: int) -> None:
        cycle_id = self.history[number].cycle_id
        relation = store.commit_point(
            number,
            cycle_id,
            number * 1000,
            f"cut {number}",
            whole=self.whole(store, number),
        )
        again = store.commit_point(number, cycle_id, number * 1000, None)
        assert relation == again, "a repeated commit opened another relation"

    def _restart(self) -> None:
        """Stop cleanly, by SIGKILL or by a power cut, and go on from what is there."""
        way = self.rng.choice(("clean", "kill", "power"))
        if way == "clean":
            self.store.close()
            self._start_from(self.disk)
        elif way == "kill":
            self._start_from(self.disk.after_kill())
        else:
            self._start_from(self.some_power_cut())

    # -- the oracle --------------------------------------------------------------------

    def recover(self, disk: CrashDisk) -> None:
        for way in self.WAYS:
            store = self._open(disk, way)
            self._check(store)
            store.close()

    def go_on_from(self, disk: CrashDisk) -> None:
        """The cycle is sent again after recovery, and commits as it should."""
        if not self.is_bound:
            return
        was, known, chance = self.told, dict(self.history), self.rng.getstate()
        store = self._open(disk)
        self.told = self._told_by(store)
        self.promised()
        try:
            self.hello(store)
            self.told.epoch = store.new_epoch(SENDER)
            number = max(self.told.begun, *self.history, 0) + 1
            self._note(number)
            self._cycle_again(store, number)
            if self._check(store) != number:
                raise ViolationError("a commit after recovery is not the newest point")
        finally:
            self.told, self.history = was, known
            self.rng.setstate(chance)
            store.close()

    def _cycle_again(self, store: GroupDisk, number: int) -> None:
        store.begin_cycle(CycleName(number, self.history[number].cycle_id))
        self.told.begun = number
        self.promised()
        self._send(store)
        self._commit(store, number)
        self.told.point, self.told.progress = number, 0
        self.told.stays |= self._settled(store.points)
        self.promised()

    def _check(self, store: GroupDisk) -> int:
        """Compare what recovery opened; return the newest point's number, or 0."""
        state, told = store.state, self.told
        if state is None:
            if self.is_bound:
                raise ViolationError("the group is no longer bound")
            return 0
        number = store.points[-1].number if store.points else 0
        if number < told.point:
            raise ViolationError(
                f"point {told.point} was acknowledged, {number} is there"
            )
        if state.epoch < told.epoch:
            raise ViolationError("an epoch that a peer was told is used again")
        if (0 if state.begun is None else state.begun.number) < told.begun:
            raise ViolationError(f"cycle {told.begun} had begun, and is forgotten")
        if number == told.point and state.progress_count < told.progress:
            raise ViolationError("progress that a peer was told is forgotten")
        listed = {point.number for point in store.points}
        if not told.stays <= listed:
            raise ViolationError(f"a point that stays is gone: {sorted(listed)}")
        for point in store.points:
            self._compare(store, point)
        return number

    def _compare(self, store: GroupDisk, point: Point) -> None:
        number = point.number
        cycle = self.history.get(number)
        if cycle is None or point.cycle_id != cycle.cycle_id:
            raise ViolationError(f"point {number} is of a cycle never sent")
        for volume, wanted in self.images_at(store, number, cycle):
            name = f"{volume.offer.name}@{number}"
            image = PointImage(volume, number)
            if image.geometry.size_bytes != len(wanted):
                raise ViolationError(f"{name} has another size")
            if image.read(0, len(wanted)) != wanted:
                raise ViolationError(f"{name} is a mixture")
            offset = 0
            for length, flags in image.status(0, len(wanted)):
                end = offset + length
                if flags == HOLE_AND_ZERO and wanted[offset:end] != bytes(length):
                    raise ViolationError(f"{name}: a hole where there is data")
                offset = end

    def images_at(
        self, store: GroupDisk, number: int, cycle: Cycle
    ) -> Iterator[tuple[SecondaryVolume, bytes]]:
        """Yield the volumes that a point has to have, with what they have to hold."""
        yield from zip(store.volumes, cycle.images, strict=True)


def _record(offer: VolumeOffer, first: int, data: bytes) -> TrackRecord:
    count = -(-len(data) // offer.track_bytes)
    if data == bytes(len(data)):
        return TrackRecord(first, count, Encoding.ZERO, None, bytes(16))
    return TrackRecord(first, count, Encoding.RAW, memoryview(data), run_hash(data))


def _difference(offer: VolumeOffer, record: TrackRecord, image: bytes) -> TrackRecord:
    """Return a record as its difference to the same tracks of an image."""
    assert record.data is not None
    start = record.first * offer.track_bytes
    base = image[start : start + len(record.data)]
    is_equal = base == record.data
    return replace(
        record,
        encoding=Encoding.XOR,
        data=None if is_equal else memoryview(apply_difference(base, record.data)),
        base_hash=run_hash(base),
    )
