"""The last report outlives the daemon, and never stands in its way."""

from __future__ import annotations

import errno

from common.service.kept_report import FINDINGS_KEPT_MAX, KeptReport
from common.service.scrub_status import ScrubFinding, ScrubReport, ScrubResult
from common.service.verify_status import (
    DifferingRange,
    UnreadableRange,
    VerifyReport,
    VerifyResult,
)
from tests.support.simulated_files import SimulatedFiles

PATH = "/state/verify.record"
LONG = "\N{PILE OF POO}" * 100_000
"""Four bytes a character."""


def report(ranges: int, text: str = "why") -> VerifyReport:
    return VerifyReport(
        result=VerifyResult.DIFFERS,
        reason=text,
        repair=True,
        started_ns=10**18,
        ended_ns=10**18 + 1,
        compared_bytes=1 << 40,
        total_bytes=1 << 41,
        differing_bytes=4096 * ranges,
        differing=tuple(
            DifferingRange(volume="v", offset_bytes=at * 8192, length_bytes=4096)
            for at in range(ranges)
        ),
        unreadable=tuple(
            UnreadableRange(
                volume="v", offset_bytes=at * 8192, length_bytes=4096, reason=text
            )
            for at in range(ranges)
        ),
        ranges_omitted=1,
        eta_seconds=None,
    )


def kept(files: SimulatedFiles) -> KeptReport[VerifyReport]:
    return KeptReport(PATH, files, VerifyReport)


def made_files() -> SimulatedFiles:
    files = SimulatedFiles()
    files.make_directory("/state")
    return files


def test_what_was_stored_comes_back() -> None:
    files = made_files()
    assert kept(files).load() is None
    first = kept(files)
    first.store(report(2))
    first.store(report(3))
    assert kept(files).load() == report(3)


def test_a_long_report_is_cut_and_says_so() -> None:
    files = made_files()
    kept(files).store(report(10_000, LONG))
    found = kept(files).load()
    assert found is not None
    assert found.differing == report(FINDINGS_KEPT_MAX).differing
    assert found.ranges_omitted == 1 + 2 * (10_000 - FINDINGS_KEPT_MAX)
    assert found.differing_bytes == 4096 * 10_000
    finding = ScrubFinding(file=LONG, offset_bytes=1 << 62, reason=LONG)
    scrub = ScrubReport(
        result=ScrubResult.DAMAGED,
        reason=LONG,
        started_ns=1,
        ended_ns=2,
        read_bytes=3,
        total_bytes=4,
        findings=(finding,) * 60,
        findings_omitted=5,
    )
    KeptReport(PATH, files, ScrubReport).store(scrub)
    read = KeptReport(PATH, files, ScrubReport).load()
    assert read is not None
    assert read.findings_omitted == 65 - FINDINGS_KEPT_MAX


def test_one_that_can_not_be_read_is_none_and_the_next_is_kept() -> None:
    files = made_files()
    kept(files).store(report(1))
    file = files.open(PATH)
    file.write(0, b"x" * (128 << 10))
    file.datasync()
    file.close()
    again = kept(files)
    assert again.load() is None
    again.store(report(2))
    assert kept(files).load() == report(2)
    # Of another release: names that this one does not know.
    KeptReport(PATH, files, ScrubReport).load()
    assert kept(files).load() is None


def test_one_that_can_not_be_stored_is_no_error() -> None:
    files = made_files()
    files.inject = lambda operation, _: errno.EIO if operation == "datasync" else None
    kept(files).store(report(1))
    files.inject = None
    assert kept(files).load() is None
