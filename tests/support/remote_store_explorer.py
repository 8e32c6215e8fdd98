"""Crash the remote store at every write and flush, recover, compare.

The store's own code runs on `SimulatedFiles`. The explorer plays the sender, keeps
the image of every cut, and takes crash images at each step. What recovery opens has
to be, byte for byte and for all volumes, the image of one cut (I1), no older than the
newest that was acknowledged (I2).
"""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.errors import StorageError
from common.replication.lineage import SenderState
from common.replication.messages import Encoding, VolumeOffer
from common.replication.tracks import TrackRecord, run_hash, track_hash
from common.storage.extents import HOLE_AND_ZERO
from remote_site.applier import apply_tracks
from remote_site.group_disk import GroupDisk, StoreSettings
from remote_site.recovery_point import PointImage
from remote_site.store_state import Point
from tests.support.simulated_files import Lies, SimulatedFiles

SETTINGS = StoreSettings(
    group="orders",
    state_directory="/state/orders",
    journal_directory="/journal/orders",
    devices={"data": "/devices/data.img", "log": "/devices/log.img"},
)
OFFERS = (
    VolumeOffer("data", b"d" * 16, 12 * 4096, 4096),
    VolumeOffer("log", b"l" * 16, 5 * 8192 - 1536, 8192),
)
GROUP_ID, LINEAGE, PEER = b"g" * 16, b"L" * 16, "amsterdam"
SENDER = SenderState(GROUP_ID, LINEAGE)

ATTEMPTS_MAX = 50
"""Tries of one cycle under injected errors before it counts as stuck (I11)."""

Images = tuple[bytes, ...]


class ViolationError(AssertionError):
    """An invariant does not hold in some crash image."""


@dataclass
class Cycle:
    cycle_id: bytes
    images: Images


class Explorer:
    """One seeded run. `images_checked` counts recoveries that were compared."""

    def __init__(
        self,
        seed: int,
        *,
        images_per_step: int = 3,
        lies: Callable[[Explorer, str, str], bool] | None = None,
        retained: int = 1,
        error_odds: float = 0.0,
    ) -> None:
        self.rng = random.Random(seed)
        self.images_per_step = images_per_step
        self.retained = retained
        self.error_odds = error_odds
        self.errors_met = 0
        self.images_checked = 0
        self.phase = "running"
        self.history: dict[int, Cycle] = {}
        self.current = [bytearray(offer.size_bytes) for offer in OFFERS]
        self.acknowledged = 0
        self.acknowledged_epoch = 0
        self.is_bound = False
        self._identities = itertools.count(1)
        self._lies: Lies | None = None
        if lies is not None:
            self._lies = lambda operation, path: lies(self, operation, path)
        self.files = SimulatedFiles()
        self.files.lies = self._lies
        self.files.make_directory("/devices")
        self.files.hook = self._at_step
        self.disk = self._open(self.files)

    def _identity(self) -> bytes:
        return next(self._identities).to_bytes(16, "big")

    def _open(self, files: SimulatedFiles) -> GroupDisk:
        disk = GroupDisk(
            files, SETTINGS, retain=self._retain, new_identity=self._identity
        )
        before, self.phase = self.phase, "recovering"
        try:
            disk.open()
        finally:
            self.phase = before
        return disk

    def _retain(self, points: Sequence[Point]) -> set[int]:
        return {point.number for point in points[-self.retained :]}

    # -- the sender --------------------------------------------------------------------

    def run(self, cycle_count: int) -> None:
        """Send cycles, with abandoned ones, repeats and restarts in between."""
        self.disk.bind(GROUP_ID, LINEAGE, PEER, OFFERS)
        self.is_bound = True
        self._new_epoch(self.disk)
        for number in range(1, cycle_count + 1):
            self._mutate()
            self._note(number)
            self._synchronise(number)
            if self.rng.random() < 0.4:
                self._restart()
        self._at_step("end", "")

    def _synchronise(self, number: int) -> None:
        for _ in range(ATTEMPTS_MAX):
            if self.rng.random() < 0.3:
                self._abandoned_cycle(self.disk)
                if self.rng.random() < 0.5:
                    self._restart()
            self.files.inject = self._injected_error
            try:
                self._send(self.disk)
                self._commit(self.disk, number)
                self.acknowledged = number
                if self.rng.random() < 0.3:
                    self.disk.advance_current(number, number * 1000 + 500)
            except StorageError:
                self.errors_met += 1
                self.files.inject = None
                self._after_error()
            finally:
                self.files.inject = None
            if self.acknowledged == number:
                return
        raise ViolationError("the same calls, repeated, never come to an end")

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
        if self.disk.guard.failed is None:
            if self.acknowledged:
                self._check(self.disk, self.acknowledged)
        else:
            number = max(self.history)
            for call in (
                self.disk.flush,
                lambda: self.disk.new_epoch(SENDER),
                lambda: self.disk.commit_point(number + 1, b"never" * 4, 0, None),
                lambda: self._abandoned_cycle(self.disk),
            ):
                try:
                    call()
                except StorageError:
                    continue
                raise ViolationError("something worked after a failed flush")
            (*_, image) = self.files.crash_images(self.rng, 3)
            self._go_on(image)
            self.disk = self._open(self.files)
            self.acknowledged = self._check(self.disk, self.acknowledged)
            self._new_epoch(self.disk)

    def _new_epoch(self, disk: GroupDisk) -> None:
        epoch = disk.new_epoch(SENDER)
        if disk is self.disk:
            assert epoch > self.acknowledged_epoch
            self.acknowledged_epoch = epoch

    def _note(self, number: int) -> None:
        images = tuple(bytes(volume) for volume in self.current)
        self.history[number] = Cycle(self.rng.randbytes(16), images)

    def _mutate(self) -> None:
        for offer, volume in zip(OFFERS, self.current, strict=True):
            for _ in range(self.rng.randrange(1, 4)):
                for offset, data in self._random_write(offer):
                    volume[offset : offset + len(data)] = data

    def _random_write(self, offer: VolumeOffer) -> list[tuple[int, bytes]]:
        tracks = -(-offer.size_bytes // offer.track_bytes)
        first = self.rng.randrange(tracks)
        count = min(self.rng.randrange(1, 5), tracks - first)
        offset = first * offer.track_bytes
        length = min(count * offer.track_bytes, offer.size_bytes - offset)
        kind = self.rng.random()
        if kind < 0.25:
            return [(offset, bytes(length))]
        if kind < 0.6:
            return [(offset, bytes([self.rng.randrange(1, 256)]) * length)]
        return [(offset, self.rng.randbytes(length))]

    def _abandoned_cycle(self, disk: GroupDisk) -> None:
        """Tracks of a cycle that never ends; the next one sends them again."""
        for volume, offer in zip(disk.volumes, OFFERS, strict=True):
            for offset, data in self._random_write(offer):
                first = offset // offer.track_bytes
                apply_tracks(volume, [_record(offer, first, data)])
        if self.rng.random() < 0.5:
            disk.flush()

    def _send(self, disk: GroupDisk) -> None:
        """Send what differs, and some that does not, in several frames, in any order.

        The secondary tells what differs, by hashes: as after a restart.
        """
        for index, (volume, offer) in enumerate(zip(disk.volumes, OFFERS, strict=True)):
            wanted = bytes(self.current[index])
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
                    apply_tracks(volume, frame)
            if self.rng.random() < 0.3:
                disk.flush()

    def _commit(self, disk: GroupDisk, number: int) -> None:
        cycle_id = self.history[number].cycle_id
        relation = disk.commit_point(number, cycle_id, number * 1000, f"cut {number}")
        again = disk.commit_point(number, cycle_id, number * 1000, None)
        assert relation == again, "a repeated commit opened another relation"

    def _restart(self) -> None:
        """Stop cleanly, by SIGKILL or by a power cut, and go on from what is there."""
        way = self.rng.choice(("clean", "kill", "power"))
        if way == "clean":
            self.disk.close()
        elif way == "kill":
            self._go_on(self.files.after_kill())
        else:
            (*_, image) = self.files.crash_images(self.rng, 3)
            self._go_on(image)
        self.disk = self._open(self.files)
        self.acknowledged = self._check(self.disk, self.acknowledged)
        self._new_epoch(self.disk)

    def _go_on(self, files: SimulatedFiles) -> None:
        self.files.hook = None
        self.files = files
        self.files.hook = self._at_step

    # -- the oracle --------------------------------------------------------------------

    def _at_step(self, operation: str, path: str) -> None:
        for image in self.files.crash_images(self.rng, self.images_per_step):
            self._verify(image)
        if self.rng.random() < 0.05:
            self._verify(self.files.after_kill(), was_killed=True)

    def _verify(self, image: SimulatedFiles, *, was_killed: bool = False) -> None:
        """Recover an image and compare; sometimes crash the recovery itself."""
        floor = self.acknowledged
        deep = was_killed or self.rng.random() < 0.02
        if deep:
            image.hook = lambda _operation, _path: self._verify_copies(image, floor)
        disk = self._open(image)
        recovered = self._check(disk, floor)
        if deep and self.is_bound and disk.state is not None:
            # The peer has been told `recovered` now: no crash may take it back.
            image.hook = lambda _operation, _path: self._verify_copies(image, recovered)
            self._verify_copies(image, recovered)
            self._resend(disk, recovered)

    def _verify_copies(self, image: SimulatedFiles, floor: int) -> None:
        for copy in image.crash_images(self.rng, 2 * self.images_per_step):
            self._check(self._open(copy), floor)

    def _resend(self, disk: GroupDisk, recovered: int) -> None:
        """The cycle is sent again after recovery, and commits as it should."""
        self._new_epoch(disk)
        number = max(recovered, *self.history, 0) + 1 if self.history else 1
        known = dict(self.history)
        self._note(number)
        self._send(disk)
        self._commit(disk, number)
        assert self._check(disk, number) == number
        self.history = known

    def _check(self, disk: GroupDisk, floor: int) -> int:
        """Compare what recovery opened; return the newest point's number, or 0."""
        self.images_checked += 1
        if disk.state is None:
            if self.is_bound:
                raise ViolationError("the group is no longer bound")
            return 0
        if disk.state.epoch < self.acknowledged_epoch and disk is not self.disk:
            raise ViolationError("an epoch that a peer was told is used again")
        number = disk.points[-1].number if disk.points else 0
        if number < floor:
            raise ViolationError(f"point {floor} was acknowledged, {number} is there")
        for point in disk.points:
            self._compare(disk, point)
        return number

    def _compare(self, disk: GroupDisk, point: Point) -> None:
        number = point.number
        cycle = self.history.get(number)
        if cycle is None or point.cycle_id != cycle.cycle_id:
            raise ViolationError(f"point {number} is of a cycle never sent")
        for volume, wanted in zip(disk.volumes, cycle.images, strict=True):
            name = f"{volume.offer.name}@{number}"
            image = PointImage(volume, number)
            if image.read(0, len(wanted)) != wanted:
                raise ViolationError(f"{name} is a mixture")
            offset = 0
            for length, flags in image.status(0, len(wanted)):
                end = offset + length
                if flags == HOLE_AND_ZERO and wanted[offset:end] != bytes(length):
                    raise ViolationError(f"{name}: a hole where there is data")
                offset = end


def _record(offer: VolumeOffer, first: int, data: bytes) -> TrackRecord:
    count = -(-len(data) // offer.track_bytes)
    if data == bytes(len(data)):
        return TrackRecord(first, count, Encoding.ZERO, None, bytes(16))
    return TrackRecord(first, count, Encoding.RAW, memoryview(data), run_hash(data))
