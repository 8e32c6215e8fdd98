from __future__ import annotations

from dataclasses import replace

import pytest

from common.certificates import Certificate
from common.replication.features import GROW, MEMBERS, TAKEOVER
from common.replication.lineage import (
    CycleName,
    Fork,
    ReceiverState,
    SenderState,
    ToldFork,
)
from common.replication.session_messages import GoodbyeReason, Hello, VolumeOffer
from remote_site.admission import (
    Expected,
    certificate_refusal,
    refusal,
    unknown_group,
)

DATA = VolumeOffer("data", b"d" * 16, 1 << 30, 4096)
LOG = VolumeOffer("log", b"w" * 16, 1 << 20, 8192)
SENDER = SenderState(b"g" * 16, b"l" * 16)
HELLO = Hello(2, 2, "amsterdam", "orders", SENDER, (DATA, LOG))
UNBOUND = Expected("orders", "amsterdam", ["data", "log"], ReceiverState(), ())
BOUND = replace(UNBOUND, state=ReceiverState(b"g" * 16, b"l" * 16), volumes=(DATA, LOG))


@pytest.mark.parametrize("expected", [UNBOUND, BOUND])
def test_who_belongs_here_is_let_in(expected: Expected) -> None:
    assert refusal(HELLO, expected) is None
    assert refusal(replace(HELLO, volumes=(LOG, DATA)), expected) is None
    assert refusal(replace(HELLO, version_max=9), expected) is None


@pytest.mark.parametrize(
    ("hello", "expected", "reason", "words"),
    [
        (
            replace(HELLO, version_min=3, version_max=4),
            UNBOUND,
            GoodbyeReason.VERSION,
            ["version 2", "3 to 4", "install"],
        ),
        (
            replace(HELLO, site="berlin"),
            UNBOUND,
            GoodbyeReason.WRONG_PEER,
            ["'amsterdam'", "'berlin'", "group.peer", "site.name"],
        ),
        (
            replace(HELLO, sender=replace(SENDER, group_id=b"h" * 16)),
            BOUND,
            GoodbyeReason.WRONG_GROUP,
            [(b"g" * 16).hex(), (b"h" * 16).hex(), "state_dir"],
        ),
        (
            replace(HELLO, sender=replace(SENDER, lineage=b"m" * 16)),
            BOUND,
            GoodbyeReason.LINEAGE,
            [(b"l" * 16).hex(), (b"m" * 16).hex(), "farshore status"],
        ),
        (
            replace(HELLO, volumes=(DATA,)),
            UNBOUND,
            GoodbyeReason.VOLUME_MISMATCH,
            ["data, log at", "data here", "group.volume"],
        ),
        (
            replace(HELLO, volumes=(DATA, LOG, LOG)),
            UNBOUND,
            GoodbyeReason.VOLUME_MISMATCH,
            ["data, log, log"],
        ),
        (
            replace(HELLO, volumes=(DATA,), features=(MEMBERS,)),
            UNBOUND,
            GoodbyeReason.VOLUME_MISMATCH,
            ["data, log at", "data here", "group.volume"],
        ),
        (
            replace(HELLO, volumes=(DATA, LOG, LOG), features=(MEMBERS,)),
            BOUND,
            GoodbyeReason.VOLUME_MISMATCH,
            ["data, log, log"],
        ),
        (
            replace(HELLO, volumes=(), features=(MEMBERS,)),
            BOUND,
            GoodbyeReason.VOLUME_MISMATCH,
            ["data, log at"],
        ),
        (
            replace(HELLO, volumes=(DATA, replace(LOG, size_bytes=512))),
            BOUND,
            GoodbyeReason.SIZE_MISMATCH,
            ["orders/log", "1048576", "512", "older copy", "site.state_dir"],
        ),
        (
            replace(HELLO, volumes=(DATA, replace(LOG, size_bytes=512))),
            replace(BOUND, is_divided=True),
            GoodbyeReason.SIZE_MISMATCH,
            ["never shrinks", "farshore grow orders/log 1048576"],
        ),
        (
            replace(
                HELLO, volumes=(DATA, replace(LOG, size_bytes=512, volume_id=b"x" * 16))
            ),
            BOUND,
            GoodbyeReason.SIZE_MISMATCH,
            ["orders/log", "1048576", "512", "group.volume.size"],
        ),
        (
            replace(
                HELLO, volumes=(DATA, replace(LOG, size_bytes=512, volume_id=b"x" * 16))
            ),
            replace(BOUND, is_divided=True),
            GoodbyeReason.SIZE_MISMATCH,
            ["orders/log", "group.volume.size"],
        ),
        (
            replace(HELLO, volumes=(DATA, replace(LOG, size_bytes=2 << 20))),
            BOUND,
            GoodbyeReason.SIZE_MISMATCH,
            ["orders/log", "1048576", "2097152", "group.volume.size"],
        ),
        (
            replace(HELLO, volumes=(replace(DATA, track_bytes=65536), LOG)),
            BOUND,
            GoodbyeReason.TRACK_SIZE_MISMATCH,
            ["orders/data", "4096", "65536", "group.volume.track_size"],
        ),
        (
            replace(HELLO, volumes=(replace(DATA, volume_id=b"x" * 16), LOG)),
            BOUND,
            GoodbyeReason.VOLUME_MISMATCH,
            [(b"d" * 16).hex(), (b"x" * 16).hex(), "group.volume.name"],
        ),
    ],
)
def test_who_does_not_is_told_both_values_the_key_and_the_remedy(
    hello: Hello, expected: Expected, reason: GoodbyeReason, words: list[str]
) -> None:
    found = refusal(hello, expected)
    assert found is not None
    assert found.reason == reason
    assert reason.is_permanent
    for word in words:
        assert word in found.text


def test_an_unknown_group_is_named() -> None:
    found = unknown_group(HELLO)
    assert found.reason == GoodbyeReason.UNKNOWN_GROUP
    assert "'orders'" in found.text


@pytest.mark.parametrize("volumes", [(DATA,), (DATA, LOG)])
def test_volumes_of_a_bound_group_come_and_go_where_the_sender_can_say_so(
    volumes: tuple[VolumeOffer, ...],
) -> None:
    bound = replace(BOUND, volume_names=["data", "log", "later"])
    assert refusal(replace(HELLO, volumes=volumes, features=(MEMBERS,)), bound) is None
    found = refusal(replace(HELLO, volumes=(DATA,)), bound)
    assert found is not None, "of an earlier release: it would be a loss"
    assert found.reason == GoodbyeReason.VOLUME_MISMATCH


def test_a_volume_has_grown_where_the_sender_can_say_so() -> None:
    larger = (DATA, replace(LOG, size_bytes=2 << 20))
    assert refusal(replace(HELLO, volumes=larger, features=(GROW,)), BOUND) is None


def test_a_certificate_names_the_peer() -> None:
    assert certificate_refusal(None, "orders", "amsterdam") is None
    both = Certificate(frozenset({"amsterdam", "berlin"}), 0)
    assert certificate_refusal(both, "orders", "amsterdam") is None
    found = certificate_refusal(both, "orders", "cologne")
    assert found is not None
    assert found.reason == GoodbyeReason.WRONG_PEER
    for word in ("'cologne'", "amsterdam, berlin", "DNS:cologne"):
        assert word in found.text


def test_a_superseded_sender_is_told_where_if_it_can_be_told() -> None:
    fork = Fork(b"m" * 16, b"l" * 16, CycleName(3, b"c" * 16), 7, 9)
    taken = replace(BOUND, fork=fork)
    found = refusal(replace(HELLO, features=(TAKEOVER,)), taken)
    assert found is not None
    assert (found.reason, found.fork) == (
        GoodbyeReason.SUPERSEDED,
        ToldFork(fork, is_known=True),
    )
    known = refusal(HELLO, taken)
    assert known is not None
    assert (known.reason, known.fork) == (GoodbyeReason.LINEAGE, None)
    assert known.text == found.text
    other = replace(SENDER, lineage=b"o" * 16)
    split = refusal(replace(HELLO, sender=other, features=(TAKEOVER,)), taken)
    assert split is not None
    assert (split.reason, split.fork) == (
        GoodbyeReason.SPLIT_BRAIN,
        ToldFork(fork, is_known=False),
    )
    # One that was put back to before what this site had met of it.
    met = replace(taken, state=replace(BOUND.state, begun=CycleName(3, b"c" * 16)))
    older = refusal(replace(HELLO, features=(TAKEOVER,)), met)
    assert older is not None
    assert older.fork == ToldFork(fork, is_known=False)


def test_what_changed_is_not_known_if_the_taker_had_lost_a_point() -> None:
    """What the sender has changed is counted from that point, not from the fork's."""
    fork = Fork(b"m" * 16, b"l" * 16, CycleName(3, b"c" * 16), 7, 9)
    newer = CycleName(4, b"d" * 16)
    sender = replace(SENDER, newest=newer, committed=newer)
    taken = replace(BOUND, state=replace(BOUND.state, committed=fork.cycle), fork=fork)
    found = refusal(replace(HELLO, sender=sender, features=(TAKEOVER,)), taken)
    assert found is not None
    assert found.fork == ToldFork(fork, is_known=False)
    has_it = replace(taken, state=replace(taken.state, committed=newer))
    found = refusal(replace(HELLO, sender=sender, features=(TAKEOVER,)), has_it)
    assert found is not None
    assert found.fork == ToldFork(fork, is_known=True)
    # It went on from what it had given up, which the sender never had.
    own = replace(has_it, is_fork_common=False)
    found = refusal(replace(HELLO, sender=sender, features=(TAKEOVER,)), own)
    assert found is not None
    assert found.fork == ToldFork(fork, is_known=False)
