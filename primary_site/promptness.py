"""Whether a device takes writes into memory at once, judged by how it just did.

Pure; time comes in as an argument. Most writes are copied into the page cache
within microseconds, yet no call says beforehand that one will: a journal that
commits, a throttled writer, a file system in user space can make it wait for the
device. So a device has to prove itself, in threads, and loses the proof at once.
"""

from __future__ import annotations

PROMPT_SECONDS = 0.010
"""A write that took longer has waited for something, and so has a batch on the loop.
Copying all that one read of a socket brings takes a tenth of it."""

WAITED_SECONDS = 0.040
"""A batch on the loop is broken off after `PROMPT_SECONDS`. One that took this long
all the same had a write that waited for its device; what is shorter may have been
the interpreter or the core, which other threads and processes want as well."""

PROOF_BATCHES = 32
"""Prompt batches in a row before the loop writes by itself."""

SLOW_COST, SLOW_MAX = 16, 64
"""Four batches broken off in a row are not chance, nor is one in sixteen for long."""

PAUSE_SECONDS_MIN = 1.0
PAUSE_SECONDS_MAX = 600.0
"""After it kept the loop waiting: doubled each time, as long as it goes on."""


class Promptness:
    """One device's record; owned by its group's loop."""

    __slots__ = ("_again_at", "_pause", "_proofs", "_slow")

    def __init__(self) -> None:
        self._proofs = 0
        self._slow = 0
        self._again_at = 0.0
        self._pause = PAUSE_SECONDS_MIN

    def is_prompt(self, now: float) -> bool:
        """Tell whether the loop may write by itself; `now` is monotonic seconds."""
        return self._proofs >= PROOF_BATCHES and now >= self._again_at

    def took_in_thread(self, seconds: float, writes: int) -> None:
        """Note how long a batch of writes took that nobody's loop waited for."""
        prompt = seconds < PROMPT_SECONDS * writes
        self._proofs = self._proofs + 1 if prompt else 0

    def took_on_loop(self, seconds: float, now: float) -> None:
        """Note how long the loop wrote; if it waited, its doing so ends for a while."""
        if seconds < PROMPT_SECONDS:
            if self._slow:
                self._slow -= 1
            return
        self._slow += SLOW_COST
        if seconds < WAITED_SECONDS and self._slow < SLOW_MAX:
            return
        if now - self._again_at > 2 * self._pause:  # it did well since the last time
            self._pause = PAUSE_SECONDS_MIN
        self._proofs = self._slow = 0
        self._again_at = now + self._pause
        self._pause = min(2 * self._pause, PAUSE_SECONDS_MAX)
