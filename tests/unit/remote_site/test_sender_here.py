"""What a site says that is asked to receive what it sends itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.errors import RefusedError
from common.replication.features import EXCHANGE, TAKEOVER
from common.replication.lineage import CycleName, Fork, SenderState, ToldFork
from common.replication.session_messages import PROTOCOL_VERSION, GoodbyeReason, Hello
from common.service.group_identity import GroupIdentity
from remote_site.identity import served_identity
from remote_site.sender_here import SenderHere, answer

GROUP, OURS, THEIRS, NEW, FIRST = (bytes([n]) * 16 for n in range(1, 6))
FORK = Fork(THEIRS, OURS, CycleName(7, b"c" * 16), 10, 20)
HERE = SenderHere("g", GROUP, OURS, None, None, None, None)
TAKEN = Fork(OURS, FIRST, CycleName(4, b"p" * 16), 1, 2)
"""How this site came to send what it sends."""

BOTH = (TAKEOVER, EXCHANGE)


def hello(lineage: bytes, features: tuple[str, ...] = BOTH) -> Hello:
    sender = SenderState(GROUP, lineage)
    return Hello(PROTOCOL_VERSION, PROTOCOL_VERSION, "b", "g", sender, (), features)


@pytest.mark.parametrize(
    ("here", "says"),
    [
        (HERE, "sends group 'g' itself"),
        (
            replace(HERE, superseded=ToldFork(FORK, is_known=True)),
            "farshore failback g",
        ),
        (replace(HERE, handing=FORK), "being handed over"),
        (replace(HERE, handing=FORK, taken=TAKEN), "being handed over"),
    ],
)
def test_a_sender_is_told_what_the_other_site_is_and_comes_again(
    here: SenderHere, says: str
) -> None:
    told = answer(hello(THEIRS), here)
    assert told is not None
    assert told.reason == GoodbyeReason.NOT_YET
    assert says in told.text
    assert not GoodbyeReason.NOT_YET.is_permanent
    old = answer(hello(THEIRS, ()), here)
    assert old is not None
    assert old.reason == GoodbyeReason.LINEAGE, "a release that knows no such reason"


def test_what_was_taken_over_is_judged_by_its_fork() -> None:
    forked = replace(HERE, taken=TAKEN)
    assert answer(hello(THEIRS), forked) is None
    assert answer(hello(NEW), replace(forked, handing=FORK)) is None


RECLAIMED = ToldFork(replace(FORK, lineage=NEW, parent=THEIRS), is_known=True)


def test_a_site_that_an_operator_had_go_on_supersedes_the_other_one() -> None:
    here = replace(HERE, lineage=NEW, reclaimed=RECLAIMED, taken=TAKEN)
    found = answer(hello(THEIRS), here)
    assert found is not None
    assert (found.reason, found.fork) == (GoodbyeReason.SUPERSEDED, RECLAIMED)
    stranger = replace(hello(THEIRS), sender=SenderState(NEW, THEIRS))
    assert answer(stranger, here) is None, "another group of that name"
    for lineage in (FIRST, THEIRS):
        assert answer(hello(lineage, ()), here) is None, "it can be told of no fork"


def test_an_older_copy_is_told_the_line_that_is_sent_now() -> None:
    """Whoever gave up for one that has ended would refuse the one that goes on."""
    here = replace(HERE, lineage=NEW, reclaimed=RECLAIMED, taken=TAKEN)
    found = answer(hello(FIRST), here)
    assert found is not None
    told = ToldFork(replace(TAKEN, lineage=NEW), is_known=False)
    assert (found.reason, found.fork) == (GoodbyeReason.SUPERSEDED, told)
    for site in (here, replace(here, taken=None)):
        split = answer(hello(OURS), site)
        assert split is not None
        told = replace(RECLAIMED, is_known=False)
        assert (split.reason, split.fork) == (GoodbyeReason.SPLIT_BRAIN, told)


def test_a_superseded_site_has_nobody_receive_its_line() -> None:
    superseded = ToldFork(FORK, is_known=True)
    here = replace(HERE, superseded=superseded, reclaimed=RECLAIMED, taken=TAKEN)
    for lineage in (FIRST, NEW):
        told = answer(hello(lineage), here)
        assert told is not None
        assert told.reason == GoodbyeReason.NOT_YET
        assert "farshore takeover g --force there" in told.text


NEWEST = CycleName(9, b"n" * 16)


def told_to_one_without_state(here: SenderHere) -> GroupIdentity:
    return served_identity(here, "b", NEWEST, (), is_connected=False)


def test_who_has_lost_its_state_is_told_the_line_that_is_served_now() -> None:
    here = replace(HERE, taken=TAKEN)
    told = told_to_one_without_state(here)
    assert told.served is not None
    assert told.served.lineage == told.lineage == OURS.hex()
    assert told.served.parent == FIRST.hex()
    assert told.begun is not None
    assert told.begun.number == NEWEST.number
    assert told == GroupIdentity.model_validate(told.to_json())
    since = replace(here, lineage=NEW, reclaimed=RECLAIMED)
    again = told_to_one_without_state(since).served
    assert again is not None
    assert again.lineage == NEW.hex(), "not the line that it once took over with"


@pytest.mark.parametrize(
    "here",
    [
        HERE,
        replace(HERE, taken=TAKEN, superseded=ToldFork(FORK, is_known=True)),
        replace(HERE, taken=TAKEN, handing=FORK),
    ],
)
def test_nobody_is_told_to_receive_what_is_not_served_for_certain(
    here: SenderHere,
) -> None:
    with pytest.raises(RefusedError):
        told_to_one_without_state(here)
    with pytest.raises(RefusedError, match="lost nothing"):
        served_identity(replace(HERE, taken=TAKEN), "b", NEWEST, (), is_connected=True)
