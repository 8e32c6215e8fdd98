"""The scrubs of a group: by schedule or on demand, one at a time, and the result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from common.errors import FarshoreError, RefusedError
from common.ports import Clock, Threads
from common.service.kept_report import KeptReport
from common.service.schedule import next_moment_ns
from common.service.scrub_status import ScrubFinding, ScrubReport, ScrubResult
from common.service.status import ProgressStatus, ScrubSummary
from remote_site.scrub import Scrub
from remote_site.store import GroupStore

ALARM = "scrub_failed"

LOOK_AGAIN_SECONDS = 60.0
"""The wall clock may be set: a moment far off is looked at again so often."""


class Scrubbing:
    """Starts, ends and reports scrubs; owned by the event loop."""

    def __init__(
        self,
        name: str,
        store: GroupStore,
        clock: Clock,
        raise_alarm: Callable[[str, str], None],
        clear_alarm: Callable[[str], None],
    ) -> None:
        self._name = name
        self._store = store
        self._clock = clock
        self._raise_alarm = raise_alarm
        self._clear_alarm = clear_alarm
        self._log = structlog.get_logger().bind(group=name)
        self._task: asyncio.Task[None] | None = None
        self._schedule: asyncio.Task[None] | None = None
        self._followed: tuple[str | None, int] | None = None
        self._scrub: Scrub | None = None
        self._began_ns = 0
        self._report: ScrubReport | None = None
        self.last: ScrubSummary | None = None
        """Of the last scrub that ended."""
        self.is_receiving: Callable[[], bool] = lambda: False
        """Tells whether a cycle is under way, which a scrub yields to."""
        self._stopped_by = ""
        self._keep: Callable[[ScrubReport], Awaitable[None]] | None = None

    async def recall(self, kept: KeptReport[ScrubReport], threads: Threads) -> None:
        """Keep reports there from now on, and begin with the one that is there."""

        async def keep(report: ScrubReport) -> None:
            await threads.run(kept.store, report)

        self._keep = keep
        report = await threads.run(kept.load)
        if report is not None:
            self._report, self.last = report, report.summary()
            self._raise_or_clear(report)

    def start(self, rate_bytes: int) -> None:
        """Begin to read back; raises `RefusedError` if that is under way."""
        if self._scrub is not None:
            raise RefusedError(
                f"a scrub of {self._name} is under way: farshore scrub {self._name} "
                "--stop ends it"
            )
        self._began_ns = self._clock.now_ns()
        self._scrub = Scrub(self._store, rate_bytes, self._clock, self.is_receiving)
        self._log.info("scrub_started", rate_bytes=rate_bytes)
        self._task = asyncio.create_task(self._run(self._scrub))

    async def stop(self, why: str = "it was stopped") -> None:
        """End the scrub under way, if there is one."""
        if self._task is not None and not self._task.done():
            self._stopped_by = why
            self._task.cancel()
            await asyncio.wait([self._task])

    def follow(self, schedule: str | None, rate_bytes: int) -> None:
        """Start one at every moment of a schedule, until `close`; None: at no moment.

        Another schedule before is followed no more; what it began goes on.
        """
        if self._followed == (schedule, rate_bytes):
            return
        self._followed = schedule, rate_bytes
        if self._schedule is not None:
            self._schedule.cancel()
            self._schedule = None
        if schedule is not None:
            self._schedule = asyncio.create_task(self._follow(schedule, rate_bytes))

    async def close(self) -> None:
        if self._schedule is not None:
            self._schedule.cancel()
            await asyncio.wait([self._schedule])
        await self.stop("the daemon was stopped")

    async def _follow(self, schedule: str, rate_bytes: int) -> None:
        due_ns = next_moment_ns(schedule, self._clock.now_ns())
        while True:  # ends with the daemon
            wait = (due_ns - self._clock.now_ns()) / 1e9
            if wait > 0:
                await asyncio.sleep(min(wait, LOOK_AGAIN_SECONDS))
                continue
            if self._scrub is None:
                self.start(rate_bytes)
            else:
                self._log.warning("scrub_skipped", reason="one is under way")
            due_ns = next_moment_ns(schedule, self._clock.now_ns())

    # -- what it says ------------------------------------------------------------------

    def report(self) -> ScrubReport | None:
        """Return what the scrub under way, or else the last one, has found."""
        if self._scrub is not None:
            return self._made_report(self._scrub, None, "")
        return self._report

    def progress(self) -> ProgressStatus | None:
        if self._scrub is None:
            return None
        return ProgressStatus(
            operation="scrub",
            done_bytes=self._scrub.read_bytes,
            total_bytes=max(self._scrub.total_bytes, self._scrub.read_bytes),
        )

    async def _run(self, scrub: Scrub) -> None:
        result, why = ScrubResult.FAILED, ""
        try:
            await scrub.run()
            result = ScrubResult.DAMAGED if scrub.findings else ScrubResult.CLEAN
        except FarshoreError as error:
            why = str(error)
        except asyncio.CancelledError:
            result, why = ScrubResult.STOPPED, self._stopped_by
        except Exception as error:  # noqa: BLE001 - a bug here must not end replication
            self._log.exception("scrub_broken")
            why = f"internal error: {error!r}"
        report = self._made_report(scrub, result, why)
        try:
            if self._keep is not None:  # durable before anybody hears of it
                await self._keep(report)
        finally:
            self._scrub = None
            self._report, self.last = report, report.summary()
            self._tell(report)

    def _tell(self, report: ScrubReport) -> None:
        self._log.info(
            "scrub_ended",
            result=report.result,
            reason=report.reason,
            read_bytes=report.read_bytes,
            findings=[each.to_json() for each in report.findings[:10]],
        )
        self._raise_or_clear(report)

    def _raise_or_clear(self, report: ScrubReport) -> None:
        if report.findings:
            first = report.findings[0]
            text = f"{first.file} at byte {first.offset_bytes}: {first.reason}"
            if len(report.findings) > 1:
                text += f"; and {len(report.findings) - 1} more: farshore scrub "
                text += f"{self._name} --report"
            self._raise_alarm(ALARM, text)
        elif report.result is ScrubResult.CLEAN:
            self._clear_alarm(ALARM)

    def _made_report(
        self, scrub: Scrub, result: ScrubResult | None, why: str
    ) -> ScrubReport:
        return ScrubReport(
            result=result,
            reason=why,
            started_ns=self._began_ns,
            ended_ns=None if result is None else self._clock.now_ns(),
            read_bytes=scrub.read_bytes,
            total_bytes=max(scrub.total_bytes, scrub.read_bytes),
            findings=tuple(
                ScrubFinding(
                    file=each.file,
                    offset_bytes=each.offset_bytes,
                    reason=each.reason,
                )
                for each in scrub.findings
            ),
            findings_omitted=scrub.findings_omitted,
        )
