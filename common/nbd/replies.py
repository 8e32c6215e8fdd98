"""What is sent back for one request, simple or structured. Pure.

In structured mode READ and BLOCK_STATUS and all errors are chunks; every other
success is a simple reply, which is shorter and always allowed.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from common.nbd.protocol import (
    CHUNK,
    CHUNK_ERROR,
    CHUNK_MAGIC,
    EXTENT,
    EXTENT_BYTES_MAX,
    EXTENTS_MAX,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    UINT32,
    ChunkFlag,
    ChunkType,
    NbdError,
)

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


def nbd_error(error: int) -> NbdError:
    """Return the wire's error for an errno of a volume.

    EOVERFLOW and ENOTSUP have one narrow use each in the protocol, so that a
    volume's are not passed on; what is not listed becomes EINVAL.
    """
    assert error != 0
    return _NBD_ERRORS.get(error, NbdError.EINVAL)


def success(cookie: int) -> bytes:
    """Return the reply to anything that answers without data."""
    return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, cookie)


def empty_read(cookie: int) -> bytes:
    """Return the structured reply to a READ of nothing."""
    return CHUNK.pack(CHUNK_MAGIC, ChunkFlag.DONE, ChunkType.NONE, cookie, 0)


def failure(cookie: int, error: NbdError, text: str, *, structured: bool) -> bytes:
    """Return an error reply; only a structured one carries the text."""
    if not structured:
        return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, error, cookie)
    raw = text.encode()
    payload = CHUNK_ERROR.pack(error, len(raw)) + raw
    header = CHUNK.pack(
        CHUNK_MAGIC, ChunkFlag.DONE, ChunkType.ERROR, cookie, len(payload)
    )
    return header + payload


def block_status(
    cookie: int,
    context_id: int,
    extents: Sequence[tuple[int, int]],
    length: int,
    *,
    only_one: bool,
) -> bytes:
    """Return the chunk that tells extents of a range of `length` bytes.

    Neighbours of equal flags become one; what reaches past the range is cut off.
    Fewer extents than asked for are allowed, none are not.
    """
    assert extents, "a volume tells at least one extent"
    merged: list[tuple[int, int]] = []
    for extent_bytes, flags in extents:
        assert extent_bytes > 0, extents
        taken = min(extent_bytes, length)
        if merged and merged[-1][1] == flags:
            merged[-1] = (merged[-1][0] + taken, flags)
        elif taken and len(merged) < EXTENTS_MAX:
            merged.append((taken, flags))
        else:
            break
        length -= taken
    told = _told(merged, only_one=only_one)
    payload_bytes = UINT32.size + EXTENT.size * len(told)
    header = CHUNK.pack(
        CHUNK_MAGIC, ChunkFlag.DONE, ChunkType.BLOCK_STATUS, cookie, payload_bytes
    )
    packed = b"".join(EXTENT.pack(*extent) for extent in told)
    return header + UINT32.pack(context_id) + packed


def _told(merged: list[tuple[int, int]], *, only_one: bool) -> list[tuple[int, int]]:
    """Stop at the first extent too long for an aligned 32-bit length."""
    told = []
    for extent_bytes, flags in merged:
        told.append((min(extent_bytes, EXTENT_BYTES_MAX), flags))
        if only_one or extent_bytes > EXTENT_BYTES_MAX:
            break
    return told
