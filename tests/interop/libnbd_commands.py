"""Every command of libnbd on one export; run by the Python that has its binding.

    python3 libnbd_commands.py URI NAME      runs the function check_NAME

Each check is given a connected handle, and fails by an exception. What libnbd of
Debian 12 does not have is tried where the installed one has it.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

import nbd  # type: ignore[import-not-found]

KIB = 1 << 10
MIB = 1 << 20
BASE_ALLOCATION = "base:allocation"
HOLE_AND_ZERO = nbd.STATE_HOLE | nbd.STATE_ZERO
EXTENDED_SINCE = (1, 18)


def version() -> tuple[int, ...]:
    numbers = nbd.NBD().get_version().split(".")
    return tuple(int(number) for number in numbers[:2])


def connect(uri: str, *contexts: str, strict: bool = True) -> nbd.NBD:
    handle = nbd.NBD()
    handle.set_uri_allow_local_file(True)  # certificates
    for context in contexts:
        handle.add_meta_context(context)
    if not strict:
        handle.set_strict_mode(0)  # or libnbd itself refuses what is wrong
    handle.connect_uri(uri)
    return handle


def error_of(function: Callable[..., object], *arguments: object) -> int:
    """Call, and return the errno that it fails with; 0 if it does not fail."""
    try:
        function(*arguments)
    except nbd.Error as error:
        return int(error.errnum)
    return 0


def refused(number: int, function: Callable[..., object], *arguments: object) -> None:
    found = error_of(function, *arguments)
    assert found == number, (function, arguments, found, errno.errorcode[number])


def extents(
    handle: nbd.NBD, count: int, offset: int, flags: int = 0
) -> dict[str, list[tuple[int, int]]]:
    """Return the (length, state) of each context."""
    found: dict[str, list[tuple[int, int]]] = {}

    def told(name: str, at: int, entries: list[int], error: object) -> None:
        assert at == offset
        assert name not in found, "a context is told once"
        found[name] = list(zip(entries[::2], entries[1::2], strict=True))

    handle.block_status(count, offset, told, flags)
    return found


def chunks(
    handle: nbd.NBD, count: int, offset: int, flags: int = 0
) -> list[tuple[int, int, int]]:
    """Return (offset, length, kind) of a structured read, in order of offsets."""
    found: list[tuple[int, int, int]] = []

    def told(data: bytes, at: int, kind: int, error: object) -> None:
        found.append((at, len(data), kind))

    handle.pread_structured(count, offset, told, flags)
    return sorted(found)


def check_reads_and_writes(uri: str) -> None:
    handle = connect(uri)
    last = handle.get_size() - 3
    for offset, data in [(0, b"a" * 3), (4093, b"b" * 9), (last, b"end")]:
        handle.pwrite(data, offset)
        assert handle.pread(len(data), offset) == data
        handle.pwrite(data[::-1], offset, nbd.CMD_FLAG_FUA)
        assert handle.pread(len(data), offset) == data[::-1]
    handle.flush()


def check_zero_and_trim(uri: str) -> None:
    handle = connect(uri, BASE_ALLOCATION)
    for flags in (0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FUA):
        handle.pwrite(b"x" * 300_000, 1000)
        handle.zero(200_000, 2001, flags)
        assert handle.pread(300_000, 1000) == (
            b"x" * 1001 + bytes(200_000) + b"x" * 98_999
        )
    handle.pwrite(b"x" * MIB, MIB)
    handle.zero(MIB, MIB, nbd.CMD_FLAG_NO_HOLE)
    assert handle.pread(MIB, MIB) == bytes(MIB)
    handle.trim(MIB, MIB, nbd.CMD_FLAG_FUA)
    assert handle.pread(MIB, MIB) == bytes(MIB)
    assert extents(handle, MIB, MIB)[BASE_ALLOCATION][0] == (MIB, HOLE_AND_ZERO)
    handle.trim(handle.get_size(), 0)
    handle.zero(handle.get_size(), 0)
    assert handle.pread(3, handle.get_size() - 3) == bytes(3)


def check_fast_zero(uri: str) -> None:
    """It is fast, or it changes nothing."""
    handle = connect(uri, strict=False)
    handle.pwrite(b"f" * 64 * KIB, 0)
    fast = nbd.CMD_FLAG_FAST_ZERO
    if not handle.can_fast_zero():
        refused(errno.EINVAL, handle.zero, 64 * KIB, 0, fast)
        return
    for flags in (fast, fast | nbd.CMD_FLAG_NO_HOLE):
        handle.pwrite(b"f" * 64 * KIB, 0)
        found = error_of(handle.zero, 64 * KIB, 0, flags)
        assert found in (0, errno.ENOTSUP)
        unchanged = b"f" * 64 * KIB
        assert handle.pread(64 * KIB, 0) == (unchanged if found else bytes(64 * KIB))


def check_structured_reads(uri: str) -> None:
    handle = connect(uri, BASE_ALLOCATION)
    assert handle.get_structured_replies_negotiated()
    handle.trim(MIB, 0)
    handle.pwrite(b"d" * 64 * KIB, 64 * KIB)
    found = chunks(handle, 256 * KIB, 0)
    covered = 0
    for at, length, kind in found:
        assert at == covered, found
        assert kind in (nbd.READ_DATA, nbd.READ_HOLE)
        covered += length
    assert covered == 256 * KIB
    data = [(at, n) for at, n, kind in found if kind == nbd.READ_DATA]
    assert any(at <= 64 * KIB < at + n for at, n in data)
    whole = chunks(handle, 64 * KIB, 32 * KIB, nbd.CMD_FLAG_DF)
    assert whole == [(32 * KIB, 64 * KIB, nbd.READ_DATA)], "DF: one piece, no hole"
    assert chunks(handle, 1000, 64 * KIB + 7) == [(64 * KIB + 7, 1000, nbd.READ_DATA)]


def check_block_status(uri: str) -> None:
    handle = connect(uri, BASE_ALLOCATION)
    handle.trim(MIB, 0)
    handle.pwrite(b"d" * 64 * KIB, 128 * KIB)
    expected = [
        (128 * KIB, HOLE_AND_ZERO),
        (64 * KIB, 0),
        (832 * KIB, HOLE_AND_ZERO),
    ]
    found = extents(handle, MIB, 0)[BASE_ALLOCATION]
    # The last may reach past what was asked.
    assert found[:2] == expected[:2], found
    assert found[2][0] >= expected[2][0]
    one = extents(handle, MIB, 130 * KIB, nbd.CMD_FLAG_REQ_ONE)
    assert one == {BASE_ALLOCATION: [(62 * KIB, 0)]}
    one = extents(handle, 50, 130 * KIB + 3, nbd.CMD_FLAG_REQ_ONE)
    assert one == {BASE_ALLOCATION: [(50, 0)]}
    lone = connect(uri, strict=False)
    refused(errno.EINVAL, lone.block_status, 512, 0, lambda *_: 0)


def check_several_contexts(uri: str) -> None:
    """Whatever the server lists can be selected together, and is told of each."""
    handle = nbd.NBD()
    handle.set_opt_mode(True)
    handle.connect_uri(uri)
    listed: list[str] = []
    handle.opt_list_meta_context(listed.append)
    handle.opt_abort()
    assert BASE_ALLOCATION in listed
    selected = connect(uri, *listed, "x-none:such")
    assert not selected.can_meta_context("x-none:such")
    assert all(selected.can_meta_context(name) for name in listed)
    found = extents(selected, MIB, 0)
    assert set(found) == set(listed)
    for entries in found.values():
        assert sum(length for length, _ in entries) > 0
    if version() >= EXTENDED_SINCE:
        seen: set[str] = set()
        selected.block_status_filter(
            MIB, 0, [BASE_ALLOCATION], lambda name, *_: seen.add(name)
        )
        assert seen == {BASE_ALLOCATION}
        wide: list[tuple[int, int]] = []
        selected.block_status_64(
            MIB, 0, lambda _, __, entries, ___: wide.extend(entries)
        )
        assert wide


def check_errors_leave_the_connection_whole(uri: str) -> None:
    handle = connect(uri, strict=False)
    size = handle.get_size()
    refused(errno.EINVAL, handle.pread, 2, size - 1)
    refused(errno.ENOSPC, handle.pwrite, b"xx", size - 1)
    refused(errno.ENOSPC, handle.zero, 2, size - 1)
    refused(errno.EINVAL, handle.trim, 2, size - 1)
    refused(errno.EINVAL, handle.cache, 2, size - 1)
    refused(errno.EINVAL, handle.pread, 2, 1 << 62)
    refused(errno.EINVAL, handle.flush, 1 << 14)
    handle.pwrite(b"fine", 0)
    assert handle.pread(4, 0) == b"fine"


def check_cache_is_a_hint(uri: str) -> None:
    handle = connect(uri)
    assert handle.can_cache()
    handle.pwrite(b"c" * 4096, 8192)
    handle.cache(MIB, 0)
    assert handle.pread(4096, 8192) == b"c" * 4096


def check_many_requests_in_flight(uri: str) -> None:
    handle = connect(uri)
    sent = [
        handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([n] * 777)), n * 777)
        for n in range(250)
    ]
    _settle(handle, sent)
    buffers = [nbd.Buffer(777) for _ in range(250)]
    sent = [handle.aio_pread(buffer, n * 777) for n, buffer in enumerate(buffers)]
    _settle(handle, [*sent, handle.aio_flush()])
    for n, buffer in enumerate(buffers):
        assert buffer.to_bytearray() == bytes([n] * 777)


def _settle(handle: nbd.NBD, cookies: list[int]) -> None:
    while cookies:
        cookies = [c for c in cookies if not handle.aio_command_completed(c)]
        if cookies:
            handle.poll(-1)


def check_connections_see_each_other(uri: str) -> None:
    """What CAN_MULTI_CONN promises, as far as it shows without a power failure."""
    first, second = connect(uri), connect(uri)
    assert first.can_multi_conn()
    for turn in range(50):
        writer, reader = (first, second) if turn % 2 else (second, first)
        data = bytes([turn]) * 5000
        writer.pwrite(data, 700)
        assert reader.pread(5000, 700) == data
        reader.flush()
    first.pwrite(b"1" * 4096, 0)
    second.zero(4096, 0)
    assert first.pread(4096, 0) == bytes(4096)
    first.shutdown()
    assert second.pread(4096, 0) == bytes(4096)


def check_options(uri: str) -> None:
    """Negotiate by hand: list, ask about another export, then go."""
    handle = nbd.NBD()
    handle.set_opt_mode(True)
    handle.set_full_info(True)
    handle.connect_uri(uri)
    names: list[str] = []
    handle.opt_list(lambda name, _: names.append(name))
    wanted = handle.get_export_name()
    assert wanted in names
    handle.set_export_name("no such export")
    refused(errno.ENOENT, handle.opt_info)
    handle.set_export_name(wanted)
    handle.opt_info()
    size, description = handle.get_size(), handle.get_export_description()
    assert handle.get_canonical_export_name() == wanted
    handle.opt_go()
    assert handle.get_size() == size
    assert handle.get_export_description() == description
    assert handle.get_protocol() == "newstyle-fixed"
    assert handle.get_block_size(nbd.SIZE_MINIMUM) == 1
    handle.shutdown()


def check_simple_replies(uri: str) -> None:
    handle = nbd.NBD()
    handle.set_request_structured_replies(False)
    handle.set_handshake_flags(nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE)
    handle.set_strict_mode(0)
    handle.connect_uri(uri)
    assert not handle.get_structured_replies_negotiated()
    assert not handle.can_df()
    handle.pwrite(b"simple", 5)
    assert handle.pread(6, 5) == b"simple"
    refused(errno.EINVAL, handle.pread, 10, handle.get_size())
    handle.flush()


def check_old_newstyle(uri: str) -> None:
    """EXPORT_NAME, as clients did before fixed newstyle."""
    handle = nbd.NBD()
    handle.set_handshake_flags(0)
    handle.connect_uri(uri)
    assert handle.get_protocol() == "newstyle"
    handle.pwrite(b"old", 5)
    assert handle.pread(3, 5) == b"old"


def check_extended_headers(uri: str) -> None:
    """Lengths beyond 32 bits; only newer versions of libnbd can."""
    handle = connect(uri, BASE_ALLOCATION)
    assert handle.get_extended_headers_negotiated()
    handle.pwrite(b"extended", 100)
    assert handle.pread(8, 100) == b"extended"
    size = handle.get_size()
    handle.zero(size, 0)
    handle.cache(size, 0)
    handle.trim(size, 0)
    found: list[tuple[int, int]] = []
    handle.block_status_64(size, 0, lambda _, __, entries, ___: found.extend(entries))
    assert found == [(size, HOLE_AND_ZERO)]


if __name__ == "__main__":
    globals()[f"check_{sys.argv[2]}"](sys.argv[1])
