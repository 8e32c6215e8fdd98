"""What a site answers that is asked to receive a group which it sends itself.

Pure. After a takeover both sites may send: the old primary, until an operator has
chosen, and the one that went on from it. Each is told what the other one is.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.replication.features import EXCHANGE, TAKEOVER
from common.replication.lineage import Fork, ToldFork
from common.replication.messages import Goodbye, GoodbyeReason, Hello, goodbye


@dataclass(frozen=True, slots=True)
class SenderHere:
    """The sending role of this site.

    `superseded`, `handing`, `reclaimed`: as in its durable state. `is_forked`: it sends
    what it has taken over, so that its store judges who comes.
    """

    group: str
    group_id: bytes
    lineage: bytes
    superseded: ToldFork | None
    handing: Fork | None
    reclaimed: ToldFork | None
    is_forked: bool


def answer(hello: Hello, here: SenderHere) -> Goodbye | None:
    """Return the refusal; None where the store has to judge."""
    asks = hello.sender.lineage
    if hello.sender.group_id == here.group_id:
        told = here.reclaimed
        if told is not None and told.fork.parent == asks and TAKEOVER in hello.features:
            text = (
                f"group {here.group!r} goes on at the remote from its own data, in "
                f"lineage {told.fork.lineage.hex()}: an operator has chosen that"
            )
            return goodbye(GoodbyeReason.SUPERSEDED, text, told)
        if here.handing is not None and here.handing.lineage == asks:
            return not_yet(hello, f"group {here.group!r} is being handed over just now")
        if here.superseded is not None and here.superseded.fork.lineage == asks:
            return not_yet(
                hello,
                f"the remote knows that group {here.group!r} is served here, and keeps "
                f"its own data until an operator gives them up: farshore failback "
                f"{here.group} there",
            )
    if here.is_forked:
        return None
    return not_yet(
        hello,
        f"the remote sends group {here.group!r} itself, in lineage "
        f"{here.lineage.hex()}, this site in {asks.hex()}: keep hosts away from one of "
        "the two, and look at farshore status at both",
    )


def not_yet(hello: Hello, text: str) -> Goodbye:
    """Have a sender come again soon; one that knows no such reason, some time."""
    knows = EXCHANGE in hello.features
    return goodbye(GoodbyeReason.NOT_YET if knows else GoodbyeReason.LINEAGE, text)
