"""What disks in memory that lose power have in common: names, the ports, what is asked.

What each makes of a write until it is flushed, and of a power cut, is its own.
"""

from __future__ import annotations

import errno
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from common.errors import DeviceBusyError, DeviceError, StorageError
from common.ports import Buffer, FileIdentity

BLOCK_BYTES = 4096

Hook = Callable[[str, str], None]
"""(operation, path): after a change took effect in memory, before a flush does."""

Injector = Callable[[str, str], int | None]
"""(operation, path) -> errno to fail with, or None; asked before each operation."""

Lies = Callable[[str, str], bool]
"""(operation, path) of a flush -> whether it reports success and does nothing."""


class InodeInMemory(Protocol):
    """What every kind of inode has."""

    number: int
    changes: int
    lock: object

    def flush(self) -> None: ...

    def lose(self) -> None:
        """A failed write-back: pages look clean, the disk has not got them."""

    def forget_lost(self) -> None:
        """Reads ask the disk again, but for what is dirty still."""


InodeT = TypeVar("InodeT", bound=InodeInMemory)


class Directory(Generic[InodeT]):
    """`changes` since its last sync, each applied as a whole or not at all."""

    def __init__(self) -> None:
        self.names: dict[str, InodeT] = {}
        self.durable: dict[str, InodeT] = {}
        self.changes: list[Any] = []


def assign(
    names: dict[str, InodeT], assignments: Sequence[tuple[str, InodeT | None]]
) -> None:
    for name, inode in assignments:
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


class DiskInMemory(Generic[InodeT]):
    """The `Files` port."""

    zeroes_fast = True
    written_share = 0.5
    """Of a write that fails, so much is there."""
    free = 1 << 40

    def __init__(self) -> None:
        self.directories: dict[str, Directory[InodeT]] = {"/": Directory()}
        self.hook: Hook | None = None
        self.inject: Injector | None = None
        self.lies: Lies | None = None
        self._next_number = 1

    @abstractmethod
    def _new_inode(self, path: str) -> InodeT:
        """Return an empty file's, numbered `_next_number`."""

    @abstractmethod
    def _opened(self, path: str, inode: InodeT, *, read_only: bool) -> Any:
        """Return the `File` port of an inode."""

    @abstractmethod
    def _change(
        self, directory: Directory[InodeT], *assignments: tuple[str, InodeT | None]
    ) -> None:
        """Change names together; durable with the directory's next sync."""

    # -- the port ----------------------------------------------------------------------

    def open(
        self,
        path: str,
        *,
        create: bool = False,
        read_only: bool = False,
        lock: bool = False,
        scattered: bool = False,
    ) -> Any:
        directory, name = self._at(path)
        inode = directory.names.get(name)
        if inode is None:
            if not create:
                raise DeviceError(f"{path}: no such file or device")
            self.before("create", path)
            inode = self._new_inode(path)
            self._next_number += 1
            self._change(directory, (name, inode))
            self.after("create", path)
        file = self._opened(path, inode, read_only=read_only)
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
        self._change(directory, (new_name, directory.names[old_name]), (old_name, None))
        self.after("rename", new)

    def remove(self, path: str) -> None:
        directory, name = self._at(path)
        self.before("remove", path)
        if name not in directory.names:
            raise failure(errno.ENOENT, path)
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
        return self.free

    # -- inside ------------------------------------------------------------------------

    def _directory(self, path: str) -> Directory[InodeT]:
        if path not in self.directories:
            raise failure(errno.ENOENT, path)
        return self.directories[path]

    def _at(self, path: str) -> tuple[Directory[InodeT], str]:
        parent, _, name = path.rpartition("/")
        if (parent or "/") not in self.directories:
            raise DeviceError(f"{path}: no such file or device")
        return self.directories[parent or "/"], name

    def inode(self, path: str) -> InodeT:
        directory, name = self._at(path)
        return directory.names[name]

    def before(self, operation: str, path: str) -> None:
        """An operation begins; raises what is injected."""
        if self.inject is not None:
            number = self.inject(operation, path)
            if number is not None:
                raise failure(number, path)

    def lied(self, operation: str, path: str) -> bool:
        return self.lies is not None and self.lies(operation, path)

    def after(self, operation: str, path: str) -> None:
        if self.hook is not None:
            self.hook(operation, path)


def failure(number: int, path: str) -> StorageError:
    return StorageError(os.strerror(number), errno=number, file=path)


DiskT = TypeVar("DiskT", bound=DiskInMemory[Any])


class FileInMemory(Generic[DiskT, InodeT]):
    """The `File` port."""

    is_block_device = False

    def __init__(
        self, disk: DiskT, path: str, inode: InodeT, *, read_only: bool
    ) -> None:
        self.path = path
        self._disk = disk
        self._node: InodeT | None = inode
        self._read_only = read_only

    @property
    @abstractmethod
    def _content(self) -> bytes | bytearray:
        """What a read sees."""

    @abstractmethod
    def _put(self, offset: int, data: Buffer) -> None: ...

    @abstractmethod
    def _punch(self, offset: int, end: int) -> None:
        """Zeroes have been put there, and may be a hole."""

    @abstractmethod
    def _resize(self, size: int) -> None: ...

    @abstractmethod
    def _is_hole(self, block: int) -> bool: ...

    @property
    def _inode(self) -> InodeT:
        assert self._node is not None, f"{self.path} is closed"
        return self._node

    def size(self) -> int:
        return len(self._content)

    def read(self, offset: int, length: int) -> bytes:
        self._disk.before("read", self.path)
        data = bytes(self._content[offset : offset + length])
        if len(data) != length:
            raise failure(errno.EIO, self.path)
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
            # A short write precedes the error: a part of it is there.
            part = int(len(data) * self._disk.written_share)
            if part:
                self._put(offset, memoryview(data)[:part])
            raise
        self._put(offset, data)
        self._disk.after("write", self.path)

    def write_zeroes(self, offset: int, length: int, *, punch: bool) -> None:
        self._begin("write_zeroes")
        end = min(offset + length, self.size())
        if offset >= end:
            return
        self._put(offset, bytes(end - offset))
        if punch:
            self._punch(offset, end)
        self._disk.after("write_zeroes", self.path)

    def zeroes_fast(self, *, punch: bool) -> bool:
        return self._disk.zeroes_fast and punch

    def extents(self, offset: int, length: int) -> list[tuple[int, bool]]:
        self._disk.before("extents", self.path)
        found: list[tuple[int, bool]] = []
        end = offset + length
        while offset < end:
            block = offset // BLOCK_BYTES
            size = min((block + 1) * BLOCK_BYTES, end) - offset
            is_hole = self._is_hole(block)
            if found and found[-1][1] == is_hole:
                found[-1] = (found[-1][0] + size, is_hole)
            else:
                found.append((size, is_hole))
            offset += size
        return found

    def truncate(self, size: int) -> None:
        self._begin("truncate")
        self._resize(size)
        self._disk.after("truncate", self.path)

    def allocate(self, size: int) -> None:
        self._begin("allocate")
        if size > self.size():
            self._resize(size)
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
        """Show what the disk has where a failed datasync lost something."""
        self._inode.forget_lost()

    def identity(self) -> FileIdentity:
        return FileIdentity(1, self._inode.number, self.size(), self._inode.changes)

    def close(self) -> None:
        if self._node is not None and self._node.lock is self:
            self._node.lock = None
        self._node = None

    def _begin(self, operation: str) -> None:
        assert not self._read_only, f"{self.path} was opened for reading"
        self._disk.before(operation, self.path)
