"""Run the tests of an exhibit and judge why they are red.

Red is not enough: a module that does not import is red as well. So the run must have
begun and ended in order, a chosen test must have failed, not crashed for want of a
name, and what it said must be what the exhibit expects.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from tests.museum.exhibit import ByTests, Exhibit, Seeds
from tests.support.evidence import DIRECTORY_VARIABLE

SECONDS_MAX = 120.0
"""Of the run of one exhibit: whatever takes longer hangs."""

TEST_SECONDS_MAX = 45

CLUMSY = (
    "AttributeError",
    "ImportError",
    "IndentationError",
    "ModuleNotFoundError",
    "NameError",
    "SyntaxError",
    "TypeError",
    "UnboundLocalError",
)
"""What a broken patch fails with, not a broken promise."""


@dataclass(frozen=True, slots=True)
class Red:
    """A failure: of which test, or seed, and what it said."""

    name: str
    says: str


@dataclass(frozen=True, slots=True)
class Run:
    """How a run ended. `ran`: tests or seeds, up to the first red one."""

    ended_in_order: bool
    ran: int
    skipped: int
    red: Red | None
    seconds: float
    output: str


@dataclass(frozen=True, slots=True)
class Verdict:
    caught: bool
    caught_by: str
    after: str
    ran: int
    seconds: float
    why: str
    """Why it does not count as caught; empty if it does."""


def run(
    tree: Path,
    checks: ByTests | Seeds,
    scratch: Path,
    seconds_max: float = SECONDS_MAX,
) -> Run:
    """Run checks in a tree; whatever they leave is below `scratch`."""
    scratch.mkdir()
    if isinstance(checks, ByTests):
        report = scratch / "report.xml"
        ended = _run(tree, _pytest(checks, scratch, report), scratch, seconds_max)
        return pytest_run(*ended, report.read_bytes() if report.exists() else b"")
    return hunt_run(*_run(tree, _hunt(checks), scratch, seconds_max))


def _pytest(checks: ByTests, scratch: Path, report: Path) -> list[str]:
    return [
        # -m "": an exhibit may name a test that `make test` leaves to the hunt.
        *(sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-m", ""),
        *("-p", "no:cacheprovider", "--hypothesis-seed=0"),
        *(f"--timeout={TEST_SECONDS_MAX}", f"--basetemp={scratch / 'tmp'}"),
        f"--junitxml={report}",
        *checks.ids,
    ]


def _hunt(seeds: Seeds) -> list[str]:
    return [
        *(sys.executable, "-W", "ignore", "-m", "tests.museum.hunting"),
        *(seeds.of, str(seeds.first), str(seeds.count)),
    ]


_running: set[int] = set()
"""Sessions of runs under way, by the process that leads them."""


def end_all() -> None:
    """End every run under way, so that who waits for one need not wait long."""
    for leader in list(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)


def environment(tree: Path) -> dict[str, str]:
    """Return the environment in which the product is that of the tree."""
    return {**os.environ, "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"}


def _run(
    tree: Path, command: list[str], scratch: Path, seconds_max: float
) -> tuple[int, str, float]:
    """Return exit code (negative if it was ended), output and seconds."""
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=tree,
        env={**environment(tree), DIRECTORY_VARIABLE: str(scratch / "evidence")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    _running.add(process.pid)
    try:
        output, _ = process.communicate(timeout=seconds_max)
    except subprocess.TimeoutExpired:
        output = f"ended after {seconds_max:g} s"
    finally:
        # Also daemons that a failed test has left: the session is this run's own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _running.discard(process.pid)
    return process.returncode, output, time.monotonic() - began


def pytest_run(code: int, output: str, seconds: float, report: bytes) -> Run:
    """Read what a run of pytest reported."""
    ran = skipped = 0
    red: Red | None = None
    cases = ET.fromstring(report).iter("testcase") if report else ()
    for case in cases:
        ran += 1
        skipped += case.find("skipped") is not None
        failure = case.find("failure")
        if failure is not None and red is None:
            name = f"{case.get('classname', '')}::{case.get('name', '')}"
            red = Red(name, _said(failure))
    return Run(code in {0, 1}, ran, skipped, red, seconds, output)


def _said(failure: ET.Element) -> str:
    """Return the failure's own words: its message and pytest's `E` lines."""
    lines = (failure.text or "").splitlines()
    told = [line[1:].strip() for line in lines if line.startswith("E ")]
    return "\n".join([failure.get("message", ""), *told])


def hunt_run(code: int, output: str, seconds: float) -> Run:
    """Read what `tests.museum.hunting` printed last."""
    try:
        told = json.loads(output.strip().rpartition("\n")[2])
        red = Red(**told["red"]) if told["red"] else None
        ran = int(told["ran"])
    except (ValueError, KeyError, TypeError):
        return Run(False, 0, 0, None, seconds, output)
    return Run(code == int(red is not None), ran, 0, red, seconds, output)


def judge(exhibit: Exhibit, found: Run) -> Verdict:
    """Say whether the bug was caught."""
    why = _why_not(exhibit, found)
    kind = exhibit.caught_by.kind
    after = f"{found.ran} {kind if found.ran != 1 else kind[:-1]}"
    name = found.red.name if found.red else "nothing"
    if isinstance(exhibit.caught_by, ByTests):
        name = name.removeprefix("tests.")
    return Verdict(not why, name, after, found.ran, found.seconds, why)


def _why_not(exhibit: Exhibit, found: Run) -> str:
    if not found.ended_in_order:
        return f"the run did not end in order:\n{found.output[-2000:]}"
    if found.red is None:
        return f"nothing failed in {found.ran} of {exhibit.caught_by}"
    first = found.red.says.strip().split(":")[0].strip()
    if first.rpartition(".")[2] in CLUMSY:
        return f"a mistake of the exhibit, not a broken promise: {found.red.says}"
    if not re.search(exhibit.says, found.red.says):
        return f"red, but not for {exhibit.says!r}: {found.red.name}: {found.red.says}"
    return ""


def why_not_green(checks: ByTests | Seeds, found: Run) -> str:
    """Say what is wrong with a run on the tree as it is; empty if all was green."""
    if not found.ended_in_order:
        return f"the run did not end in order:\n{found.output[-2000:]}"
    if found.red is not None:
        return f"{found.red.name}: {found.red.says}"
    if found.skipped:
        return f"{found.skipped} of {found.ran} tests are skipped here:\n{found.output}"
    if not found.ran:
        return f"nothing ran of {checks}"
    return ""
