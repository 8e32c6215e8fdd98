"""A group's takeover: from an operator's word to hosts that write, whatever stops it.

A shell: the steps are those of `takeover_disk`, the decisions of `takeover_plan`. Once
the intent is durable the takeover goes on by itself, also after a restart.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from common.errors import FarshoreError
from common.ports import Clock
from common.replication.lineage import ID_BYTES
from common.replication.session_messages import GoodbyeReason, goodbye
from common.service.status import ProgressStatus
from common.service.takeover_status import TakeoverPlanStatus, TakeoverStatus
from remote_site.group import ReceivingGroup
from remote_site.group_disk import GroupDisk
from remote_site.store_state import Takeover
from remote_site.takeover_disk import finish, intend, roll_back, rolled_back_bytes
from remote_site.takeover_plan import Situation, check_may_begin, losses

ALARM = "takeover_stalled"

RETRY_SECONDS = 5.0
"""Between tries of a takeover that cannot go on: for want of room, for example."""

Prepare = Callable[[GroupDisk], None]
"""Writes, in a thread, what the group sends with; it may be repeated."""

BeginSending = Callable[[ReceivingGroup], Awaitable[None]]
"""Opens the sending role on the group's devices: hosts may write once it returns."""


class GroupTakeover:
    """At most one for a group; owned by the event loop."""

    def __init__(
        self,
        group: ReceivingGroup,
        prepare: Prepare,
        begin_sending: BeginSending,
        clock: Clock,
    ) -> None:
        self.is_serving = False
        """The sending role is open."""
        self._group = group
        self._prepare = prepare
        self._begin_sending = begin_sending
        self._clock = clock
        self._running: asyncio.Task[None] | None = None
        self._attempt: asyncio.Future[None] | None = None
        self._stop_soon = asyncio.Event()
        self._done_bytes = 0
        self._total_bytes = 0
        self._log = structlog.get_logger().bind(group=group.name)

    @property
    def intent(self) -> Takeover | None:
        return self._group.store.takeover

    # -- what operators ask ------------------------------------------------------------

    def plan(self, number: int | None, *, force: bool) -> TakeoverPlanStatus:
        """Return what taking over would do now. Raises `RefusedError` if it may not."""
        group, situation = self._group, self._situation()
        check_may_begin(situation, group.store.disk.state, number, force=force)
        taken = self.intent
        if taken is not None:
            return TakeoverPlanStatus(
                group=group.name,
                point=taken.fork.cycle.number,
                has_begun=True,
                sentences=(f"the takeover of {group.name} has begun already",),
            )
        found = losses(situation, group.store.disk.state_points, number)
        return TakeoverPlanStatus(
            group=group.name,
            point=found.point.number,
            has_begun=False,
            age_seconds=found.age_seconds,
            cycle_under_way=found.cycle_under_way,
            newer_points=found.newer_points,
            sentences=tuple(found.sentences(group.name)),
        )

    async def take_over(
        self,
        number: int | None,
        *,
        force: bool,
        lineage: bytes | None = None,
        at_ns: int | None = None,
    ) -> TakeoverStatus:
        """Take over from a point (the newest when None); return once hosts may write.

        Order: the open session ends and no other begins, its threads have returned;
        the intent, durable; the devices back at the point; what the group sends with;
        the end, durable; only then hosts. The crash it defends against: tracks of the
        former sender that are applied after a host has written (I8).

        `lineage` and `at_ns`: of a takeover that its sender has agreed to. Raises
        `RefusedError`, then nothing has changed; or what stopped it, and then it is
        tried again until it succeeds.
        """
        group = self._group
        check_may_begin(self._situation(), group.store.disk.state, number, force=force)
        if self.intent is None:
            farewell = goodbye(
                GoodbyeReason.SUPERSEDED_SESSION,
                f"group {group.name!r} is being taken over at the remote",
            )
            async with group.without_sessions(farewell):
                await group.store.run_job(
                    partial(
                        intend,
                        group.store.disk,
                        number,
                        lineage or secrets.token_bytes(ID_BYTES),
                        self._clock.now_ns() if at_ns is None else at_ns,
                    )
                )
            self._log.warning("takeover_intended", **self._told())
        self.resume()
        if self._attempt is not None:
            await asyncio.shield(self._attempt)
        return self.status()

    # -- carrying it out ---------------------------------------------------------------

    def resume(self) -> None:
        """Go on with a takeover whose intent is durable; it ends by itself."""
        assert self.intent is not None
        if self._running is not None or self.is_serving or self._stop_soon.is_set():
            return
        self._attempt = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._run())

    async def serve_again(self) -> None:
        """Open the sending role of a group that was taken over before this start.

        Raises what keeps it from opening: the daemon does not start then.
        """
        assert self.intent is not None
        assert self.intent.is_done
        await self._begin_sending(self._group)
        self.is_serving = True

    async def _run(self) -> None:
        try:
            while not self._stop_soon.is_set():
                try:
                    await self._carry_out()
                except FarshoreError as error:
                    await self._stalled(error)
                else:
                    break
        finally:
            self._running = None
            if self._attempt is not None and not self._attempt.done():
                self._attempt.set_result(None)

    async def _stalled(self, error: FarshoreError) -> None:
        """Say why it does not go on, and wait before the next try."""
        self._group.raise_alarm(ALARM, f"the takeover does not go on: {error}")
        attempt = self._attempt
        assert attempt is not None
        if not attempt.done():
            attempt.set_exception(error)
            attempt.exception()  # nobody need be waiting for it
        self._attempt = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(RETRY_SECONDS):
                await self._stop_soon.wait()
        except TimeoutError:
            return

    async def _carry_out(self) -> None:
        store = self._group.store
        intent = self.intent
        assert intent is not None
        if not intent.is_done:
            if not await self._roll_back(intent.fork.cycle.number):
                return  # told to stop: the next start goes on
            await store.run_job(partial(self._prepare, store.disk))
            await store.run_job(partial(finish, store.disk))
            self._log.warning("takeover_done", **self._told())
        await self._begin_sending(self._group)
        self.is_serving = True
        self._group.clear_alarms(ALARM)

    async def _roll_back(self, number: int) -> bool:
        """Return True once the devices hold the point; False if told to stop before."""
        store = self._group.store
        self._done_bytes = 0
        self._total_bytes = await store.run_job(
            partial(rolled_back_bytes, store.members, number)
        )
        steps = roll_back(store.members, number)
        while not self._stop_soon.is_set():
            size = await store.run_job(lambda: next(steps, None))
            if size is None:
                return True
            self._done_bytes += size
        return False

    async def stop(self) -> None:
        """Stop between two steps; the next start goes on from there."""
        self._stop_soon.set()
        if self._running is not None:
            await asyncio.wait([self._running])

    # -- what it says ------------------------------------------------------------------

    def status(self) -> TakeoverStatus:
        """Return what is known of a takeover that was intended."""
        intent = self.intent
        assert intent is not None
        return TakeoverStatus(
            group=self._group.name,
            point=intent.fork.cycle.number,
            lineage=intent.fork.lineage.hex(),
            parent=intent.fork.parent.hex(),
            cut_ns=intent.fork.cut_ns,
            taken_over_ns=intent.fork.at_ns,
            is_done=self.is_serving,
        )

    def progress(self) -> ProgressStatus | None:
        """Return how far the way back has come; None before and after it."""
        if self._running is None or self.is_serving:
            return None
        return ProgressStatus(
            operation="takeover",
            done_bytes=self._done_bytes,
            total_bytes=self._total_bytes,
        )

    def _situation(self) -> Situation:
        group = self._group
        session = group.session
        is_connected = session is not None and session.is_open
        state = group.store.disk.state
        begun = None if state is None else state.begun
        newest = group.store.points[-1].number if group.store.points else 0
        divided = None if state is None else state.divided
        return Situation(
            group.name,
            is_connected,
            begun.number if begun is not None and begun.number > newest else None,
            self._clock.now_ns(),
            0 if divided is None else divided.number,
        )

    def _told(self) -> dict[str, object]:
        intent = self.intent
        assert intent is not None
        fork = intent.fork
        return {
            "point": fork.cycle.number,
            "lineage": fork.lineage.hex(),
            "parent": fork.parent.hex(),
        }
