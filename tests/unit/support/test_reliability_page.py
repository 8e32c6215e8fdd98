"""docs/reliability.md is what its generator makes of the committed evidence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.evidence.figures import RUNS, Run
from tests.evidence.page import DIRECTORY, MADE, PAGE, generate
from tests.evidence.summary import LINES, summary
from tests.support.evidence import Record, read_records

GATHERED = Record(
    MADE, "make evidence", "2026-01-02T00:00:00Z", "a" * 40, "new", "a machine", {}
)
LINKS = Record(
    "torture_links",
    "make torture",
    "2026-01-01T10:11:12Z",
    "b" * 40,
    "new",
    "a machine",
    {
        "result": "held",
        "seconds": 210,
        "seed": 3,
        "left_out": ["8 Mbit/s (tc is not installed)"],
        "detection_seconds_max": 8.59,
    },
)


def section(page: str, title: str) -> str:
    return page.partition(f"### {title}\n")[2].partition("\n### ")[0]


def test_the_page_is_what_make_evidence_made() -> None:
    assert PAGE.read_text() == generate(read_records(DIRECTORY)), (
        "docs/reliability.md is generated: run `make evidence`"
    )


def test_all_committed_evidence_is_told() -> None:
    told = {run.record for run in RUNS} | {MADE}
    assert set(read_records(DIRECTORY)) <= told
    assert len(told) == len(RUNS) + 1


def test_a_run_is_told_with_its_date_its_commit_and_its_command() -> None:
    told = section(generate({MADE: GATHERED, LINKS.name: LINKS}), "Bad links")
    assert "longest detection of a dead link: 8.59 s" in told
    assert "left out: 8 Mbit/s (tc is not installed)" in told
    assert "2026-01-01 10:11:12 UTC, commit `bbbbbbbbbb`: `make torture`" in told


def test_the_table_has_what_was_run_and_says_what_was_not() -> None:
    table = summary({LINKS.name: LINKS})
    assert "| longest detection of a dead link | 8.59 s |" in table
    assert table.count("**not run**") == len(LINES) - 1
    whole = summary(read_records(DIRECTORY))
    assert "not run" not in whole
    assert table in generate({LINKS.name: LINKS})


def test_a_run_of_other_sources_is_called_older() -> None:
    old = replace(LINKS, sources="old")
    told = section(generate({MADE: GATHERED, LINKS.name: old}), "Bad links")
    assert "commit `bbbbbbbbbb`, *older*" in told


def test_a_run_that_failed_says_so_first() -> None:
    bad = replace(LINKS, figures={**LINKS.figures, "result": "failed: a write\nlost"})
    told = section(generate({LINKS.name: bad}), "Bad links")
    assert "- **failed: a write lost**\n" in told


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.record)
def test_what_was_not_run_or_cannot_be_read_is_said(run: Run) -> None:
    assert f"**Not run**; `{run.command}`" in section(generate({}), run.title)
    if run.record in read_records(DIRECTORY):
        return
    strange = replace(LINKS, name=run.record, figures={"seconds": None})
    told = section(generate({run.record: strange}), run.title)
    assert "unreadable" in told or "seconds: None" in told
