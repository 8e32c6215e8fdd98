"""The verifies of a group: one at a time, its result, and repairs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from common.errors import RefusedError, StorageError
from common.ports import Clock, Threads
from common.replication.features import VERIFY
from common.replication.verify_messages import (
    Verified,
)
from common.service.kept_report import KeptReport
from common.service.status import ProgressStatus, VerifySummary
from common.service.verify_status import (
    RANGES_MAX,
    DifferingRange,
    UnreadableRange,
    VerifyReport,
    VerifyResult,
)
from primary_site.alarms import Alarms
from primary_site.group import ConsistencyGroup
from primary_site.group_cycles import GroupCycles
from primary_site.session import SendingSession
from primary_site.verification import Verification, VerifyEndedError
from primary_site.verify_plan import Findings

ALARM = "verify_mismatch"

log = structlog.get_logger()


class Verifying:
    """Starts, ends and reports verifies; owned by the group's loop."""

    def __init__(
        self,
        group: ConsistencyGroup,
        cycles: GroupCycles,
        session: Callable[[], SendingSession | None],
        alarms: Alarms,
        clock: Clock,
    ) -> None:
        self._group = group
        self._cycles = cycles
        self._session = session
        self._alarms = alarms
        self._clock = clock
        self._log = log.bind(group=group.name)
        self._task: asyncio.Task[None] | None = None
        self._verification: Verification | None = None
        self._is_repairing = False
        self._began = 0.0
        self._began_ns = 0
        self._report: VerifyReport | None = None
        self.last: VerifySummary | None = None
        """Of the last verify that ended."""
        self._stopped_by = ""
        self._keep: Callable[[VerifyReport], Awaitable[None]] | None = None

    async def recall(self, kept: KeptReport[VerifyReport], threads: Threads) -> None:
        """Keep reports there from now on, and begin with the one that is there."""

        async def keep(report: VerifyReport) -> None:
            await threads.run(kept.store, report)

        self._keep = keep
        report = await threads.run(kept.load)
        if report is not None:
            self._report, self.last = report, report.summary()
            self._raise_or_clear_alarm(report)

    # -- what operators ask ------------------------------------------------------------

    def start(self, *, repair: bool, rate_bytes: int) -> None:
        """Begin to compare; raises `RefusedError` where that makes no sense now."""
        name, session = self._group.name, self._session()
        if self.is_running:
            raise RefusedError(
                f"a verify of {name} is under way: farshore verify {name} --stop "
                "ends it"
            )
        if self._cycles.reshaping.is_under_way:
            raise RefusedError(f"volumes of {name} change: try again in a moment")
        joining = [n for n, v in self._group.state.volumes.items() if v.joining]
        if joining:
            raise RefusedError(
                f"volume {joining[0]} is joining {name}: verify once a recovery point "
                "has it"
            )
        if self._group.failed is not None:
            raise RefusedError(f"group {name} has failed: {self._group.failed}")
        if self._group.state.suspended:
            raise RefusedError(
                f"group {name} is suspended; farshore resume {name} first"
            )
        if self._group.state.committed_number is None:
            raise RefusedError(
                f"group {name} has no recovery point yet: wait for the first copy"
            )
        if session is None:
            raise RefusedError(
                f"group {name} has no link to its remote now; see farshore status"
            )
        if VERIFY not in session.welcome.features:
            raise RefusedError("the remote's version can't compare: upgrade it")
        self._is_repairing = repair
        self._began = self._clock.monotonic()
        self._began_ns = self._clock.now_ns()
        self._verification = Verification(
            self._group, self._cycles, self._session, rate_bytes, self._clock
        )
        self._log.info("verify_started", repair=repair, rate_bytes=rate_bytes)
        self._task = asyncio.create_task(
            self._run(self._verification), name=f"verify {name}"
        )

    async def stop(self, why: str = "it was stopped") -> None:
        """End the verify under way, if there is one; nothing is repaired then."""
        if self._task is not None and not self._task.done():
            self._stopped_by = why
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    def report(self) -> VerifyReport | None:
        """Return what the verify under way, or else the last one, has found."""
        if self._verification is not None:
            return self._made_report(None, "")
        return self._report

    def progress(self) -> ProgressStatus | None:
        """Return how far the verify under way has come."""
        if self._verification is None:
            return None
        findings = self._verification.findings
        return ProgressStatus(
            operation="verify",
            done_bytes=findings.compared_bytes,
            total_bytes=findings.total_bytes,
            eta_seconds=self._eta_seconds(findings),
        )

    def _eta_seconds(self, findings: Findings) -> float | None:
        done = findings.compared_bytes
        if not done:
            return None
        return (findings.total_bytes - done) * self._elapsed_seconds / done

    @property
    def _elapsed_seconds(self) -> float:
        return self._clock.monotonic() - self._began

    # -- what the cycles and the remote say --------------------------------------------

    def look_again(self) -> None:
        if self._verification is not None:
            self._verification.look_again()

    def on_verified(self, message: Verified) -> None:
        if self._verification is not None:
            self._verification.on_verified(message)

    # -- running -----------------------------------------------------------------------

    async def _run(self, verification: Verification) -> None:
        result, why = VerifyResult.FAILED, ""
        try:
            await verification.run()
            result = await self._concluded(verification)
        except (VerifyEndedError, StorageError) as error:
            why = str(error)
        except asyncio.CancelledError:
            result, why = VerifyResult.STOPPED, self._stopped_by
        except Exception as error:  # noqa: BLE001 - a bug here must not end cycles
            self._log.exception("verify_broken")
            why = f"internal error: {error!r}"
        report = self._made_report(result, why)
        try:
            if self._keep is not None:  # durable before anybody hears of it
                await self._keep(report)
        finally:
            self._report, self.last = report, report.summary()
            self._verification = None
            self._tell(verification.findings, report)

    async def _concluded(self, verification: Verification) -> VerifyResult:
        findings = verification.findings
        if not findings.bitmaps:
            unread = findings.unreadable
            return VerifyResult.UNREADABLE if unread else VerifyResult.CLEAN
        if not self._is_repairing:
            return VerifyResult.DIFFERS
        await self._repair(verification)
        return VerifyResult.REPAIRING

    async def _repair(self, verification: Verification) -> None:
        """Have the next cycle compare what differs, and send what differs still.

        Order: into the carried bitmap, between two cycles; then durable; only then
        is anybody told. The crash it defends against: an operator who was told that
        a repair is on its way, and a primary that has forgotten it.
        """
        while any(
            volume.changes.pprc is not None or volume.changes.transferred is not None
            for volume in self._group.volumes
        ):  # ends with the cycle
            await verification.woken()
        pages: dict[int, set[int]] = {}
        for index, bitmap in verification.findings.bitmaps.items():
            volume = self._group.volumes[index]
            pages[index] = volume.changes.compare_again(bitmap.copy())
        for index, changed in pages.items():
            await self._group.volumes[index].heat.save(changed, sync_device=False)
        self._cycles.wake.set()

    def _tell(self, findings: Findings, report: VerifyReport) -> None:
        self._log.info(
            "verify_ended",
            result=report.result,
            reason=report.reason,
            compared_bytes=report.compared_bytes,
            differing_bytes=report.differing_bytes,
            pieces=findings.pieces,
            pieces_again=findings.pieces_again,
            seconds=round(self._elapsed_seconds, 3),
        )
        self._raise_or_clear_alarm(report)

    def _raise_or_clear_alarm(self, report: VerifyReport) -> None:
        if report.result is VerifyResult.CLEAN:
            self._alarms.clear(ALARM)
        elif report.differing or report.unreadable:
            self._alarms.set(ALARM, report.alarm(self._group.name))

    def _made_report(self, result: VerifyResult | None, why: str) -> VerifyReport:
        assert self._verification is not None
        findings = self._verification.findings
        differing, omitted = self._differing(findings)
        return VerifyReport(
            result=result,
            reason=why,
            repair=self._is_repairing,
            started_ns=self._began_ns,
            ended_ns=None if result is None else self._clock.now_ns(),
            compared_bytes=findings.compared_bytes,
            total_bytes=findings.total_bytes,
            differing_bytes=findings.differing_bytes,
            differing=differing,
            unreadable=self._unreadable(findings),
            ranges_omitted=omitted,
            eta_seconds=None if result else self._eta_seconds(findings),
        )

    def _differing(self, findings: Findings) -> tuple[tuple[DifferingRange, ...], int]:
        ranges: list[DifferingRange] = []
        omitted = 0
        for index, bitmap in sorted(findings.bitmaps.items()):
            for run in bitmap.runs():
                if len(ranges) == RANGES_MAX:
                    omitted += 1
                    continue
                offset, length = findings.geometries[index].byte_range(*run)
                name = self._group.volumes[index].name
                ranges.append(
                    DifferingRange(
                        volume=name, offset_bytes=offset, length_bytes=length
                    )
                )
        return tuple(ranges), omitted

    def _unreadable(self, findings: Findings) -> tuple[UnreadableRange, ...]:
        found = []
        for each in findings.unreadable[:RANGES_MAX]:
            geometry = findings.geometries[each.volume]
            offset, length = geometry.byte_range(each.first, each.count)
            found.append(
                UnreadableRange(
                    volume=self._group.volumes[each.volume].name,
                    offset_bytes=offset,
                    length_bytes=length,
                    reason=each.reason,
                )
            )
        return tuple(found)
