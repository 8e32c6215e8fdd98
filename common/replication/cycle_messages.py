"""Messages of a cycle, from its begin to its commit, and what one frame may hold. Pure.

Bulk bytes travel as a frame's payload beside its meta (`payload` fields here), never
inside it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from common.storage.geometry import TRACK_BYTES_MIN

HASH_BYTES = 16

LABEL_BYTES_MAX = 256

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


class Encoding(enum.IntEnum):
    """How a record's tracks are written in a TRACKS payload."""

    ZERO = 0
    RAW = 1
    XOR = 2  # to what the receiver holds: with the feature "delta" only


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
