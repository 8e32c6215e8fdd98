"""Disks that write down all that is done to them, and what power loss leaves of it.

    with LoggedDisks(folder, {"primary": 64 << 20}, moment=history.now) as disks:
        kind.make(disks.path / "primary") ...

Files by FUSE, meant to lie beneath loop devices with file systems. Each write and
each flush is an entry of one log over all disks, in the order in which the disks
finished them; a flush is entered as it *begins*, so that it covers only writes that
were over by then, as a drive's would.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np

from tests.support.faulty_disk import _FALLOCATE, _TRANSFER, FaultyDisk

FLUSH: Final = -1
BLOCK_BYTES = 4096
"""What a write is torn at: ext4 and XFS do not mount with a superblock, or a block of a
tree, that is torn within, journal or not; that is for their fsck to mend."""
_ZERO_RANGE_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A write of `data` at `offset`, or with `offset` FLUSH a flush."""

    disk: str
    offset: int
    data: bytes
    event: int
    """Of the hosts' history: nothing submitted later can be in `data`."""


class LoggedDisks(FaultyDisk):
    """Files of fixed sizes; `entries` is the log, and its length the moment."""

    def __init__(
        self, directory: Path, sizes: dict[str, int], event: Callable[[], int]
    ) -> None:
        directory.mkdir(parents=True)
        super().__init__(directory)
        self.entries: list[Entry] = []
        self._sizes = sizes
        self._event = event
        self._logging = threading.Lock()

    def __enter__(self) -> Self:
        super().__enter__()
        for name, size in self._sizes.items():
            with (self.backing / name).open("wb") as file:
                file.truncate(size)
        return self

    def moment(self) -> int:
        return len(self.entries)

    def _log(self, node: int, offset: int, data: bytes) -> None:
        with self._logging:
            entry = Entry(self._names[node], offset, data, self._event())
            self.entries.append(entry)

    def _write(self, node: int, body: bytes) -> bytes:
        _, offset, size, *_ = _TRANSFER.unpack_from(body)
        answer = super()._write(node, body)
        self._log(node, offset, body[_TRANSFER.size : _TRANSFER.size + size])
        return answer

    def _sync(self, node: int, body: bytes) -> bytes:
        self._log(node, FLUSH, b"")
        return b""

    def _allocate(self, node: int, body: bytes) -> bytes:
        handle, offset, length, _, _ = _FALLOCATE.unpack_from(body)
        for at in range(offset, offset + length, _ZERO_RANGE_MAX):
            data = bytes(min(_ZERO_RANGE_MAX, offset + length - at))
            header = struct.pack("<QQIIQII", handle, at, len(data), 0, 0, 0, 0)
            self._write(node, header + data)
        return b""


class Replay:
    """Brings one disk to any moment of a log, going forward only."""

    def __init__(self, disk: str, size_bytes: int, entries: list[Entry]) -> None:
        self.disk = disk
        self._entries = entries
        self._at = 0
        self._size_bytes = size_bytes
        self._durable = bytearray(size_bytes)
        """Everything that a flush has covered."""
        self.unflushed: list[Entry] = []

    def go_to(self, moment: int) -> None:
        """Take in the entries before `moment`."""
        assert moment >= self._at, "a replay does not go back"
        for entry in self._entries[self._at : moment]:
            if entry.disk != self.disk:
                continue
            if entry.offset == FLUSH:
                for each in self.unflushed:
                    _apply(self._durable, each)
                self.unflushed = []
            else:
                self.unflushed.append(entry)
        self._at = moment

    @contextlib.contextmanager
    def image(self, path: Path, choice: str, chance: random.Random) -> Iterator[Path]:
        """Write what a power loss now may leave of the disk to `path`.

        `choice`: `none`, `all`, or `some` of the unflushed writes are there, the
        last in any order, some of them only with a part of their blocks.
        """
        kept: list[Entry] = []
        if choice == "all":
            kept = list(self.unflushed)
        elif choice == "some":
            share = chance.choice((0.1, 0.5, 0.9))
            kept = [each for each in self.unflushed if chance.random() < share]
            chance.shuffle(kept)
            kept = [_torn(each, chance) for each in kept]
        undo = [_swap(self._durable, each) for each in kept]
        try:
            path.unlink(missing_ok=True)
            _write_sparse(path, self._durable)
        finally:
            for each in reversed(undo):
                _apply(self._durable, each)
        yield path


def _apply(image: bytearray, entry: Entry) -> None:
    image[entry.offset : entry.offset + len(entry.data)] = entry.data


def _swap(image: bytearray, entry: Entry) -> Entry:
    """Apply a write; return the one that takes it back."""
    end = entry.offset + len(entry.data)
    old = Entry(entry.disk, entry.offset, bytes(image[entry.offset : end]), entry.event)
    _apply(image, entry)
    return old


def _torn(entry: Entry, chance: random.Random) -> Entry:
    """One write in four ends early, where a block does."""
    end = entry.offset + len(entry.data)
    ends = range((entry.offset // BLOCK_BYTES + 1) * BLOCK_BYTES, end, BLOCK_BYTES)
    if not ends or chance.random() < 0.75:
        return entry
    kept = entry.data[: chance.choice(ends) - entry.offset]
    return Entry(entry.disk, entry.offset, kept, entry.event)


_CHUNK_BYTES = 64 << 10


def _write_sparse(path: Path, image: bytearray) -> None:
    chunks = np.frombuffer(image, np.uint64).reshape(-1, _CHUNK_BYTES // 8)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.truncate(descriptor, len(image))
        for index in np.flatnonzero(chunks.any(axis=1)):
            os.pwrite(descriptor, chunks[index], int(index) * _CHUNK_BYTES)
    finally:
        os.close(descriptor)
