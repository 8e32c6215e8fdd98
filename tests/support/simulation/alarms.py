"""What the sites have to say, and when they must have nothing more to say.

Where room ends at the remote it says so and goes on by itself: it is neither silent
nor does it need a restart. Once all is well no alarm is left at either site.
"""

from __future__ import annotations

from typing import Any

from common.errors import StorageError
from remote_site.store import GroupStore
from tests.support.simulation.loop import World
from tests.support.simulation.sites import STATE, PrimarySite, RemoteSite

SAID_SECONDS = 6.0
"""A session that ends lets its threads return and its link drain before it says why."""

WELL = ("remote_restored", "rpo_breached", "rpo_breach_forecast", "verify_mismatch")
"""Alarms that may still stand: the first until an operator has seen it, the next two
for as long as the target after the last point that was too old, the last until the
next verify, where a device could not be read."""


class AlarmsWatch:
    """Looks at the alarms of both sites now and then."""

    def __init__(self, world: World, primary: PrimarySite, remote: RemoteSite) -> None:
        self.world = world
        self.said = 0
        self._primary = primary
        self._remote = remote
        self._unsaid_since: float | None = None

    def remote_opened(self, store: GroupStore) -> None:
        self._unsaid_since = None
        for name in ("apply", "apply_decoded", "commit"):
            self._watch(store, name)

    def _watch(self, store: Any, name: str) -> None:
        work = getattr(store, name)

        async def watched(*args: Any, **what: Any) -> Any:
            try:
                done = await work(*args, **what)
            except StorageError as error:
                if error.is_out_of_space and store.failed is None:
                    self._unsaid_since = self._unsaid_since or self.world.now
                raise
            if name == "commit":
                self._listen()  # before this commit ends the alarm
            return done

        setattr(store, name, watched)

    def look(self) -> None:
        site, group = self._remote, self._remote.group
        if not site.is_alive or not site.is_serving or group is None:
            self._unsaid_since = None
            return
        store, machine = site.store, site.machine
        if store is not None and store.failed is not None:
            if not machine.failed_flush and not machine.has_failed_at(STATE):
                self._problem(f"the remote gave up: {store.failed}")
            self._unsaid_since = None
        self._listen()
        if self._unsaid_since is None:
            return
        since = max(self._unsaid_since, machine.disturbed_until, site.thawed_at)
        if self.world.now - since > SAID_SECONDS:
            self._problem("the remote has no room, and has not said so")

    def _listen(self) -> None:
        group = self._remote.group
        if self._unsaid_since is None or group is None:
            return
        if "out_of_space" in group.alarms:
            self.said += 1
            self._unsaid_since = None

    def all_is_well(self) -> None:
        """Nothing is wrong any more: no alarm may be left."""
        left = []
        if self._remote.group is not None:
            left += list(self._remote.group.alarms)
        if self._primary.replicator is not None:
            left += [alarm.name for alarm in self._primary.replicator.alarms.all()]
        left = [name for name in left if name not in WELL]
        if left:
            self._problem(f"all is well, but for {left}")

    def _problem(self, text: str) -> None:
        self.world.problem(f"I11: {text}")
