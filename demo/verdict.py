"""Whether the recovered copy held, and the words for it."""

from __future__ import annotations

from dataclasses import dataclass

from common.cli.display import seconds_text, size_text
from demo.recovery_host import Recovered


@dataclass(frozen=True, slots=True)
class Disaster:
    """What was true when the primary was killed.

    `promised`: how many transactions had been committed longer ago than the RPO.
    `begun`: how many had been begun; none beyond can be anywhere. `moment` and
    `commits` are monotonic seconds.
    """

    cycle: int
    committed: int
    begun: int
    promised: int
    commits: tuple[float, ...]
    moment: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The yardstick, and what was measured with it."""

    rpo_seconds: int
    disaster: Disaster
    point: int
    recovered: Recovered

    @property
    def is_within_rpo(self) -> bool:
        held = self.recovered.held
        if not isinstance(held, int):
            return False
        return self.disaster.promised <= held <= self.disaster.begun

    @property
    def held(self) -> bool:
        return self.recovered.is_sound and self.is_within_rpo

    def lines(self) -> list[str]:
        """Return the verdict, a line each, for a person."""
        found = self.recovered
        cycle = self.disaster.cycle
        when = "in mid-cycle" if self.point < cycle else "just committed as it died"
        restored = size_text(found.bytes_read)
        journal = "rolled one open transaction back" if found.was_hot else "was cold"
        return [
            f"recovery point    {self.point}; cycle {cycle} was {when}",
            f"restored          {restored} over NBD; SQLite's journal {journal}",
            f"integrity check   {found.integrity}",
            f"transactions      {self._prefix()}",
            f"within the RPO    {self._loss()}",
            "",
            "HELD: the copy is the bank as it was, moments before the disaster."
            if self.held
            else "NOT HELD: the copy breaks its promise.",
        ]

    def _prefix(self) -> str:
        held = self.recovered.held
        if not isinstance(held, int):
            return f"no: {held}"
        return f"1 to {held}, every one, every balance right"

    def _loss(self) -> str:
        held = self.recovered.held
        if not isinstance(held, int):
            return "unknown"
        answer = "yes" if self.is_within_rpo else "NO"
        promise = f"promised were at most {self.rpo_seconds} s"
        lost = self.disaster.committed - held
        if lost <= 0:
            return f"{answer}: nothing committed was lost; {promise}"
        newest = self.disaster.commits[held]  # the first that is lost
        age = seconds_text(max(0.0, self.disaster.moment - newest))
        return f"{answer}: the last {age} are lost, {lost} transactions; {promise}"
