"""Every alarm of the source is explained where an operator looks for it."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.cli.exit_codes import EXIT_CODES
from common.cli.role_change_view import STEPS, role_change_lines
from common.replication.lineage import CycleName, Fork
from common.service.split_brain import split_brain_text
from common.service.status import GroupState

ROOT = Path(__file__).resolve().parents[2]
OPERATING = ROOT / "docs/operating"
RAISING = {"raise_alarm", "_raise_alarm"}


def alarm_names(root: Path) -> set[str]:
    """Return the names of all alarms that the packages below `root` raise."""
    return {
        name
        for package in ("common", "primary_site", "remote_site")
        for path in sorted((root / package).rglob("*.py"))
        for name in names_in(ast.parse(path.read_text()))
    }


def names_in(tree: ast.Module) -> Iterator[str]:
    """Yield literals that alarms are raised by, and what a variable of that place or a
    constant or attribute called alarm. One of another module is found there."""
    held: defaultdict[str, set[str]] = defaultdict(set)
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                held[name].update(literals(value))
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                held[name].update(literals(value))
    for name, values in held.items():
        if re.fullmatch(r"(\w+_)?ALARMS?", name, re.IGNORECASE):
            yield from values
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (raised := name_argument(node)) is not None:
            yield from literals(raised)
            if isinstance(raised, ast.Name):
                yield from held[raised.id]


def name_argument(call: ast.Call) -> ast.expr | None:
    """Return the expression of the name, if the call raises an alarm."""
    match call.func:
        case ast.Attribute(
            attr="set", value=ast.Attribute(attr=owner) | ast.Name(id=owner)
        ):
            return call.args[0] if owner in {"alarms", "_alarms"} else None
        case ast.Attribute(attr=name) if name in RAISING:
            return call.args[0]
        case ast.Name(id="AlarmStatus"):
            return next((k.value for k in call.keywords if k.arg == "name"), None)
    return None


def literals(value: ast.expr) -> Iterator[str]:
    match value:
        case ast.Constant(value=str(name)):
            yield name
        case ast.IfExp(body=body, orelse=orelse):
            yield from literals(body)
            yield from literals(orelse)
        case ast.Dict(values=values):
            for each in values:
                yield from literals(each)


def first_cells(page: Path, heading: str) -> set[str]:
    """Return what stands in code in the first column of a section's tables."""
    section = page.read_text().split(f"\n## {heading}\n", 1)[1].split("\n##", 1)[0]
    return {
        name
        for line in section.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    }


def test_the_monitoring_page_lists_the_alarms_that_there_are() -> None:
    names = alarm_names(ROOT)
    assert len(names) > 25
    assert first_cells(OPERATING / "monitor.md", "Alarms") == names


def test_troubleshooting_says_what_to_do_about_every_alarm() -> None:
    page = OPERATING / "troubleshooting.md"
    assert first_cells(page, "Alarms, by name") == alarm_names(ROOT)


def alert_rows() -> dict[str, str]:
    """Return what troubleshooting says about each alert rule."""
    text = (OPERATING / "troubleshooting.md").read_text()
    section = text.split("\n## Alert rules, by name\n", 1)[1].split("\n##", 1)[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))


def test_troubleshooting_says_what_to_type_about_every_alert() -> None:
    rules = (ROOT / "config/prometheus-rules.yml").read_text()
    names = re.findall(r"- alert: (\w+)", rules)
    assert list(alert_rows()) == names


ALERT_OF_STEP = {
    "handing_over": "FarshoreExchangeUnfinished",
    "taking_over": "FarshoreExchangeUnfinished",
    "failing_back": "FarshoreExchangeUnfinished",
    "taken_over": "FarshoreNobodyReceives",
    "superseded": "FarshoreSuperseded",
    "split_brain": "FarshoreSplitBrain",
}
LINEAGES = Fork(b"n" * 16, b"o" * 16, CycleName(7, b"c" * 16), 0, 0)


@pytest.mark.parametrize("link", ["connected", "down"])
@pytest.mark.parametrize("step", sorted(STEPS))
def test_what_status_says_to_type_next_is_what_the_page_says(
    step: str, link: str
) -> None:
    texts = [
        split_brain_text("GROUP", LINEAGES, b"m" * 16, is_forked_here=here)
        for here in (True, False)
    ]
    for text in texts:
        group = {
            "name": "GROUP",
            "role_change": {"step": step, "point": 7},
            "link": {"state": link},
            "alarms": [{"name": "split_brain", "message": text}],
        }
        shown = "\n".join(str(line) for line in role_change_lines(group))
        typed = re.findall(r"farshore [a-z]+(?: GROUP)?(?: --force)?", shown)
        assert typed, "there is always something to type"
        for command in typed:
            assert command in alert_rows()[ALERT_OF_STEP[step]]


def test_troubleshooting_says_what_to_do_about_every_exit_code() -> None:
    page = OPERATING / "troubleshooting.md"
    assert first_cells(page, "Exit codes, by number") == {
        str(code) for code, _, _ in EXIT_CODES if code
    }


def test_the_monitoring_page_lists_the_states_of_a_group() -> None:
    states = first_cells(OPERATING / "monitor.md", "States")
    assert states == {str(state) for state in GroupState}


@pytest.mark.parametrize(
    "source",
    [
        'self.alarms.set("new_one", text)',
        'self._raise_alarm("new_one", text)',
        'ALARM = "new_one"',
        'class Failed(Exception):\n    alarm = "new_one"',
        'RED_ALARM: Final = "new_one"',
        'ALARMS = {1: "new_one"}',
        'alarm = AlarmStatus(message="", name="new_one")',
        'name = "new_one"\nalarms.set(name, "")',
        'alarms.set("new_one" if bad else "new_one", "")',
    ],
)
def test_an_alarm_is_found_however_it_is_raised(source: str) -> None:
    assert set(names_in(ast.parse(source))) == {"new_one"}
