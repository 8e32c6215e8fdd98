"""Whether a device takes writes into memory at once, judged by how it just did.

Pure; time comes in as an argument. Most writes are copied into the page cache
within microseconds, yet no call says beforehand that one will: a journal that
commits, a throttled writer, a file system in user space can make it wait for the
device. So a device has to prove itself, in threads, and loses the proof at once.
"""

from __future__ import annotations

PROMPT_SECONDS = 0.010
"""A batch of writes that took longer has waited for something. Copying all that one
read of a socket brings takes a tenth of it; another process on the core, some of it."""

PROOF_BATCHES = 32
"""Prompt batches in a row before the loop writes by itself."""

PAUSE_SECONDS_MIN = 1.0
PAUSE_SECONDS_MAX = 600.0
"""After it kept the loop waiting: doubled each time, as long as it goes on."""


class Promptness:
    """One device's record; owned by its group's loop."""

    __slots__ = ("_again_at", "_pause", "_proofs")

    def __init__(self) -> None:
        self._proofs = 0
        self._again_at = 0.0
        self._pause = PAUSE_SECONDS_MIN

    def is_prompt(self, now: float) -> bool:
        """Tell whether the loop may write by itself; `now` is monotonic seconds."""
        return self._proofs >= PROOF_BATCHES and now >= self._again_at

    def took_in_thread(self, seconds: float) -> None:
        """Note how long a batch of writes took that nobody's loop waited for."""
        self._proofs = self._proofs + 1 if seconds < PROMPT_SECONDS else 0

    def took_on_loop(self, seconds: float, now: float) -> None:
        """Note how long the loop wrote; one wait ends its doing so for a while."""
        if seconds < PROMPT_SECONDS:
            return
        if now - self._again_at > 2 * self._pause:  # it did well since the last time
            self._pause = PAUSE_SECONDS_MIN
        self._proofs = 0
        self._again_at = now + self._pause
        self._pause = min(2 * self._pause, PAUSE_SECONDS_MAX)
