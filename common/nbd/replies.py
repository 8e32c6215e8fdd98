"""What is sent back for one request: simple, structured or extended. Pure.

In structured form READ and BLOCK_STATUS and all errors are chunks; every other
success is a simple reply, which is shorter and always allowed. In extended form
everything is a chunk that also repeats the request's offset.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Final

from common.nbd.protocol import (
    CHUNK,
    CHUNK_ERROR,
    CHUNK_MAGIC,
    EXTENDED_CHUNK,
    EXTENDED_CHUNK_MAGIC,
    EXTENDED_STATUS_HEADER,
    EXTENT_BYTES_MAX,
    EXTENTS_MAX,
    OFFSET,
    OFFSET_HOLE,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STATUS_HEADER,
    UINT32,
    ChunkFlag,
    ChunkType,
    NbdError,
    WireForm,
)
from common.ports import Buffer

Extents = Sequence[tuple[int, int]]
"""Consecutive (length, flags)."""

_NBD_ERRORS: Final = {
    errno.EPERM: NbdError.EPERM,
    errno.EROFS: NbdError.EPERM,
    errno.EACCES: NbdError.EPERM,
    errno.EIO: NbdError.EIO,
    errno.ENOMEM: NbdError.ENOMEM,
    errno.ENOSPC: NbdError.ENOSPC,
    errno.EDQUOT: NbdError.ENOSPC,
    errno.EFBIG: NbdError.ENOSPC,
    errno.ENOLINK: NbdError.EIO,
    # qemu hands ESHUTDOWN to its guest in spite of reconnect-delay.
    errno.ESHUTDOWN: NbdError.EIO,
}


def nbd_error(error: int, *, fast: bool) -> NbdError:
    """Return the wire's error for an errno of a volume.

    ENOTSUP is passed on only if the request had FAST_ZERO, and EOVERFLOW never:
    each has one narrow use in the protocol. What is not listed becomes EINVAL.
    """
    assert error != 0
    if fast and error == errno.ENOTSUP:
        return NbdError.ENOTSUP
    return _NBD_ERRORS.get(error, NbdError.EINVAL)


def success(form: WireForm, cookie: int, offset: int) -> bytes:
    """Return the reply to anything that answers without data."""
    if form == WireForm.EXTENDED:
        return _chunk_header(form, ChunkType.NONE, cookie, offset, 0)
    return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, cookie)


def empty_read(form: WireForm, cookie: int, offset: int) -> bytes:
    """Return the reply to a READ of nothing."""
    if form == WireForm.SIMPLE:
        return success(form, cookie, offset)
    return _chunk_header(form, ChunkType.NONE, cookie, offset, 0)


def start(form: WireForm) -> bytes:
    """Return how a reply begins whose rest follows later, see `rest`."""
    magic = SIMPLE_REPLY_MAGIC if form == WireForm.SIMPLE else CHUNK_MAGIC
    return UINT32.pack(EXTENDED_CHUNK_MAGIC if form == WireForm.EXTENDED else magic)


def rest(form: WireForm, reply: Buffer, begun_bytes: int) -> bytes:
    """Return a reply, or its header, without as much of `start` as was sent.

    In structured form that has made a chunk of it.
    """
    whole = bytes(reply)
    if not whole.startswith(start(form)):
        magic, error, cookie = SIMPLE_REPLY.unpack(whole)
        assert (magic, error) == (SIMPLE_REPLY_MAGIC, 0), whole
        whole = _chunk_header(form, ChunkType.NONE, cookie, 0, 0)
    return whole[begun_bytes:]


def failure(
    form: WireForm, cookie: int, offset: int, error: NbdError, text: str
) -> bytes:
    """Return an error reply; only a chunk carries the text."""
    if form == WireForm.SIMPLE:
        return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, error, cookie)
    raw = text.encode()
    payload = CHUNK_ERROR.pack(error, len(raw)) + raw
    return _chunk_header(form, ChunkType.ERROR, cookie, offset, len(payload)) + payload


def read_runs(
    form: WireForm,
    cookie: int,
    offset: int,
    length: int,
    runs: Sequence[tuple[int, Buffer | None]],
) -> list[Buffer]:
    """Return chunks of data and of holes (None) that cover a READ in order."""
    assert form >= WireForm.STRUCTURED, "a simple reply has no runs"
    answer: list[Buffer] = []
    position = offset
    for run_bytes, data in runs:
        assert run_bytes > 0, runs
        is_last = position + run_bytes == offset + length
        flag = ChunkFlag.DONE if is_last else ChunkFlag(0)
        if data is None:
            payload = OFFSET_HOLE.pack(position, run_bytes)
            kind, payload_bytes = ChunkType.OFFSET_HOLE, len(payload)
        else:
            assert len(data) == run_bytes, (len(data), run_bytes)
            payload = OFFSET.pack(position)
            kind, payload_bytes = ChunkType.OFFSET_DATA, len(payload) + run_bytes
        header = _chunk_header(form, kind, cookie, offset, payload_bytes, flag)
        answer.append(header + payload)
        if data is not None:
            answer.append(data)
        position += run_bytes
    assert position == offset + length, "runs cover what was asked, no more"
    return answer


def block_status(
    form: WireForm,
    cookie: int,
    offset: int,
    told: Sequence[tuple[int, Extents]],
    *,
    length: int,
    size_bytes: int,
    only_one: bool,
) -> bytes:
    """Return one chunk for each (context id, extents from `offset` on).

    Neighbours of equal flags become one. The last extent may reach past the
    request, which saves the client from asking on, but not past the export.
    """
    assert form >= WireForm.STRUCTURED, "a simple reply has no extents"
    assert told, "a request without contexts is refused before"
    chunks = []
    for left, (context_id, extents) in zip(
        range(len(told) - 1, -1, -1), told, strict=True
    ):
        limit = length if only_one else size_bytes - offset
        merged = _merged(extents, length, limit)
        if only_one:
            del merged[1:]
        if form == WireForm.EXTENDED:
            kind = ChunkType.BLOCK_STATUS_EXT
            head = EXTENDED_STATUS_HEADER.pack(context_id, len(merged))
            layout = f">{2 * len(merged)}Q"
        else:
            kind = ChunkType.BLOCK_STATUS
            merged = _in_32_bits(merged)
            head = STATUS_HEADER.pack(context_id)
            layout = f">{2 * len(merged)}I"
        payload = head + struct.pack(layout, *chain.from_iterable(merged))
        flag = ChunkFlag(0) if left else ChunkFlag.DONE
        chunks.append(_chunk_header(form, kind, cookie, offset, len(payload), flag))
        chunks.append(payload)
    return b"".join(chunks)


def _chunk_header(
    form: WireForm,
    kind: ChunkType,
    cookie: int,
    offset: int,
    payload_bytes: int,
    flag: ChunkFlag = ChunkFlag.DONE,
) -> bytes:
    if form == WireForm.EXTENDED:
        return EXTENDED_CHUNK.pack(
            EXTENDED_CHUNK_MAGIC, flag, kind, cookie, offset, payload_bytes
        )
    return CHUNK.pack(CHUNK_MAGIC, flag, kind, cookie, payload_bytes)


def _merged(extents: Extents, length: int, limit: int) -> list[tuple[int, int]]:
    """Return extents of which all but the last lie within `length`, all in `limit`.

    Fewer than asked for are allowed, none are not.
    """
    assert extents, "a volume tells at least one extent"
    merged: list[tuple[int, int]] = []
    covered = 0
    for extent_bytes, flags in extents:
        assert extent_bytes > 0, extents
        taken = min(extent_bytes, limit - covered)
        if taken and merged and merged[-1][1] == flags:
            merged[-1] = (merged[-1][0] + taken, flags)
        elif covered < length and len(merged) < EXTENTS_MAX:
            merged.append((taken, flags))
        else:
            break
        covered += taken
    return merged


def _in_32_bits(merged: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Stop at the first extent too long for an aligned 32-bit length."""
    for index, (extent_bytes, flags) in enumerate(merged):
        if extent_bytes > EXTENT_BYTES_MAX:
            return [*merged[:index], (EXTENT_BYTES_MAX, flags)]
    return merged
