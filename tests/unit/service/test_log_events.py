"""The page of log events: complete, and its finder sees what it must."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.service.log_events import PACKAGES, find_events, reference

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/reference/events.md"


def test_the_page_is_what_its_generator_prints() -> None:
    assert PAGE.read_text() == reference(ROOT)


def test_no_call_that_looks_like_logging_is_missed() -> None:
    """By text, where the generator goes by syntax: two ways to the same names."""
    call = re.compile(
        r"\b_?log(?:ger)?(?:\(\))?\.(?:debug|info|warning|error|exception|critical)"
        r"\(\s*(?:#[^\n]*\n\s*)*\"([^\"]+)\""
    )
    seen = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if path.name != "log_events.py":
                seen |= set(call.findall(path.read_text()))

    assert len(seen) > 40
    assert seen <= {event.name for event in find_events(ROOT)}


def test_names_are_snake_case_and_every_warning_has_a_field() -> None:
    for event in find_events(ROOT):
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", event.name), event.name
        if "warning" in event.levels:
            assert event.always() + event.sometimes(), event.name


def write(folder: Path, text: str) -> Path:
    for package in PACKAGES:
        (folder / package).mkdir()
    (folder / "common/one.py").write_text(text)
    return folder


def test_fields_bound_and_given_are_told_apart_from_those_sometimes_there(
    tmp_path: Path,
) -> None:
    root = write(
        tmp_path,
        "class A:\n"
        "    def f(self):\n"
        "        self._log = log.bind(group=1)\n"
        '        self._log.info("thing_done", number=1, exc_info=True)\n'
        '        self._log.warning("thing_done" if x else "thing_left", number=2, '
        "b=3)\n"
        '        other.info("no_logger")\n',
    )

    done, left = find_events(root)

    assert (done.name, done.levels) == ("thing_done", {"info", "warning"})
    assert done.always() == ["group", "number"]
    assert done.sometimes() == ["b"]
    assert left.always() == ["b", "group", "number"]


def test_an_event_whose_name_cannot_be_found_is_an_error(tmp_path: Path) -> None:
    root = write(tmp_path, 'log.info(f"{kind}_done")\n')

    with pytest.raises(ValueError, match=r"common\.one:1"):
        find_events(root)


ALARM_NAMES = (
    r"(?:\w*ALARM|PINS_ENDED|JOURNAL_LIMIT|THINNING_FAILED) = \"(\w+)\"",
    r"(?:alarms\.set|raise_alarm)\(\s*\"(\w+)\"",
    r"Promise\.\w+: \"(\w+)\"",
    r"AlarmStatus\(\s*name=\"(\w+)\"",
    r"^ +name = \"(\w+_(?:starved|unavailable))\"$",
)


def test_every_alarm_is_told_on_the_page_about_monitoring() -> None:
    page = (ROOT / "docs/operating/monitor.md").read_text()
    raised = {
        name
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for pattern in ALARM_NAMES
        for name in re.findall(pattern, path.read_text(), re.MULTILINE)
    }

    assert len(raised) > 20
    assert {name for name in raised if f"\n| `{name}` |" not in page} == set()
