"""Every row of sessions, failed records and copies put back: who is refused?

The real rules over states alone, without data: what a remote makes of a HELLO, what a
primary records of a WELCOME. A refusal is right exactly where the remote remembers a
state of the primary that the one at hand has not been in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeVar

from common.replication.lineage import SenderState, Verdict, judge
from remote_site.store_state import StoreState
from tests.support.remote_store_group import OFFERS

NEW = SenderState(b"g" * 16, b"l" * 16, relation_id=b"r" * 16)
BOUND = StoreState(
    group="orders",
    group_id=NEW.group_id,
    lineage=NEW.lineage,
    peer="amsterdam",
    epoch=0,
    relation_id=NEW.relation_id,
    volumes=OFFERS,
    created=(True, True),
)
STEPS = 6
"""What went wrong in runs of the simulation took four."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Primary:
    """A durable state, and the one in memory: behind it, once a record has failed.

    `been` names all the states that this one has been in: itself and those before.
    """

    disk: tuple[SenderState, frozenset[int]] = (NEW, frozenset({0}))
    memory: tuple[SenderState, frozenset[int]] = (NEW, frozenset({0}))
    has_failed: bool = False

    def restarted(self) -> Primary:
        return Primary(self.disk, self.disk)


@dataclass(frozen=True, slots=True)
class Sites:
    """Both sites, what the remote has been shown of the primary, and all copies."""

    primary: Primary
    remote: StoreState
    met: frozenset[int]
    remote_copies: tuple[tuple[StoreState, frozenset[int]], ...] = ()
    primary_copies: tuple[Primary, ...] = ()

    def verdict(self) -> Verdict:
        return judge(self.primary.memory[0], self.remote.judged())


START = Sites(Primary(), BOUND, frozenset({0}))
_numbers = count(1)


def _receipt() -> bytes:
    return next(_numbers).to_bytes(16, "big")


def welcomed(sites: Sites) -> Sites:
    """A session whose WELCOME is lost."""
    state, been = sites.primary.memory
    return replace(
        sites, remote=sites.remote.met(state, _receipt()), met=sites.met | been
    )


def recorded(sites: Sites, *, is_heard: bool = False, is_known: bool = True) -> Sites:
    """A session that the primary records; `is_known`: and knows that it has."""
    sites = welcomed(sites)
    primary, remote = sites.primary, sites.remote
    if primary.has_failed:  # no later store succeeds
        return sites
    state, been = primary.memory
    state = replace(state, epoch=remote.epoch, receipt=remote.given)
    disk = state, been | {next(_numbers)}
    if not is_known:
        return replace(sites, primary=replace(primary, disk=disk, has_failed=True))
    sites = replace(sites, primary=Primary(disk, disk))
    if is_heard:
        return replace(sites, remote=remote.heard(), met=disk[1])
    return sites


def forgot_and_failed(sites: Sites) -> Sites:
    """A session whose record fails, and is not on the disk either."""
    sites = welcomed(sites)
    return replace(sites, primary=replace(sites.primary, has_failed=True))


SESSIONS: tuple[Callable[[Sites], Sites], ...] = (
    welcomed,
    recorded,
    lambda sites: recorded(sites, is_heard=True),
    lambda sites: recorded(sites, is_known=False),
    forgot_and_failed,
)


def after(sites: Sites, *, of_remote: bool) -> Iterator[Sites]:
    """Yield what may come next; either the remote or the primary is put back."""
    if not sites.verdict().is_refusal:
        for session in SESSIONS:
            yield session(sites)
    if sites.primary.has_failed:
        yield replace(sites, primary=sites.primary.restarted())
    if of_remote:
        for remote, met in sites.remote_copies:
            yield replace(sites, remote=remote, met=met)
    else:
        for primary in sites.primary_copies:
            yield replace(sites, primary=primary.restarted())


def rows(sites: Sites, steps: int, *, of_remote: bool) -> Iterator[Sites]:
    """Yield every state of both sites within so many steps; each may be copied."""
    yield sites
    if not steps:
        return
    remote = _with(sites.remote_copies, (sites.remote, sites.met))
    primary = _with(sites.primary_copies, sites.primary)
    sites = replace(sites, remote_copies=remote, primary_copies=primary)
    for following in after(sites, of_remote=of_remote):
        yield from rows(following, steps - 1, of_remote=of_remote)


def _with(copies: tuple[T, ...], copy: T) -> tuple[T, ...]:
    return copies if copy in copies else (*copies, copy)


def test_a_primary_that_was_not_put_back_is_never_refused() -> None:
    """I11: whichever copies of the remote come back, and whatever was recorded."""
    seen: Counter[Verdict] = Counter()
    for sites in rows(START, STEPS, of_remote=True):
        seen[sites.verdict()] += 1
        assert not sites.verdict().is_refusal, sites
    assert set(seen) == {Verdict.GO_ON, Verdict.COMPARE_ACKED}
    assert min(seen.values()) > 1000


def test_a_primary_is_refused_if_the_remote_has_met_what_it_has_not_been() -> None:
    """I7: just then, as long as it is the primary only that is put back."""
    seen: Counter[Verdict] = Counter()
    for sites in rows(START, STEPS, of_remote=False):
        seen[sites.verdict()] += 1
        is_older = not sites.met <= sites.primary.memory[1]
        assert (sites.verdict() is Verdict.SENDER_OLDER) == is_older, sites
    assert set(seen) == {Verdict.GO_ON, Verdict.SENDER_OLDER}
    assert min(seen.values()) > 1000
