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


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a line of data left its parent: what a receiver that took over remembers.

    `lineage` is new, `parent` the one received until then. `cycle` is the newest point
    that both have, cut at `cut_ns` (clock of the parent's sender); taken over at
    `at_ns` (clock of the receiver).
    """

    lineage: bytes
    parent: bytes
    cycle: CycleName
    cut_ns: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class ToldFork:
    """A fork, as one sender is told of it.

    `is_known`: what this sender shows is the newest that the receiver had met of it
    when it took over, and its newest point is one that the receiver had. If not, one
    of the two is an older copy of itself, or another copy went on: what they say of
    changes since the fork is not all.
    """

    fork: Fork
    is_known: bool


class Verdict(enum.Enum):
    GO_ON = "the same point and relation: acked tracks need not be sent again"
    COMPARE_ACKED = "the receiver is an older copy of itself: acked tracks are compared"
    SEND_AGAIN = "another relation: nothing is acked"
    NOTE_POINT = "the receiver has committed the newest cycle; its answer was lost"
    COMPARE_ALL = "the receiver has lost points: every track is compared"
    UNRELATED = "another group of that name"
    SUPERSEDED = "the receiver has taken over from this very line of data"
    SPLIT_BRAIN = "both serve, and neither took over from the other"
    OTHER_LINEAGE = "another line of data"
    SENDER_OLDER = "the sender is an older copy of itself"
    PARTED = "both have gone on from a common past"

    @property
    def is_refusal(self) -> bool:
        """Tell whether nothing may be sent, and nothing may change at either site."""
        return self in _REFUSALS


_REFUSALS = {
    Verdict.UNRELATED,
    Verdict.SUPERSEDED,
    Verdict.SPLIT_BRAIN,
    Verdict.OTHER_LINEAGE,
    Verdict.SENDER_OLDER,
    Verdict.PARTED,
}


def judge(
    sender: SenderState, receiver: ReceiverState, fork: Fork | None = None
) -> Verdict:
    """Return the verdict: the first rule that applies, in this order.

    `fork`: of a receiver that has taken over, or is about to. It welcomes nobody, so a
    sender that judges a WELCOME has none.
    """
    other_data = _other_data(sender, receiver, fork)
    if other_data is not None:
        return other_data
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


def _other_data(
    sender: SenderState, receiver: ReceiverState, fork: Fork | None
) -> Verdict | None:
    """Group and lines of data: None if both sites mean the same one."""
    if receiver.group_id not in (None, sender.group_id):
        return Verdict.UNRELATED
    if fork is not None:
        is_parent = sender.lineage == fork.parent
        return Verdict.SUPERSEDED if is_parent else Verdict.SPLIT_BRAIN
    if receiver.lineage not in (None, sender.lineage):
        return Verdict.OTHER_LINEAGE
    return None


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
    verdict: Verdict,
    group: str,
    sender: SenderState,
    receiver: ReceiverState,
    fork: Fork | None = None,
) -> str:
    """Return the sentence for operators of both sites: what, and what to do."""
    match verdict:
        case Verdict.SUPERSEDED:
            assert fork is not None
            return (
                f"group {group!r} was taken over at the remote, from point "
                f"{fork.cycle.number}, in lineage {fork.lineage.hex()}: what this "
                f"site, up to {_told(sender.newest)} of lineage {fork.parent.hex()}, "
                "has written since is not there; keep hosts away from one of the two"
            )
        case Verdict.SPLIT_BRAIN:
            assert fork is not None
            return (
                f"split brain: group {group!r} is served by both sites, by the remote "
                f"in lineage {fork.lineage.hex()}, taken over from "
                f"{fork.parent.hex()} at point {fork.cycle.number}, and here in "
                f"{sender.lineage.hex()}: keep hosts away from one of the two, and "
                "look at `farshore status` at both"
            )
        case Verdict.UNRELATED:
            assert receiver.group_id is not None
            return (
                f"group {group!r} at the remote belongs to group id "
                f"{receiver.group_id.hex()}, this site's is {sender.group_id.hex()}: "
                "another state_dir made it; start with the site.state_dir that has "
                "always sent this group (lost? farshore adopt goes on without it), or "
                "use another group.name"
            )
        case Verdict.OTHER_LINEAGE:
            assert receiver.lineage is not None
            return (
                f"group {group!r} at the remote is of lineage "
                f"{receiver.lineage.hex()}, this site's of {sender.lineage.hex()}: the "
                "data have parted; look at `farshore status` at both sites before "
                f"anything is sent; to keep both, {_way_out(group)}"
            )
        case Verdict.SENDER_OLDER:
            return (
                f"group {group!r}: the state directory of this site, up to "
                f"{_told(sender.newest)} in session {sender.epoch}, is an older copy: "
                f"the remote knows {_told(_newer(receiver.begun, receiver.committed))} "
                f"in session {receiver.shown_epoch}; put back the newest "
                "site.state_dir and the devices that belong to it, or "
                f"{_way_out(group)}"
            )
        case Verdict.PARTED:
            return (
                f"group {group!r}: the remote's {_told(receiver.begun)} and point "
                f"{_told(receiver.committed)} are not of the line that this site "
                f"followed to {_told(sender.newest)} and point "
                f"{_told(sender.committed)}: each has gone on from an older copy; put "
                f"back the state and devices that belong together, or {_way_out(group)}"
            )
        case _:
            raise AssertionError(f"{verdict} is no refusal")


def _way_out(group: str) -> str:
    """Return what leads on where nothing can be put back; each side's data are kept."""
    return (
        f"go on from what the remote has: farshore takeover {group} --force there, "
        f"then farshore failback {group} here"
    )


def _newer(a: CycleName | None, b: CycleName | None) -> CycleName | None:
    return a if _number(a) >= _number(b) else b


def _told(cycle: CycleName | None) -> str:
    if cycle is None:
        return "no cycle"
    return f"cycle {cycle.number} ({cycle.cycle_id.hex()[:8]})"
