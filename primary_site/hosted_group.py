"""A consistency group on its own event loop: opened, replicated, asked, closed.

The daemon's main loop keeps the control socket, the watchdog and handshakes; each
group's loop does all that touches the group: hosts' requests, cuts, drain, link.
A group whose device hangs hangs alone.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

from common.errors import FarshoreError
from common.ports import Clock, Files, Threads
from common.service.config_primary import PrimaryGroup
from common.service.cycle_trace import Trace
from common.service.kept_report import KeptReport
from common.service.loop_thread import LoopFactory, LoopThread
from common.service.status import AlarmStatus, GroupState, GroupStatus
from common.service.verify_status import VerifyReport
from common.storage.record import DurableRecord
from primary_site.cut_hooks import CutHooks
from primary_site.group import ConsistencyGroup
from primary_site.members import GroupMembers
from primary_site.opening import open_group
from primary_site.replicator import Replicator
from primary_site.report import group_status
from primary_site.session_links import Connect
from primary_site.volume import PrimaryVolume

ANSWER_SECONDS_MAX = 1.0
"""A loop that has not answered by then hangs in a device: status says so."""

CLOSE_SECONDS_MAX = 60.0
"""A clean stop makes bitmaps durable; a device that hangs is not waited for."""

VERIFY_RECORD_NAME = "verify.record"
HOOK_RECORD_NAME = "hook.record"

T = TypeVar("T")

log = structlog.get_logger()


class GroupStalledError(FarshoreError):
    """The group does not answer: its loop waits for a device."""

    exit_code = 9


class HostedGroup:
    """One group of a sending site; all methods are the main loop's."""

    def __init__(
        self,
        thread: LoopThread,
        replicator: Replicator,
        members: GroupMembers,
        state_threads: Threads,
        clock: Clock,
    ) -> None:
        self.name = replicator.group.name
        self.replicator = replicator
        """The group's own: outside its loop, only what never changes is read."""
        self.members = members
        """The group's own, too: asked by `ask`."""
        self._thread = thread
        self._state_threads = state_threads
        self._clock = clock
        self._replicating: asyncio.Task[None] | None = None
        self._last_status: GroupStatus | None = None
        self._stalled_since_ns: int | None = None

    @classmethod
    async def open(
        cls,
        config: PrimaryGroup,
        config_path: str,
        state_directory: str,
        site: str,
        files: Files,
        make_threads: Callable[[str], Threads],
        connect: Connect,
        clock: Clock,
        make_loop: LoopFactory,
    ) -> HostedGroup:
        """Open the group on a new loop; raises what `open_group` raises."""
        thread = LoopThread(config.name, make_loop)

        async def opened() -> HostedGroup:
            threads = make_threads(f"{config.name}/state")
            try:
                found = await threads.run(
                    open_group, files, state_directory, config, config_path
                )
            except BaseException:
                threads.close()
                raise
            group = ConsistencyGroup(config, found, files, make_threads, threads, clock)
            replicator = Replicator(group, site, connect, clock)
            members = GroupMembers(replicator, state_directory, config_path)
            path = f"{state_directory}/groups/{config.name}/{VERIFY_RECORD_NAME}"
            kept = KeptReport(path, files, VerifyReport)
            await replicator.verifying.recall(kept, threads)
            if config.hooks is not None:
                folder = f"{state_directory}/groups/{config.name}"
                replicator.cycles.hooks = CutHooks(
                    config.name,
                    config.hooks,
                    DurableRecord(f"{folder}/{HOOK_RECORD_NAME}", files),
                    make_threads(f"{config.name}/hooks"),
                    replicator.alarms,
                )
            return cls(thread, replicator, members, threads, clock)

        try:
            return await thread.run(opened())
        except BaseException:
            await thread.close(CLOSE_SECONDS_MAX)
            raise

    @property
    def volumes(self) -> list[PrimaryVolume]:
        return self.replicator.group.volumes

    def trace_to(self, trace: Trace) -> None:
        """Have cycles told; before `replicate`."""
        self.replicator.cycles.trace = trace

    async def replicate(self) -> None:
        """Run the group's cycles until cancelled; `close` waits for their end."""
        await self._thread.run(self._replicate())

    async def _replicate(self) -> None:
        self._replicating = asyncio.current_task()
        if (hooks := self.replicator.cycles.hooks) is not None:
            await hooks.recover()
        await self.replicator.run()

    async def gave_up(self) -> None:
        """Wait until this site is to receive the group instead."""
        await self._thread.run(self._gave_up())

    async def _gave_up(self) -> None:
        await self.replicator.switchover.gave_up.wait()

    async def ask(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run an operator's request on the group's loop.

        Raises `GroupStalledError` if the loop does not even begin with it.
        """
        # Whoever takes it first decides: a request refused never runs later.
        first = threading.Lock()

        async def answer() -> T:
            if not first.acquire(blocking=False):
                raise asyncio.CancelledError
            return await work()

        asked = asyncio.ensure_future(self._thread.run(answer()))
        try:
            await asyncio.wait({asked}, timeout=ANSWER_SECONDS_MAX)
            if not asked.done() and first.acquire(blocking=False):
                raise GroupStalledError(
                    f"group {self.name} does not answer: a device of it hangs; see "
                    "the log and the device"
                )
            return await asked
        finally:
            asked.cancel()

    def follow(self, new: PrimaryGroup) -> None:
        """Go on by what a running sender takes over of another config."""
        self._thread.loop.call_soon_threadsafe(self.replicator.follow, new)

    async def status(self) -> GroupStatus:
        """Return the group's status; if it hangs, the last known one, saying so."""
        try:
            status = await self.ask(self._status)
        except GroupStalledError as error:
            return self._stalled(str(error))
        self._stalled_since_ns = None
        self._last_status = status
        return status

    async def _status(self) -> GroupStatus:
        status = group_status(self.replicator, self._clock)
        hooks = self.replicator.cycles.hooks
        if hooks is None:
            return status
        return status.model_copy(update={"hooks": hooks.status()})

    def _stalled(self, message: str) -> GroupStatus:
        if self._last_status is None:
            raise GroupStalledError(message)
        if self._stalled_since_ns is None:
            self._stalled_since_ns = self._clock.now_ns()
            log.error("group_stalled", group=self.name, reason=message)
        alarm = AlarmStatus(
            name="group_stalled", message=message, since_ns=self._stalled_since_ns
        )
        alarms = (*self._last_status.alarms, alarm)
        return self._last_status.model_copy(
            update={"state": GroupState.FAILED, "alarms": alarms}
        )

    async def end_hooks(self) -> None:
        """Let applications go that a hook holds; no cut is made with hooks any more."""
        hooks = self.replicator.cycles.hooks
        if hooks is None:
            return
        try:
            await self.ask(hooks.close)
        except GroupStalledError as error:
            log.warning("hooks_not_ended", group=self.name, reason=str(error))

    async def close(self) -> None:
        """End its cycles, record a clean stop, end its loop.

        Hosts are gone. A group that hangs is left behind: it was not clean.
        """
        deadline = time.monotonic() + CLOSE_SECONDS_MAX
        try:
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await self.ask(self._close)
        except (TimeoutError, GroupStalledError) as error:
            log.error(  # noqa: TRY400 - no bug of ours: a device
                "group_not_closed", group=self.name, reason=str(error)
            )
        finally:
            await self._thread.close(max(deadline - time.monotonic(), 0.1))

    async def _close(self) -> None:
        self.replicator.stop()
        if (hooks := self.replicator.cycles.hooks) is not None:
            await hooks.close()
        if self._replicating is not None:
            # Cancelled from the main loop, it may still be on its way out here.
            self._replicating.cancel()
            await asyncio.wait({self._replicating})
        self.replicator.cycles.trace_given_up("the daemon was stopped")
        try:
            await self.replicator.group.close()
        finally:
            self._state_threads.close()
