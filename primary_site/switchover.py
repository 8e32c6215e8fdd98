"""A planned exchange of roles, at the site that has sent until now.

Hosts write no more; the last cycle brings the remote everything; the record says to
whom the group goes; then the remote is asked to take over from just that point. Its
answer is its next goodbye. Nothing is lost, whatever stops it where, and whoever else
asks for something meanwhile.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import Any

import structlog

from common.errors import FarshoreError, RefusedError, StorageError
from common.ports import Clock
from common.replication.features import EXCHANGE
from common.replication.lineage import ID_BYTES, CycleName, Fork, ToldFork
from common.replication.role_messages import HandOver
from primary_site.alarms import Alarms
from primary_site.group import ConsistencyGroup
from primary_site.group_cycles import GroupCycles
from primary_site.group_state import GroupState
from primary_site.session import SendingSession
from primary_site.superseded import allow_writes, follow_role, refuse_writes

ALARM = "handing_over"

WRITES_SECONDS_MAX = 60.0
"""Writes under way may take so long to end; else hosts go on as before."""

log = structlog.get_logger()


class Switchover:
    """Of one group, on its loop; `gave_up` is set once the group is the remote's."""

    def __init__(
        self,
        group: ConsistencyGroup,
        cycles: GroupCycles,
        alarms: Alarms,
        clock: Clock,
    ) -> None:
        self.gave_up = asyncio.Event()
        """This site is to receive: its sending role ends."""
        self.reclaimed = asyncio.Event()
        """A superseded site goes on: whoever stands by for that clears it first."""
        self.split_from: ToldFork | None = None
        """The other site serves, too, and neither took over from the other."""
        self.is_under_way = False
        """Hosts' writes are refused, and a last cycle brings the remote the rest."""
        self._group = group
        self._cycles = cycles
        self._alarms = alarms
        self._clock = clock
        self._refused: asyncio.Future[None] | None = None
        self._is_in_doubt = False
        """Nobody knows whether the record says to whom the group goes."""
        follow_role(group)
        if group.state.gives_up:
            self.gave_up.set()

    @property
    def is_handing(self) -> bool:
        """The remote is asked to take over: no cycle is begun any more."""
        return self._group.state.handing is not None

    async def hand_over(self, session: SendingSession) -> None:
        """Bring everything to the remote, and record to whom the group goes.

        Order: no host's write is begun any more, in one step, and those under way have
        ended; then a cut, committed at the remote; then the record, durably; only then
        is the remote asked. The crashes it defends against: a write after the last
        cut that was acknowledged; two sites that serve. What fails before the record
        leaves hosts as they were, unless the remote has taken over meanwhile.
        """
        if self.is_under_way or self.is_handing:
            raise RefusedError(f"group {self._group.name} is being handed over already")
        if self._cycles.reshaping.is_under_way:  # a volume that comes takes writes
            raise RefusedError(
                f"volumes of group {self._group.name} change just now: try again"
            )
        if EXCHANGE not in session.features:
            raise RefusedError("the remote's release can't take a group over")
        group = self._group
        refuse_writes(group)
        self.is_under_way = True
        try:
            await self._writes_ended()
            self._cycles.wake.set()
            ticket = self._cycles.tickets.ask(None)
            await ticket.safe
            async with self._cycles.boundary:
                await self._record()
        except BaseException:
            state = group.state
            if not (state.handing or state.superseded or self._is_in_doubt):
                allow_writes(group)
            raise
        finally:
            self.is_under_way = False
        self._alarms.set(
            ALARM,
            "hosts' writes are refused: the remote is asked to take over, and has not "
            "answered yet",
        )

    async def _writes_ended(self) -> None:
        try:
            async with asyncio.timeout(WRITES_SECONDS_MAX):
                for volume in self._group.volumes:
                    await volume.writes_ended()
        except TimeoutError:
            raise RefusedError(
                f"group {self._group.name}: writes under way did not end within "
                f"{WRITES_SECONDS_MAX:g} s; see the device"
            ) from None

    async def _record(self) -> None:
        group, state = self._group, self._group.state
        if group.cut is not None or group.has_changed():
            raise RefusedError("the last cycle was not the last; try again")
        assert state.committed_number is not None
        assert state.committed_cut_ns is not None
        fork = Fork(
            secrets.token_bytes(ID_BYTES),
            state.lineage,
            CycleName(state.committed_number, state.committed_cycle_id),
            state.committed_cut_ns,
            self._clock.now_ns(),
        )
        self._cycles.tickets.fail_asked("the group is handed over to its remote")
        await self._record_handing(fork)
        log.warning("group_handed_over", group=group.name, number=fork.cycle.number)

    async def _record_handing(self, fork: Fork) -> None:
        """Record to whom the group goes, or that it goes to nobody.

        What failed may be on the disk all the same, and a restart would go by it: hosts
        go on only once a later record says otherwise. If that fails, too, they wait for
        the restart, whichever it finds.
        """
        group = self._group
        try:
            await group.update(handing=fork)
        except StorageError:
            self._is_in_doubt = True
            await group.update(handing=None)
            self._is_in_doubt = False
            raise

    async def ask(self, session: SendingSession) -> None:
        """Ask the remote to take over, in this session, if it is to."""
        fork = self._group.state.handing
        if fork is not None:
            await session.send(HandOver(session.epoch, fork))

    async def ended(self) -> None:
        """Wait until the remote has taken over. Raises `RefusedError` if it refuses."""
        self._refused = asyncio.get_running_loop().create_future()
        gave_up = asyncio.create_task(self.gave_up.wait())
        waiting: set[asyncio.Future[Any]] = {gave_up, self._refused}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if self._refused.done():
                self._refused.result()
        finally:
            gave_up.cancel()

    async def refused(self, error: FarshoreError) -> None:
        """The remote can't take over, and has not: hosts go on here."""
        await self._group.update(handing=None)
        allow_writes(self._group)
        self._alarms.clear(ALARM)
        self._cycles.wake.set()
        if self._refused is not None and not self._refused.done():
            self._refused.set_exception(RefusedError(str(error)))

    async def superseded(self, told: ToldFork) -> None:
        """The remote has taken over: by agreement, or from one that was not there.

        Order: as `superseded.supersede`; with the same record this site gives up, where
        it had agreed. Raises `StorageError`.
        """
        group = self._group
        refuse_writes(group)
        handing = group.state.handing
        is_agreed = handing is not None and handing.lineage == told.fork.lineage

        def superseded(state: GroupState) -> GroupState:
            return replace(state, superseded=told, gives_up=state.gives_up or is_agreed)

        await group.change(superseded)
        refuse_writes(group)  # a switchover that failed meanwhile has let them go on
        self._alarms.clear(ALARM)
        if is_agreed:
            self.gave_up.set()

    # -- what an operator chooses ------------------------------------------------------

    @property
    def other(self) -> ToldFork | None:
        """Return the line of data that the other site serves, if it is known to."""
        return self._group.state.superseded or self.split_from

    async def give_up(self) -> None:
        """Give up what this site has beside the remote's: an operator says so.

        Raises `RefusedError` where the remote is not known to have taken over.
        """
        group, other = self._group, self.other
        if other is None:
            raise RefusedError(
                f"group {group.name} is served here, and no other site is known to "
                "have taken it over: there is nothing to fail back to; see farshore "
                "status at both sites"
            )
        refuse_writes(group)
        lineage = group.state.lineage

        def given_up(state: GroupState) -> GroupState:
            if state.lineage != lineage:
                raise _decided(state)
            return replace(state, superseded=other, gives_up=True)

        await group.change(given_up)
        refuse_writes(group)  # as above
        self.gave_up.set()

    async def reclaim(self) -> Fork:
        """Go on from what this site has, in a lineage of its own: an operator says so.

        The other site is superseded as soon as it asks. Order: the record with the new
        lineage, durably; only then hosts may write. The crash it defends against: two
        sites that write in one lineage.

        Raises `RefusedError` where no other site is known to serve the group.
        """
        group, other = self._group, self.other
        if other is None or group.state.gives_up:
            raise RefusedError(f"group {group.name} is not superseded here")
        fork = replace(
            other.fork,
            lineage=secrets.token_bytes(ID_BYTES),
            parent=other.fork.lineage,
            at_ns=self._clock.now_ns(),
        )
        lineage = group.state.lineage

        def reclaimed(state: GroupState) -> GroupState:
            if state.gives_up or state.lineage != lineage:
                raise _decided(state)
            return replace(
                state,
                lineage=fork.lineage,
                superseded=None,
                handing=None,
                reclaimed=ToldFork(fork, other.is_known),
            )

        await group.change(reclaimed)
        self.split_from = None
        allow_writes(group)
        log.warning(
            "group_reclaimed",
            group=group.name,
            lineage=fork.lineage.hex(),
            parent=fork.parent.hex(),
        )
        self._cycles.wake.set()
        self.reclaimed.set()
        return fork


def _decided(state: GroupState) -> RefusedError:
    return RefusedError(
        f"group {state.group}: another operator has chosen a side just now; see "
        "farshore status at both sites"
    )
