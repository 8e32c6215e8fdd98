"""A fault at every call to either site's disk: hosts, points and restarts hold."""

from __future__ import annotations

import pytest

from tests.faults.fault_rules import Fault, Kind
from tests.faults.fault_script import run
from tests.faults.sweep import COMMAND, sweep
from tests.support import evidence

pytestmark = [
    # Of killed processes, found by the garbage collector at any time.
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

REACHED = {
    "primary": {
        ("allocate", "regions"),
        ("datasync", "acked"),
        ("datasync", "img"),
        ("datasync", "record"),
        ("datasync", "regions"),
        ("extents", "changed"),
        ("read", "img"),
        ("read", "target"),
        ("rename", "record"),
        ("truncate", "target"),
        ("write", "changed"),
        ("write", "img"),
        ("write", "target"),
        ("write_zeroes", "img"),
    },
    "remote": {
        ("create", "journal"),
        ("datasync", "img"),
        ("datasync", "journal"),
        ("datasync", "store"),
        ("read", "journal"),
        ("remove", "journal"),
        ("sync_directory", "orders"),
        ("write", "img"),
        ("write", "journal"),
        ("write", "store"),
        ("write_zeroes", "img"),
    },
}
"""By site: calls, and the ends of the names of the files, that faults have to meet."""


@pytest.mark.parametrize("at_once", [False, True])
def test_without_a_fault_the_script_meets_all_that_may_fail(at_once: bool) -> None:
    sound = run(None, at_once=at_once)
    assert not sound.problems
    assert not any(sound.restarts.values())
    assert sound.commits == 4
    for site, wanted in REACHED.items():
        found = {
            (operation, path.rpartition("/")[2].rpartition(".")[2])
            for operation, path in sound.calls[site]
        }
        assert wanted <= found, wanted - found


@pytest.mark.every_core
@pytest.mark.timeout(900)  # a minute and less of two idle cores
def test_a_fault_at_any_call_is_survived_at_both_sites() -> None:
    found = sweep()
    evidence.record("fault_sweep", COMMAND, found.figures())
    print(found.figures())
    assert not found.problems, "\n".join(found.problems[:5])
    # Each is half of what it is, so that a script that shrank is noticed.
    assert found.calls["primary"] > 150
    assert found.calls["remote"] > 80
    assert found.runs > 800
    assert found.never_met < found.runs / 100
    assert found.restarts > 200, "faults that only a restart can mend have happened"


def test_a_fault_is_the_same_run_every_time() -> None:
    fault = Fault("remote", 60, Kind.ENOSPC)
    assert run(fault).digest == run(fault).digest
