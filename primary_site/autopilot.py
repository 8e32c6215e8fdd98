"""When to cut so that a point stays younger than a target, and whether it will.

Pure: times come in as arguments, in seconds of one monotonic clock.

A point is at its oldest just before the next one is committed: then its age is the
time since its own cut, plus what the next cycle takes from cut to commit. The later
the next cut, the fewer cuts there are, and the more overwrites share one transfer. So
a cut is due when waiting longer would leave less for its cycle than that is predicted
to take, with a margin for what predictions are wrong by. With nothing changed, nothing
is sent but the word that the point is current, just as late.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from primary_site.drain_rates import DrainRates

MARGIN_SHARE = 0.08
MARGIN_SHARE_MAX = 0.5
"""Of the target: what is kept back at least, and at most."""

MARGIN_SPREADS = 3.0
"""Standard deviations of a prediction kept back."""

IDLE_SHARE = 0.4
"""Of the target: nothing changed is not said more often than this."""

CUT_GAP_SECONDS_MAX = 0.1
"""Between a commit and the next cut: even a slow link leaves hosts this rest."""

CYCLES_AHEAD_MAX = 8
TARGETS_AHEAD = 3.0
"""How far is looked ahead: so many cycles, and so many times the target."""

OVERDUE_SHARE = 0.25
"""Of what a drain is late by: how much later it is expected to be still."""


@dataclass(frozen=True, slots=True)
class UnderWay:
    """The cycle that is being drained; sizes in bytes of changed tracks."""

    cut_at: float
    size_bytes: float
    delivered_bytes: float
    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Sight:
    """What a decision rests on.

    `as_of`: up to when the newest point is current. `growth` and `sustained` are the
    bytes a second by which `changed_bytes` grows: of late, and over some targets.
    `burst`: what hosts may write all of a sudden, in bytes, as they did before.
    `paced`: bytes a second that the link is held to, None if it is not.
    """

    now: float
    as_of: float
    changed_bytes: int
    growth: float = 0.0
    sustained: float = 0.0
    burst: float = 0.0
    cut: UnderWay | None = None
    paced: float | None = None

    @property
    def age(self) -> float:
        return self.now - self.as_of


@dataclass(frozen=True, slots=True)
class Outlook:
    """The greatest age expected, and the seconds until it exceeds the target.

    None: it will not, as far as can be seen.
    """

    expected_age: float
    seconds_until_breach: float | None


LOOK_SECONDS_MIN, LOOK_SECONDS_MAX = 0.02, 0.25
LOOKS_LEFT = 10
"""While a cycle is under way: looks before the breach that it may end in."""


def look_seconds(target: float, left: float | None = None) -> float:
    """Return how often to look: what hosts begin meanwhile shortens the target.

    `left`: seconds until the point is too old, while a cycle is under way. Cuts are as
    late as can be: where a link has fallen since the cycle before, little time is left
    to see it in this one.
    """
    usual = min(max(target / 20, LOOK_SECONDS_MIN), LOOK_SECONDS_MAX)
    if left is None or left <= 0:
        return usual
    return min(usual, max(left / LOOKS_LEFT, LOOK_SECONDS_MIN))


def cut_gap(target: float) -> float:
    return min(CUT_GAP_SECONDS_MAX, target / 10)


def seconds_to_cut(target: float, sight: Sight, rates: DrainRates) -> float:
    """Return the seconds until a cut is due, 0 if it is due now.

    Ask again soon, not only then: hosts may begin to write more.
    """
    per_byte = rates.paced_seconds_per_byte(sight.paced)
    size = now_size = max(float(sight.changed_bytes), sight.burst)
    taken, wait = rates.predict(now_size, sight.paced).seconds, 0.0
    for _ in range(2):  # the spread is that of the size at the cut
        limit = target - margin(target, size, rates, sight.paced)
        wait = (limit - sight.age - taken) / (1 + per_byte * sight.growth)
        size = now_size + sight.growth * max(wait, 0.0)
    earliest = 0.0
    if not sight.changed_bytes:  # only to say so, for a burst that may never come
        earliest = IDLE_SHARE * target - sight.age
    return max(wait, earliest, 0.0)


def margin(target: float, size: float, rates: DrainRates, paced: float | None) -> float:
    """Return what of the target is kept back for a cycle of `size` bytes."""
    spread = MARGIN_SPREADS * rates.predict(size, paced).spread_seconds
    return min(max(MARGIN_SHARE * target, spread), MARGIN_SHARE_MAX * target)


def foresee(target: float, sight: Sight, rates: DrainRates) -> Outlook:
    """Look ahead over the next cycles, hosts writing on as they do."""

    def takes(size: float) -> float:
        return rates.predict(size, sight.paced).seconds

    now, load = sight.now, sight.sustained
    if sight.cut is not None:
        cut_at, size = sight.cut.cut_at, 0.0
        commit = now + seconds_left(now, sight.cut, rates, sight.paced)
        pending = sight.changed_bytes + load * (commit - now)
    else:
        cut_at = now + seconds_to_cut(target, sight, rates)
        size = sight.changed_bytes + sight.growth * (cut_at - now)
        commit = cut_at + takes(size)
        pending = load * (commit - cut_at)
    as_of, expected = sight.as_of, 0.0
    for _ in range(CYCLES_AHEAD_MAX):
        expected = max(expected, commit - as_of)
        if expected > target:
            return Outlook(expected, max(as_of + target - now, 0.0))
        if commit - now > TARGETS_AHEAD * target:
            break
        ahead = Sight(commit, cut_at, int(pending), load, load, paced=sight.paced)
        wait = max(seconds_to_cut(target, ahead, rates), cut_gap(target))
        as_of, cut_at = cut_at, commit + wait
        size = pending + load * wait
        commit = cut_at + takes(size)
        pending = load * (commit - cut_at)
    return Outlook(expected, None)


def seconds_left(
    now: float, cut: UnderWay, rates: DrainRates, paced: float | None
) -> float:
    """Return the seconds until the cycle under way is committed."""
    elapsed = now - cut.cut_at
    predicted = rates.predict(cut.size_bytes, paced).seconds
    left = predicted - elapsed
    undelivered = cut.size_bytes - cut.delivered_bytes
    if undelivered > 0 and elapsed > rates.overhead_seconds:
        left = undelivered / max(cut.bytes_per_second, 1.0) + rates.overhead_seconds / 2
    return max(left, OVERDUE_SHARE * (elapsed - predicted), 0.0)


class Promise(enum.Enum):
    """How it stands with the target."""

    KEPT = "kept"
    IN_DANGER = "in_danger"
    BREACHED = "breached"


CALM_SECONDS_MIN = 1.0
SURE_SECONDS_MAX = 0.25


class BreachWatch:
    """Tells when a breach is to be announced, and when it is over: once each.

    A forecast counts once it has stood for a quarter of a second, a twentieth of a
    short target, or half of what is left before the breach: a link that falls all of a
    sudden leaves little to tell of it.
    All is well again after a whole target's time without breach or forecast: a point
    that is too old every other second is one breach, not many.
    """

    def __init__(self, target: float) -> None:
        self.state = Promise.KEPT
        self._target = target
        self._foreseen_since: float | None = None
        self._troubled_at = 0.0

    def look(self, now: float, age: float, outlook: Outlook) -> bool:
        """Take a look in; tell whether `state` has changed."""
        before = self.state
        if outlook.seconds_until_breach is None:
            self._foreseen_since = None
        elif self._foreseen_since is None:
            self._foreseen_since = now
        left = outlook.seconds_until_breach or 0.0
        doubt = min(SURE_SECONDS_MAX, self._target / 20, left / 2)
        is_sure = (
            self._foreseen_since is not None and now - self._foreseen_since >= doubt
        )
        if age > self._target:
            self.state, self._troubled_at = Promise.BREACHED, now
        elif is_sure:
            self._troubled_at = now
            if self.state is Promise.KEPT:
                self.state = Promise.IN_DANGER
        elif now - self._troubled_at >= max(self._target, CALM_SECONDS_MIN):
            self.state = Promise.KEPT
        return self.state is not before

    def forget(self) -> bool:
        """Nothing is promised now (no point yet, suspended); tell of a change."""
        before, self.state = self.state, Promise.KEPT
        self._foreseen_since = None
        return before is not Promise.KEPT
