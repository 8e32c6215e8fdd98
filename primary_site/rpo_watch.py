"""Watches over a group's `rpo`: alarms and the log tell of a breach before it happens.

The deciding is `rpo_keeper`'s; here the group is looked at, again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from common.ports import Clock
from primary_site.alarms import Alarms
from primary_site.autopilot import Promise, look_seconds
from primary_site.cycle_figures import changed_bytes
from primary_site.group_cycles import GroupCycles
from primary_site.rpo_keeper import Draining, RpoKeeper

log = structlog.get_logger()

ALARMS = {
    Promise.IN_DANGER: "rpo_breach_forecast",
    Promise.BREACHED: "rpo_breached",
}
"""Also the names of the log's events; their end is the same name with `_ended`."""


class RpoWatch:
    """Looks at one group until it is cancelled."""

    def __init__(
        self,
        cycles: GroupCycles,
        alarms: Alarms,
        is_linked: Callable[[], bool],
        paced: Callable[[], float | None],
        clock: Clock,
    ) -> None:
        self._cycles = cycles
        self._alarms = alarms
        self._is_linked = is_linked
        self._paced = paced
        self._clock = clock
        self._log = log.bind(group=cycles.group.name)
        self._keeper: RpoKeeper | None = None
        """Whose promise was looked at last."""
        self._announced: str | None = None
        self._wake = asyncio.Event()

    def look_again(self) -> None:
        """The group may have another target, or none."""
        self._wake.set()

    async def run(self) -> None:
        while True:  # ends by cancelling
            self.look()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rest_seconds()):
                    await self._wake.wait()

    def _rest_seconds(self) -> float | None:
        """Return when to look again; None: not before there is a target."""
        keeper, left = self._keeper, None
        if keeper is None:
            return None
        if keeper.as_of is not None and self._draining() is not None:
            left = keeper.as_of + keeper.target - self._clock.monotonic()
        return look_seconds(keeper.target, left)

    def look(self) -> None:
        group, keeper = self._cycles.group, self._cycles.keeper
        if keeper is not self._keeper:
            self._announce(None)  # what was announced is of a target of before
            self._keeper = keeper
        if keeper is None:
            return
        if not self._is_promised(keeper):
            if keeper.forget():
                self._announce(None)
            return
        keeper.paced = self._paced()
        has_changed = keeper.look(
            self._clock.monotonic(),
            changed_bytes(group),
            self._draining(),
            is_linked=self._is_linked(),
        )
        assert keeper.forecast is not None
        name = ALARMS.get(keeper.forecast.promise)
        if has_changed:
            self._announce(name)
        if name is not None:
            self._alarms.set(name, keeper.forecast.text)

    def _is_promised(self, keeper: RpoKeeper) -> bool:
        """Tell whether this site is to send: else no target is promised."""
        group, state = self._cycles.group, self._cycles.group.state
        is_other_site = state.superseded is not None or state.handing is not None
        is_told = keeper.as_of is not None and group.failed is None
        return is_told and not state.suspended and not is_other_site

    def _draining(self) -> Draining | None:
        cut_at, drain = self._cycles.cut_at, self._cycles.drain
        if self._cycles.group.cut is None or drain is None:
            return None
        return Draining(cut_at, drain.size_bytes, drain.delivered_bytes, drain.waits)

    def _announce(self, name: str | None) -> None:
        """Log what begins or ends, once; an alarm ends with it."""
        before, self._announced = self._announced, name
        if before is not None:
            self._alarms.clear(before)
        forecast = None if self._keeper is None else self._keeper.forecast
        if name is None or forecast is None:
            if before is not None:
                was_broken = before == ALARMS[Promise.BREACHED]
                self._log.info(
                    "rpo_breached_ended" if was_broken else "rpo_breach_forecast_ended"
                )
            return
        self._log.warning(
            "rpo_breached"
            if name == ALARMS[Promise.BREACHED]
            else "rpo_breach_forecast",
            age_seconds=round(forecast.age_seconds, 3),
            expected_age_seconds=round(forecast.expected_age_seconds, 3),
            seconds_until_breach=forecast.seconds_until_breach,
            cause=forecast.cause,
            why=forecast.why,
        )
