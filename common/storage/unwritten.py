"""Files that can be read, and changed in memory only: nothing on the disk changes.

For looking at a site's state with the code that recovers it: what recovery would write
(a torn tail cut, an index made anew, a record stored) is kept here and read back, and
goes with the process. So read-only media will do.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from common.errors import DeviceError, StorageError
from common.ports import Buffer, File, FileIdentity, Files

PAGE_BYTES = 4096


@dataclass(slots=True)
class _Node:
    """What a name stands for: a file on the disk, or none, and what was changed.

    Of the file on the disk the first `seen_bytes` still count, where no page is.
    """

    path: str | None
    seen_bytes: int
    size_bytes: int
    pages: dict[int, bytearray] = field(default_factory=dict)
    is_changed: bool = False


class UnwrittenFile:
    """A `File`; `inner`, where there is one, is open for reading only."""

    def __init__(self, path: str, node: _Node, inner: File | None) -> None:
        self.path = path
        self.is_block_device = inner is not None and inner.is_block_device
        self._node = node
        self._inner = inner

    def size(self) -> int:
        return self._node.size_bytes

    def read(self, offset: int, length: int) -> bytes:
        node = self._node
        if offset + length > node.size_bytes:
            raise StorageError("read past the end", errno=errno.EIO, file=self.path)
        if not node.pages and offset + length <= node.seen_bytes:
            assert self._inner is not None
            return self._inner.read(offset, length)
        data = bytearray(length)
        seen = min(length, node.seen_bytes - offset)
        if seen > 0:
            assert self._inner is not None
            data[:seen] = self._inner.read(offset, seen)
        for page in range(offset // PAGE_BYTES, -(-(offset + length) // PAGE_BYTES)):
            held = node.pages.get(page)
            if held is not None:
                start = max(page * PAGE_BYTES, offset)
                end = min((page + 1) * PAGE_BYTES, offset + length)
                first = start - page * PAGE_BYTES
                data[start - offset : end - offset] = held[first : first + end - start]
        return bytes(data)

    def read_once(self, offset: int, length: int) -> bytes:
        return self.read(offset, length)

    def try_read(self, offset: int, length: int) -> bytes | bytearray | None:
        del offset, length
        return None

    def write(self, offset: int, data: Buffer) -> None:
        node, view = self._node, memoryview(data).cast("B")
        self._reach(offset + len(view))
        at = offset
        while at < offset + len(view):
            page, start = divmod(at, PAGE_BYTES)
            size = min(PAGE_BYTES - start, offset + len(view) - at)
            self._page(page)[start : start + size] = view[at - offset :][:size]
            at += size
        node.is_changed = True

    def _page(self, page: int) -> bytearray:
        """Return a page to be changed, as it is now."""
        pages = self._node.pages
        if page not in pages:
            at = page * PAGE_BYTES
            size = min(PAGE_BYTES, max(self._node.size_bytes - at, 0))
            held = self.read(at, size)
            pages[page] = bytearray(held.ljust(PAGE_BYTES, b"\0"))
        return pages[page]

    def write_zeroes(self, offset: int, length: int, *, punch: bool) -> None:
        del punch
        for at in range(offset, offset + length, PAGE_BYTES):
            self.write(at, bytes(min(PAGE_BYTES, offset + length - at)))

    def zeroes_fast(self, *, punch: bool) -> bool:
        del punch
        return False

    def extents(self, offset: int, length: int) -> list[tuple[int, bool]]:
        if self._inner is None or self._node.is_changed:
            return [(length, False)]
        return self._inner.extents(offset, length)

    def truncate(self, size: int) -> None:
        node = self._node
        if size == node.size_bytes:
            return
        if size % PAGE_BYTES and size < node.size_bytes:
            page, kept = divmod(size, PAGE_BYTES)
            self._page(page)[kept:] = bytes(PAGE_BYTES - kept)
        for page in [p for p in node.pages if p * PAGE_BYTES >= size]:
            del node.pages[page]
        node.seen_bytes = min(node.seen_bytes, size)
        node.size_bytes = size
        node.is_changed = True

    def _reach(self, size: int) -> None:
        if size > self._node.size_bytes:
            self._node.size_bytes = size
            self._node.is_changed = True

    def allocate(self, size: int) -> None:
        self._reach(size)

    def begin_writing(self, offset: int, length: int) -> None:
        """Do nothing: nothing of it goes to a disk."""

    def datasync(self) -> None:
        """Do nothing: what is here needs to outlive nobody."""

    def drop_cache(self) -> None:
        """Do nothing: the page cache belongs to whoever else reads the file."""

    def identity(self) -> FileIdentity:
        if self._inner is not None:
            return self._inner.identity()
        return FileIdentity(0, id(self._node), self._node.size_bytes, 0)

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()


class UnwrittenFiles:
    """A `Files` over another one, of which nothing is changed."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._nodes: dict[str, _Node | None] = {}
        """What differs from the disk, and what was opened; None: removed."""
        self._directories: set[str] = set()

    def open(
        self,
        path: str,
        *,
        create: bool = False,
        read_only: bool = False,
        lock: bool = False,
        scattered: bool = False,
    ) -> File:
        """Open a file; `lock` keeps a daemon out where the file is on the disk.

        A copy of a state directory may have no lock file, and needs none.
        """
        del read_only
        if not self.exists(path):
            if not create:
                raise DeviceError(
                    f"{path}: no such file: a part of the state is missing"
                )
            self._nodes[path] = _Node(None, 0, 0)
        node = self._nodes.get(path)
        on_disk = path if node is None else node.path
        inner = None
        if on_disk is not None:
            inner = self._files.open(
                on_disk, read_only=True, lock=lock, scattered=scattered
            )
            if node is None:
                size = inner.size()
                node = self._nodes[path] = _Node(path, size, size)
        assert node is not None
        return UnwrittenFile(path, node, inner)

    def exists(self, path: str) -> bool:
        if path in self._nodes:
            return self._nodes[path] is not None
        return path in self._directories or self._files.exists(path)

    def list(self, directory: str) -> list[str]:
        found = set()
        if self._files.exists(directory):
            found = set(self._files.list(directory))
        for path, node in self._nodes.items():
            folder, _, name = path.rpartition("/")
            if folder == directory:
                (found.discard if node is None else found.add)(name)
        return sorted(found)

    def make_directory(self, path: str) -> None:
        self._directories.add(path)

    def rename(self, old: str, new: str) -> None:
        if old not in self._nodes:
            self.open(old).close()
        self._nodes[new], self._nodes[old] = self._nodes[old], None

    def remove(self, path: str) -> None:
        self._nodes[path] = None

    def sync_directory(self, path: str) -> None:
        """Do nothing: see `UnwrittenFile.datasync`."""

    def free_bytes(self, path: str) -> int:
        return self._files.free_bytes(path)
