"""The closed set of replication messages: what each field means and its bounds.

Pure. `codec.py` puts them on the wire. Bulk bytes travel as a frame's payload beside
its meta (`payload` fields here), never inside it.

docs/internals/protocol.md has the same tables for people.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from common.replication.lineage import Fork, ReceiverState, SenderState, ToldFork
from common.replication.link_messages import (
    ControlReceived,
    LinkNumber,
    LinksClosed,
    LinksLost,
)
from common.replication.member_messages import OfferVolume, VolumeAnswered, Whole
from common.replication.verify_messages import Verified, Verify
from common.storage.geometry import TRACK_BYTES_MIN

PROTOCOL_VERSION = 2
"""The one version spoken; HELLO carries a range so that later ones can overlap."""

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


PROGRESS_MAX = (1 << 32) - 1
"""Progress of one relation is counted up to here: a flush a millisecond for weeks."""


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
    NOTED = 17
    VERIFY = 18
    VERIFIED = 19
    RESIZE = 20
    LINK = 30
    LINKS_LOST = 31
    LINKS_CLOSED = 32
    CONTROL_RECEIVED = 33
    ASK_CHANGED = 40
    CHANGED = 41
    HAND_OVER = 42
    WHOLE = 50
    OFFER_VOLUME = 51
    VOLUME_ANSWERED = 52


class GoodbyeReason(enum.IntEnum):
    """Why a session ends; the first group is worth trying again."""

    SHUTTING_DOWN = 1
    SUPERSEDED_SESSION = 2
    STORAGE_FAILED = 3
    OUT_OF_SPACE = 4
    PROTOCOL = 5
    NOT_YET = 6
    UNKNOWN_GROUP = 10
    WRONG_GROUP = 11
    WRONG_PEER = 12
    LINEAGE = 13
    SIZE_MISMATCH = 14
    TRACK_SIZE_MISMATCH = 15
    VOLUME_MISMATCH = 16
    VERSION = 17
    NOT_PERMITTED = 18
    SUPERSEDED = 19
    SPLIT_BRAIN = 20

    @property
    def is_permanent(self) -> bool:
        """Tell whether only an operator can mend it."""
        return self >= GoodbyeReason.UNKNOWN_GROUP


FORKED = frozenset({GoodbyeReason.SUPERSEDED, GoodbyeReason.SPLIT_BRAIN})
"""Reasons of a receiver that has taken over: these goodbyes carry its fork."""


class Encoding(enum.IntEnum):
    """How a record's tracks are written in a TRACKS payload."""

    ZERO = 0
    RAW = 1
    XOR = 2  # to what the receiver holds: with the feature "delta" only


@dataclass(frozen=True, slots=True)
class VolumeOffer:
    """One volume as the sender has it; order is its index on the wire."""

    name: str
    volume_id: bytes
    size_bytes: int
    track_bytes: int


@dataclass(frozen=True, slots=True)
class Hello:
    """Sender to receiver, first frame of a session's first link.

    `sender` is what the receiver judges it by; see `lineage.py`.
    """

    version_min: int
    version_max: int
    site: str
    group: str
    sender: SenderState
    volumes: tuple[VolumeOffer, ...]
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Welcome:
    """Receiver's answer: the session exists, durably numbered `epoch`.

    `receiver` is its state before this session, which the sender judges. `receipt`
    is for the sender to record before it sends anything: the next HELLO shows it.
    The times are of the point `receiver.committed`.
    """

    version: int
    site: str
    epoch: int
    token: bytes
    receipt: bytes
    receiver: ReceiverState
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
    """Runs (first, count) of the frame `sequence` that must come whole.

    Of HASHES those that differ, of TRACKS those whose base is not what XOR needs.
    Comes before the PROGRESS that covers the frame; runs ascend.
    """

    epoch: int
    cycle_id: bytes
    sequence: int
    volume: int
    runs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """Frames whose tracks are durable on the secondary volume: [first, last] pairs.

    `count` is the relation's progress count, durable too: a receiver that comes back
    with a lower one is an older copy, and lacks what was acknowledged since.
    """

    epoch: int
    cycle_id: bytes
    sequences: tuple[tuple[int, int], ...]
    count: int


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
class Noted:
    """The sender has recorded this session, and that this cycle is the newest point.

    None before the first point. What the sender has recorded it can't have forgotten
    later, unless it is an older copy of itself.
    """

    epoch: int
    cycle_id: bytes | None


@dataclass(frozen=True, slots=True)
class Resize:
    """The sender's record says that a volume has grown to `size_bytes`.

    Between cycles only; echoed once durable. `from_bytes`: what it had before it
    ever grew. A receiver with a size between the two has missed a growth; with any
    other one it holds something else.
    """

    epoch: int
    volume: int
    from_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class AskChanged:
    """Which tracks of a volume, from `first` on, does the receiver hold otherwise?

    Otherwise than the cycle says that its WELCOME calls committed. Asked before the
    first cycle of a session, of each volume, until all of it has been told.
    """

    epoch: int
    volume: int
    first: int


@dataclass(frozen=True, slots=True)
class Changed:
    """The answer: these runs, and all between, up to `end`, is as it should be.

    `end` is the volume's track count once all has been told. `numbers_up_to`: numbers
    of cycles that the receiver has used for others; the sender goes on above them.
    """

    epoch: int
    volume: int
    runs: tuple[tuple[int, int], ...]
    end: int
    numbers_up_to: int


@dataclass(frozen=True, slots=True)
class HandOver:
    """The receiver shall take over from its newest point, `fork.cycle`, at once.

    The sender's hosts write no more, and all they have written is in that point. The
    answer is the end of the session: GOODBYE *superseded* with this fork, once the
    receiver has recorded it; *not permitted* where it can't send.
    """

    epoch: int
    fork: Fork


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
    """The last message of a link.

    `fork`: of a receiver that has taken over, with the reasons `FORKED` and only those,
    which only a sender gets that offered the feature "takeover".
    """

    reason: int
    text: str
    fork: ToldFork | None = None


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
    | Noted
    | Verify
    | Verified
    | LinkNumber
    | LinksLost
    | LinksClosed
    | ControlReceived
    | Resize
    | AskChanged
    | Changed
    | HandOver
    | Whole
    | OfferVolume
    | VolumeAnswered
)


def goodbye(reason: GoodbyeReason, text: str, fork: ToldFork | None = None) -> Goodbye:
    """Return a goodbye whose text fits, whatever it was made of."""
    whole = text.encode("utf-8", "replace")[:GOODBYE_BYTES_MAX]
    return Goodbye(reason, whole.decode("utf-8", "ignore"), fork)
