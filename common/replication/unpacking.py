"""Unpacking what a peer has compressed, within bounds that are checked before.

Pure apart from zstd; takes milliseconds: call it in a thread.
"""

from __future__ import annotations

import threading

import zstandard

from common.errors import ProtocolError

WINDOW_BYTES_MAX = 8 << 20
"""What decompressing may need beside its output, whatever a frame asks for."""

_thread = threading.local()


def decompressed(
    body: memoryview,
    raw_bytes: int,
    dictionary: zstandard.ZstdCompressionDict | None = None,
) -> bytes:
    """Unpack one zstd frame that has to state its size. Raises `ProtocolError`."""
    try:
        # zstandard lets the size written in the frame win over max_output_size
        # (its issue 332: 13 bytes allocate a terabyte), so look before unpacking.
        stated = zstandard.get_frame_parameters(body)
        if stated.content_size != raw_bytes:
            raise ProtocolError("TRACKS: zstd frame states another size")
        if stated.window_size > WINDOW_BYTES_MAX or stated.dict_id:
            raise ProtocolError("TRACKS: zstd frame asks for too much")
        unpacked: bytes = _decompressor(dictionary).decompress(
            body, max_output_size=raw_bytes, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise ProtocolError(f"TRACKS: zstd: {error}") from error
    return unpacked


def _decompressor(
    dictionary: zstandard.ZstdCompressionDict | None,
) -> zstandard.ZstdDecompressor:
    if dictionary is not None:
        return zstandard.ZstdDecompressor(dict_data=dictionary)
    found: zstandard.ZstdDecompressor | None = getattr(_thread, "decompressor", None)
    if found is None:  # one a thread: they are not safe across threads
        found = _thread.decompressor = zstandard.ZstdDecompressor()
    return found
