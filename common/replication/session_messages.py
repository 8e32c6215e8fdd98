"""Messages of a session: how it begins, who each side is, and how it ends. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from common.replication.lineage import ReceiverState, SenderState, ToldFork

PROTOCOL_VERSION = 2
"""The one version spoken; HELLO carries a range so that later ones can overlap."""

VOLUMES_MAX = 256
"""Volumes of one group: HELLO has to fit a meta."""

FEATURES_MAX = 32

GOODBYE_BYTES_MAX = 4096


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


def goodbye(reason: GoodbyeReason, text: str, fork: ToldFork | None = None) -> Goodbye:
    """Return a goodbye whose text fits, whatever it was made of."""
    whole = text.encode("utf-8", "replace")[:GOODBYE_BYTES_MAX]
    return Goodbye(reason, whole.decode("utf-8", "ignore"), fork)
