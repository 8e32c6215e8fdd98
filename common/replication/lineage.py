"""May data flow from this sender to this receiver, and what is to be compared first?

Pure, and one function for both sites: the receiver judges a HELLO and refuses, the
sender judges the WELCOME again and acts. Its specification, which this follows rule
by rule, is docs/internals/lineage.md.

Each side shows what its durable state says. Either may be an older copy of itself: a
state directory, or a whole machine, put back. An older copy is known by what the other
side remembers of a time that the copy has not seen.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

ID_BYTES = 16
NO_ID = bytes(ID_BYTES)


@dataclass(frozen=True, slots=True)
class CycleName:
    """A cycle's number, and the random id that tells two of one number apart."""

    number: int
    cycle_id: bytes


@dataclass(frozen=True, slots=True)
class SenderState:
    """What a sender's durable state says.

    `epoch`, `receipt`: of the newest session it has recorded. `newest`: the newest
    cycle it ever began. `committed`: the newest it knows to be a recovery point.
    `relation_id`, `progress_count`: the receiver's relation, and how much of the
    progress made in it the acked bits rely on.
    """

    group_id: bytes
    lineage: bytes
    epoch: int = 0
    receipt: bytes = NO_ID
    newest: CycleName | None = None
    committed: CycleName | None = None
    relation_id: bytes = NO_ID
    progress_count: int = 0


@dataclass(frozen=True, slots=True)
class ReceiverState:
    """What a receiver's durable state says; identities are None before it is bound.

    `shown_epoch`, `shown`: epoch and receipt of the newest session that the sender has
    proved to have recorded; `given`: the receipt handed out last. `begun`: the newest
    cycle that tracks may have been applied of. `is_noted`: the sender is known to have
    recorded `committed`. `progress_count`: how often progress was made durable in this
    relation.
    """

    group_id: bytes | None = None
    lineage: bytes | None = None
    shown_epoch: int = 0
    shown: bytes = NO_ID
    given: bytes = NO_ID
    begun: CycleName | None = None
    committed: CycleName | None = None
    is_noted: bool = False
    relation_id: bytes = NO_ID
    progress_count: int = 0


class Verdict(enum.Enum):
    GO_ON = "the same point and relation: acked tracks need not be sent again"
    COMPARE_ACKED = "the receiver is an older copy of itself: acked tracks are compared"
    SEND_AGAIN = "another relation: nothing is acked"
    NOTE_POINT = "the receiver has committed the newest cycle; its answer was lost"
    COMPARE_ALL = "the receiver has lost points: every track is compared"
    UNRELATED = "another group of that name"
    OTHER_LINEAGE = "another line of data"
    SENDER_OLDER = "the sender is an older copy of itself"
    PARTED = "both have gone on from a common past"

    @property
    def is_refusal(self) -> bool:
        """Tell whether nothing may be sent, and nothing may change at either site."""
        return self in _REFUSALS


_REFUSALS = {
    Verdict.UNRELATED,
    Verdict.OTHER_LINEAGE,
    Verdict.SENDER_OLDER,
    Verdict.PARTED,
}


def judge(sender: SenderState, receiver: ReceiverState) -> Verdict:
    """Return the verdict: the first rule that applies, in this order."""
    if receiver.group_id not in (None, sender.group_id):
        return Verdict.UNRELATED
    if receiver.lineage not in (None, sender.lineage):
        return Verdict.OTHER_LINEAGE
    if _is_sender_older(sender, receiver):
        return Verdict.SENDER_OLDER
    if _have_parted(sender, receiver):
        return Verdict.PARTED
    if receiver.committed != sender.committed:
        if receiver.committed is not None and receiver.committed == sender.newest:
            return Verdict.NOTE_POINT
        return Verdict.COMPARE_ALL
    if receiver.relation_id != sender.relation_id:
        return Verdict.SEND_AGAIN
    if (
        sender.receipt not in (receiver.shown, receiver.given)  # newer: see above
        or receiver.progress_count < sender.progress_count
    ):
        return Verdict.COMPARE_ACKED
    return Verdict.GO_ON


def _is_sender_older(sender: SenderState, receiver: ReceiverState) -> bool:
    """The receiver remembers something of the sender that the sender does not."""
    newest = _number(sender.newest)
    is_noting_forgotten = (
        receiver.is_noted
        and receiver.committed is not None
        and receiver.committed == sender.newest
        and receiver.committed != sender.committed
    )
    return (
        _is_session_unknown(sender, receiver)
        or _number(receiver.begun) > newest
        or _number(receiver.committed) > newest
        or is_noting_forgotten
    )


def _have_parted(sender: SenderState, receiver: ReceiverState) -> bool:
    """One number names two cycles, or a point is of no cycle that the sender began."""
    begun, committed = receiver.begun, receiver.committed
    is_begun_another = (
        begun is not None
        and begun.number == _number(sender.newest)
        and begun != sender.newest
    )
    return is_begun_another or (
        committed is not None
        and committed not in (sender.committed, sender.newest)
        and committed.number >= _number(sender.committed)
    )


def _is_session_unknown(sender: SenderState, receiver: ReceiverState) -> bool:
    """The sender does not know the session that it, or another copy, once showed.

    Those that a sender has recorded have ever higher epochs, and each another receipt.
    How many the receiver has begun since says nothing: the sender need not have
    recorded them, and an older copy of the receiver gives their numbers again.
    """
    is_of_one_number = sender.epoch == receiver.shown_epoch
    is_of_one_receipt = sender.receipt == receiver.shown
    return sender.epoch < receiver.shown_epoch or is_of_one_number != is_of_one_receipt


def _number(cycle: CycleName | None) -> int:
    """Return a cycle's number; 0, which no cycle has, for none."""
    return 0 if cycle is None else cycle.number


def why_refused(
    verdict: Verdict, group: str, sender: SenderState, receiver: ReceiverState
) -> str:
    """Return the sentence for operators of both sites: what, and what to do."""
    match verdict:
        case Verdict.UNRELATED:
            assert receiver.group_id is not None
            return (
                f"group {group!r} at the remote belongs to group id "
                f"{receiver.group_id.hex()}, this site's is {sender.group_id.hex()}: "
                "another state_dir made it; start with the site.state_dir that has "
                "always sent this group, or use another group.name"
            )
        case Verdict.OTHER_LINEAGE:
            assert receiver.lineage is not None
            return (
                f"group {group!r} at the remote is of lineage "
                f"{receiver.lineage.hex()}, this site's of {sender.lineage.hex()}: the "
                "data have parted; look at `farshore status` at both sites before "
                "anything is sent"
            )
        case Verdict.SENDER_OLDER:
            return (
                f"group {group!r}: the state directory of this site, up to "
                f"{_told(sender.newest)} in session {sender.epoch}, is an older copy: "
                f"the remote knows {_told(_newer(receiver.begun, receiver.committed))} "
                f"in session {receiver.shown_epoch}; put back the newest "
                "site.state_dir and the devices that belong to it, or go on from the "
                "remote's point"
            )
        case Verdict.PARTED:
            return (
                f"group {group!r}: the remote's {_told(receiver.begun)} and point "
                f"{_told(receiver.committed)} are not of the line that this site "
                f"followed to {_told(sender.newest)} and point "
                f"{_told(sender.committed)}: each has gone on from an older copy; put "
                "back the state and devices that belong together"
            )
        case _:
            raise AssertionError(f"{verdict} is no refusal")


def _newer(a: CycleName | None, b: CycleName | None) -> CycleName | None:
    return a if _number(a) >= _number(b) else b


def _told(cycle: CycleName | None) -> str:
    if cycle is None:
        return "no cycle"
    return f"cycle {cycle.number} ({cycle.cycle_id.hex()[:8]})"
