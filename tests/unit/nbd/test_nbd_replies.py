"""Replies as bytes."""

from __future__ import annotations

import errno
import struct

import pytest

from common.nbd import replies
from common.nbd.protocol import EXTENTS_MAX, NbdError

COOKIE = 0xFEDCBA9876543210


def extents_of(chunk: bytes) -> list[tuple[int, int]]:
    magic, flags, kind, cookie, length = struct.unpack_from(">IHHQI", chunk)
    assert (magic, flags, kind, cookie) == (0x668E33EF, 1, 5, COOKIE)
    assert length == len(chunk) - 20
    assert struct.unpack_from(">I", chunk, 20) == (1,)
    return list(struct.iter_unpack(">II", chunk[24:]))


def told(
    extents: list[tuple[int, int]], length: int, *, only_one: bool = False
) -> list[tuple[int, int]]:
    chunk = replies.block_status(COOKIE, 1, extents, length, only_one=only_one)
    return extents_of(chunk)


class TestErrors:
    def test_each_errno_has_one_of_the_protocols_errors(self) -> None:
        told = {number: replies.nbd_error(number) for number in errno.errorcode}
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

    def test_a_simple_error_is_a_bare_header(self) -> None:
        found = replies.failure(COOKIE, NbdError.EIO, "why", structured=False)
        assert found == struct.pack(">IIQ", 0x67446698, 5, COOKIE)

    def test_a_structured_error_carries_its_text(self) -> None:
        found = replies.failure(COOKIE, NbdError.EIO, "why", structured=True)
        header = struct.pack(">IHHQI", 0x668E33EF, 1, 0x8001, COOKIE, 9)
        assert found == header + struct.pack(">IH", 5, 3) + b"why"


class TestBlockStatus:
    def test_neighbours_of_equal_flags_are_one_extent(self) -> None:
        extents = [(1, 0), (2, 0), (3, 3), (4, 3), (5, 0)]
        assert told(extents, 15) == [(3, 0), (7, 3), (5, 0)]

    def test_what_reaches_past_the_range_is_cut_off(self) -> None:
        assert told([(10, 0), (10, 3), (10, 0)], 15) == [(10, 0), (5, 3)]
        assert told([(10, 0), (10, 3)], 10) == [(10, 0)]
        assert told([(10, 0), (10, 0)], 12) == [(12, 0)]

    def test_a_short_list_stays_short(self) -> None:
        assert told([(10, 3)], 15) == [(10, 3)]

    def test_one_extent_is_told_if_one_is_asked(self) -> None:
        assert told([(10, 0), (10, 3)], 20, only_one=True) == [(10, 0)]
        assert told([(10, 0), (10, 0)], 15, only_one=True) == [(15, 0)]

    @pytest.mark.parametrize("length", [0xFFFFF001, 0xFFFFFFFF])
    def test_the_longest_extent_stays_aligned_and_is_the_last(
        self, length: int
    ) -> None:
        assert told([(length, 3)], length) == [(0xFFFFF000, 3)]
        assert told([(length - 1, 3), (1, 0)], length)[0] == (0xFFFFF000, 3)
        assert len(told([(0xFFFFFFFE, 3), (1, 0)], 0xFFFFFFFF)) == 1

    def test_a_very_long_list_is_cut_short(self) -> None:
        extents = [(1, n & 1) for n in range(EXTENTS_MAX + 2)]
        assert len(told(extents, EXTENTS_MAX + 2)) == EXTENTS_MAX
