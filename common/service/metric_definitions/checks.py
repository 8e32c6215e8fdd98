"""What was checked: verifies, scrubs, drills, test copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from common.service.metric_definitions.metric import Labels, of_each, of_groups, one_of
from common.service.status import GroupRole, GroupStatus


def _test_copies(group: GroupStatus) -> Iterator[tuple[Labels, float]]:
    if group.role is GroupRole.RECEIVING:
        yield (), len(group.test_copies)


DRILL_VERDICTS: Final = ("passed", "failed", "timed_out", "interrupted", "not_started")
"""As `drill_status.DrillVerdict` has them."""

CHECK_METRICS: Final = (
    of_groups(
        "farshore_last_verify_timestamp_seconds",
        "When the last verify ended, since 1970 in UTC.",
        "last_verify.ended_ns",
        site="sending",
    ),
    of_groups(
        "farshore_last_verify_compared_bytes",
        "Bytes that it compared.",
        "last_verify.compared_bytes",
        site="sending",
    ),
    of_groups(
        "farshore_last_verify_differing_bytes",
        "Bytes that it found to differ.",
        "last_verify.differing_bytes",
        site="sending",
    ),
    of_groups(
        "farshore_last_scrub_timestamp_seconds",
        "When the last scrub ended, since 1970 in UTC.",
        "last_scrub.ended_ns",
        site="receiving",
    ),
    of_groups(
        "farshore_last_scrub_read_bytes",
        "Bytes that it read.",
        "last_scrub.read_bytes",
        site="receiving",
    ),
    of_groups(
        "farshore_last_scrub_findings",
        "Places that it found damaged.",
        "last_scrub.findings",
        site="receiving",
    ),
    of_groups(
        "farshore_last_drill_timestamp_seconds",
        "When the last drill began, since 1970 in UTC.",
        "last_drill.started_ns",
        site="receiving",
    ),
    one_of(
        "farshore_last_drill_verdict",
        "1 for what the last drill came to.",
        "verdict",
        DRILL_VERDICTS,
        "last_drill.verdict",
        site="receiving",
        when="last_drill",
    ),
    of_groups(
        "farshore_last_drill_probe_seconds",
        "How long its probe took.",
        "last_drill.probe_seconds",
        site="receiving",
    ),
    of_each(
        "farshore_test_copies",
        "Test copies that there are.",
        (),
        _test_copies,
        site="receiving",
    ),
)
