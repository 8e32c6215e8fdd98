"""Replies as bytes."""

from __future__ import annotations

import errno
import struct

import pytest

from common.nbd import replies
from common.nbd.protocol import EXTENTS_MAX, NbdError, WireForm

COOKIE = 0xFEDCBA9876543210
OFFSET = 0x0123456789ABCDEF & ~0xFFF
SIMPLE, STRUCTURED, EXTENDED = WireForm
CHUNKS = pytest.mark.parametrize("form", [STRUCTURED, EXTENDED])
Chunk = tuple[int, int, bytes]


def chunks_of(form: WireForm, answer: bytes) -> list[Chunk]:
    """Take a whole answer apart: (flags, type, payload) of each chunk."""
    found = []
    while answer:
        if form is EXTENDED:
            header = struct.unpack_from(">IHHQQQ", answer)
            magic, flags, kind, cookie, offset, length = header
            assert (magic, cookie, offset) == (0x6E8A278C, COOKIE, OFFSET)
            size = 32
        else:
            magic, flags, kind, cookie, length = struct.unpack_from(">IHHQI", answer)
            assert (magic, cookie) == (0x668E33EF, COOKIE)
            size = 20
        payload = answer[size : size + length]
        assert len(payload) == length
        found.append((flags, kind, payload))
        answer = answer[size + length :]
    return found


def extents_of(form: WireForm, chunk: Chunk) -> tuple[int, list[tuple[int, int]]]:
    """Return a context's id and its extents."""
    _, kind, payload = chunk
    (context_id,) = struct.unpack_from(">I", payload)
    if form is STRUCTURED:
        assert kind == 5
        return context_id, list(struct.iter_unpack(">II", payload[4:]))
    assert kind == 6
    extents = list(struct.iter_unpack(">QQ", payload[8:]))
    assert struct.unpack_from(">I", payload, 4) == (len(extents),)
    return context_id, extents


def told(
    extents: list[tuple[int, int]],
    length: int,
    *,
    form: WireForm = STRUCTURED,
    size_bytes: int | None = None,
    only_one: bool = False,
) -> list[tuple[int, int]]:
    """Return the extents of the one chunk that tells of `extents`."""
    answer = replies.block_status(
        form,
        COOKIE,
        OFFSET,
        [(7, extents)],
        length=length,
        size_bytes=OFFSET + (size_bytes or length),
        only_one=only_one,
    )
    (chunk,) = chunks_of(form, answer)
    assert chunk[0] == 1
    context_id, found = extents_of(form, chunk)
    assert context_id == 7
    return found


class TestErrors:
    def test_each_errno_has_one_of_the_protocols_errors(self) -> None:
        told = {
            number: replies.nbd_error(number, fast=False) for number in errno.errorcode
        }
        assert {number: error for number, error in told.items() if error != 22} == {
            errno.EPERM: NbdError.EPERM,
            errno.EROFS: NbdError.EPERM,
            errno.EACCES: NbdError.EPERM,
            errno.EIO: NbdError.EIO,
            errno.ENOLINK: NbdError.EIO,
            errno.ESHUTDOWN: NbdError.EIO,
            errno.ENOMEM: NbdError.ENOMEM,
            errno.ENOSPC: NbdError.ENOSPC,
            errno.EDQUOT: NbdError.ENOSPC,
            errno.EFBIG: NbdError.ENOSPC,
        }

    def test_not_supported_is_told_only_who_asked_for_fast_zeroes(self) -> None:
        assert replies.nbd_error(errno.ENOTSUP, fast=True) == NbdError.ENOTSUP
        assert replies.nbd_error(errno.ENOTSUP, fast=False) == NbdError.EINVAL
        assert replies.nbd_error(errno.EIO, fast=True) == NbdError.EIO

    def test_a_simple_error_is_a_bare_header(self) -> None:
        found = replies.failure(SIMPLE, COOKIE, OFFSET, NbdError.EIO, "why")
        assert found == struct.pack(">IIQ", 0x67446698, 5, COOKIE)

    @CHUNKS
    def test_a_chunk_of_an_error_carries_its_text(self, form: WireForm) -> None:
        found = replies.failure(form, COOKIE, OFFSET, NbdError.EIO, "why")
        payload = struct.pack(">IH", 5, 3) + b"why"
        assert chunks_of(form, found) == [(1, 0x8001, payload)]


class TestSuccess:
    @pytest.mark.parametrize("form", [SIMPLE, STRUCTURED])
    def test_it_is_a_simple_reply_with_compact_headers(self, form: WireForm) -> None:
        found = replies.success(form, COOKIE, OFFSET)
        assert found == struct.pack(">IIQ", 0x67446698, 0, COOKIE)

    def test_it_is_a_chunk_with_extended_headers(self) -> None:
        found = replies.success(EXTENDED, COOKIE, OFFSET)
        assert chunks_of(EXTENDED, found) == [(1, 0, b"")]

    @CHUNKS
    def test_a_read_of_nothing_is_a_chunk(self, form: WireForm) -> None:
        found = replies.empty_read(form, COOKIE, OFFSET)
        assert chunks_of(form, found) == [(1, 0, b"")]

    def test_a_simple_read_of_nothing_has_no_data(self) -> None:
        found = replies.empty_read(SIMPLE, COOKIE, OFFSET)
        assert found == struct.pack(">IIQ", 0x67446698, 0, COOKIE)


class TestReadRuns:
    @CHUNKS
    def test_data_and_holes_are_told_in_order_and_the_last_is_done(
        self, form: WireForm
    ) -> None:
        runs = [(3, b"abc"), (4096, None), (2, memoryview(b"de"))]
        found = replies.read_runs(form, COOKIE, OFFSET, 4101, runs)
        assert chunks_of(form, b"".join(found)) == [
            (0, 1, struct.pack(">Q", OFFSET) + b"abc"),
            (0, 2, struct.pack(">QI", OFFSET + 3, 4096)),
            (1, 1, struct.pack(">Q", OFFSET + 4099) + b"de"),
        ]

    @CHUNKS
    def test_a_hole_may_be_all_there_is(self, form: WireForm) -> None:
        found = replies.read_runs(form, COOKIE, OFFSET, 64 << 20, [(64 << 20, None)])
        hole = struct.pack(">QI", OFFSET, 64 << 20)
        assert chunks_of(form, b"".join(found)) == [(1, 2, hole)]

    @CHUNKS
    @pytest.mark.parametrize(
        "runs", [[(3, b"abc")], [(3, b"abcd"), (1, None)], [(0, None), (4, b"abcd")]]
    )
    def test_runs_that_are_not_what_was_asked_are_never_sent(
        self, form: WireForm, runs: list[tuple[int, bytes | None]]
    ) -> None:
        with pytest.raises(AssertionError):
            replies.read_runs(form, COOKIE, OFFSET, 4, runs)


class TestBlockStatus:
    def test_neighbours_of_equal_flags_are_one_extent(self) -> None:
        extents = [(1, 0), (2, 0), (3, 3), (4, 3), (5, 0)]
        assert told(extents, 15) == [(3, 0), (7, 3), (5, 0)]

    def test_nothing_reaches_past_the_end_of_the_export(self) -> None:
        assert told([(10, 0), (10, 3), (10, 0)], 15) == [(10, 0), (5, 3)]
        assert told([(10, 0), (10, 3)], 10) == [(10, 0)]
        assert told([(10, 0), (10, 0)], 12) == [(12, 0)]

    def test_only_the_last_extent_reaches_past_the_range(self) -> None:
        extents = [(10, 0), (10, 3), (10, 3), (10, 0)]
        assert told(extents, 15, size_bytes=99) == [(10, 0), (20, 3)]
        assert told(extents, 15, size_bytes=25) == [(10, 0), (15, 3)]
        assert told(extents, 10, size_bytes=99) == [(10, 0)]
        assert told(extents, 5, size_bytes=99) == [(10, 0)]

    def test_a_short_list_stays_short(self) -> None:
        assert told([(10, 3)], 15) == [(10, 3)]

    def test_one_extent_is_told_if_one_is_asked(self) -> None:
        assert told([(10, 0), (10, 3)], 20, only_one=True) == [(10, 0)]
        assert told([(10, 0), (10, 0)], 15, only_one=True) == [(15, 0)]

    def test_one_extent_alone_stays_within_the_range(self) -> None:
        assert told([(20, 0)], 15, size_bytes=99, only_one=True) == [(15, 0)]

    @pytest.mark.parametrize("length", [0xFFFFF001, 0xFFFFFFFF])
    def test_the_longest_extent_stays_aligned_and_is_the_last(
        self, length: int
    ) -> None:
        assert told([(length, 3)], length) == [(0xFFFFF000, 3)]
        assert told([(length - 1, 3), (1, 0)], length)[0] == (0xFFFFF000, 3)
        assert len(told([(0xFFFFFFFE, 3), (1, 0)], 0xFFFFFFFF)) == 1

    def test_extended_extents_are_as_long_as_they_are(self) -> None:
        extents = [(1 << 40, 3), (1 << 33, 1 << 32), (5, 0)]
        length = sum(extent for extent, _ in extents)
        assert told(extents, length, form=EXTENDED) == extents

    @CHUNKS
    def test_a_very_long_list_is_cut_short(self, form: WireForm) -> None:
        extents = [(1, n & 1) for n in range(EXTENTS_MAX + 2)]
        assert len(told(extents, EXTENTS_MAX + 2, form=form)) == EXTENTS_MAX

    @CHUNKS
    def test_each_context_has_a_chunk_and_the_last_is_done(
        self, form: WireForm
    ) -> None:
        answer = replies.block_status(
            form,
            COOKIE,
            OFFSET,
            [(3, [(5, 0), (5, 3)]), (1, [(10, 1)]), (2, [(9, 0)])],
            length=10,
            size_bytes=OFFSET + 10,
            only_one=False,
        )
        chunks = chunks_of(form, answer)
        assert [flags for flags, _, _ in chunks] == [0, 0, 1]
        assert [extents_of(form, chunk) for chunk in chunks] == [
            (3, [(5, 0), (5, 3)]),
            (1, [(10, 1)]),
            (2, [(9, 0)]),
        ]
