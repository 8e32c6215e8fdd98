"""Hours of a group's cycles in seconds: hosts that write, a link, and the autopilot.

The decisions are the product's; what they decide about is arithmetic: changed bytes
grow with the load, a cycle takes an overhead and its bytes over the link's rate. No
clock, no chance but that of the seed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from primary_site.autopilot import (
    BreachWatch,
    Outlook,
    Promise,
    Sight,
    UnderWay,
    cut_gap,
    foresee,
    look_seconds,
    seconds_to_cut,
)
from primary_site.drain_rates import Bursts, DeliveryRate, DrainRates, LoadRate

Rate = Callable[[float], float]
"""Bytes a second at a moment."""


@dataclass
class Ran:
    """What came of it. `cuts`: (moment, bytes); `ages`: (moment of a commit, age)."""

    cuts: list[tuple[float, float]] = field(default_factory=list)
    ages: list[tuple[float, float]] = field(default_factory=list)
    empty: int = 0
    changes: list[tuple[float, Promise]] = field(default_factory=list)

    def oldest(self, since: float = 0.0, until: float = float("inf")) -> float:
        return max(age for at, age in self.ages if since <= at < until)

    def cuts_within(self, since: float, until: float) -> int:
        return sum(since <= at < until for at, _ in self.cuts)

    def intervals(self, since: float, until: float) -> list[float]:
        moments = [at for at, _ in self.cuts if since <= at < until]
        return [b - a for a, b in itertools.pairwise(moments)]


class Model:
    """One group; `run` returns what came of so many seconds."""

    def __init__(
        self,
        target: float,
        load: Rate,
        link: Rate,
        *,
        overhead: float = 0.05,
        noise: float = 0.0,
        seed: int = 1,
        hot_bytes: float = float("inf"),
        forecasts: bool = True,
    ) -> None:
        """`noise`: what cycles alike differ by, of their length. `hot_bytes`: hosts
        write no more than so many different bytes, over and over. `forecasts`: also
        look ahead at each step, which takes most of the time and moves no cut."""
        self.target, self.load, self.link = target, load, link
        self.overhead, self.noise, self.hot_bytes = overhead, noise, hot_bytes
        self.rates = DrainRates()
        self._forecasts = forecasts
        self._chance = random.Random(seed)
        self._now = self._as_of = self._committed = 0.0
        self._changed = 0.0
        self._growth = LoadRate(target / 2)
        self._sustained = LoadRate(2 * target)
        self._bursts = Bursts(target)
        self._watch = BreachWatch(target)
        self._step = look_seconds(target)
        self.ran = Ran()

    def run(self, seconds: float) -> Ran:
        while self._now < seconds:
            wait = seconds_to_cut(self.target, self._sight(None), self.rates)
            rest = cut_gap(self.target) - (self._now - self._committed)
            wait = max(wait, rest)
            if wait > 1e-9:
                self._pass(min(wait, self._step), None)
            elif self._changed:
                self._cycle()
            else:
                self._as_of = self._committed = self._now
                self.ran.empty += 1
        return self.ran

    def _pass(self, seconds: float, cut: UnderWay | None) -> None:
        written = self.load(self._now) * seconds
        self._changed += written * max(1 - self._changed / self.hot_bytes, 0.0)
        self._now += seconds
        self._growth.look(self._now, int(self._changed))
        self._sustained.look(self._now, int(self._changed))
        self._bursts.look(self._now, int(self._changed))
        if not self._forecasts:
            return
        sight = self._sight(cut)
        outlook: Outlook = foresee(self.target, sight, self.rates)
        if self._watch.look(self._now, sight.age, outlook):
            self.ran.changes.append((self._now, self._watch.state))

    def _sight(self, cut: UnderWay | None) -> Sight:
        return Sight(
            self._now,
            self._as_of,
            int(self._changed),
            self._growth.bytes_per_second,
            self._sustained.bytes_per_second,
            self._bursts.largest_bytes,
            cut,
        )

    def _cycle(self) -> None:
        cut_at, size = self._now, self._changed
        self.ran.cuts.append((cut_at, size))
        self._changed, left = 0.0, size
        slower = 1 + self.noise * self._chance.uniform(-1, 1)
        delivery = DeliveryRate()
        delivery.look(self._now, 0.0)
        overhead = self.overhead * slower
        while left > 0 or overhead > 0:
            rate = self.link(self._now) / slower
            look = look_seconds(self.target, self._as_of + self.target - self._now)
            step = min(look, left / rate if left > 0 else overhead)
            if left > 0:
                left -= rate * step
                left = left if left > 1.0 else 0.0
            else:
                overhead -= step
            delivery.look(self._now + step, size - left)
            expected = 1 / self.rates.seconds_per_byte
            seen = delivery.bytes_per_second(expected)
            self._pass(step, UnderWay(cut_at, size, size - left, seen))
        self.ran.ages.append((self._now, self._now - self._as_of))
        self.rates.observe(int(size), int(size), self._now - cut_at)
        self._as_of, self._committed = cut_at, self._now


def bearable_share(target: float, overhead: float, noise: float) -> float:
    """Return the share of the link that hosts may use if a target is to be kept.

    Nobody cuts sooner than the rest after a commit. Cut so, with each cycle as slow as
    `noise` allows (`slow`), cuts come to be X seconds apart:

        X = slow x (overhead + share x X) + rest

    and points get X + (X - rest) seconds old. Beyond the share that makes these the
    target, cycles that are slow one after another break any promise.
    """
    rest, slow = cut_gap(target), 1 + noise
    apart = (target + rest) / 2
    return (1 - (slow * overhead + rest) / apart) / slow


def fewest_cuts(
    target: float, load: Rate, link: Rate, overhead: float, seconds: float, step: float
) -> int:
    """Return the least number of cuts that keep the target, knowing all in advance.

    Tries every way to cut on a grid of `step` seconds. Between two cuts at i and j the
    cycle of j holds what was written meanwhile; it is committed before the next cut,
    and its commit comes within the target of cut i.
    """
    count = round(seconds / step)
    written = [0.0]
    for i in range(count):
        written.append(written[-1] + load(i * step) * step)
    best: dict[tuple[int, int], int] = {(0, 0): 0}  # (cut, commit) -> cuts so far
    least = count
    reach = round(target / step)
    for at in range(count):
        for (cut, commit), cuts in [(k, v) for k, v in best.items() if k[0] == at]:
            del best[cut, commit]
            for following in range(max(commit, cut + 1), cut + reach + 1):
                if following >= count:
                    least = min(least, cuts)
                    break
                size = written[following] - written[cut]
                took = overhead + size / link(following * step)
                ends = following + int(took / step + 0.999)
                if ends - cut > reach:
                    break
                key = (following, ends)
                best[key] = min(best.get(key, count), cuts + 1)
    return least
