"""Every number of the NBD protocol that farshore speaks, and nothing else.

Source: NetworkBlockDevice/nbd, doc/proto.md. All integers are big-endian and
unsigned; a cookie is eight bytes that are echoed and never interpreted.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final

GREETING_MAGIC: Final = b"NBDMAGIC"
OPTION_MAGIC_BYTES: Final = b"IHAVEOPT"
OPTION_MAGIC: Final = 0x49484156454F5054
OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9
REQUEST_MAGIC: Final = 0x25609513
EXTENDED_REQUEST_MAGIC: Final = 0x21E41C71
SIMPLE_REPLY_MAGIC: Final = 0x67446698
CHUNK_MAGIC: Final = 0x668E33EF
EXTENDED_CHUNK_MAGIC: Final = 0x6E8A278C

GREETING: Final = struct.Struct(">8s8sH")
"""NBDMAGIC, IHAVEOPT, handshake flags."""
CLIENT_FLAGS: Final = struct.Struct(">I")
OPTION_HEADER: Final = struct.Struct(">QII")
"""Magic, option, length of the data that follows."""
OPTION_REPLY: Final = struct.Struct(">QIII")
"""Magic, option, reply type, length of the data that follows."""
EXPORT_NAME_REPLY: Final = struct.Struct(">QH")
"""Size, transmission flags; 124 zero bytes follow unless both set NO_ZEROES."""
EXPORT_NAME_PADDING: Final = bytes(124)
INFO_EXPORT: Final = struct.Struct(">HQH")
"""Info type, size, transmission flags."""
INFO_BLOCK_SIZE: Final = struct.Struct(">HIII")
"""Info type, minimum, preferred and largest payload, all bytes."""
UINT16: Final = struct.Struct(">H")
UINT32: Final = struct.Struct(">I")

REQUEST: Final = struct.Struct(">IHHQQI")
"""Magic, command flags, command, cookie, offset, length."""
EXTENDED_REQUEST: Final = struct.Struct(">IHHQQQ")
"""The same with a length of 64 bits."""
SIMPLE_REPLY: Final = struct.Struct(">IIQ")
"""Magic, error, cookie."""
CHUNK: Final = struct.Struct(">IHHQI")
"""Magic, reply flags, chunk type, cookie, length of the payload that follows."""
OFFSET_DATA: Final = struct.Struct(">IHHQIQ")
"""A chunk header with the offset that starts the payload of OFFSET_DATA."""
EXTENDED_CHUNK: Final = struct.Struct(">IHHQQQ")
"""Magic, reply flags, chunk type, cookie, the request's offset, payload length."""
EXTENDED_OFFSET_DATA: Final = struct.Struct(">IHHQQQQ")
"""An extended chunk header with the offset that starts OFFSET_DATA's payload."""
OFFSET: Final = struct.Struct(">Q")
OFFSET_HOLE: Final = struct.Struct(">QI")
"""Offset, length of the hole."""
CHUNK_ERROR: Final = struct.Struct(">IH")
"""Error, length of the message that follows."""
EXTENT: Final = struct.Struct(">II")
"""Length, flags."""
STATUS_HEADER: Final = struct.Struct(">I")
"""What starts the payload of BLOCK_STATUS: context id; extents follow."""
EXTENDED_EXTENT: Final = struct.Struct(">QQ")
"""Length, flags."""
EXTENDED_STATUS_HEADER: Final = struct.Struct(">II")
"""What starts the payload of BLOCK_STATUS_EXT: context id, count of extents."""
STATUS_EFFECT: Final = struct.Struct(">Q")
"""What starts the payload of a BLOCK_STATUS request: the length asked about; the
ids of contexts, each a `UINT32`, follow."""

NAME_BYTES_MAX: Final = 4096
"""Names, descriptions, queries and error texts are no longer than this."""
ERROR_TEXT_BYTES_MAX: Final = 512
"""Below the 1024 bytes that old nbd-client can read past."""
EXTENT_BYTES_MAX: Final = 0xFFFFF000
"""The longest extent told in 32 bits that stays a multiple of 4096."""
EXTENTS_MAX: Final = 1 << 20
"""A server should not tell more extents in one chunk."""
DEFAULT_PORT: Final = 10809


class HandshakeFlag(IntFlag):
    """Flags of the greeting; the client's flags have the same bits."""

    FIXED_NEWSTYLE = 1 << 0
    NO_ZEROES = 1 << 1


class WireForm(IntEnum):
    """How requests and replies look, as the handshake settled it.

    SIMPLE and STRUCTURED have compact requests; EXTENDED has extended ones and
    extended chunks. Each form has all that the ones below it have.
    """

    SIMPLE = 0
    STRUCTURED = 1
    EXTENDED = 2


class Option(IntEnum):
    """What a client may ask before transmission."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    PEEK_EXPORT = 4
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10
    EXTENDED_HEADERS = 11


class OptionReply(IntEnum):
    """The type of an answer to an option."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 0x80000001
    ERR_POLICY = 0x80000002
    ERR_INVALID = 0x80000003
    ERR_PLATFORM = 0x80000004
    ERR_TLS_REQD = 0x80000005
    ERR_UNKNOWN = 0x80000006
    ERR_SHUTDOWN = 0x80000007
    ERR_BLOCK_SIZE_REQD = 0x80000008
    ERR_TOO_BIG = 0x80000009
    ERR_EXT_HEADER_REQD = 0x8000000A


class Info(IntEnum):
    """What INFO and GO tell about an export."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class TransmissionFlag(IntFlag):
    """What an export can do."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    ROTATIONAL = 1 << 4
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_RESIZE = 1 << 9
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11
    BLOCK_STATUS_PAYLOAD = 1 << 12


class Command(IntEnum):
    """What a client may ask in transmission."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7
    RESIZE = 8


class CommandFlag(IntFlag):
    """Flags of one request."""

    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4
    PAYLOAD_LEN = 1 << 5


class ChunkFlag(IntFlag):
    """Flags of one chunk of a structured or extended reply."""

    DONE = 1 << 0


class ChunkType(IntEnum):
    """What a chunk of a structured or extended reply carries."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    BLOCK_STATUS_EXT = 6
    ERROR = 0x8001
    ERROR_OFFSET = 0x8002


class NbdError(IntEnum):
    """The only error numbers that may go over the wire."""

    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108
