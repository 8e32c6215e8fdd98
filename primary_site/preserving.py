"""Preserving: the FlashCopy target, and the thread's half of a host write.

The target is a sparse file with the addresses of the device. Two alternate, so
that the previous one can be truncated outside the hold while the other serves.
A target needs no durability: after a crash its relation is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno

from common.errors import DeviceBusyError, DeviceError, StorageError
from common.ports import File, Files, HostCommand, HostRequest, Threads
from common.storage.bitmap import Bitmap
from common.storage.flashcopy import Relation, Runs
from common.storage.geometry import Geometry
from common.storage.zeroes import is_zero
from primary_site.background import to_its_end
from primary_site.base import CycleBase
from primary_site.standing import Standing

PRESERVE_CHUNK_BYTES = 1 << 20
"""Copied by one read and one write: bounds the memory of a thread."""

KEPT_BYTES_MAX = 256 << 20
"""Room of ended relations that a target may keep: a busy cycle's worth."""


class HostWriteBatch:
    """The writes of one hop: what the thread does, in its order."""

    __slots__ = ("_device", "_geometry", "_runs", "_standing", "requests")

    def __init__(
        self,
        device: File,
        geometry: Geometry,
        standing: Standing | None,
        runs: Runs,
        requests: list[HostRequest],
    ) -> None:
        self._device = device
        self._geometry = geometry
        self._standing = standing
        self._runs = runs
        self.requests = requests

    def run(self) -> None:
        """Preserve every claimed run, then write every request.

        Order: old contents into the target (or the relation invalidated), and
        only then the device. The crash it defends against is none of the
        machine's (a target needs no durability) but a torn image: a reader that
        finds neither the old content in place nor in the target.
        """
        if self._runs:
            self._preserve()
        for request in self.requests:
            try:
                self._write(request)
            except StorageError as error:
                request.error = error.errno

    def invalidate(self, why: str) -> None:
        """The thread met a bug: no track that it preserved may be trusted."""
        if self._standing is not None:
            self._standing.relation.invalidate(why)

    def _preserve(self) -> None:
        standing = self._standing
        assert standing is not None
        try:
            for first, count in self._runs:
                offset, length = self._geometry.byte_range(first, count)
                for at in range(offset, offset + length, PRESERVE_CHUNK_BYTES):
                    if not standing.relation.valid:
                        return  # or it would take the room another batch gave back
                    size = min(PRESERVE_CHUNK_BYTES, offset + length - at)
                    old = self._device.read(at, size)
                    if not (standing.blank and is_zero(old)):
                        standing.target.write(at, old)
        except StorageError as error:
            standing.relation.invalidate(str(error))

    def _write(self, request: HostRequest) -> None:
        try:
            self._write_once(request)
        except StorageError as error:
            if not error.is_out_of_space or self._standing is None:
                raise
            # The room that preserving took is the host's before it is ours.
            self._standing.relation.invalidate(str(error))
            with contextlib.suppress(StorageError):
                self._standing.target.truncate(0)
            self._write_once(request)

    def _write_once(self, request: HostRequest) -> None:
        if request.command == HostCommand.WRITE:
            self._device.write(request.offset, request.data)
        else:
            self._device.write_zeroes(
                request.offset, request.length, punch=not request.no_hole
            )


class Preserver:
    """The two alternating targets of one volume, owned by the event loop."""

    def __init__(
        self,
        files: Files,
        threads: Threads,
        directory: str,
        volume: str,
        geometry: Geometry,
    ) -> None:
        self._threads = threads
        self._geometry = geometry
        self._directory = directory
        self._files = files
        self._paths = [f"{directory}/{volume}.{side}.target" for side in (0, 1)]
        self._targets: list[File | None] = [None, None]
        self._used_by: list[Relation | None] = [None, None]
        self._kept_tracks = [0, 0]
        """At most so many tracks of the targets hold content of ended relations."""
        self._sized = [False, False]
        self._side = 0
        self._prepared = False
        self._changing = asyncio.Lock()
        self._standing: Standing | None = None
        self._base: CycleBase | None = None
        self.error = ""
        """Why there can be no relation now; empty while all is well."""

    def open(self) -> None:
        """Open both targets, empty. Blocks: for a thread, at the start.

        A file system that is full or fails keeps no host from its volume: `prepare`
        tries again then. Raises `DeviceError`, `DeviceBusyError`.
        """
        try:
            self._files.make_directory(self._directory)
            for side in (0, 1):
                self._open_target(side)
        except StorageError as error:
            self.error = str(error)

    def _open_target(self, side: int) -> File:
        target = self._targets[side]
        if target is None:
            self._files.make_directory(self._directory)
            target = self._files.open(
                self._paths[side], create=True, lock=True, scattered=True
            )
            try:
                target.truncate(0)
            except StorageError:
                target.close()
                raise
            self._targets[side] = target
        return target

    def _empty(self, side: int) -> None:
        """In a thread: make a target hold nothing, and as long as the device."""
        target = self._open_target(side)
        target.truncate(0)
        target.truncate(self._geometry.size_bytes)

    def standing(self) -> Standing | None:
        return self._standing

    async def prepare(self) -> None:
        """Make the other target ready for a new relation, once nobody reads it.

        Up to `KEPT_BYTES_MAX` of the last relation's room is kept for the next one:
        writing over it is faster than allocating, and giving back ten thousand
        scattered tracks can hold a journalling file system up for seconds.

        Outside the hold; the next cut waits for it, hosts do not. Once begun it goes
        on to its end: a truncate that nobody waits for could meet the next relation.
        """
        await to_its_end(self._prepare())

    async def _prepare(self) -> None:
        async with self._changing:
            if self._prepared:
                return
            self.drop_base()  # it lies in that target; readers of it are waited for
            side = 1 - self._side
            await quiet(self._used_by[side])
            if not self._may_keep(side):
                try:
                    await self._threads.run(self._empty, side)
                except (StorageError, DeviceError, DeviceBusyError) as error:
                    self.error = str(error)
                    return
                self._kept_tracks[side], self._sized[side] = 0, True
            self.error = ""
            self._prepared = True

    def _may_keep(self, side: int) -> bool:
        relation = self._used_by[side]
        kept_bytes = self._kept_tracks[side] * self._geometry.track_bytes
        return (
            self._sized[side]
            and kept_bytes <= KEPT_BYTES_MAX
            and (relation is None or relation.valid)
        )

    def establish(
        self, cycle_number: int, marked: Bitmap, held_cycle: int | None
    ) -> Relation | None:
        """Return the relation of a new cut, on the prepared target: no I/O.

        `marked` were marked since the cut before: at most these were preserved for
        the relation that this one ends, and all of them if it stood to its end. If
        the remote's newest point is that of `held_cycle`, and that is this relation's,
        then what was preserved is what the remote holds: the new cycle's base.

        None where no target could be prepared: then the cycle can't be read at
        its cut, and the caller gives it up before it begins.
        """
        ended, self._base = self._standing, None
        if not self._prepared:
            self._standing = None
            return None
        if (
            ended is not None
            and ended.relation.readable
            and ended.relation.cycle_number == held_cycle
        ):
            self._base = CycleBase(ended, marked, self._geometry)
        self._prepared = False
        self._kept_tracks[self._side] += marked.count
        self._side = 1 - self._side
        relation = Relation(cycle_number)
        self._used_by[self._side] = relation
        blank = not self._kept_tracks[self._side]
        target = self._targets[self._side]
        assert target is not None, "prepared"
        self._standing = Standing(relation, target, blank=blank)
        return relation

    def base(self) -> CycleBase | None:
        """Return what the remote holds of the tracks changed before the newest cut.

        Until that cut's cycle is complete or abandoned.
        """
        return self._base

    def drop_base(self) -> None:
        """Differences to the base count for nothing any more, nor will it be kept."""
        if self._base is not None:
            self._base.stands = False
            self._base = None

    def take_size(self, geometry: Geometry) -> None:
        """Both targets are as long as the device again once they are prepared.

        The next cycle has no base: what the target holds was of the smaller volume.
        """
        self.drop_base()
        self._geometry = geometry
        self._sized = [False, False]
        self._prepared = False
        self.withdraw()

    def withdraw(self) -> None:
        self._standing = None

    async def discard(self) -> None:
        """Give back the room of a relation that was invalidated or withdrawn."""
        await to_its_end(self._discard())

    async def _discard(self) -> None:
        async with self._changing:
            side = self._side
            relation = self._used_by[side]
            if relation is None or relation.readable:
                return
            await quiet(relation)
            self._sized[side] = False
            target = self._targets[side]
            assert target is not None, "it had a relation"
            with contextlib.suppress(StorageError):
                await self._threads.run(target.truncate, 0)

    def close(self) -> None:
        for target in self._targets:
            if target is not None:
                target.close()


async def quiet(relation: Relation | None) -> None:
    """Return when no thread reads the relation's target any more."""
    if relation is not None:
        event = asyncio.Event()
        relation.when_quiet(event.set)
        await event.wait()


def read_target(standing: Standing, offset: int, length: int) -> bytes:
    """Read the target in a thread; an invalid relation's bytes are never used."""
    data = standing.target.read(offset, length)
    if not standing.relation.readable:
        raise StorageError(
            "the FlashCopy relation has ended",
            errno=errno.EIO,
            file=standing.target.path,
        )
    return data
