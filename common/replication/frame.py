"""The frame: what every byte on a replication link belongs to.

Pure: bytes in, frames out. Layout, little-endian:

    offset  size  field
         0     4  magic `FSR1`
         4     1  version, 1
         5     1  type, a `MessageType`
         6     2  flags, 0
         8     4  meta length, at most 64 KiB
        12     4  payload length, at most 5 MiB
        16     8  body checksum: xxh3_64 of meta, then payload
        24     4  header checksum: crc32 of bytes 0 to 23
        28        meta, then payload

A length is believed, and memory allocated for it, only once the header checksum
holds and the length is within its limit.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import xxhash

from common.errors import ProtocolError
from common.ports import Buffer

MAGIC = b"FSR1"

_TLS_RECORDS = (b"\x15", b"\x16")
"""First bytes of an alert and of a handshake (RFC 8446 5.1)."""
FRAME_VERSION = 1

_UNSUMMED = struct.Struct("<4sBBHIIQ")
_HEADER = struct.Struct("<4sBBHIIQI")
HEADER_BYTES = _HEADER.size
assert HEADER_BYTES == _UNSUMMED.size + 4 == 28

META_BYTES_MAX = 64 << 10
"""Control data only: bulk travels in the payload, unparsed."""

PAYLOAD_BYTES_MAX = 5 << 20
"""4 MiB of records that zstd could not shrink, with room to spare."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame whose checksums hold; `type` is not yet known to be one of ours.

    `payload` is a view of memory that belongs to this frame alone.
    """

    type: int
    meta: bytes
    payload: memoryview
    checksum: int


def body_checksum(meta: Buffer, payload: Buffer) -> int:
    """Return the xxh3_64 of both parts, as it stands in the header."""
    state = xxhash.xxh3_64(meta)
    state.update(payload)
    return state.intdigest()


def encode_frame(frame_type: int, meta: bytes, payload: Buffer) -> list[Buffer]:
    """Return header, meta and, uncopied, payload: to be written in this order."""
    return encode_summed_frame(frame_type, meta, payload)[0]


def encode_summed_frame(
    frame_type: int, meta: bytes, payload: Buffer
) -> tuple[list[Buffer], int]:
    """Return the buffers of `encode_frame` and the body checksum among them."""
    payload_bytes = memoryview(payload).nbytes
    assert 0 <= frame_type <= 0xFF
    assert len(meta) <= META_BYTES_MAX
    assert payload_bytes <= PAYLOAD_BYTES_MAX
    checksum = body_checksum(meta, payload)
    unsummed = _UNSUMMED.pack(
        MAGIC, FRAME_VERSION, frame_type, 0, len(meta), payload_bytes, checksum
    )
    header = unsummed + zlib.crc32(unsummed).to_bytes(4, "little")
    buffers: list[Buffer] = [header + meta]
    if payload_bytes:
        buffers.append(payload)
    return buffers, checksum


class FrameParser:
    """Turns received bytes into frames; holds one unfinished frame at most.

    `payload_bytes_max` may be lowered (0 before a peer is known) and raised
    later. After a `ProtocolError` the stream has no next frame: close it.
    """

    def __init__(self, payload_bytes_max: int = PAYLOAD_BYTES_MAX) -> None:
        assert 0 <= payload_bytes_max <= PAYLOAD_BYTES_MAX
        self.payload_bytes_max = payload_bytes_max
        self._header = bytearray()
        self._body: bytearray | None = None
        self._filled_bytes = 0
        self._type = 0
        self._meta_bytes = 0
        self._checksum = 0

    def feed(self, data: Buffer) -> list[Frame]:
        """Return the frames that `data` completes, in order.

        Raises `ProtocolError` for anything that is not a frame.
        """
        frames: list[Frame] = []
        view = memoryview(data)
        position = 0
        # Each turn consumes at least a byte or ends a frame; a frame of no body
        # ends as its header does, so nothing is left over when data runs out.
        while position < len(view):
            if self._body is None:
                position = self._take_header(view, position)
            if self._body is not None:
                position = self._take_body(self._body, view, position, frames)
        return frames

    @property
    def buffered_bytes(self) -> int:
        """Bytes of the unfinished frame held."""
        return len(self._header) if self._body is None else self._filled_bytes

    def _take_header(self, view: memoryview, position: int) -> int:
        end = min(len(view), position + HEADER_BYTES - len(self._header))
        self._header += view[position:end]
        # The magic is compared as it comes: garbage is known from its first byte.
        if not MAGIC.startswith(bytes(self._header[: len(MAGIC)])):
            raise ProtocolError(_not_a_frame(self._header))
        if len(self._header) == HEADER_BYTES:
            self._open_body()
        return end

    def _open_body(self) -> None:
        _, version, kind, flags, meta_bytes, payload_bytes, checksum, header_sum = (
            _HEADER.unpack(self._header)
        )
        if zlib.crc32(self._header[: _UNSUMMED.size]) != header_sum:
            raise ProtocolError("frame header checksum does not hold")
        if version != FRAME_VERSION:
            raise ProtocolError(f"frame version {version}; only {FRAME_VERSION} known")
        if flags:
            raise ProtocolError(f"unknown frame flags {flags:#x}")
        if meta_bytes > META_BYTES_MAX:
            raise ProtocolError(f"frame meta of {meta_bytes} bytes is over the limit")
        if payload_bytes > self.payload_bytes_max:
            raise ProtocolError(
                f"frame payload of {payload_bytes} bytes is over the limit of "
                f"{self.payload_bytes_max}"
            )
        self._header.clear()
        self._type, self._meta_bytes, self._checksum = kind, meta_bytes, checksum
        self._body = bytearray(meta_bytes + payload_bytes)
        self._filled_bytes = 0

    def _take_body(
        self, body: bytearray, view: memoryview, position: int, frames: list[Frame]
    ) -> int:
        count = min(len(view) - position, len(body) - self._filled_bytes)
        start = self._filled_bytes
        body[start : start + count] = view[position : position + count]
        self._filled_bytes += count
        if self._filled_bytes == len(body):
            frames.append(self._close_body(body))
        return position + count

    def _close_body(self, body: bytearray) -> Frame:
        self._body = None
        if xxhash.xxh3_64_intdigest(body) != self._checksum:
            raise ProtocolError("frame body checksum does not hold")
        whole = memoryview(body)
        meta = bytes(whole[: self._meta_bytes])
        return Frame(self._type, meta, whole[self._meta_bytes :], self._checksum)


def _not_a_frame(header: bytes | bytearray) -> str:
    """Say what it is, where that tells the operator of a plain-text site more."""
    if header[:1] in _TLS_RECORDS:
        return (
            "not a farshore replication frame but TLS: the other site replicates with "
            "`tls`; give this one certificates too"
        )
    return "not a farshore replication frame"
