"""A file system in memory that loses power: `Files` and `Threads` for crash tests.

What a power cut may leave of a file, since its last `datasync`: each 512-byte
sector written to holds what it held then, any of its later contents, a part of one
and the rest of another, or garbage; the size is that of then, of now or anything
between them that it had. Names: each create, rename and remove since the directory's
last sync has happened or not, independently. Nothing else is assumed of a disk.

A datasync that fails drops what was dirty: reads still show it, the disk never gets
it, and the next datasync succeeds, as on Linux.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from common.ports import Buffer
from tests.support.disk_in_memory import (
    BLOCK_BYTES,
    Directory,
    DiskInMemory,
    FileInMemory,
    assign,
)

P = ParamSpec("P")
T = TypeVar("T")

SECTOR_BYTES = 512
_ZERO_SECTOR = bytes(SECTOR_BYTES)


class _Inode:
    def __init__(self, number: int, base: bytes = b"") -> None:
        self.number = number
        self.durable = base
        self.size = len(base)
        self.patches: dict[int, bytes] | None = None
        self.versions: dict[int, list[bytes]] = {}
        self.sizes: list[int] = []
        self.allocated: set[int] | None = None
        self.has_lost = False
        self.changes = 0
        self.flushes = 0
        self.lock: object = None
        self._content: bytearray | None = None

    @property
    def content(self) -> bytearray:
        """What a read sees; made when first asked for, so that images are cheap."""
        if self._content is None:
            content = bytearray(self.durable[: self.size])
            content.extend(bytes(self.size - len(content)))
            for sector, data in (self.patches or {}).items():
                offset = sector * SECTOR_BYTES
                if offset < self.size:
                    room = min(SECTOR_BYTES, self.size - offset)
                    content[offset : offset + room] = data[:room]
            self.patches = None
            self.durable = bytes(content)
            self._content = content
        return self._content

    def blocks_with_data(self) -> set[int]:
        if self.allocated is None:
            content = self.content
            empty = bytes(BLOCK_BYTES)
            self.allocated = {
                start // BLOCK_BYTES
                for start in range(0, len(content), BLOCK_BYTES)
                if content[start : start + BLOCK_BYTES] != empty[: len(content) - start]
            }
        return self.allocated

    def put(self, offset: int, data: Buffer) -> None:
        content = self.content
        end = offset + len(data)
        if end > len(content):
            self.sizes.append(end)
            content.extend(bytes(end - len(content)))
        content[offset:end] = data
        self._dirty(offset, end)

    def _dirty(self, offset: int, end: int) -> None:
        self.changes += 1
        first, last = offset // SECTOR_BYTES, -(-end // SECTOR_BYTES)
        now = bytes(self.content[first * SECTOR_BYTES : last * SECTOR_BYTES])
        now = now.ljust((last - first) * SECTOR_BYTES, b"\0")
        versions, start = self.versions, 0
        for sector in range(first, last):
            version = now[start : start + SECTOR_BYTES]
            start += SECTOR_BYTES
            if sector in versions:
                versions[sector].append(version)
            else:
                versions[sector] = [version]

    def resize(self, size: int) -> None:
        content = self.content
        was = len(content)
        self.changes += 1
        self.sizes.append(size)
        if size > was:
            content.extend(bytes(size - was))
        elif size < was:
            content[size:] = bytes(was - size)
            self._dirty(size, was)
            del content[size:]
            blocks = self.blocks_with_data()
            self.allocated = {b for b in blocks if b * BLOCK_BYTES < size}

    def flush(self) -> None:
        self.flushes += 1
        content = self.content
        if not self.has_lost:
            self.durable = bytes(content)
        else:
            durable = bytearray(self.durable[: len(content)])
            durable.extend(bytes(len(content) - len(durable)))
            for sector in self.versions:
                start = sector * SECTOR_BYTES
                durable[start : start + SECTOR_BYTES] = content[
                    start : start + SECTOR_BYTES
                ]
            self.durable = bytes(durable)
        self.versions, self.sizes = {}, []

    def lose(self) -> None:
        """A failed write-back: pages look clean, the disk has not got them."""
        self.has_lost = True
        self.versions = {}

    def forget_lost(self) -> None:
        """Reads ask the disk again, but for what is dirty still."""
        if not self.has_lost:
            return
        content = self.content
        kept = bytes(content)
        content[:] = self.durable[: len(content)].ljust(len(content), b"\0")
        for sector in self.versions:
            at = slice(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES)
            content[at] = kept[at]
        self.allocated = None  # what had been punched is back, too
        self.has_lost = False

    def crashed(self, power: _Power) -> _Inode:
        """Return the inode as a power cut may leave it."""
        if self._content is None:
            self.content  # noqa: B018 - an image of an image
        image = _Inode(self.number, self.durable)
        image.size = power.size(len(self.durable), self.sizes)
        if self.versions:
            patches = {}
            for sector, versions in self.versions.items():
                data = power.sector(self, sector, versions)
                if data is not None:
                    patches[sector] = data
            image.patches = patches
        return image

    def durable_sector(self, sector: int) -> bytes:
        start = sector * SECTOR_BYTES
        return self.durable[start : start + SECTOR_BYTES].ljust(SECTOR_BYTES, b"\0")


class _Power:
    """One power cut: what becomes of each unflushed thing."""

    MIXES = (
        # kept, dropped, torn, trashed
        (1, 1, 0, 0),
        (4, 1, 0, 0),
        (1, 4, 0, 0),
        (2, 2, 1, 1),
        (1, 0, 0, 1),
        (8, 0, 1, 0),
        (0, 4, 0, 1),
    )

    def __init__(self, rng: random.Random, fate: str) -> None:
        self.rng = rng
        self.fate = fate
        self.mix = rng.choice(self.MIXES)
        self.name_odds = rng.choice((0.0, 0.5, 1.0))
        self._garbage = rng.randbytes(SECTOR_BYTES)

    def size(self, durable: int, sizes: list[int]) -> int:
        if not sizes or self.fate == "lost":
            return durable
        if self.fate == "kept":
            return sizes[-1]
        return self.rng.choice((durable, sizes[-1], sizes[-1], self.rng.choice(sizes)))

    def sector(self, inode: _Inode, sector: int, versions: list[bytes]) -> bytes | None:
        """Return the sector's bytes, None for those of the last flush."""
        if self.fate == "lost":
            return None
        if self.fate == "kept":
            return versions[-1]
        (choice,) = self.rng.choices("kdtx", self.mix)
        if choice == "d":
            return None
        if choice == "x":
            return self._garbage
        new = versions[-1] if self.rng.random() < 0.8 else self.rng.choice(versions)
        if choice == "k":
            return new
        cut = self.rng.randrange(1, SECTOR_BYTES)
        return new[:cut] + inode.durable_sector(sector)[cut:]

    def keeps_name(self) -> bool:
        if self.fate != "mixed":
            return self.fate == "kept"
        return self.rng.random() < self.name_odds


class SimulatedFiles(DiskInMemory[_Inode]):
    """The `Files` port. `counts` says how often each operation was called."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    # -- the world ---------------------------------------------------------------------

    def crash_images(self, rng: random.Random, limit: int) -> Iterator[SimulatedFiles]:
        """Yield file systems as a power cut now may leave them, nothing unflushed.

        First all unflushed lost, then all kept, then mixtures; one image where
        nothing is unflushed.
        """
        if not self._is_unflushed():
            limit = min(limit, 1)
        for number in range(limit):
            fate = ("lost", "kept")[number] if number < 2 else "mixed"
            yield self._image(_Power(rng, fate))

    def crash_image(self, rng: random.Random, fate: str) -> SimulatedFiles:
        """Return one of `crash_images`: `fate` is lost, kept or mixed."""
        return self._image(_Power(rng, fate))

    def _is_unflushed(self) -> bool:
        return any(
            directory.changes
            or any(i.versions or i.sizes for i in directory.names.values())
            for directory in self.directories.values()
        )

    def _image(self, power: _Power) -> SimulatedFiles:
        image = SimulatedFiles()
        image.lies = self.lies
        image._next_number = self._next_number
        inodes: dict[int, _Inode] = {}
        for path, directory in self.directories.items():
            names = directory.durable
            if directory.changes:
                names = dict(names)
                for change in directory.changes:
                    if power.keeps_name():
                        assign(names, change)
            copy = image.directories.setdefault(path, Directory())
            for name, inode in names.items():
                if inode.number not in inodes:
                    inodes[inode.number] = inode.crashed(power)
                copy.durable[name] = inodes[inode.number]
            copy.names = dict(copy.durable)
        return image

    def after_kill(self) -> SimulatedFiles:
        """Return the file system as another process sees it after a SIGKILL: the
        page cache stays, nothing unflushed has become durable; locks are gone."""
        other = SimulatedFiles()
        other.lies = self.lies
        other._next_number = self._next_number
        copies: dict[int, _Inode] = {}

        def copied(inode: _Inode) -> _Inode:
            if inode.number not in copies:
                copy = _Inode(inode.number)
                copy._content = bytearray(inode.content)
                copy.durable = inode.durable
                copy.versions = {s: list(v) for s, v in inode.versions.items()}
                copy.sizes = list(inode.sizes)
                copy.has_lost = inode.has_lost
                copy.allocated = set(inode.blocks_with_data())
                copies[inode.number] = copy
            return copies[inode.number]

        for path, directory in self.directories.items():
            mine = other.directories.setdefault(path, Directory())
            mine.names = {n: copied(i) for n, i in directory.names.items()}
            mine.durable = {n: copied(i) for n, i in directory.durable.items()}
            mine.changes = [
                tuple((n, None if i is None else copied(i)) for n, i in change)
                for change in directory.changes
            ]
        return other

    def unflushed_sectors(self, path: str) -> int:
        return len(self.inode(path).versions)

    def trash(self, path: str, offset: int, data: bytes) -> None:
        """Change bytes on the disk behind everyone's back."""
        inode = self.inode(path)
        inode.put(offset, data)
        inode.flush()

    # -- as a `DiskInMemory` -----------------------------------------------------------

    def _new_inode(self, path: str) -> _Inode:
        inode = _Inode(self._next_number)
        inode.allocated = set()
        return inode

    def _opened(self, path: str, inode: _Inode, *, read_only: bool) -> SimulatedFile:
        return SimulatedFile(self, path, inode, read_only=read_only)

    def _change(
        self, directory: Directory[_Inode], *assignments: tuple[str, _Inode | None]
    ) -> None:
        directory.changes.append(assignments)
        assign(directory.names, assignments)

    def before(self, operation: str, path: str) -> None:
        self.counts[operation] = self.counts.get(operation, 0) + 1
        super().before(operation, path)


class SimulatedFile(FileInMemory[SimulatedFiles, _Inode]):
    """The `File` port; holes are where nothing was written, or zeroes were punched."""

    @property
    def _content(self) -> bytearray:
        return self._inode.content

    def _put(self, offset: int, data: Buffer) -> None:
        blocks = self._inode.blocks_with_data()
        self._inode.put(offset, data)
        blocks.update(
            range(offset // BLOCK_BYTES, -(-(offset + len(data)) // BLOCK_BYTES))
        )

    def _punch(self, offset: int, end: int) -> None:
        blocks = self._inode.blocks_with_data()
        last = -(-end // BLOCK_BYTES) if end == self.size() else end // BLOCK_BYTES
        blocks.difference_update(range(-(-offset // BLOCK_BYTES), last))

    def _resize(self, size: int) -> None:
        self._inode.resize(size)

    def _is_hole(self, block: int) -> bool:
        return block not in self._inode.blocks_with_data()


class InlineThreads:
    """The `Threads` port without threads: a job runs at once, where it was asked for.

    `done` comes with the loop's next turn, as it would from a real thread.
    """

    def submit(
        self,
        job: Callable[[], Any],
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        result: Any = None
        failure: BaseException | None = None
        try:
            result = job()
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            failure = error
        asyncio.get_running_loop().call_soon(done, result, failure)

    async def run(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        await asyncio.sleep(0)
        return function(*args, **kwargs)

    def close(self) -> None:
        pass
