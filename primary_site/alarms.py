"""Alarms: what an operator should look at, until it ends."""

from __future__ import annotations

from dataclasses import dataclass

from common.ports import Clock


@dataclass(frozen=True, slots=True)
class Alarm:
    name: str
    message: str
    since_ns: int


class Alarms:
    """The alarms of one group; names are fixed snake_case words."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._raised: dict[str, Alarm] = {}

    def set(self, name: str, message: str) -> None:
        """Raise it, or change its message; it keeps the time since when."""
        standing = self._raised.get(name)
        since_ns = standing.since_ns if standing else self._clock.now_ns()
        self._raised[name] = Alarm(name, message, since_ns)

    def clear(self, *names: str) -> None:
        for name in names:
            self._raised.pop(name, None)

    def all(self) -> list[Alarm]:
        return sorted(self._raised.values(), key=lambda alarm: alarm.since_ns)
