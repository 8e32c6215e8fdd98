"""Hooks of a group: have applications settle before a cut, and go on after it.

`before_cut` ends before hosts' writes are held, so the hold is no longer for it.
`after_cut` is run whenever `before_cut` was begun, in this order: a durable note that
it is about to begin; the program; the cut, or none; `after_cut`, once the first one's
process is gone; the note is cleared. The crash it defends against: an application left
frozen. Whoever starts with a note there ends what the hook left running, and runs
`after_cut` once.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from common.errors import FarshoreError
from common.ports import Threads
from common.service.config_hooks import HooksTable
from common.service.hook_status import HookOutcome, HooksStatus, HookStatus
from common.service.moments import rfc3339
from common.storage.record import DurableRecord
from primary_site.alarms import Alarms
from primary_site.background import retrieve
from primary_site.group import Cut, CutImpossibleError
from primary_site.hook_process import (
    TOKEN,
    HookEnd,
    HookProcess,
    kill_left_over,
)

GONE_POLL_SECONDS = 0.05
STOP_SECONDS_MAX = 20.0
"""What `after_cut` gets at most while the daemon stops: the group closes within 60."""

FAILED_ALARM = "hook_failed"
LEFT_ALARM = "after_cut_failed"

log = structlog.get_logger()


class HookFailedError(CutImpossibleError):
    """`before_cut` failed, and the config says that then there is no cut."""

    alarm = FAILED_ALARM


@dataclass(slots=True)
class _Runs:
    """How often one hook ran, and how its runs ended."""

    outcomes: Counter[str] = field(default_factory=Counter)
    last_seconds: float | None = None

    def ended(self, end: HookEnd) -> None:
        self.outcomes[end.outcome] += 1
        self.last_seconds = end.seconds

    def status(self) -> HookStatus:
        return HookStatus(runs=dict(self.outcomes), last_seconds=self.last_seconds)


class CutHooks:
    """The hooks of one group; owned by its event loop."""

    def __init__(
        self,
        group: str,
        table: HooksTable,
        note: DurableRecord,
        threads: Threads,
        alarms: Alarms,
    ) -> None:
        """`threads` run programs, one at a time, and write the note; ours to close."""
        self._group = group
        self._table = self._newest = table
        self._note = note
        self._threads = threads
        self._alarms = alarms
        self._running: HookProcess | None = None
        self._after: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        """Clear from before a `before_cut` until the end of its `after_cut`."""
        self._idle.set()
        self._is_stopping = False
        self._runs = {"before_cut": _Runs(), "after_cut": _Runs()}
        self._log = log.bind(group=group)

    @property
    def lead_seconds(self) -> float:
        """How long before a hold it is begun, going by the last time."""
        return self._runs["before_cut"].last_seconds or 0.0

    def status(self) -> HooksStatus:
        return HooksStatus(**{name: runs.status() for name, runs in self._runs.items()})

    def follow(self, table: HooksTable) -> None:
        """Run what another config says, from the next cut on."""
        self._newest = table

    # -- a cut -------------------------------------------------------------------------

    async def around(
        self, number: int, label: str | None, make_cut: Callable[[], Awaitable[Cut]]
    ) -> Cut:
        """Make a cut between the two hooks; return once it is taken.

        `after_cut` runs on: it is waited for by the next one, and by `close`. Raises
        `HookFailedError`, and what `make_cut` raises.
        """
        await self._idle.wait()
        if self._is_stopping:
            raise HookFailedError("the daemon stops")
        self._table = self._newest
        self._idle.clear()
        self._after = None
        told = {"FARSHORE_CYCLE": str(number), "FARSHORE_LABEL": label or ""}
        cut: Cut | None = None
        try:
            await self._before(told)
            cut = await make_cut()
        finally:
            if cut is not None:
                told["FARSHORE_CUT_TIME"] = rfc3339(cut.cut_ns)
            result = "no_cut" if cut is None else "cut"
            self._begin_after(told | {"FARSHORE_RESULT": result})
        return cut

    async def _before(self, told: dict[str, str]) -> None:
        """Run `before_cut`; what its failure means is the config's to say."""
        if self._table.before_cut is None:
            return
        token = secrets.token_hex(8)
        try:
            if self._table.after_cut is not None:
                await self._store_note(token)
            end = await self._run(
                "before_cut", self._table.before_cut, told | {TOKEN: token}
            )
            why = end.reason
        except FarshoreError as error:  # no note, no freeze: nobody would undo it
            why = str(error)
        if not why:
            self._alarms.clear(FAILED_ALARM)
            return
        text = f"before_cut did not succeed: {why}"
        if self._table.on_failure == "skip" or self._is_stopping:
            raise HookFailedError(f"{self._group}: no cut was made: {text}")
        if self._table.on_failure == "alarm":
            self._alarms.set(
                FAILED_ALARM,
                f"{text}; points are cut all the same, without what applications hold "
                "in memory",
            )

    def _begin_after(self, told: dict[str, str]) -> None:
        self._after = asyncio.create_task(self._run_after(told), name="after_cut")
        self._after.add_done_callback(retrieve)

    async def _run_after(self, told: dict[str, str]) -> None:
        try:
            await self._before_gone()
            if self._table.after_cut is not None:
                await self._undo(self._table.after_cut, told)
        finally:
            self._idle.set()

    async def _before_gone(self) -> None:
        """Wait for its process: a freeze that outlives SIGKILL would outlive its thaw.

        Ends with the device that it waits for.
        """
        while self._running is not None and not self._running.is_gone():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(GONE_POLL_SECONDS)

    async def _undo(self, words: tuple[str, ...], told: dict[str, str]) -> None:
        end = await self._run("after_cut", words, told)
        if end.reason:
            self._alarms.set(
                LEFT_ALARM,
                f"after_cut did not succeed: {end.reason}; applications may still be "
                "held: see to them, and run it by hand",
            )
            return
        self._alarms.clear(LEFT_ALARM)
        if self._table.before_cut is not None:
            await self._store_note(None)

    async def _store_note(self, token: str | None) -> None:
        """Note what marks a `before_cut` that is about to begin; None: all is undone.

        Durable on return. Raises `FarshoreError`.
        """
        await self._threads.run(self._note.store, {"token": token})

    async def _run(
        self, hook: str, words: tuple[str, ...], told: dict[str, str]
    ) -> HookEnd:
        """Run a hook, log and count its end."""
        told = told | {
            "FARSHORE_GROUP": self._group,
            "FARSHORE_PHASE": hook.partition("_")[0],
        }
        limit = self._table.timeout_seconds
        if self._is_stopping:
            limit = min(limit, STOP_SECONDS_MAX)
        self._running = process = HookProcess(words, told, limit)
        end = await self._threads.run(process.run)
        self._runs[hook].ended(end)
        self._tell(hook, told.get("FARSHORE_CYCLE"), end)
        return end

    def _tell(self, hook: str, cycle: str | None, end: HookEnd) -> None:
        if end.outcome is HookOutcome.DONE:
            self._log.info("hook_done", hook=hook, cycle=cycle, seconds=end.seconds)
            return
        self._log.warning(
            "hook_failed",
            hook=hook,
            cycle=cycle,
            output=end.output,
            outcome=str(end.outcome),
            exit_code=end.exit_code,
            seconds=end.seconds,
            is_gone=end.is_gone,
        )

    # -- start and stop ----------------------------------------------------------------

    async def recover(self) -> None:
        """Undo what a `before_cut` of an earlier process may have left; at the start.

        Returns once `after_cut` has begun, where it is needed. A note that can't be
        read counts as one: `after_cut` may be run where there is nothing to undo.
        """
        try:
            note = await self._threads.run(self._note.load)
        except FarshoreError as error:
            note = {"token": ""}
            self._log.warning("hook_note_lost", reason=str(error))
        if note is None or note["token"] is None:
            return
        killed = 0
        if note["token"]:
            killed = await self._threads.run(kill_left_over, str(note["token"]))
        self._log.warning("hook_left_over", killed=killed)
        self._idle.clear()
        self._begin_after({"FARSHORE_RESULT": "recovered"})

    async def close(self) -> None:
        """Begin no hook any more; end a `before_cut`, and have `after_cut` run.

        Takes twice `STOP_SECONDS_MAX` at most; what is not undone by then is at the
        next start.
        """
        if self._is_stopping:
            return
        self._is_stopping = True
        if self._running is not None and self._after is None:
            self._running.stop()
        try:
            async with asyncio.timeout(2 * STOP_SECONDS_MAX):
                await self._idle.wait()
        except TimeoutError:
            self._log.warning("hook_abandoned")
        else:
            self._threads.close()
