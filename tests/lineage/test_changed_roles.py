"""What is judged of a site that gave up what it sent: the page's second table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import pytest

from common.replication.lineage import CycleName, Fork, SenderState, judge
from common.replication.session_messages import VolumeOffer
from common.storage.bitmap import Bitmap
from common.storage.geometry import Geometry
from primary_site.taking_over import SendingStart, StartingVolume
from remote_site.store_state import (
    Divided,
    KeptFork,
    Point,
    StoreState,
    Takeover,
)
from tests.lineage.test_verdicts import PAGE

GROUP, GIVEN_UP, CHILD, STRANGER = (letter * 16 for letter in (b"g", b"o", b"n", b"s"))
COMMON, LATER = CycleName(5, b"c" * 16), CycleName(9, b"l" * 16)


@dataclass(frozen=True, slots=True)
class Change:
    """How a site came to receive, and who sends to it now. Plain values."""

    had_store: bool
    is_agreed: bool
    is_known: bool
    has_point_since: bool
    took_over_from: str
    sender: str
    sender_has: str


def changes() -> Iterator[Change]:
    both = (False, True)
    takers, senders = ("", "child", "stranger"), ("child", "given up")
    known = ("common", "later", "none")
    for values in product(both, both, both, both, takers, senders, known):
        change = Change(*values)
        if change.sender_has != "none" or not (
            change.is_agreed or change.has_point_since
        ):
            yield change  # of a point that both have, no sender forgets


def line_of(change: Change) -> str:
    """Return the letter of the page's line: a second reading, with no product code."""
    if change.took_over_from:
        return "a" if change.took_over_from == change.sender else "b"
    if change.sender != "child":
        return "c"
    if change.has_point_since or change.is_agreed:
        return "e" if change.sender_has == "later" else "d"
    if change.sender_has == "none":
        return "f"
    if not change.is_known:
        return "g"
    return "i" if change.sender_has == "later" else "h"


def received(change: Change) -> StoreState:
    """Return the record that the product makes of such a change."""
    state = StoreState(
        group="orders",
        group_id=GROUP,
        lineage=b"p" * 16,
        peer="other",
        epoch=3,
        relation_id=b"r" * 16,
        volumes=(VolumeOffer("v", b"v" * 16, 1 << 20, 4096),),
        created=(False,),
        begun=CycleName(4, b"b" * 16),
        shown_epoch=3,
        shown=b"w" * 16,
        given=b"x" * 16,
    )
    if change.had_store:
        state = state.with_point(Point(3, b"3" * 16, 1, 1, None), b"r" * 16)
    divided = fork = None
    own = Point(COMMON.number, COMMON.cycle_id, 2, 2, None)
    if not change.is_agreed:
        own = Point(6, b"f" * 16, 2, 2, "fork")
        divided = Divided(6, COMMON if change.is_known else None)
        fork = KeptFork(6, GIVEN_UP, 2)
    state = state.received_from(CHILD, "other", divided, fork)
    state = state.with_point(own, b"q" * 16)
    if change.has_point_since:
        state = replace(state, begun=CycleName(7, b"7" * 16))
        state = state.with_point(Point(7, b"7" * 16, 3, 3, None), b"t" * 16)
    if change.took_over_from:
        parent = CHILD if change.took_over_from == "child" else STRANGER
        taken = Fork(b"z" * 16, parent, COMMON, 2, 4)
        state = replace(state, takeover=Takeover(taken, is_done=True))
    return state


def newest_common(change: Change) -> CycleName:
    """Return the newest point that the receiver has of its sender's line."""
    return CycleName(7, b"7" * 16) if change.has_point_since else COMMON


def start(change: Change) -> SendingStart:
    """Return what the site that took over sends with, as the product writes it."""
    point = LATER if change.sender_has == "later" else newest_common(change)
    return SendingStart(
        group="orders",
        group_id=GROUP,
        lineage=CHILD if change.sender == "child" else GIVEN_UP,
        newest=max(point, newest_common(change), key=lambda cycle: cycle.number),
        point=point,
        cut_ns=2,
        current_as_of_ns=2,
        label=None,
        volumes=[
            StartingVolume("v", b"v" * 16, Geometry(1 << 20, 4096, 65536), Bitmap(256))
        ],
    )


def judged(change: Change) -> SenderState:
    """Return what that site shows; once all was compared with nothing, no point."""
    shown = start(change).state().judged(0)
    if change.sender_has == "none":
        shown = replace(shown, committed=None, newest=LATER)
    return shown


def page_lines() -> dict[str, str]:
    section = PAGE.read_text().partition("\n## Roles")[2]
    rows = re.findall(r"^\| ([a-i]) \|[^|]*\| ([a-z ]+) \|$", section, re.MULTILINE)
    return dict(rows)


def test_every_change_of_roles_is_judged_as_the_page_says() -> None:
    named, met = page_lines(), Counter[str]()
    assert list(named) == list("abcdefghi")
    for change in changes():
        state = received(change)
        fork = state.takeover.fork if state.takeover else None
        sender = judged(change)
        verdict = judge(sender, state.met_by(sender).judged(), fork)
        line = line_of(change)
        if verdict.name.lower().replace("_", " ") != named[line]:
            pytest.fail(f"line {line}, {verdict}: {change}")
        met[line] += 1
    assert set(met) == set(named)
