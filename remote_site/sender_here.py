"""What a site answers that is asked to receive a group which it sends itself.

Pure. After a takeover both sites may send: the old primary, until an operator has
chosen, and the one that went on from it. Each is told what the other one is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.replication.features import EXCHANGE, TAKEOVER
from common.replication.lineage import Fork, ToldFork
from common.replication.session_messages import Goodbye, GoodbyeReason, Hello, goodbye


@dataclass(frozen=True, slots=True)
class SenderHere:
    """The sending role of this site.

    `superseded`, `handing`, `reclaimed`: as in its durable state. `taken`: where what
    it sends was taken over, if it was: then its store judges who comes, unless the
    line has changed since.
    """

    group: str
    group_id: bytes
    lineage: bytes
    superseded: ToldFork | None
    handing: Fork | None
    reclaimed: ToldFork | None
    taken: Fork | None


def answer(hello: Hello, here: SenderHere) -> Goodbye | None:
    """Return the refusal; None where the store has to judge."""
    if hello.sender.group_id == here.group_id:
        found = _answer_of_group(hello, here)
        if found is not None:
            return found
    if here.taken is not None:
        return None
    return _sends_itself(hello, here)


def _answer_of_group(hello: Hello, here: SenderHere) -> Goodbye | None:
    """Answer another site that sends this very group, where no store need judge."""
    asks = hello.sender.lineage
    told = here.reclaimed
    if told is not None and told.fork.parent == asks and TAKEOVER in hello.features:
        return _superseded(here, told)
    if here.handing is not None and here.handing.lineage == asks:
        return not_yet(hello, f"group {here.group!r} is being handed over just now")
    if here.superseded is not None:
        return _here_superseded(hello, here, here.superseded.fork)
    if told is not None and TAKEOVER in hello.features:
        return _goes_on_otherwise(here, told.fork, asks)
    return None


def _superseded(here: SenderHere, told: ToldFork) -> Goodbye:
    text = (
        f"group {here.group!r} goes on at the remote from its own data, in lineage "
        f"{told.fork.lineage.hex()}: an operator has chosen that"
    )
    return goodbye(GoodbyeReason.SUPERSEDED, text, told)


def _here_superseded(hello: Hello, here: SenderHere, fork: Fork) -> Goodbye:
    """Answer at a site whose own line has ended: nobody is to receive that one."""
    if fork.lineage == hello.sender.lineage:
        return not_yet(
            hello,
            f"the remote knows that group {here.group!r} is served here, and keeps "
            f"its own data until an operator gives them up: farshore failback "
            f"{here.group} there",
        )
    return not_yet(
        hello,
        f"the remote was superseded in lineage {fork.lineage.hex()} of group "
        f"{here.group!r}, this site sends {hello.sender.lineage.hex()}: put back the "
        f"site that sent the former, or choose what the remote has: farshore takeover "
        f"{here.group} --force there",
    )


def _goes_on_otherwise(here: SenderHere, reclaimed: Fork, asks: bytes) -> Goodbye:
    """Tell an older copy the line that is sent now, and not one that has ended.

    The two have met since in a line that the copy does not know: what it has changed
    counts from nothing that this site remembers.
    """
    taken = here.taken
    if taken is not None and taken.parent == asks:
        fork = replace(taken, lineage=reclaimed.lineage)
        return _superseded(here, ToldFork(fork, is_known=False))
    text = (
        f"split brain: group {here.group!r} is served by both sites, by the remote in "
        f"lineage {reclaimed.lineage.hex()} and here in {asks.hex()}: keep hosts away "
        "from one of the two, and look at farshore status at both"
    )
    return goodbye(GoodbyeReason.SPLIT_BRAIN, text, ToldFork(reclaimed, is_known=False))


def _sends_itself(hello: Hello, here: SenderHere) -> Goodbye:
    return not_yet(
        hello,
        f"the remote sends group {here.group!r} itself, in lineage "
        f"{here.lineage.hex()}, this site in {hello.sender.lineage.hex()}: keep hosts "
        "away from one of the two, and look at farshore status at both",
    )


def not_yet(hello: Hello, text: str) -> Goodbye:
    """Have a sender come again soon; one that knows no such reason, some time."""
    knows = EXCHANGE in hello.features
    return goodbye(GoodbyeReason.NOT_YET if knows else GoodbyeReason.LINEAGE, text)
