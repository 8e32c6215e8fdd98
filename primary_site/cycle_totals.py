"""What a group's cycles came to since the daemon started."""

from __future__ import annotations

from common.service.histogram import CYCLE_BOUNDS_SECONDS, Histogram
from common.service.status import TotalsStatus
from primary_site.cycle_figures import LastCycle


class CycleTotals:
    """Owned by the group's loop."""

    def __init__(self) -> None:
        self._committed = 0
        self._abandoned = 0
        self._bytes_changed = 0
        self._bytes_on_wire = 0
        self._seconds = Histogram(CYCLE_BOUNDS_SECONDS)

    def committed(self, number: int, last: LastCycle | None) -> None:
        """Count a commit; `last` may be of an earlier cycle, where another daemon, or
        this one before its link was lost, had sent it."""
        self._committed += 1
        if last is None or last.number != number:
            return
        self._bytes_changed += last.bytes_changed
        self._bytes_on_wire += last.bytes_on_wire
        self._seconds.observe(last.drain_seconds)

    def abandoned(self) -> None:
        self._abandoned += 1

    def status(self, holds: Histogram) -> TotalsStatus:
        return TotalsStatus(
            cycles_committed=self._committed,
            cycles_abandoned=self._abandoned,
            bytes_changed=self._bytes_changed,
            bytes_on_wire=self._bytes_on_wire,
            hold_seconds=holds.status(),
            cycle_seconds=self._seconds.status(),
        )
