"""Every combination of what two sites know: the product's verdict and the page's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from common.replication.lineage import (
    CycleName,
    Fork,
    ReceiverState,
    SenderState,
    Verdict,
    judge,
    why_refused,
)
from tests.lineage.specification import Cycle, Primary, Remote, rule
from tests.support.evidence import record

PAGE = Path(__file__).parents[2] / "docs" / "internals" / "lineage.md"

CYCLES: tuple[Cycle, ...] = (None, (1, "a"), (2, "a"), (2, "b"), (3, "a"))
RECEIPTS = (("r", "r", "o"), ("r", "s", "r"), ("r", "s", "o"), ("r", "r", "r"))
"""The primary's, the one shown, the one offered."""

IDENTITIES = ((None, None), ("g", "l"), ("x", "l"), ("g", "x"))
ORDERS = ((4, 5), (5, 5), (6, 5))


def combinations() -> Iterator[tuple[Primary, Remote]]:
    """Yield every pair of states over a domain in which every rule can be met.

    Of numbers only their order matters, of ids only whether they are equal: three
    cycles, two of them with one number, stand for all.
    """
    for group, lineage in IDENTITIES:
        for (receipt, shown, offered), epochs, progress, relation, known in product(
            RECEIPTS, ORDERS, ORDERS, ("t", "u"), (False, True)
        ):
            for newest, committed, begun, point in product(CYCLES, repeat=4):
                if (committed or (0, ""))[0] > (newest or (0, ""))[0]:
                    continue  # a point is of a cycle that was begun
                primary = Primary(
                    "g", "l", epochs[0], receipt, newest, committed, "t", progress[0]
                )
                remote = Remote(
                    group,
                    lineage,
                    epochs[1],
                    shown,
                    offered,
                    begun,
                    point,
                    known,
                    relation,
                    progress[1],
                )
                yield primary, remote
                if lineage is not None:
                    # One that took over: from this primary's line, or from another.
                    yield primary, replace(remote, taken_from=lineage)


def _id(name: str) -> bytes:
    return name.encode() * 16


def _cycle(cycle: Cycle) -> CycleName | None:
    return None if cycle is None else CycleName(cycle[0], _id(cycle[1]))


def states(primary: Primary, remote: Remote) -> tuple[SenderState, ReceiverState]:
    """Return what the product would exchange."""
    sender = SenderState(
        group_id=_id(primary.group),
        lineage=_id(primary.lineage),
        epoch=primary.epoch,
        receipt=_id(primary.receipt),
        newest=_cycle(primary.newest),
        committed=_cycle(primary.committed),
        relation_id=_id(primary.relation),
        progress_count=primary.progress,
    )
    receiver = ReceiverState(
        group_id=remote.group and _id(remote.group),  # type: ignore[arg-type]
        lineage=remote.lineage and _id(remote.lineage),  # type: ignore[arg-type]
        shown_epoch=remote.shown_epoch,
        shown=_id(remote.shown),
        given=_id(remote.offered),
        begun=_cycle(remote.begun),
        committed=_cycle(remote.committed),
        is_noted=remote.known,
        relation_id=_id(remote.relation),
        progress_count=remote.progress,
    )
    return sender, receiver


def fork_of(remote: Remote) -> Fork | None:
    """Return what the product would know of a takeover."""
    if remote.taken_from is None:
        return None
    return Fork(_id("n"), _id(remote.taken_from), CycleName(1, _id("a")), 7, 9)


def page_verdicts() -> dict[int, str]:
    """Return the page's verdict of each rule, by number."""
    section = PAGE.read_text().partition("## Verdicts")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \|.*?\| ([a-z ]+) \|", section, re.MULTILINE)
    return {int(number): verdict for number, verdict in rows}


def test_the_page_and_the_product_name_the_same_verdicts() -> None:
    named = page_verdicts()
    assert list(named) == list(range(1, 16))
    assert {verdict.name.lower().replace("_", " ") for verdict in Verdict} == set(
        named.values()
    )


def test_every_combination_is_judged_as_the_page_says() -> None:
    named = page_verdicts()
    rules: Counter[int] = Counter()
    verdicts: Counter[str] = Counter()
    for primary, remote in combinations():
        number = rule(primary, remote)
        verdict = judge(*states(primary, remote), fork_of(remote))
        if verdict.name.lower().replace("_", " ") != named[number]:
            pytest.fail(f"rule {number}, {verdict}: {primary} {remote}")
        rules[number] += 1
        verdicts[verdict.name.lower()] += 1
    assert len(rules) == len(named), f"rules never met: {set(named) - set(rules)}"
    record(
        "lineage",
        "pytest tests/lineage",
        {
            "combinations": sum(rules.values()),
            "verdicts": dict(sorted(verdicts.items())),
            "rules": {str(number): rules[number] for number in sorted(rules)},
        },
    )


def test_a_refusal_says_what_each_side_knows_and_what_to_do() -> None:
    for newest, begun in (((2, "a"), (3, "a")), ((2, "b"), (2, "a"))):
        primary = Primary("g", "l", 4, "r", newest, (1, "a"), "t", 0)
        remote = Remote("g", "l", 5, "r", "o", begun, (1, "a"), False, "t", 0)
        sender, receiver = states(primary, remote)
        verdict = judge(sender, receiver)
        assert verdict.is_refusal
        text = why_refused(verdict, "orders", sender, receiver)
        assert "orders" in text
        assert f"cycle {newest[0]}" in text
        assert f"cycle {begun[0]}" in text
        assert "put back" in text


def test_a_refusal_after_a_takeover_names_both_lineages_and_the_point() -> None:
    primary = Primary("g", "l", 4, "r", (3, "a"), (2, "a"), "t", 0)
    for parent in ("l", "x"):
        remote = Remote(
            "g", parent, 5, "r", "o", (3, "a"), (2, "a"), False, "t", 0, parent
        )
        sender, receiver = states(primary, remote)
        fork = fork_of(remote)
        assert fork is not None
        verdict = judge(sender, receiver, fork)
        text = why_refused(verdict, "orders", sender, receiver, fork)
        for told in ("orders", fork.lineage.hex(), sender.lineage.hex(), "point 1"):
            assert told in text
        assert ("split brain" in text) is (parent == "x")
