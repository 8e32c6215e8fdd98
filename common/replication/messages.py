"""The closed set of replication messages: what each field means and its bounds.

Pure: no clock, no socket. `encode_meta` / `decode` turn a message into the
msgpack meta of a frame and back: an array of the fields in declared order,
without `payload` and `checksum`. Decoding checks every field against its
declared type and bounds and never trusts the peer. Bulk bytes travel as the
frame's payload beside the meta (`payload` fields here), never inside it.

docs/internals/protocol.md has the same tables for people.
"""

from __future__ import annotations

import enum
from dataclasses import astuple, dataclass, field, replace
from dataclasses import fields as declared
from typing import Any, cast

import msgpack  # type: ignore[import-untyped]

from common.errors import ProtocolError
from common.replication import fields
from common.replication.frame import Frame
from common.storage.geometry import (
    SECTOR_BYTES,
    TRACK_BYTES_MAX,
    TRACK_BYTES_MIN,
    VOLUME_BYTES_MAX,
)

PROTOCOL_VERSION = 1
"""The one version spoken; HELLO carries a range so that later ones can overlap."""

ID_BYTES = 16
"""Random identities: group, volume, lineage, relation, cycle, session token."""

HASH_BYTES = 16

VOLUMES_MAX = 256
"""Volumes of one group: HELLO has to fit a meta."""

FEATURES_MAX = 32
LABEL_BYTES_MAX = 256
GOODBYE_BYTES_MAX = 4096

RAW_BYTES_MAX = 4 << 20
"""Records of one TRACKS frame once decompressed: bounds what a frame allocates."""

COVERED_BYTES_MAX = 64 << 20
"""Bytes of volume that one HASHES frame, or one write of the store, may cover.

Hashes are small on the wire but not for who must preserve or
read what they cover: this bounds the work, and the memory, behind one frame.
"""

ZERO_BYTES_MAX = 1 << 30
"""Bytes of volume that the zero records of one TRACKS frame may cover: an empty
terabyte costs a thousand frames, and what lies under one is preserved in steps."""

HASHES_TRACKS_MAX = COVERED_BYTES_MAX // TRACK_BYTES_MIN

RUNS_MAX = 4096
"""Runs of one NEED_FULL, pairs of one PROGRESS: more take several messages."""

_U63 = (1 << 63) - 1
_U64 = (1 << 64) - 1
_TRACKS_MAX = VOLUME_BYTES_MAX // TRACK_BYTES_MIN


class MessageType(enum.IntEnum):
    HELLO = 1
    WELCOME = 2
    JOIN = 3
    JOINED = 4
    CYCLE_BEGIN = 5
    CREDIT = 6
    TRACKS = 7
    HASHES = 8
    NEED_FULL = 9
    PROGRESS = 10
    CYCLE_END = 11
    COMMITTED = 12
    CURRENT_AS_OF = 13
    ABANDON = 14
    HEARTBEAT = 15
    GOODBYE = 16


class GoodbyeReason(enum.IntEnum):
    """Why a session ends; the first group is worth trying again."""

    SHUTTING_DOWN = 1
    SUPERSEDED_SESSION = 2
    STORAGE_FAILED = 3
    OUT_OF_SPACE = 4
    PROTOCOL = 5
    UNKNOWN_GROUP = 10
    WRONG_GROUP = 11
    WRONG_PEER = 12
    LINEAGE = 13
    SIZE_MISMATCH = 14
    TRACK_SIZE_MISMATCH = 15
    VOLUME_MISMATCH = 16
    VERSION = 17
    NOT_PERMITTED = 18

    @property
    def is_permanent(self) -> bool:
        """Tell whether only an operator can mend it."""
        return self >= GoodbyeReason.UNKNOWN_GROUP


class Encoding(enum.IntEnum):
    """How a record's tracks are written in a TRACKS payload."""

    ZERO = 0
    RAW = 1
    XOR = 2  # needs the base: with delta encoding, a later feature bit


@dataclass(frozen=True, slots=True)
class VolumeOffer:
    """One volume as the sender has it; order is its index on the wire."""

    name: str
    volume_id: bytes
    size_bytes: int
    track_bytes: int


@dataclass(frozen=True, slots=True)
class Hello:
    """Sender to receiver, first frame of a session's first link."""

    version_min: int
    version_max: int
    site: str
    group: str
    group_id: bytes
    lineage: bytes
    volumes: tuple[VolumeOffer, ...]
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Welcome:
    """Receiver's answer: the session exists, durably numbered `epoch`.

    `relation_id` names the receiver's open relation: acked bits of another one
    are worthless. `committed_number` is None before the first point.
    """

    version: int
    site: str
    epoch: int
    token: bytes
    lineage: bytes
    relation_id: bytes
    committed_number: int | None
    committed_cycle_id: bytes | None
    committed_cut_ns: int | None
    current_as_of_ns: int | None
    credit_bytes: int
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Join:
    """First frame of each further link of a session."""

    epoch: int
    token: bytes


@dataclass(frozen=True, slots=True)
class Joined:
    epoch: int


@dataclass(frozen=True, slots=True)
class CycleBegin:
    """Opens (or, with a known id, resumes) a cycle; answered by its first CREDIT.

    The answer comes only after every applier thread of older sessions and
    cycles has returned.
    """

    epoch: int
    cycle_number: int
    cycle_id: bytes
    cut_ns: int
    label: str | None


@dataclass(frozen=True, slots=True)
class Credit:
    """Allows `credit_bytes` more raw bytes of TRACKS and HASHES for this cycle."""

    epoch: int
    cycle_id: bytes
    credit_bytes: int


@dataclass(frozen=True, slots=True)
class Tracks:
    """Records of one volume; the payload is zstd(records), see `tracks.py`.

    `sequence` counts TRACKS and HASHES of this cycle in this session from 0.
    `raw_bytes` is the payload's exact length once decompressed, and the credit
    that this frame uses. `checksum` is the frame's body checksum, set by decoding
    (`Link.send` returns it to the sender); it goes into the cycle's digest.
    """

    epoch: int
    cycle_id: bytes
    sequence: int
    volume: int
    raw_bytes: int
    payload: bytes | bytearray | memoryview = field(default=b"", compare=False)
    checksum: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Hashes:
    """One BLAKE2b-128 a track of `count` tracks from `first`; payload 16 x count.

    Credit used: the payload's length. Answered by NEED_FULL (only if a track
    differs) before the PROGRESS that covers `sequence`.
    """

    epoch: int
    cycle_id: bytes
    sequence: int
    volume: int
    first: int
    count: int
    payload: bytes | bytearray | memoryview = field(default=b"", compare=False)
    checksum: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class NeedFull:
    """Runs (first, count) of the frame `sequence` that must come whole."""

    epoch: int
    cycle_id: bytes
    sequence: int
    volume: int
    runs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """Frames whose tracks are durable on the secondary volume: [first, last] pairs."""

    epoch: int
    cycle_id: bytes
    sequences: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class CycleEnd:
    """Everything has been sent: how many frames and tracks, and their digest.

    `digest` is the XOR of the body checksums of all TRACKS and HASHES frames of
    this cycle in this session: independent of order and link.
    """

    epoch: int
    cycle_id: bytes
    frame_count: int
    digest: int


@dataclass(frozen=True, slots=True)
class Committed:
    """The recovery point is durable; a new relation is open."""

    epoch: int
    cycle_number: int
    cycle_id: bytes
    cut_ns: int
    relation_id: bytes


@dataclass(frozen=True, slots=True)
class CurrentAsOf:
    """Point `number` still equals the primary at `time_ns`; echoed once durable."""

    epoch: int
    number: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """The sender gives this cycle up; what was applied stays."""

    epoch: int
    cycle_id: bytes


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life; `sent_ns` is the sender's wall clock.

    `echo_ns` is the peer's last `sent_ns` plus the time it has lain here (0 before
    the first), so that the peer's now − `echo_ns` is one round trip.
    """

    epoch: int
    sent_ns: int
    echo_ns: int


@dataclass(frozen=True, slots=True)
class Goodbye:
    reason: int
    text: str


Message = (
    Hello
    | Welcome
    | Join
    | Joined
    | CycleBegin
    | Credit
    | Tracks
    | Hashes
    | NeedFull
    | Progress
    | CycleEnd
    | Committed
    | CurrentAsOf
    | Abandon
    | Heartbeat
    | Goodbye
)


def goodbye(reason: GoodbyeReason, text: str) -> Goodbye:
    """Return a goodbye whose text fits, whatever it was made of."""
    whole = text.encode("utf-8", "replace")[:GOODBYE_BYTES_MAX]
    return Goodbye(reason, whole.decode("utf-8", "ignore"))


_identity = fields.identity(ID_BYTES)
_u63 = fields.count(_U63)
_u64 = fields.count(_U64)
_track = fields.count(_TRACKS_MAX)
_volume = fields.count(VOLUMES_MAX - 1)
_pair = fields.record(_track, _track)


def _offer(value: Any) -> VolumeOffer:
    return VolumeOffer(*_offer_fields(value))


_offer_fields = fields.record(
    fields.name,
    _identity,
    fields.multiple(SECTOR_BYTES, VOLUME_BYTES_MAX),
    fields.power_of_two(TRACK_BYTES_MIN, TRACK_BYTES_MAX),
)

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
            _identity,
            _identity,
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
            _identity,
            _optional_u63,
            fields.optional(_identity),
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
            _u63, _identity, fields.many(fields.record(_u63, _u63), RUNS_MAX)
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
        fields.record(fields.count(0xFFFF), fields.text(GOODBYE_BYTES_MAX)),
    ),
}
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
    try:
        _TABLE[kind][1](values)
    except ProtocolError as error:
        raise AssertionError(f"{kind.name} breaks its own bounds: {error}") from error
    return kind, cast("bytes", msgpack.packb(values, use_bin_type=True))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(element) for element in value]
    if isinstance(value, enum.IntEnum):
        return int(value)
    return astuple(value) if isinstance(value, VolumeOffer) else value


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
