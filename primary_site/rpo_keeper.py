"""What one group with an `rpo` has learnt, and what it decides and foresees by it.

Pure: the group's cycles and the watch tell it what happens, with the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from primary_site.autopilot import (
    BreachWatch,
    Outlook,
    Promise,
    Sight,
    UnderWay,
    foresee,
    seconds_to_cut,
)
from primary_site.drain_rates import Bursts, DeliveryRate, DrainRates, LoadRate
from primary_site.drain_waits import Cause, DrainWaits, cause_of

LINK_DOWN_SHARE, LINK_DOWN_SECONDS_MAX = 0.2, 5.0
"""Of the target, and at most: how long a link may be away before it counts as down."""

OLD_SHARE = 0.5
"""Of the target: a point so old when cycles began leaves them too little time."""


@dataclass(frozen=True, slots=True)
class Draining:
    """How far the cycle under way has come; sizes in bytes of changed tracks."""

    cut_at: float
    size_bytes: float
    delivered_bytes: float
    waits: DrainWaits


@dataclass(frozen=True, slots=True)
class Forecast:
    """Whether the target will be kept, and what stands in the way if not.

    `expected_age_seconds`: the greatest age that can be foreseen. The two rates are
    bytes a second on the wire, told where there is a cause.
    """

    target_seconds: float
    promise: Promise
    age_seconds: float
    expected_age_seconds: float
    seconds_until_breach: float | None
    cause: Cause | None
    needed_bytes_per_second: float | None
    measured_bytes_per_second: float | None
    begun_seconds: float | None = None
    """With `JUST_BEGUN`: for how long cycles have gone on."""

    @property
    def text(self) -> str:
        """One sentence for an operator."""
        oldest = max(self.expected_age_seconds, self.age_seconds)
        if self.promise is Promise.BREACHED:
            said = f"the newest point is older than rpo {self.target_seconds:g} s"
        elif self.age_seconds > self.target_seconds:  # as it was before the promise
            said = (
                f"within {self._left:.1f} s no point is expected that is younger than "
                f"rpo {self.target_seconds:g} s"
            )
        else:
            said = (
                f"in {self._left:.1f} s the newest point will be older than rpo "
                f"{self.target_seconds:g} s"
            )
        return f"{said} (up to {oldest:.1f} s is expected): {self.why}"

    @property
    def _left(self) -> float:
        return self.seconds_until_breach or 0.0

    @property
    def why(self) -> str:
        if self.cause is None:
            return "more changes than cycles can take"
        if self.cause is Cause.LINK_DOWN:
            return "there is no link to the remote"
        if self.cause is Cause.JUST_BEGUN:
            return f"cycles go on only since {self.begun_seconds or 0.0:.1f} s ago"
        if not self.measured_bytes_per_second:  # nothing of it has arrived yet
            return _SLOW[self.cause]
        said = f"{_SLOW[self.cause]}: {_rate(self.measured_bytes_per_second)}"
        # A cycle can be late though its rate was enough for what is left now.
        needed = self.needed_bytes_per_second or 0.0
        if needed > self.measured_bytes_per_second:
            said += f" of the {_rate(needed)} needed"
        return said


_SLOW = {
    Cause.LINK: "the link is too slow",
    Cause.REMOTE_DISK: "the remote's disk is too slow",
    Cause.PRIMARY_DISK: "this site's disk is too slow",
    Cause.CPU: "this site's processor is too slow",
}


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e6:.3g} MB/s"


def keeper_for(
    target_seconds: float | None, before: RpoKeeper | None
) -> RpoKeeper | None:
    """Return what keeps a target, knowing what the keeper before knew; None: none."""
    if target_seconds is None:
        return None
    if before is None:
        return RpoKeeper(target_seconds)
    if before.target == target_seconds:
        return before
    return before.aimed_at(target_seconds)


class RpoKeeper:
    """Estimates, decisions and forecasts of one group; times of one monotonic clock."""

    def __init__(self, target_seconds: float) -> None:
        self.target = target_seconds
        self.rates = DrainRates()
        self.as_of: float | None = None
        """Up to when the newest point is current; None without a point."""
        self.paced: float | None = None
        self.forecast: Forecast | None = None
        """As of the last look; None while nothing is promised."""
        self._growth = LoadRate(target_seconds / 2)
        self._sustained = LoadRate(2 * target_seconds)
        self._bursts = Bursts(target_seconds)
        self._waits = DrainWaits()
        self._watch = BreachWatch(target_seconds)
        self._delivery = DeliveryRate()
        self._delivery_of: float | None = None
        self._down_since: float | None = None
        self._linked_since: float | None = None
        self._promised_since: float | None = None
        """None: nothing is promised."""

    def aimed_at(self, target_seconds: float) -> RpoKeeper:
        """Return a keeper of another target that knows what this one has learnt.

        What is promised is another thing, from now on.
        """
        other = RpoKeeper(target_seconds)
        other.rates, other._waits = self.rates, self._waits
        other.as_of, other.paced = self.as_of, self.paced
        other._down_since, other._linked_since = self._down_since, self._linked_since
        return other

    def promise_stands(self) -> None:
        """The target was promised before this process began, and is."""
        self._promised_since = -math.inf

    # -- what happens ------------------------------------------------------------------

    def cycle_ended(
        self, size_bytes: int, wire_bytes: int, seconds: float, waits: DrainWaits
    ) -> None:
        """Learn from a cycle that one session took from its cut to its commit."""
        self.rates.observe(size_bytes, wire_bytes, seconds)
        self._waits.fade_into(waits)

    # -- when to cut -------------------------------------------------------------------

    def seconds_to_cut(self, now: float, changed_bytes: int) -> float:
        """Return the seconds until a cut is due; ask again after `look_seconds`."""
        if self.as_of is None:
            return 0.0
        sight = self._sight(now, changed_bytes, None)
        return seconds_to_cut(self.target, sight, self.rates)

    def _sight(self, now: float, changed_bytes: int, cut: UnderWay | None) -> Sight:
        for rate in (self._growth, self._sustained, self._bursts):
            rate.look(now, changed_bytes)
        assert self.as_of is not None
        return Sight(
            now,
            self.as_of,
            changed_bytes,
            self._growth.bytes_per_second,
            self._sustained.bytes_per_second,
            self._bursts.largest_bytes,
            cut,
            self.paced,
        )

    # -- what will be ------------------------------------------------------------------

    def forget(self) -> bool:
        """Nothing is promised now; tell whether something was announced.

        A promise that is made anew is broken a target's time later at the earliest.
        """
        self.forecast = None
        self._promised_since = None
        return self._watch.forget()

    def look(
        self,
        now: float,
        changed_bytes: int,
        draining: Draining | None,
        *,
        is_linked: bool,
    ) -> bool:
        """Look ahead: `forecast` is new; tell whether what is announced has changed."""
        sight = self._sight(now, changed_bytes, self._under_way(now, draining))
        promised = self._as_promised(sight)
        outlook = foresee(self.target, promised, self.rates)
        self._note_link(now, is_linked=is_linked)
        if self._is_down(now):
            left = max(self.target - promised.age, 0.0)
            outlook = Outlook(max(outlook.expected_age, self.target), left)
        has_changed = self._watch.look(now, promised.age, outlook)
        if promised is not sight:
            oldest = max(
                sight.age, foresee(self.target, sight, self.rates).expected_age
            )
            outlook = replace(outlook, expected_age=oldest)
        self.forecast = self._forecast(sight, outlook, draining)
        return has_changed

    def _as_promised(self, sight: Sight) -> Sight:
        """Return the sight with an age that counts from the promise on, no earlier."""
        if self._promised_since is None:
            self._promised_since = sight.now
        if sight.as_of >= self._promised_since:
            return sight
        return replace(sight, as_of=self._promised_since)

    def _note_link(self, now: float, *, is_linked: bool) -> None:
        if not is_linked:
            self._linked_since = None
            if self._down_since is None:
                self._down_since = now
        elif self._linked_since is None:
            self._down_since, self._linked_since = None, now

    def _cause(
        self, sight: Sight, draining: Draining | None
    ) -> tuple[Cause | None, float | None]:
        """Return what is in the way, and for how long cycles go on if it is just that.

        It is if the point was old by then, until a target's time has passed or there is
        something else to tell.
        """
        if self._linked_since is None or self._promised_since is None:
            return Cause.LINK_DOWN, None
        cause = cause_of(self._waits, draining.waits if draining else None)
        began = max(self._linked_since, self._promised_since)
        begun = sight.now - began
        is_young = begun <= self.target or cause is None
        if is_young and began - sight.as_of >= OLD_SHARE * self.target:
            return Cause.JUST_BEGUN, begun
        return cause, None

    def _is_down(self, now: float) -> bool:
        patience = min(LINK_DOWN_SHARE * self.target, LINK_DOWN_SECONDS_MAX)
        return self._down_since is not None and now - self._down_since >= patience

    def _under_way(self, now: float, draining: Draining | None) -> UnderWay | None:
        if draining is None:
            self._delivery_of = None
            return None
        if self._delivery_of != draining.cut_at:
            self._delivery_of, self._delivery = draining.cut_at, DeliveryRate()
        self._delivery.look(now, draining.delivered_bytes)
        expected = 1 / self.rates.paced_seconds_per_byte(self.paced)
        return UnderWay(
            draining.cut_at,
            draining.size_bytes,
            draining.delivered_bytes,
            self._delivery.bytes_per_second(expected),
        )

    def _forecast(
        self, sight: Sight, outlook: Outlook, draining: Draining | None
    ) -> Forecast:
        cause = needed = measured = begun = None
        if self._watch.state is not Promise.KEPT:
            cause, begun = self._cause(sight, draining)
            if cause is not Cause.LINK_DOWN:
                measured = self._measured(sight)
                needed = self._needed(sight, outlook)
        return Forecast(
            self.target,
            self._watch.state,
            sight.age,
            outlook.expected_age,
            outlook.seconds_until_breach,
            cause,
            needed,
            measured,
            begun,
        )

    def _measured(self, sight: Sight) -> float:
        """Return the bytes a second that cycles put on the wire."""
        rate = None
        if sight.cut is not None:
            rate = self._delivery.measured_bytes_per_second()
        if rate is None:
            rate = 1 / self.rates.paced_seconds_per_byte(self.paced)
        return rate * self.rates.wire_ratio

    def _needed(self, sight: Sight, outlook: Outlook) -> float:
        """Return those that what hosts write, and what is left now, would need."""
        left = float(sight.changed_bytes)
        if sight.cut is not None:
            left = max(sight.cut.size_bytes - sight.cut.delivered_bytes, 0.0)
        within = self.target
        if outlook.seconds_until_breach:
            within = max(outlook.seconds_until_breach, self.target / 10)
        return max(sight.sustained, left / within) * self.rates.wire_ratio
