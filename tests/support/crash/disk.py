"""A disk that loses power, made for many images: `Files` for the crash explorer.

Between two flushes of a file each sector that was written to may come out of a power
cut as it was at the last flush, as any later write left it, torn (bytes of two of
these) or trashed (garbage); the size as it ever was since; each create, rename and
remove of a directory done or not, until that directory is synced. No sector is
taken to be written at once, and nothing is taken to be written in order.

An image shares all that was flushed with the disk it is of, and its digest is a sum
over sectors, so that an image costs what is unflushed and not what is stored.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.errors import DeviceBusyError, DeviceError, StorageError
from common.ports import Buffer, FileIdentity

BLOCK_BYTES = 4096
DIGEST_BITS = 64
_MASK = (1 << DIGEST_BITS) - 1
_PLACE = struct.Struct("<QQ")
_ZERO_BLOCK = bytes(BLOCK_BYTES)
_ZEROES = {length: bytes(length) for length in (512, BLOCK_BYTES)}

Hook = Callable[[str, str], None]
"""(operation, path): after a change took effect in memory, before a flush does."""

Injector = Callable[[str, str], int | None]
"""(operation, path) -> errno to fail with, or None; asked before each operation."""

Lies = Callable[[str, str], bool]
"""(operation, path) of a flush -> whether it reports success and does nothing."""

OLD, TORN, TRASHED = 0, -1, -2
"""Fates of what is unflushed; n > 0 is its n-th content since the last flush."""

Version = tuple[bytes, int, int]
"""(content, digest, when)."""


def sector_digest(content: bytes, number: int, place: int) -> int:
    """Return a content's share of its disk's digest; zeroes have none."""
    if content == _ZEROES.get(len(content)):
        return 0
    salt = _PLACE.pack(number, place)
    found = hashlib.blake2b(content, digest_size=8, salt=salt).digest()
    return int.from_bytes(found, "little")


class Inode:
    """One file: `base` is what the last flush left, `data` what a read sees.

    `base` is never changed in place: images and `data` share it until a write.
    """

    __slots__ = (
        "base",
        "base_digest",
        "changes",
        "data",
        "has_lost",
        "is_ignored",
        "lock",
        "number",
        "sector_bytes",
        "sizes",
        "versions",
        "was",
    )

    def __init__(self, number: int, sector_bytes: int) -> None:
        self.number = number
        self.sector_bytes = sector_bytes
        self.base: bytes | bytearray = b""
        self.base_digest = 0
        self.data: bytes | bytearray = self.base
        self.versions: dict[int, list[Version]] = {}
        self.was: dict[int, int] = {}
        """Digests of what the sectors in `versions` held at the last flush."""
        self.sizes: list[tuple[int, int]] = []
        self.has_lost = False
        self.is_ignored = False
        self.changes = 0
        self.lock: object = None

    # -- what is on the disk -----------------------------------------------------------

    def base_sector(self, sector: int) -> bytes:
        start = sector * self.sector_bytes
        found = bytes(self.base[start : start + self.sector_bytes])
        return found.ljust(self.sector_bytes, b"\0")

    def is_unflushed(self) -> bool:
        return bool(self.versions or self.sizes)

    def whole_digest(self) -> int:
        """Return the digest of `base`, sector by sector."""
        total = sector_digest(struct.pack("<Q", len(self.base)), self.number, 1 << 62)
        for sector in range(-(-len(self.base) // self.sector_bytes)):
            total += sector_digest(self.base_sector(sector), self.number, sector)
        return total & _MASK

    # -- writing -----------------------------------------------------------------------

    def _own(self) -> bytearray:
        """Return `data` as this inode's own, to be changed."""
        if self.data is self.base or not isinstance(self.data, bytearray):
            self.data = bytearray(self.data)
        return self.data

    def put(self, offset: int, content: Buffer, when: int) -> None:
        data = self._own()
        end = offset + len(content)
        if end > len(data):
            self._sized(end, when)
            data.extend(bytes(end - len(data)))
        data[offset:end] = content
        self._dirty(offset, end, when)

    def resize(self, size: int, when: int) -> None:
        data = self._own()
        was = len(data)
        self._sized(size, when)
        if size > was:
            data.extend(bytes(size - was))
        elif size < was:
            data[size:] = bytes(was - size)
            self._dirty(size, was, when)
            del data[size:]

    def _sized(self, size: int, when: int) -> None:
        self.changes += 1
        if not self.is_ignored:
            self.sizes.append((size, when))

    def _dirty(self, offset: int, end: int, when: int) -> None:
        self.changes += 1
        if self.is_ignored:
            return
        step = self.sector_bytes
        for sector in range(offset // step, -(-end // step)):
            content = bytes(self.data[sector * step : (sector + 1) * step])
            content = content.ljust(step, b"\0")
            version = content, sector_digest(content, self.number, sector), when
            if sector not in self.versions:
                self.versions[sector] = []
                base = self.base_sector(sector)
                self.was[sector] = sector_digest(base, self.number, sector)
            self.versions[sector].append(version)

    def flush(self) -> None:
        if self.is_ignored:
            return
        if self.has_lost:
            self._flush_but_lost()
            return
        if not self.is_unflushed():
            return
        if self.sizes:
            self.base = self.data
            self.base_digest = self.whole_digest()
        else:
            total = self.base_digest
            for sector, versions in self.versions.items():
                total += versions[-1][1] - self.was[sector]
            self.base, self.base_digest = self.data, total & _MASK
        self.versions, self.was, self.sizes = {}, {}, []

    def _flush_but_lost(self) -> None:
        """The disk gets what became dirty after the flush that failed, no more."""
        data, step = self.data, self.sector_bytes
        base = bytearray(self.base[: len(data)].ljust(len(data), b"\0"))
        for sector in self.versions:
            at = slice(sector * step, (sector + 1) * step)
            base[at] = data[at]
        self.base = base
        self.base_digest = self.whole_digest()
        self.versions, self.was, self.sizes = {}, {}, []

    def lose(self) -> None:
        """A failed write-back: pages look clean, the disk has not got them."""
        self.has_lost = True
        self.versions, self.was = {}, {}

    def forget_lost(self) -> None:
        if not self.has_lost:
            return
        data, step = self._own(), self.sector_bytes
        kept = bytes(data)
        data[:] = self.base[: len(data)].ljust(len(data), b"\0")
        for sector in self.versions:
            at = slice(sector * step, (sector + 1) * step)
            data[at] = kept[at]
        self.has_lost = False

    # -- copies ------------------------------------------------------------------------

    def copy(self) -> Inode:
        """Return the inode as another process finds it: cache and dirt and all."""
        other = Inode(self.number, self.sector_bytes)
        other.base, other.base_digest = self.base, self.base_digest
        other.data = self.base if self.data is self.base else bytearray(self.data)
        other.versions = {s: list(v) for s, v in self.versions.items()}
        other.was = dict(self.was)
        other.sizes = list(self.sizes)
        other.has_lost, other.changes = self.has_lost, self.changes
        other.is_ignored = self.is_ignored
        return other

    def image(self, fates: dict[int, Fate], size: int) -> Inode:
        """Return the inode as a power cut leaves it, sectors as `fates` says."""
        other = Inode(self.number, self.sector_bytes)
        other.changes = self.changes
        other.is_ignored = self.is_ignored
        base = self.base
        if fates or size != len(base):
            step = self.sector_bytes
            content = bytearray(base)
            content.extend(bytes(max(0, size - len(content))))
            total = self.base_digest
            for sector, fate in fates.items():
                content[sector * step : (sector + 1) * step] = fate.content
                total += fate.digest
            del content[size:]
            other.base, other.base_digest = content, total & _MASK
            if size != len(base):
                other.base_digest = other.whole_digest()
        else:
            other.base, other.base_digest = base, self.base_digest
        other.data = other.base
        return other


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one sector; `digest` less that of what it held before."""

    content: bytes
    digest: int


Names = dict[str, Inode]
NameChange = tuple[int, tuple[tuple[str, Inode | None], ...]]
"""(when, assignments that happen together)."""


class Directory:
    """`changes` since its last sync, each applied as a whole or not at all."""

    def __init__(self) -> None:
        self.names: Names = {}
        self.durable: Names = {}
        self.changes: list[NameChange] = []


def assign(names: Names, assignments: Sequence[tuple[str, Inode | None]]) -> None:
    for name, inode in assignments:
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


class CrashDisk:
    """The `Files` port. Files whose names end with `ignored` lose and tell nothing."""

    def __init__(
        self, sector_bytes: int = 512, *, ignored: str = "", knows_holes: bool = True
    ) -> None:
        self.sector_bytes = sector_bytes
        self.ignored = ignored
        self.knows_holes = knows_holes
        self.directories: dict[str, Directory] = {"/": Directory()}
        self.hook: Hook | None = None
        self.inject: Injector | None = None
        self.lies: Lies | None = None
        self._next_number = 1
        self._when = 0

    def like(self) -> CrashDisk:
        """Return an empty disk of the same kind."""
        other = CrashDisk(
            self.sector_bytes, ignored=self.ignored, knows_holes=self.knows_holes
        )
        other.lies = self.lies
        other._next_number, other._when = self._next_number, self._when
        return other

    def digest(self) -> int:
        """Return 64 bits that tell this disk's flushed content from another's."""
        total = 0
        for path, directory in self.directories.items():
            for name, inode in directory.durable.items():
                if inode.is_ignored:
                    continue
                total += inode.base_digest
                total += sector_digest(f"{path}/{name}".encode(), inode.number, 1 << 63)
        return total & _MASK

    def after_kill(self) -> CrashDisk:
        """Return what another process finds after a SIGKILL: the page cache stays,
        nothing has become durable by it, locks are gone."""
        other = self.like()
        copies: dict[int, Inode] = {}

        def copied(inode: Inode) -> Inode:
            if inode.number not in copies:
                copies[inode.number] = inode.copy()
            return copies[inode.number]

        for path, directory in self.directories.items():
            mine = other.directories.setdefault(path, Directory())
            mine.names = {n: copied(i) for n, i in directory.names.items()}
            mine.durable = {n: copied(i) for n, i in directory.durable.items()}
            mine.changes = [
                (when, tuple((n, None if i is None else copied(i)) for n, i in change))
                for when, change in directory.changes
            ]
        return other

    def tick(self) -> int:
        self._when += 1
        return self._when

    # -- the port ----------------------------------------------------------------------

    def open(
        self,
        path: str,
        *,
        create: bool = False,
        read_only: bool = False,
        lock: bool = False,
        scattered: bool = False,
    ) -> CrashFile:
        directory, name = self._at(path)
        inode = directory.names.get(name)
        if inode is None:
            if not create:
                raise DeviceError(f"{path}: no such file or device")
            self.before("create", path)
            inode = Inode(self._next_number, self.sector_bytes)
            inode.is_ignored = bool(self.ignored) and path.endswith(self.ignored)
            inode.base_digest = inode.whole_digest()
            self._next_number += 1
            self._change(directory, (name, inode))
            self.after("create", path)
        file = CrashFile(self, path, inode, read_only=read_only)
        if lock:
            if inode.lock is not None:
                raise DeviceBusyError(f"{path}: in use by another daemon")
            inode.lock = file
        return file

    def exists(self, path: str) -> bool:
        if path in self.directories:
            return True
        parent, _, name = path.rpartition("/")
        directory = self.directories.get(parent or "/")
        return directory is not None and name in directory.names

    def list(self, directory: str) -> list[str]:
        self.before("list", directory)
        return sorted(self._directory(directory).names)

    def make_directory(self, path: str) -> None:
        parts = path.strip("/").split("/")
        for i in range(len(parts)):
            self.directories.setdefault("/" + "/".join(parts[: i + 1]), Directory())

    def rename(self, old: str, new: str) -> None:
        directory, old_name = self._at(old)
        target, new_name = self._at(new)
        assert directory is target, "the simulation renames within a directory"
        self.before("rename", new)
        inode = directory.names[old_name]
        self._change(directory, (new_name, inode), (old_name, None))
        self.after("rename", new)

    def remove(self, path: str) -> None:
        directory, name = self._at(path)
        self.before("remove", path)
        if name not in directory.names:
            raise _error(errno.ENOENT, path)
        self._change(directory, (name, None))
        self.after("remove", path)

    def sync_directory(self, path: str) -> None:
        directory = self._directory(path)
        self.after("sync_directory", path)
        self.before("sync_directory", path)
        if not self.lied("sync_directory", path):
            directory.durable = dict(directory.names)
            directory.changes = []

    def free_bytes(self, path: str) -> int:
        return 1 << 40

    # -- inside ------------------------------------------------------------------------

    def _change(
        self, directory: Directory, *assignments: tuple[str, Inode | None]
    ) -> None:
        assign(directory.names, assignments)
        if all(inode is not None and inode.is_ignored for _, inode in assignments):
            assign(directory.durable, assignments)
            return
        directory.changes.append((self.tick(), assignments))

    def _directory(self, path: str) -> Directory:
        if path not in self.directories:
            raise _error(errno.ENOENT, path)
        return self.directories[path]

    def _at(self, path: str) -> tuple[Directory, str]:
        parent, _, name = path.rpartition("/")
        if (parent or "/") not in self.directories:
            raise DeviceError(f"{path}: no such file or device")
        return self.directories[parent or "/"], name

    def inode(self, path: str) -> Inode:
        directory, name = self._at(path)
        return directory.names[name]

    def before(self, operation: str, path: str) -> None:
        if self.inject is not None:
            number = self.inject(operation, path)
            if number is not None:
                raise _error(number, path)

    def lied(self, operation: str, path: str) -> bool:
        return self.lies is not None and self.lies(operation, path)

    def after(self, operation: str, path: str) -> None:
        if self.hook is not None:
            self.hook(operation, path)


def _error(number: int, path: str) -> StorageError:
    return StorageError(os.strerror(number), errno=number, file=path)


class CrashFile:
    """The `File` port."""

    is_block_device = False

    def __init__(
        self, disk: CrashDisk, path: str, inode: Inode, *, read_only: bool
    ) -> None:
        self.path = path
        self._disk = disk
        self._node: Inode | None = inode
        self._read_only = read_only

    @property
    def _inode(self) -> Inode:
        assert self._node is not None, f"{self.path} is closed"
        return self._node

    def size(self) -> int:
        return len(self._inode.data)

    def read(self, offset: int, length: int) -> bytes:
        self._disk.before("read", self.path)
        data = bytes(self._inode.data[offset : offset + length])
        if len(data) != length:
            raise _error(errno.EIO, self.path)
        return data

    def read_once(self, offset: int, length: int) -> bytes:
        return self.read(offset, length)

    def try_read(self, offset: int, length: int) -> bytes | bytearray | None:
        try:
            return self.read(offset, length)
        except StorageError:
            return None  # the blocking read that follows would meet it

    def write(self, offset: int, data: Buffer) -> None:
        try:
            self._begin("write")
        except StorageError:
            half = len(data) // 2  # a short write precedes the error
            if half:
                self._inode.put(offset, memoryview(data)[:half], self._disk.tick())
            raise
        self._inode.put(offset, data, self._disk.tick())
        self._disk.after("write", self.path)

    def write_zeroes(self, offset: int, length: int, *, punch: bool) -> None:
        self._begin("write_zeroes")
        end = min(offset + length, self.size())
        if offset < end:
            self._inode.put(offset, bytes(end - offset), self._disk.tick())
            self._disk.after("write_zeroes", self.path)

    def zeroes_fast(self, *, punch: bool) -> bool:
        return punch

    def extents(self, offset: int, length: int) -> list[tuple[int, bool]]:
        """A block of zeroes is a hole, on a disk that knows holes."""
        self._disk.before("extents", self.path)
        if not self._disk.knows_holes:
            return [(length, False)]
        data = self._inode.data
        found: list[tuple[int, bool]] = []
        end = offset + length
        while offset < end:
            start = offset - offset % BLOCK_BYTES
            size = min(start + BLOCK_BYTES, end) - offset
            block = data[start : start + BLOCK_BYTES]
            is_hole = block == _ZERO_BLOCK[: len(block)]
            if found and found[-1][1] == is_hole:
                found[-1] = (found[-1][0] + size, is_hole)
            else:
                found.append((size, is_hole))
            offset += size
        return found

    def truncate(self, size: int) -> None:
        self._begin("truncate")
        if size == self.size():
            return
        self._inode.resize(size, self._disk.tick())
        self._disk.after("truncate", self.path)

    def allocate(self, size: int) -> None:
        self._begin("allocate")
        if size > self.size():
            self._inode.resize(size, self._disk.tick())
            self._disk.after("allocate", self.path)

    def datasync(self) -> None:
        self._disk.after("datasync", self.path)
        try:
            self._disk.before("datasync", self.path)
        except StorageError:
            self._inode.lose()
            raise
        if not self._disk.lied("datasync", self.path):
            self._inode.flush()

    def begin_writing(self, offset: int, length: int) -> None:
        """Promise nothing: what a crash leaves of it is chosen as of any write."""

    def drop_cache(self) -> None:
        self._inode.forget_lost()

    def identity(self) -> FileIdentity:
        inode = self._inode
        return FileIdentity(1, inode.number, len(inode.data), inode.changes)

    def close(self) -> None:
        if self._node is not None and self._node.lock is self:
            self._node.lock = None
        self._node = None

    def _begin(self, operation: str) -> None:
        assert not self._read_only, f"{self.path} was opened for reading"
        self._disk.before(operation, self.path)
