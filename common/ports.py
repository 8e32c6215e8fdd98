"""The ports through which everything else touches the world.

`File` and `Files` are synchronous: whoever may not block calls them through
`Threads`. Real adapters: `common.storage.files`, `common.storage.threads`,
`common.service.clock`, `common.replication.stream`. A simulator gives others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells that a device is the one we closed: compare for equality."""

    device_number: int
    inode: int
    size_bytes: int
    changed_ns: int


class File(Protocol):
    """One open regular file or block device. Every method may block.

    Errors are `StorageError`. Nothing but `datasync` makes anything durable.
    Offsets and lengths are bytes.
    """

    path: str
    is_block_device: bool
    """Its size is not ours to change, and what it held before us is unknown."""

    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes; past the end is an error (EIO)."""
        ...

    def try_read(self, offset: int, length: int) -> bytes | bytearray | None:
        """Return the bytes if memory holds them, else None; never blocks."""
        ...

    def read_once(self, offset: int, length: int) -> bytes | bytearray:
        """Read as `read` does what nobody will want again soon.

        Memory keeps what it held before, and nothing more, where the system can do so.
        """
        ...

    def write(self, offset: int, data: Buffer) -> None:
        """Write all of `data`, looping over short writes."""
        ...

    def write_zeroes(self, offset: int, length: int, *, punch: bool) -> None:
        """Make the range read as zeroes; `punch` lets it become a hole."""
        ...

    def zeroes_fast(self, *, punch: bool) -> bool:
        """Tell whether `write_zeroes` need not write zeroes; never blocks twice."""
        ...

    def extents(self, offset: int, length: int) -> list[tuple[int, bool]]:
        """Return consecutive (length, is_hole) from `offset`; at least one.

        Sums to `length` or less (a long list may be cut short). A hole reads as
        zeroes. Where the kind of file knows no holes: one extent of data.
        """
        ...

    def truncate(self, size: int) -> None: ...

    def allocate(self, size: int) -> None:
        """Make the file `size` bytes long at least, with room on the disk for them.

        What is written into them later needs no room any more. New bytes read as
        zeroes, and may show as a hole.
        """
        ...

    def begin_writing(self, offset: int, length: int) -> None:
        """Have the system begin to bring to the disk what was written there.

        A hint: it spares a later `datasync` time, makes nothing durable, and tells of
        no error, which that `datasync` will.
        """
        ...

    def datasync(self) -> None:
        """Make durable all that was written before the call (fdatasync)."""
        ...

    def drop_cache(self) -> None:
        """Forget what memory holds of the file, so that the next reads ask the disk.

        After `datasync`, before what an unclean stop left is trusted: the kernel
        calls pages clean that a failed flush never brought to the disk (fsyncgate).
        """
        ...

    def identity(self) -> FileIdentity: ...

    def close(self) -> None: ...


class Files(Protocol):
    """A file system. Paths are strings; every method may block."""

    def open(
        self,
        path: str,
        *,
        create: bool = False,
        read_only: bool = False,
        lock: bool = False,
        scattered: bool = False,
    ) -> File:
        """Open a file; `lock` refuses one that another daemon has locked.

        `scattered`: small writes anywhere are to be fast, and nothing is worth
        reading ahead; for what hosts write to.
        """
        ...

    def exists(self, path: str) -> bool: ...

    def list(self, directory: str) -> list[str]: ...

    def make_directory(self, path: str) -> None:
        """Create it and its parents, durably; an existing one is fine."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Replace `new` atomically; durable after `sync_directory`."""
        ...

    def remove(self, path: str) -> None: ...

    def sync_directory(self, path: str) -> None: ...

    def free_bytes(self, path: str) -> int: ...


class Threads(Protocol):
    """Runs what may block, away from the event loop."""

    def submit(
        self,
        job: Callable[[], T],
        done: Callable[[T | None, BaseException | None], None],
    ) -> None:
        """Run `job` in a thread; call `done(result, error)` on the loop.

        `done` is always called, once, after the thread has returned from `job`,
        whatever became of the task or connection that asked.
        """
        ...

    async def run(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Await `function(...)` run in a thread.

        Cancelling the await does not stop the thread: account for in-flight
        work with `submit` where that matters.
        """
        ...

    def close(self) -> None:
        """Wait for what runs, start nothing new."""
        ...


class Clock(Protocol):
    """Wall time is for people; order and time-outs use `monotonic`."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds; never goes back."""
        ...


class ByteStream(Protocol):
    """One connection's bytes."""

    peer: str

    async def read(self, limit_bytes: int) -> bytes:
        """Return 1..limit bytes, or b"" at the end of the stream."""
        ...

    async def write(self, buffers: Sequence[Buffer]) -> None:
        """Queue all buffers in order; wait while the peer is slow."""
        ...

    def unacknowledged_bytes(self) -> int:
        """Return the bytes written that the peer's machine has not got yet."""
        ...

    async def close(self) -> None: ...

    def abort(self) -> None:
        """Drop the connection now; queued bytes are lost."""
        ...


class HostCommand:
    """What a host asks of a volume (NBD command numbers, proto.md)."""

    READ = 0
    WRITE = 1
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class HostRequest:
    """One request of a host; mutable on purpose: it is made per I/O.

    Before `submit`: `command`, `offset`, `length`, `fua`, `no_hole`, and for a
    WRITE `data` (a buffer of `length` bytes that the volume may keep until
    `complete`). The range has been checked against the volume's size. `fast` is
    FAST_ZERO: zero faster than a write would, or change nothing and fail with
    ENOTSUP. `contexts` are those of the volume's that BLOCK_STATUS asks about.
    `sparse_ok` allows a READ to be answered with runs.

    At `complete`: `error` is 0 or an errno. For a READ without error `data` holds
    `length` bytes or, if `sparse_ok`, may be a list of (length, buffer or None for
    a hole) that covers the request in order. For BLOCK_STATUS `data` has for each
    of `contexts` a list of (length, flags) from `offset` on, at least one, which
    may stop short of or reach past the request. `cookie` belongs to the caller.
    """

    __slots__ = (
        "command",
        "contexts",
        "cookie",
        "data",
        "error",
        "fast",
        "fua",
        "length",
        "no_hole",
        "offset",
        "sparse_ok",
    )

    def __init__(
        self,
        command: int,
        offset: int,
        length: int,
        data: Any = None,
        *,
        fua: bool = False,
        no_hole: bool = False,
        fast: bool = False,
        sparse_ok: bool = False,
        contexts: tuple[str, ...] = (),
        cookie: Any = None,
    ) -> None:
        self.command = command
        self.offset = offset
        self.length = length
        self.data = data
        self.fua = fua
        self.no_hole = no_hole
        self.fast = fast
        self.sparse_ok = sparse_ok
        self.contexts = contexts
        self.cookie = cookie
        self.error = 0


Complete = Callable[[list[HostRequest]], None]


BASE_ALLOCATION: Final = "base:allocation"
"""The context that every volume tells: bit 0 hole, bit 1 reads as zeroes."""


class HostVolume(Protocol):
    """What an NBD export reads and writes. All methods are called on `loop`."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop it lives on, which need not be its daemon's main one."""
        ...

    size_bytes: int
    read_only: bool
    description: str
    preferred_block_bytes: int
    contexts: tuple[str, ...]
    """Names of the metadata contexts it can tell, `base:allocation` among them."""
    fast_zero: bool
    """WRITE_ZEROES may be faster than writing; see `HostRequest.fast`."""

    def submit(self, requests: list[HostRequest], complete: Complete) -> None:
        """Start all requests; call `complete` with those that ended, as they end.

        Each request is passed to `complete` exactly once, in any order and in
        any grouping; `complete` may be called before `submit` returns.
        """
        ...

    def release(self) -> None:
        """The connection that opened this volume is gone and nothing of it runs."""
        ...
