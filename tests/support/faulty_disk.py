"""A folder of real files behind rules: slow, failing and hanging devices, by FUSE.

    with FaultyDisk(tmp_path / "disk") as disk:
        disk.rules.append(Slow("v.img", 0.5))
        ... a daemon whose device is disk.path / "v.img" ...

Every read, write, fsync, fallocate and truncate of a daemon comes here and is
first shown to the rules, which may keep it waiting or fail it. Nothing is cached:
one system call of the daemon is one operation here, and operations run side by
side. Files are flat; all that is not needed for devices is refused.

It speaks the kernel's own protocol (linux/fuse.h) on /dev/fuse, with a thread for
each operation under way. Should the test process be killed, fusermount3 unmounts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from common.errors import StorageError
from common.storage.files import SystemFiles
from tests.support.primary_host_site import Rule

OPERATIONS_MAX = 32
"""Operations under way at once; more than any daemon of a test has threads."""

WRITE_BYTES_MAX = 1 << 20
_READ_BYTES = WRITE_BYTES_MAX + (64 << 10)
_COMMAND_SECONDS = 20.0

# From linux/fuse.h, protocol 7.31: opcodes, flags and layouts (little-endian).
LOOKUP: Final = 1
FORGET: Final = 2
GETATTR: Final = 3
SETATTR: Final = 4
OPEN: Final = 14
READ: Final = 15
WRITE: Final = 16
STATFS: Final = 17
RELEASE: Final = 18
FSYNC: Final = 20
FLUSH: Final = 25
INIT: Final = 26
OPENDIR: Final = 27
READDIR: Final = 28
RELEASEDIR: Final = 29
FSYNCDIR: Final = 30
CREATE: Final = 35
INTERRUPT: Final = 36
BATCH_FORGET: Final = 42
FALLOCATE: Final = 43
LSEEK: Final = 46

_UNANSWERED = frozenset({FORGET, BATCH_FORGET, INTERRUPT})
_ASYNC_READ = 1 << 0
_BIG_WRITES = 1 << 5
_MAX_PAGES = 1 << 22
_DIRECT_IO = 1 << 0
_PARALLEL_DIRECT_WRITES = 1 << 6
_SET_SIZE = 1 << 3
_ROOT = 1
_PAGE_BYTES = 4096

_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<6Q10I")
_INIT_OUT = struct.Struct("<IIIIHHIIHHII24x")
_OPEN_OUT = struct.Struct("<QII")
_TRANSFER = struct.Struct("<QQIIQII")
_FALLOCATE = struct.Struct("<QQQII")
_LSEEK = struct.Struct("<QQII")
_SET_ATTRIBUTES = struct.Struct("<IIQQ")
_STATFS_OUT = struct.Struct("<5QIIII24x")


class Slow:
    """A rule: operations on matching files take this long, each of them.

    `operations` narrows it; `seconds` may be changed at any time.
    """

    def __init__(
        self,
        suffix: str,
        seconds: float,
        operations: tuple[str, ...] = ("read", "write", "datasync", "allocate"),
    ) -> None:
        self.seconds = seconds
        self.met = 0
        self._suffix = suffix
        self._operations = operations

    def __call__(self, operation: str, path: str, offset: int) -> None:
        seconds = self.seconds
        if seconds and operation in self._operations and path.endswith(self._suffix):
            self.met += 1
            time.sleep(seconds)


class FaultyDisk:
    """Mounts at `path`, which is made; the files themselves are in `backing`.

    Leaving the `with` unmounts, whatever hangs: what a rule keeps waiting then
    ends with an error at whoever waits for it.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "mount"
        self.backing = directory / "backing"
        self.rules: list[Rule] = []
        self.written_bytes_max = WRITE_BYTES_MAX
        """Of a longer write only so much is taken, and said to be: a short write."""
        self._names: list[str] = ["", ""]
        """By node number; 0 is no node, 1 the folder itself."""
        self._bugs: list[Exception] = []
        self._files = SystemFiles()
        self._stop_reader, self._stop_writer = os.pipe()
        self._operations = ThreadPoolExecutor(OPERATIONS_MAX, "faulty-disk")
        self._thread: threading.Thread | None = None
        self._handlers: dict[int, Callable[[int, bytes], bytes]] = {
            LOOKUP: self._look_up,
            GETATTR: self._get_attributes,
            SETATTR: self._set_attributes,
            OPEN: self._open,
            CREATE: self._create,
            READ: self._read,
            WRITE: self._write,
            FSYNC: self._sync,
            FALLOCATE: self._allocate,
            LSEEK: self._seek,
            RELEASE: self._release,
            STATFS: self._statistics,
            FLUSH: lambda node, body: b"",
            FSYNCDIR: lambda node, body: b"",
            OPENDIR: lambda node, body: _OPEN_OUT.pack(0, 0, 0),
            READDIR: lambda node, body: b"",
            RELEASEDIR: lambda node, body: b"",
            INIT: self._init,
        }

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True)
        self.backing.mkdir()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._mounter = subprocess.Popen(
                ["fusermount3", "-o", "auto_unmount", "--", str(self.path)],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # it finds itself unmounted, and says so
            )
        self._control.settimeout(_COMMAND_SECONDS)
        _, (self._device,), _, _ = socket.recv_fds(self._control, 1, 1)
        self._thread = threading.Thread(target=self._receive, name="faulty-disk")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.pull_out()
        assert error or not self._bugs, self._bugs

    def pull_out(self) -> None:
        """End the disk: whoever has it open gets nothing but errors from now on."""
        if self._thread is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                ["fusermount3", "-u", "-z", str(self.path)],
                stderr=subprocess.DEVNULL,
                timeout=_COMMAND_SECONDS,
            )
        os.write(self._stop_writer, b".")
        self._thread.join()
        self._thread = None
        self._operations.shutdown()
        # The last end of the connection: the kernel ends what still waits.
        for descriptor in (self._device, self._stop_reader, self._stop_writer):
            os.close(descriptor)
        self._control.close()
        self._mounter.wait(_COMMAND_SECONDS)

    # -- the kernel's requests ---------------------------------------------------------

    def _receive(self) -> None:
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        poll.register(self._stop_reader, select.POLLIN)
        os.set_blocking(self._device, False)
        while True:
            if any(number == self._stop_reader for number, _ in poll.poll()):
                return
            try:
                request = os.read(self._device, _READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno == errno.ENOENT:  # interrupted before it was read
                    continue
                if error.errno == errno.ENODEV:  # unmounted
                    return
                raise
            self._operations.submit(self._serve, request)

    def _serve(self, request: bytes) -> None:
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        if opcode in _UNANSWERED:
            return
        try:
            answer, number = self._handlers[opcode](node, request[_IN.size :]), 0
        except (OSError, StorageError) as error:
            answer, number = b"", error.errno or errno.EIO
        except KeyError:
            answer, number = b"", errno.ENOSYS
        except Exception as bug:  # noqa: BLE001 - or a daemon would wait for ever
            self._bugs.append(bug)
            answer, number = b"", errno.EIO
        header = _OUT.pack(_OUT.size + len(answer), -number, unique)
        with contextlib.suppress(OSError):  # nobody waits for it any more
            os.writev(self._device, [header, answer])

    def _ask(self, operation: str, node: int, offset: int = 0) -> None:
        for rule in list(self.rules):
            rule(operation, self._names[node], offset)

    def _init(self, _node: int, _body: bytes) -> bytes:
        flags = _ASYNC_READ | _BIG_WRITES | _MAX_PAGES
        pages = WRITE_BYTES_MAX // _PAGE_BYTES
        background = OPERATIONS_MAX
        return _INIT_OUT.pack(
            7, 31, 0, flags, background, background, WRITE_BYTES_MAX, 1, pages, 0, 0, 0
        )

    # -- names -------------------------------------------------------------------------

    def _place(self, node: int) -> Path:
        return self.backing / self._names[node] if node != _ROOT else self.backing

    def _node(self, name: bytes) -> int:
        text = os.fsdecode(name.rstrip(b"\0"))
        if text not in self._names[2:]:
            self._names.append(text)
        return self._names.index(text, 2)

    def _attributes(self, node: int) -> bytes:
        found = self._place(node).stat()
        times = (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
        return _ATTRIBUTES.pack(
            node,
            found.st_size,
            found.st_blocks,
            *(ns // 10**9 for ns in times),
            *(ns % 10**9 for ns in times),
            found.st_mode,
            found.st_nlink,
            found.st_uid,
            found.st_gid,
            0,
            _PAGE_BYTES,
            0,
        )

    def _entry(self, node: int) -> bytes:
        return struct.pack("<4QII", node, 0, 0, 0, 0, 0) + self._attributes(node)

    def _look_up(self, _node: int, body: bytes) -> bytes:
        (self.backing / os.fsdecode(body.rstrip(b"\0"))).stat()
        return self._entry(self._node(body))

    def _get_attributes(self, node: int, _body: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attributes(node)

    def _set_attributes(self, node: int, body: bytes) -> bytes:
        valid, _, _, size = _SET_ATTRIBUTES.unpack_from(body)
        if valid & _SET_SIZE:
            self._ask("truncate", node, size)
            os.truncate(self._place(node), size)
        return self._get_attributes(node, b"")

    def _statistics(self, _node: int, _body: bytes) -> bytes:
        found = os.statvfs(self.backing)
        counts = (found.f_blocks, found.f_bfree, found.f_bavail)
        files = (found.f_files, found.f_ffree)
        return _STATFS_OUT.pack(*counts, *files, found.f_bsize, 255, found.f_frsize, 0)

    # -- open files --------------------------------------------------------------------

    def _opened(self, node: int, flags: int) -> bytes:
        handle = os.open(self._place(node), flags & ~os.O_EXCL, 0o600)
        return _OPEN_OUT.pack(handle, _DIRECT_IO | _PARALLEL_DIRECT_WRITES, 0)

    def _open(self, node: int, body: bytes) -> bytes:
        (flags,) = struct.unpack_from("<I", body)
        return self._opened(node, os.O_RDWR if flags & os.O_ACCMODE else os.O_RDONLY)

    def _create(self, _node: int, body: bytes) -> bytes:
        node = self._node(body[16:])
        opened = self._opened(node, os.O_RDWR | os.O_CREAT)
        return self._entry(node) + opened

    def _release(self, _node: int, body: bytes) -> bytes:
        os.close(struct.unpack_from("<Q", body)[0])
        return b""

    def _read(self, node: int, body: bytes) -> bytes:
        handle, offset, size, *_ = _TRANSFER.unpack_from(body)
        self._ask("read", node, offset)
        return os.pread(handle, size, offset)

    def _write(self, node: int, body: bytes) -> bytes:
        handle, offset, size, *_ = _TRANSFER.unpack_from(body)
        self._ask("write", node, offset)
        taken = min(size, self.written_bytes_max)
        data = memoryview(body)[_TRANSFER.size : _TRANSFER.size + taken]
        return struct.pack("<II", os.pwrite(handle, data, offset), 0)

    def _sync(self, node: int, body: bytes) -> bytes:
        self._ask("datasync", node)
        os.fdatasync(struct.unpack_from("<Q", body)[0])
        return b""

    def _allocate(self, node: int, body: bytes) -> bytes:
        _, offset, length, mode, _ = _FALLOCATE.unpack_from(body)
        self._ask("allocate", node, offset)
        punch = bool(mode & 0x02)  # FALLOC_FL_PUNCH_HOLE
        opened = self._files.open(str(self._place(node)))
        try:
            if mode:
                opened.write_zeroes(offset, length, punch=punch)
            else:
                opened.allocate(offset + length)
        finally:
            opened.close()
        return b""

    def _seek(self, _node: int, body: bytes) -> bytes:
        handle, offset, whence, _ = _LSEEK.unpack_from(body)
        return struct.pack("<Q", os.lseek(handle, offset, whence))
