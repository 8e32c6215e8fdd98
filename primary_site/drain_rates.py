"""What a drain takes, learnt from those that ended, and how fast hosts write. Pure.

A cycle of `n` bytes takes, from its cut to its commit,

    seconds = overhead + n x seconds per byte

Both numbers are filtered (a Kalman filter of two variables): a small cycle tells of
the overhead, a large one of the rate, and a surprise is believed at once where little
is known. The filter's own variance is the spread of a prediction. Times come in as
arguments, in seconds.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

FIRST_OVERHEAD_SECONDS = 0.03
FIRST_SECONDS_PER_BYTE = 1 / 50e6
"""Before any cycle: a guess that the first of them corrects."""

OVERHEAD_DRIFT = 0.1
RATE_DRIFT = 0.1
"""How much either may change from one cycle to the next, of its value."""

SURPRISE_DEVIATIONS = 3.0
"""A cycle this far from its prediction: the link or a disk is another one now, and
what was known of it counts for nothing."""

OVERHEAD_DRIFT_SECONDS = 0.001
NOISE_SHARE_MIN, NOISE_SHARE_MAX = 0.05, 0.5
"""Of a prediction: what cycles alike differ by, at least, and at most believed."""

NOISE_SECONDS = 0.005
NOISE_WEIGHT = 0.1
"""Of the newest cycle in what cycles are held to differ by."""

SMALL_SHARE = 0.25
LARGE_FADE = 0.9
"""Of the largest cycle of late, which fades with each that follows: a cycle smaller
than this share of it that takes long has met another overhead, as far as anyone can
tell; what it says of the rate, cycles many times as large would have to bear."""

RATIO_WEIGHT = 0.3
SECONDS_PER_BYTE_MIN = 1e-11

DELIVERY_WINDOW_SECONDS = 2.0
DELIVERY_EXPECTED_SECONDS = 0.25
"""A rate within a drain is that of the last two seconds; what was expected counts as
much as a quarter of a second of them."""

BURST_FADE_TARGETS = 20.0
"""A burst counts for less as so many times the target pass."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds from cut to commit, and one standard deviation of them."""

    seconds: float
    spread_seconds: float


class DrainRates:
    """What cycles of one group take; an observation for each that ended undisturbed."""

    def __init__(self) -> None:
        self.overhead_seconds = FIRST_OVERHEAD_SECONDS
        self.seconds_per_byte = FIRST_SECONDS_PER_BYTE
        self.wire_ratio = 1.0
        """Bytes on the wire for each byte of changed tracks."""
        self.observed_count = 0
        self._p_overhead = (2 * FIRST_OVERHEAD_SECONDS) ** 2
        self._p_both = 0.0
        self._p_rate = (2 * FIRST_SECONDS_PER_BYTE) ** 2
        self._noise_share = NOISE_SHARE_MIN
        self._large_bytes = 0.0

    def predict(self, size_bytes: float, paced: float | None = None) -> Prediction:
        """Return what a cycle of `size_bytes` takes.

        `paced`: bytes a second that the link is held to, if it is.
        """
        rate = self.paced_seconds_per_byte(paced)
        seconds = self.overhead_seconds + rate * size_bytes
        variance = (
            self._p_overhead
            + 2 * size_bytes * self._p_both
            + size_bytes**2 * self._p_rate
        )
        return Prediction(seconds, math.sqrt(max(variance, 0) + self._noise(seconds)))

    def paced_seconds_per_byte(self, paced: float | None) -> float:
        """Return the seconds a byte takes, on a link that may be held to a rate."""
        if paced is None:
            return self.seconds_per_byte
        return max(self.seconds_per_byte, self.wire_ratio / paced)

    def observe(self, size_bytes: int, wire_bytes: int, seconds: float) -> None:
        """Learn from a cycle that took `seconds` from its cut to its commit."""
        self.observed_count += 1
        if size_bytes:
            ratio = wire_bytes / size_bytes
            # A small cycle is mostly frames' headers: it tells little of tracks.
            weight = RATIO_WEIGHT * min(1.0, size_bytes / (1 << 20))
            self.wire_ratio += weight * (ratio - self.wire_ratio)
        self._drift()
        predicted = self.overhead_seconds + self.seconds_per_byte * size_bytes
        surprise = seconds - predicted
        self._large_bytes = max(self._large_bytes * LARGE_FADE, size_bytes)
        self._doubt(size_bytes, surprise, predicted)
        h_overhead = self._p_overhead + size_bytes * self._p_both
        h_rate = self._p_both + size_bytes * self._p_rate
        total = h_overhead + size_bytes * h_rate + self._noise(max(predicted, seconds))
        self.overhead_seconds += h_overhead / total * surprise
        self.seconds_per_byte += h_rate / total * surprise
        self._p_overhead -= h_overhead * h_overhead / total
        self._p_both -= h_overhead * h_rate / total
        self._p_rate -= h_rate * h_rate / total
        self.overhead_seconds = max(self.overhead_seconds, 0.0)
        self.seconds_per_byte = max(self.seconds_per_byte, SECONDS_PER_BYTE_MIN)
        share = min(abs(surprise) / max(predicted, seconds, 1e-9), NOISE_SHARE_MAX)
        squared = self._noise_share**2
        squared += NOISE_WEIGHT * (share**2 - squared)
        self._noise_share = max(math.sqrt(squared), NOISE_SHARE_MIN)

    def _doubt(self, size_bytes: int, surprise: float, predicted: float) -> None:
        """Give up what is known where a cycle contradicts it: what made most of it."""
        spread = self.predict(size_bytes).spread_seconds
        if abs(surprise) < SURPRISE_DEVIATIONS * spread:
            return
        self._p_both = 0.0
        is_small = size_bytes < SMALL_SHARE * self._large_bytes
        if self.seconds_per_byte * size_bytes > predicted / 2 and not is_small:
            self._p_rate = max(self._p_rate, (surprise / size_bytes) ** 2)
        else:
            self._p_overhead = max(self._p_overhead, surprise**2)

    def _drift(self) -> None:
        """Allow for what may have changed since the last cycle; no drift adds up."""
        overhead = OVERHEAD_DRIFT * self.overhead_seconds + OVERHEAD_DRIFT_SECONDS
        rate = RATE_DRIFT * self.seconds_per_byte
        self._p_overhead = min(self._p_overhead + overhead**2, 1.0)
        most = 2 * max(FIRST_SECONDS_PER_BYTE, self.seconds_per_byte)
        self._p_rate = min(self._p_rate + rate**2, most**2)

    def _noise(self, seconds: float) -> float:
        return NOISE_SECONDS**2 + (self._noise_share * seconds) ** 2


class DeliveryRate:
    """How fast the drain that is under way goes, from looks at what it has done."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, float]] = deque()

    def look(self, now: float, delivered_bytes: float) -> None:
        """Note how many bytes of changed tracks the other site has got by now."""
        self._looks.append((now, delivered_bytes))
        while now - self._looks[0][0] > DELIVERY_WINDOW_SECONDS:
            self._looks.popleft()  # ends: the newest is of `now`

    def bytes_per_second(self, expected: float) -> float:
        """Return the rate; `expected` bytes a second is what it begins with."""
        (began, before), (now, done) = self._looks[0], self._looks[-1]
        grown = max(done - before, 0.0) + expected * DELIVERY_EXPECTED_SECONDS
        return grown / (now - began + DELIVERY_EXPECTED_SECONDS)

    def measured_bytes_per_second(self) -> float | None:
        """Return what was measured alone; None before there is enough of it."""
        (began, before), (now, done) = self._looks[0], self._looks[-1]
        if now - began < DELIVERY_EXPECTED_SECONDS:
            return None
        return max(done - before, 0.0) / (now - began)


class LoadRate:
    """How fast changed bytes grow, from looks at them: an average that forgets."""

    def __init__(self, forget_seconds: float) -> None:
        self.bytes_per_second = 0.0
        self._forget_seconds = forget_seconds
        self._last: tuple[float, int] | None = None

    def look(self, now: float, changed_bytes: int) -> None:
        """Note the changed bytes; fewer than at the last look: there was a cut."""
        last, self._last = self._last, (now, changed_bytes)
        if last is None or now <= last[0]:
            return
        seconds = now - last[0]
        grown = changed_bytes - last[1] if changed_bytes >= last[1] else changed_bytes
        weight = 1 - math.exp(-seconds / self._forget_seconds)
        self.bytes_per_second += weight * (grown / seconds - self.bytes_per_second)


class Bursts:
    """How much hosts were seen to write beyond what they do all the time.

    The largest burst of late, so that room is kept for another like it. It fades.
    """

    def __init__(self, target: float) -> None:
        self.largest_bytes = 0.0
        self._fade_seconds = BURST_FADE_TARGETS * target
        self._leak_seconds = target / 2
        self._usual = LoadRate(2 * target)
        self._excess = 0.0
        self._last: tuple[float, int] | None = None

    def look(self, now: float, changed_bytes: int) -> None:
        last, self._last = self._last, (now, changed_bytes)
        if last is None or now <= last[0]:
            return
        seconds = now - last[0]
        grown = changed_bytes - last[1] if changed_bytes >= last[1] else changed_bytes
        usual = self._usual.bytes_per_second * seconds
        self._usual.look(now, changed_bytes)
        self._excess *= math.exp(-seconds / self._leak_seconds)
        self._excess = max(self._excess + grown - usual, 0.0)
        self.largest_bytes *= math.exp(-seconds / self._fade_seconds)
        self.largest_bytes = max(self.largest_bytes, self._excess)
