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
from common.replication import fields
from common.replication.frame import Frame
from common.replication.lineage import (
    ID_BYTES,
    CycleName,
    Fork,
    ReceiverState,
    SenderState,
    ToldFork,
)
from common.replication.link_messages import (
    LINKS_LOST_MAX,
    ControlReceived,
    LinkNumber,
    LinksClosed,
    LinksLost,
)
from common.replication.member_messages import (
    OFFER_TEXT_BYTES_MAX,
    OfferVolume,
    VolumeAnswered,
    Whole,
)
from common.replication.messages import (
    FEATURES_MAX,
    FORKED,
    GOODBYE_BYTES_MAX,
    HASH_BYTES,
    HASHES_TRACKS_MAX,
    LABEL_BYTES_MAX,
    PROGRESS_MAX,
    RAW_BYTES_MAX,
    RUNS_MAX,
    VOLUMES_MAX,
    Abandon,
    AskChanged,
    Changed,
    Committed,
    Credit,
    CurrentAsOf,
    CycleBegin,
    CycleEnd,
    Goodbye,
    HandOver,
    Hashes,
    Heartbeat,
    Hello,
    Join,
    Joined,
    Message,
    MessageType,
    NeedFull,
    Noted,
    Progress,
    Resize,
    Tracks,
    VolumeOffer,
    Welcome,
)
from common.replication.verify_messages import (
    LEAVES_MAX,
    VERIFIED_TEXT_BYTES_MAX,
    Outcome,
    Verified,
    Verify,
)
from common.storage.geometry import (
    SECTOR_BYTES,
    TRACK_BYTES_MAX,
    TRACK_BYTES_MIN,
    VOLUME_BYTES_MAX,
)

_U63 = (1 << 63) - 1
_U64 = (1 << 64) - 1
_TRACKS_MAX = VOLUME_BYTES_MAX // TRACK_BYTES_MIN

_identity = fields.identity(ID_BYTES)
_u63 = fields.count(_U63)
_u64 = fields.count(_U64)
_progress = fields.count(PROGRESS_MAX)
_track = fields.count(_TRACKS_MAX)
_volume = fields.count(VOLUMES_MAX - 1)
_pair = fields.record(_track, _track)


def _offer(value: Any) -> VolumeOffer:
    return VolumeOffer(*_offer_fields(value))


_size = fields.multiple(SECTOR_BYTES, VOLUME_BYTES_MAX)
_shape = (
    fields.name,
    _identity,
    _size,
    fields.power_of_two(TRACK_BYTES_MIN, TRACK_BYTES_MAX),
)
_offer_fields = fields.record(*_shape)


def _cycle(value: Any) -> CycleName:
    return CycleName(*_cycle_fields(value))


_cycle_fields = fields.record(fields.count(_U63), _identity)
_optional_cycle = fields.optional(_cycle)


def _sender(value: Any) -> SenderState:
    return SenderState(*_sender_fields(value))


_sender_fields = fields.record(
    _identity,
    _identity,
    _u63,
    _identity,
    _optional_cycle,
    _optional_cycle,
    _identity,
    _progress,
)


def _receiver(value: Any) -> ReceiverState:
    return ReceiverState(*_receiver_fields(value))


_receiver_fields = fields.record(
    fields.optional(_identity),
    fields.optional(_identity),
    _u63,
    _identity,
    _identity,
    _optional_cycle,
    _optional_cycle,
    fields.truth,
    _identity,
    _progress,
)


def _fork(value: Any) -> ToldFork:
    *fork, is_known = _fork_fields(value)
    return ToldFork(Fork(*fork), is_known)


_fork_fields = fields.record(_identity, _identity, _cycle, _u63, _u63, fields.truth)


def _agreed_fork(value: Any) -> Fork:
    return Fork(*_agreed_fork_fields(value))


_agreed_fork_fields = fields.record(_identity, _identity, _cycle, _u63, _u63)
_reason_and_text = (fields.count(0xFFFF), fields.text(GOODBYE_BYTES_MAX))
_plain_goodbye = fields.record(*_reason_and_text)
_forked_goodbye = fields.record(*_reason_and_text, _fork)


def _goodbye(value: Any) -> tuple[Any, ...]:
    """A fork comes with the reasons that tell of one, and with no other."""
    is_forked = type(value) is list and len(value) == len(("reason", "text", "fork"))
    found: tuple[Any, ...] = (_forked_goodbye if is_forked else _plain_goodbye)(value)
    if (found[0] in FORKED) is not is_forked:
        raise ProtocolError("a fork is told with reasons 19 and 20, and only there")
    return found


_features = fields.many(fields.name, FEATURES_MAX)
_version = fields.count(0xFFFF)
_optional_u63 = fields.optional(_u63)

_TABLE: dict[MessageType, tuple[type[Any], fields.Check]] = {
    MessageType.HELLO: (
        Hello,
        fields.record(
            _version,
            _version,
            fields.name,
            fields.name,
            _sender,
            fields.many(_offer, VOLUMES_MAX),
            _features,
        ),
    ),
    MessageType.WELCOME: (
        Welcome,
        fields.record(
            _version,
            fields.name,
            _u63,
            _identity,
            _identity,
            _receiver,
            _optional_u63,
            _optional_u63,
            _u63,
            _features,
        ),
    ),
    MessageType.JOIN: (Join, fields.record(_u63, _identity)),
    MessageType.JOINED: (Joined, fields.record(_u63)),
    MessageType.CYCLE_BEGIN: (
        CycleBegin,
        fields.record(
            _u63,
            _u63,
            _identity,
            _u63,
            fields.optional(fields.text(LABEL_BYTES_MAX)),
        ),
    ),
    MessageType.CREDIT: (Credit, fields.record(_u63, _identity, _u63)),
    MessageType.TRACKS: (
        Tracks,
        fields.record(_u63, _identity, _u63, _volume, fields.count(RAW_BYTES_MAX)),
    ),
    MessageType.HASHES: (
        Hashes,
        fields.record(
            _u63, _identity, _u63, _volume, _track, fields.count(HASHES_TRACKS_MAX)
        ),
    ),
    MessageType.NEED_FULL: (
        NeedFull,
        fields.record(_u63, _identity, _u63, _volume, fields.many(_pair, RUNS_MAX)),
    ),
    MessageType.PROGRESS: (
        Progress,
        fields.record(
            _u63, _identity, fields.many(fields.record(_u63, _u63), RUNS_MAX), _progress
        ),
    ),
    MessageType.CYCLE_END: (CycleEnd, fields.record(_u63, _identity, _u63, _u64)),
    MessageType.COMMITTED: (
        Committed,
        fields.record(_u63, _u63, _identity, _u63, _identity),
    ),
    MessageType.CURRENT_AS_OF: (CurrentAsOf, fields.record(_u63, _u63, _u63)),
    MessageType.ABANDON: (Abandon, fields.record(_u63, _identity)),
    MessageType.HEARTBEAT: (Heartbeat, fields.record(_u63, _u63, _u63)),
    MessageType.GOODBYE: (
        Goodbye,
        _goodbye,
    ),
    MessageType.NOTED: (Noted, fields.record(_u63, fields.optional(_identity))),
    MessageType.VERIFY: (
        Verify,
        fields.record(
            _u63,
            _identity,
            _u63,
            _volume,
            _track,
            fields.count(HASHES_TRACKS_MAX),
            _identity,
        ),
    ),
    MessageType.VERIFIED: (
        Verified,
        fields.record(
            _u63,
            _identity,
            _u63,
            fields.count(max(Outcome)),
            fields.many(_identity, LEAVES_MAX),
            fields.text(VERIFIED_TEXT_BYTES_MAX),
        ),
    ),
    MessageType.LINK: (LinkNumber, fields.record(_u63, _u63)),
    MessageType.LINKS_LOST: (
        LinksLost,
        fields.record(_u63, _u63, fields.many(_u63, LINKS_LOST_MAX), _u63),
    ),
    MessageType.LINKS_CLOSED: (
        LinksClosed,
        fields.record(
            _u63,
            _u63,
            _u63,
            fields.optional(_identity),
            _u63,
            fields.many(fields.record(_u63, _u63), RUNS_MAX),
        ),
    ),
    MessageType.CONTROL_RECEIVED: (ControlReceived, fields.record(_u63, _u63)),
    MessageType.RESIZE: (Resize, fields.record(_u63, _volume, _size, _size)),
    MessageType.ASK_CHANGED: (AskChanged, fields.record(_u63, _volume, _track)),
    MessageType.CHANGED: (
        Changed,
        fields.record(_u63, _volume, fields.many(_pair, RUNS_MAX), _track, _u63),
    ),
    MessageType.HAND_OVER: (HandOver, fields.record(_u63, _agreed_fork)),
    MessageType.WHOLE: (
        Whole,
        fields.record(_u63, _identity, fields.many(_volume, VOLUMES_MAX)),
    ),
    MessageType.OFFER_VOLUME: (
        OfferVolume,
        fields.record(_u63, *_shape),
    ),
    MessageType.VOLUME_ANSWERED: (
        VolumeAnswered,
        fields.record(_u63, fields.text(OFFER_TEXT_BYTES_MAX)),
    ),
}
_RECORDS = (VolumeOffer, SenderState, ReceiverState, Fork)
_TYPES = {message: kind for kind, (message, _) in _TABLE.items()}
_FIELD_NAMES = {
    kind: [each.name for each in declared(message) if each.compare]
    for kind, (message, _) in _TABLE.items()
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
        _TABLE[kind][1](values)
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
    message_class, check = _TABLE[kind]
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
