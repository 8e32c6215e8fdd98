"""When a site that does not receive a group yet waits for an operator. Pure.

*Not yet* says a site that changes its role just now, and one that serves the group
itself until somebody there gives that up. The one is over by itself, in seconds.
"""

from __future__ import annotations

WAITS_FOR_OPERATOR_SECONDS = 10.0
"""The same answer for so long: no change of roles takes that, as a rule."""


class NotYet:
    """What the other site answers; times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._text = ""
        self._since = 0.0

    def told(self, text: str, now: float) -> bool:
        """Take an answer; tell whether it is another one than before."""
        is_new = text != self._text
        if is_new:
            self._text, self._since = text, now
        return is_new

    def waits_for_operator(self, now: float) -> bool:
        """Tell whether the answer has been the same for long."""
        return bool(self._text) and now - self._since >= WAITS_FOR_OPERATOR_SECONDS

    def over(self) -> None:
        """The site receives."""
        self._text = ""
