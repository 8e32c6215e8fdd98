"""The line that `systemctl status` shows of a daemon, kept up to date."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence

from common.errors import FarshoreError
from common.service.notify import notify
from common.service.status import GroupState, GroupStatus, SiteStatus

PERIOD_SECONDS = 5.0
"""How old the line may be: a status of all groups is made for each."""

GROUPS_MAX = 8
"""Groups that have a part of the line; of others it says how many there are."""

SAID_BYTES_MAX = 400
"""Of what a reload left to say."""

_AT_REST = {GroupState.IDLE, GroupState.DRAINING, GroupState.FIRST_COPY}


def group_text(group: GroupStatus) -> str:
    """Write one group, as in "orders: draining, point 41 3 s old"."""
    parts = [f"{group.name}: {group.state}"]
    progress = group.progress
    if progress is not None and progress.total_bytes:
        share = 100 * progress.done_bytes // progress.total_bytes
        parts.append(f"{progress.operation} {share} %")
    if group.recovery_point is not None:
        age = group.recovery_point_age_seconds
        old = "" if age is None else f" {age:.0f} s old"
        parts.append(f"point {group.recovery_point.number}{old}")
    if group.alarms:
        parts.append("alarm " + " ".join(alarm.name for alarm in group.alarms))
    return ", ".join(parts)


def site_text(site: SiteStatus, said: str = "") -> str:
    """Write the line: groups with something to look at first, then what `said` adds."""
    groups: Sequence[GroupStatus] = sorted(
        site.groups, key=lambda group: (not group.alarms, group.state in _AT_REST)
    )
    parts = [group_text(group) for group in groups[:GROUPS_MAX]]
    if len(groups) > GROUPS_MAX:
        parts.append(f"and {len(groups) - GROUPS_MAX} groups more")
    if said:
        parts.append(said[:SAID_BYTES_MAX])
    return "; ".join(parts) or "no groups"


class StatusLine:
    """Sends the line anew every five seconds; does nothing without systemd."""

    def __init__(
        self,
        status: Callable[[], Awaitable[SiteStatus]],
        said: Callable[[], str],
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """`said` returns what else to say: what a reload left undone, or nothing."""
        self._status = status
        self._said = said
        self._environment = environment

    async def run(self) -> None:
        """Keep the line up to date until cancelled."""
        while True:  # ends with the daemon
            if self._environment.get("NOTIFY_SOCKET"):
                await self.send()
            await asyncio.sleep(PERIOD_SECONDS)

    async def send(self) -> None:
        try:
            line = site_text(await self._status(), self._said())
        except FarshoreError as error:
            line = str(error)
        notify(f"STATUS={line}", environment=self._environment)
