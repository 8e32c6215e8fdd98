"""The test copies of a group: writable volumes on a recovery point, while they last.

A test copy is an overlay file for each volume, nameless as soon as it is made, and a
pin that keeps its point. Nothing of it outlives the daemon: nothing is to be recovered,
and what a kill between making a file and taking its name leaves goes at the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import structlog

from common.errors import RefusedError, StorageError
from common.ports import Clock, File, Files, HostVolume, Threads
from common.storage.threads import WorkerThreads
from remote_site.recovery_point import PointImage
from remote_site.store import GroupStore, Point
from remote_site.test_copy_overlay import Overlay
from remote_site.test_copy_volume import OverlayVolume

COPIES_MAX = 16
"""Of one group: each has threads, and keeps a point."""

THREADS_MAX = 8
"""Of one test copy: one that changes a volume, and some that read."""

OVERLAY_SUFFIX = ".overlay"

Disconnect = Callable[[str], Awaitable[None]]
"""Ends the NBD connections to an export that is no more."""


@dataclass(frozen=True, slots=True)
class StartedCopy:
    """A test copy that hosts may open; `volumes` by their names."""

    name: str
    point: Point
    started_ns: int
    volumes: dict[str, OverlayVolume]
    threads: Threads

    @property
    def own_bytes(self) -> int:
        return sum(volume.overlay.own_bytes for volume in self.volumes.values())

    @property
    def openings(self) -> int:
        return sum(volume.openings for volume in self.volumes.values())


class GroupTestCopies:
    """Starts, opens and stops them; owned by the event loop.

    `directory` is its own, made with the first test copy; of its file system
    `reserve_bytes` are left to others: replication is not to run out of room because of
    what a test writes.
    """

    def __init__(
        self,
        group: str,
        store: GroupStore,
        files: Files,
        directory: str,
        reserve_bytes: int,
        clock: Clock,
        *,
        new_threads: Callable[[str, int], Threads] = WorkerThreads,
    ) -> None:
        self._group = group
        self._store = store
        self._files = files
        self._directory = directory
        self._reserve_bytes = reserve_bytes
        self._clock = clock
        self._new_threads = new_threads
        self._copies: dict[str, StartedCopy] = {}
        self._taken: set[str] = set()
        """Names of copies that are there, are being made, or are ending."""
        self._ending: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger().bind(group=group)

    @property
    def all(self) -> list[StartedCopy]:
        """Those that can be opened, in the order in which they were started."""
        return list(self._copies.values())

    def remove_leftovers(self) -> None:
        """Delete what a killed daemon has left; blocks, before the first `start`.

        What cannot be deleted stays: it keeps no group from being served.
        """
        with suppress(StorageError):
            if self._files.exists(self._directory):
                for name in self._files.list(self._directory):
                    if name.endswith(OVERLAY_SUFFIX):
                        self._files.remove(f"{self._directory}/{name}")

    # -- exports -----------------------------------------------------------------------

    def exports(self) -> Iterator[tuple[str, str]]:
        """Yield (name, description) of each volume of each copy."""
        for copy in self._copies.values():
            for name in copy.volumes:
                yield (
                    self.export_name(name, copy.name),
                    _described(copy.name, copy.point),
                )

    def open(self, volume: str, name: str) -> HostVolume | None:
        """Open a volume of a copy, until its `release`."""
        copy = self._copies.get(name)
        found = None if copy is None else copy.volumes.get(volume)
        if found is not None:
            found.openings += 1
        return found

    def export_name(self, volume: str, name: str) -> str:
        return f"{self._group}/{volume}+{name}"

    # -- operators ---------------------------------------------------------------------

    def find(self, name: str | None) -> StartedCopy:
        """Return the copy of this name, or the only one; raises `RefusedError`."""
        if name is None and len(self._copies) == 1:
            return next(iter(self._copies.values()))
        if name is None or name not in self._copies:
            known = ", ".join(self._copies)
            if not known:
                raise RefusedError(
                    f"group {self._group} has no test copy; farshore test-copy start "
                    f"{self._group} makes one"
                )
            what = "name the test copy" if name is None else f"no test copy {name!r}"
            raise RefusedError(f"{what}: group {self._group} has {known}")
        return self._copies[name]

    async def start(self, name: str | None, number: int | None) -> StartedCopy:
        """Make a test copy of a point (the newest when None); it can be opened then.

        Costs a file and a bitmap for each volume, however large these are. Raises
        `RefusedError`, or `StorageError` where the files cannot be made.
        """
        name = self._free_name() if name is None else name
        if name in self._taken:
            raise RefusedError(
                f"group {self._group} has a test copy {name!r} already: give another "
                f"--name, or farshore test-copy stop {self._group} --name {name} first"
            )
        if len(self._taken) >= COPIES_MAX:
            raise RefusedError(
                f"group {self._group} has {COPIES_MAX} test copies: stop one of them"
            )
        point = self._pinned(number)
        self._taken.add(name)
        try:
            copy = await self._made(name, point)
        except BaseException:
            self._taken.discard(name)
            self._store.unpin(point.number)
            raise
        self._copies[name] = copy
        self._log.info("test_copy_started", name=name, point=point.number)
        return copy

    async def stop(self, copy: StartedCopy, disconnect: Disconnect) -> None:
        """End a test copy, its connections first; what it wrote is gone then.

        What hosts are still waiting for is carried out and answered.
        """
        if self._copies.pop(copy.name, None) is None:
            raise RefusedError(f"test copy {copy.name} is being stopped already")
        try:
            for volume in copy.volumes:
                await disconnect(self.export_name(volume, copy.name))
        finally:
            await asyncio.shield(self._begin_end(copy))

    async def close(self) -> None:
        """End all of them, once hosts and operators have been dealt with."""
        for copy in self.all:
            self._begin_end(copy)
        self._copies.clear()
        await asyncio.gather(*self._ending)

    # -- making and ending -------------------------------------------------------------

    def _free_name(self) -> str:
        number = 1
        while f"copy{number}" in self._taken:  # ends: only so many are taken
            number += 1
        return f"copy{number}"

    def _pinned(self, number: int | None) -> Point:
        pinned = self._store.pin(number)
        for point in self._store.points:
            if point.number == pinned:
                return point
        points = ", ".join(str(point.number) for point in self._store.points)
        what = "no recovery point" if number is None else f"no point {number}"
        raise RefusedError(
            f"group {self._group} has {what} here; it has: {points or 'none yet'}"
        )

    async def _made(self, name: str, point: Point) -> StartedCopy:
        had = self._store.volumes_at(point.number)
        images = [self._store.image(index, point.number) for index, _ in had]
        offers = [offer for _, offer in had]
        threads = self._new_threads(
            f"{self._group}+{name}", min(len(offers) + 2, THREADS_MAX)
        )
        try:
            overlays = await threads.run(self._make_overlays, name, images)
        except BaseException:
            threads.close()
            raise
        return StartedCopy(
            name=name,
            point=point,
            started_ns=self._clock.now_ns(),
            volumes={
                offer.name: OverlayVolume(overlay, _described(name, point), threads)
                for offer, overlay in zip(offers, overlays, strict=True)
            },
            threads=threads,
        )

    def _make_overlays(self, name: str, images: list[PointImage]) -> list[Overlay]:
        self._files.make_directory(self._directory)
        with ExitStack() as undo:
            overlays = []
            for index, image in enumerate(images):
                path = f"{self._directory}/{name}.{index}{OVERLAY_SUFFIX}"
                file = self._nameless(path, undo)
                file.truncate(image.geometry.size_bytes)
                overlay = Overlay(image, file, self._free_bytes)
                overlay.ask_what_is_fast()
                overlays.append(overlay)
            undo.pop_all()
        return overlays

    def _nameless(self, path: str, undo: ExitStack) -> File:
        """Make a file that goes with its last descriptor, whatever ends us."""
        file = self._files.open(path, create=True, scattered=True)
        undo.callback(file.close)
        self._files.remove(path)
        return file

    def _free_bytes(self) -> int:
        return self._files.free_bytes(self._directory) - self._reserve_bytes

    def _begin_end(self, copy: StartedCopy) -> asyncio.Task[None]:
        """End a copy whatever becomes of who asked for it: its point would stay."""
        task = asyncio.create_task(self._end(copy))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def _end(self, copy: StartedCopy) -> None:
        for volume in copy.volumes.values():
            await volume.end()
        for volume in copy.volumes.values():
            # Giving back the room of a long file takes a while.
            await copy.threads.run(volume.overlay.close)
        copy.threads.close()
        self._store.unpin(copy.point.number)
        self._taken.discard(copy.name)
        self._log.info("test_copy_stopped", name=copy.name, point=copy.point.number)


def _described(name: str, point: Point) -> str:
    return f"test copy {name} of recovery point {point.number}, writable"
