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

import hashlib
import struct
from dataclasses import dataclass

from common.ports import Buffer
from tests.support.disk_in_memory import (
    BLOCK_BYTES,
    Directory,
    DiskInMemory,
    FileInMemory,
    assign,
)

DIGEST_BITS = 64
_MASK = (1 << DIGEST_BITS) - 1
_PLACE = struct.Struct("<QQ")
_ZERO_BLOCK = bytes(BLOCK_BYTES)
_ZEROES = {length: bytes(length) for length in (512, BLOCK_BYTES)}

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


NameChange = tuple[int, tuple[tuple[str, Inode | None], ...]]
"""(when, assignments that happen together)."""


class CrashDisk(DiskInMemory[Inode]):
    """The `Files` port. Files whose names end with `ignored` lose and tell nothing."""

    def __init__(
        self, sector_bytes: int = 512, *, ignored: str = "", knows_holes: bool = True
    ) -> None:
        super().__init__()
        self.sector_bytes = sector_bytes
        self.ignored = ignored
        self.knows_holes = knows_holes
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

    # -- as a `DiskInMemory` -----------------------------------------------------------

    def _new_inode(self, path: str) -> Inode:
        inode = Inode(self._next_number, self.sector_bytes)
        inode.is_ignored = bool(self.ignored) and path.endswith(self.ignored)
        inode.base_digest = inode.whole_digest()
        return inode

    def _opened(self, path: str, inode: Inode, *, read_only: bool) -> CrashFile:
        return CrashFile(self, path, inode, read_only=read_only)

    def _change(
        self, directory: Directory[Inode], *assignments: tuple[str, Inode | None]
    ) -> None:
        assign(directory.names, assignments)
        if all(inode is not None and inode.is_ignored for _, inode in assignments):
            assign(directory.durable, assignments)
            return
        directory.changes.append((self.tick(), assignments))


class CrashFile(FileInMemory[CrashDisk, Inode]):
    """The `File` port; a block of zeroes is a hole, on a disk that knows holes."""

    @property
    def _content(self) -> bytes | bytearray:
        return self._inode.data

    def _put(self, offset: int, data: Buffer) -> None:
        self._inode.put(offset, data, self._disk.tick())

    def _punch(self, offset: int, end: int) -> None:
        """Zeroes are a hole already."""

    def _resize(self, size: int) -> None:
        self._inode.resize(size, self._disk.tick())

    def _is_hole(self, block: int) -> bool:
        start = block * BLOCK_BYTES
        content = self._content[start : start + BLOCK_BYTES]
        return self._disk.knows_holes and content == _ZERO_BLOCK[: len(content)]

    def truncate(self, size: int) -> None:
        self._begin("truncate")
        if size != self.size():
            self._resize(size)
            self._disk.after("truncate", self.path)
