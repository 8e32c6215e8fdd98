"""Which fields each message has on the wire, in their order, and their bounds. Pure.

`fields.py` makes the checks; `codec.py` applies them, to what comes and what goes.
"""

from __future__ import annotations

from typing import Any

from common.errors import ProtocolError
from common.replication import fields
from common.replication.cycle_messages import (
    HASHES_TRACKS_MAX,
    LABEL_BYTES_MAX,
    PROGRESS_MAX,
    RAW_BYTES_MAX,
    RUNS_MAX,
    Abandon,
    Committed,
    Credit,
    CurrentAsOf,
    CycleBegin,
    CycleEnd,
    Hashes,
    NeedFull,
    Progress,
    Tracks,
)
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
from common.replication.messages import MessageType
from common.replication.role_messages import AskChanged, Changed, HandOver
from common.replication.session_messages import (
    FEATURES_MAX,
    FORKED,
    GOODBYE_BYTES_MAX,
    VOLUMES_MAX,
    Goodbye,
    Heartbeat,
    Hello,
    Join,
    Joined,
    Noted,
    Resize,
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

TABLE: dict[MessageType, tuple[type[Any], fields.Check]] = {
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
"""By type: the message's class, and the check of its fields as an array."""
