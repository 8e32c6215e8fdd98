"""Messages on the wire: the msgpack meta of a frame, and back.

Pure. A meta is an array of the message's fields in declared order, without `payload`
and `checksum`. Decoding checks every field against its declared type and bounds and
never trusts the peer; the same checks guard encoding.
"""

from __future__ import annotations

import enum
from dataclasses import astuple, replace
from dataclasses import fields as declared
from typing import Any, cast

import msgpack  # type: ignore[import-untyped]

from common.errors import ProtocolError
from common.replication.cycle_messages import (
    HASH_BYTES,
    RUNS_MAX,
    Hashes,
    Tracks,
)
from common.replication.frame import Frame
from common.replication.lineage import (
    ID_BYTES,
    Fork,
    ReceiverState,
    SenderState,
    ToldFork,
)
from common.replication.message_fields import TABLE
from common.replication.messages import Message, MessageType
from common.replication.session_messages import (
    GOODBYE_BYTES_MAX,
    Goodbye,
    VolumeOffer,
)

_RECORDS = (VolumeOffer, SenderState, ReceiverState, Fork)
_TYPES = {message: kind for kind, (message, _) in TABLE.items()}
_FIELD_NAMES = {
    kind: [each.name for each in declared(message) if each.compare]
    for kind, (message, _) in TABLE.items()
}
assert len(_TYPES) == len(MessageType), "every type has its one message"


def encode_meta(message: Message) -> tuple[MessageType, bytes]:
    """Return a message's type and meta; its payload goes beside them.

    A field out of bounds is a mistake of this program: `AssertionError`.
    """
    kind = _TYPES[type(message)]
    values = [_plain(getattr(message, name)) for name in _FIELD_NAMES[kind]]
    if isinstance(message, Goodbye) and message.fork is None:
        values.pop()  # as releases know it that have never heard of forks
    try:
        TABLE[kind][1](values)
    except ProtocolError as error:
        raise AssertionError(f"{kind.name} breaks its own bounds: {error}") from error
    return kind, cast("bytes", msgpack.packb(values, use_bin_type=True))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(element) for element in value]
    if isinstance(value, ToldFork):
        return [*_plain(astuple(value.fork)), value.is_known]
    if isinstance(value, enum.IntEnum):
        return int(value)
    return _plain(astuple(value)) if isinstance(value, _RECORDS) else value


def decode(frame: Frame) -> Message:
    """Return the message of a whole frame, every field checked.

    Raises `ProtocolError`. The payload stays the frame's memory.
    """
    try:
        kind = MessageType(frame.type)
    except ValueError:
        raise ProtocolError(f"unknown message type {frame.type}") from None
    message_class, check = TABLE[kind]
    try:
        message = message_class(*check(_unpack(frame.meta)))
    except ProtocolError as error:
        raise ProtocolError(f"{kind.name}: {error}") from error
    return _with_payload(cast("Message", message), frame)


def _unpack(meta: bytes) -> Any:
    try:
        return msgpack.unpackb(
            meta,
            raw=False,
            strict_map_key=True,
            max_str_len=GOODBYE_BYTES_MAX,
            max_bin_len=ID_BYTES,
            max_array_len=RUNS_MAX,
            max_map_len=0,  # no message holds a map: no duplicate keys either
            max_ext_len=0,
        )
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(f"meta is not a message: {error}") from error


def _with_payload(message: Message, frame: Frame) -> Message:
    match message:
        case Tracks():
            return replace(message, payload=frame.payload, checksum=frame.checksum)
        case Hashes():
            if len(frame.payload) != HASH_BYTES * message.count or not message.count:
                raise ProtocolError("HASHES: payload is not one hash a track")
            return replace(message, payload=frame.payload, checksum=frame.checksum)
        case _:
            if len(frame.payload):
                raise ProtocolError(f"{type(message).__name__} carries no payload")
            return message
