"""The museum as it stands: its exhibits apply, and its judge is not easily content.

That each of them is caught takes minutes, and is what `make museum` finds out.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.museum.collection import ALL, BUGS, HISTORICAL, MISSING, OWN
from tests.museum.exhibit import (
    KINDS,
    ByTests,
    Exhibit,
    NoLongerAppliesError,
    Replacement,
    Seeds,
    can_be_here,
    product_text,
    put_in,
)
from tests.museum.judging import (
    Run,
    hunt_run,
    judge,
    pytest_run,
    run,
    why_not_green,
)
from tests.museum.page import PAGE, page

REPOSITORY = Path(__file__).resolve().parents[2]
ORDERS = REPOSITORY / "docs" / "internals" / "recovery.md"


def test_every_exhibit_applies_to_the_sources_as_they_are() -> None:
    broken = []
    for exhibit in ALL:
        texts: dict[str, str] = {}
        for each in exhibit.replacements:
            text = texts.get(each.path) or (REPOSITORY / each.path).read_text()
            try:
                texts[each.path] = each.applied(text)
            except NoLongerAppliesError as error:
                broken.append(f"{exhibit.number}: {error}")
        for path, text in texts.items():
            compile(text, path, "exec")
            before = ast.dump(ast.parse((REPOSITORY / path).read_text()))
            assert ast.dump(ast.parse(text)) != before, exhibit.number
    assert not broken, "look at these exhibits again:\n" + "\n".join(broken)


def test_every_bug_of_the_catalogue_is_shown_or_said_to_be_impossible() -> None:
    shown = {exhibit.bug for exhibit in HISTORICAL}
    missing = {each.number for each in MISSING}
    assert shown | missing == set(BUGS)
    assert not shown & missing
    for exhibit in HISTORICAL:
        assert exhibit.elsewhere, f"{exhibit.number}: where was it met?"


def test_what_cannot_be_here_cannot() -> None:
    text = product_text(REPOSITORY)
    for missing in MISSING:
        assert not can_be_here(missing, text), (
            f"{missing.number} can be here now: show it"
        )


def test_each_order_that_recovery_rests_on_is_broken_by_an_exhibit() -> None:
    section = ORDERS.read_text().partition("## Orders that recovery rests on")[2]
    section = section.partition("\n## ")[0]
    named = set(re.findall(r"`[\w/]+\.py` `([\w.]+)`", section))
    assert len(named) > 15
    broken = {exhibit.order for exhibit in ALL if exhibit.order}
    assert not named - broken, "orders that no exhibit breaks"
    assert not broken - named, "exhibits that name no order of the page"


def test_numbers_and_titles_tell_exhibits_apart() -> None:
    numbers = Counter(exhibit.number for exhibit in ALL)
    titles = Counter(exhibit.title for exhibit in ALL)
    assert max(numbers.values()) == max(titles.values()) == 1
    assert {exhibit.number[0] for exhibit in HISTORICAL} == {"B"}
    assert {exhibit.number[0] for exhibit in OWN} == {"O"}


@cache
def _names(path: Path) -> set[str]:
    """Return the tests of a module, those of classes as `Class::test`."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        for each in inner:
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(prefix + each.name)
    return found


def test_the_tests_that_are_to_catch_them_exist() -> None:
    for exhibit in ALL:
        re.compile(exhibit.says)
        if isinstance(exhibit.caught_by, Seeds):
            assert exhibit.caught_by.of in KINDS, exhibit.number
            continue
        for each in exhibit.caught_by.ids:
            path, _, name = each.partition("::")
            assert (REPOSITORY / path).is_file(), f"{exhibit.number}: {path}"
            name = name.partition("[")[0]
            assert not name or name in _names(REPOSITORY / path), (
                f"{exhibit.number}: {each}"
            )


# -- the judge -------------------------------------------------------------------------

EXHIBIT = Exhibit(
    "O0",
    "a test",
    (Replacement("common/sum.py", "a + b", "a - b"),),
    ByTests(("tests/test_sum.py",)),
    says="assert -1 == 3",
)

SUM = "def add(a: int, b: int) -> int:\n    return a + b\n"
TEST = (
    "from common.sum import add\ndef test_sum() -> None:\n    assert add(1, 2) == 3\n"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A product of one function, and its test."""
    made = tmp_path / "tree"
    for path, text in (
        ("common/__init__.py", ""),
        ("common/sum.py", SUM),
        ("tests/test_sum.py", TEST),
        ("pyproject.toml", '[tool.pytest.ini_options]\npythonpath = ["."]\n'),
    ):
        (made / path).parent.mkdir(parents=True, exist_ok=True)
        (made / path).write_text(text)
    return made


def test_a_bug_is_caught_by_a_test_that_fails_for_it(
    tree: Path, tmp_path: Path
) -> None:
    sound = run(tree, EXHIBIT.caught_by, tmp_path / "green")
    assert why_not_green(EXHIBIT.caught_by, sound) == ""
    assert "nothing failed" in judge(EXHIBIT, sound).why
    put_in(tree, EXHIBIT)
    verdict = judge(EXHIBIT, run(tree, EXHIBIT.caught_by, tmp_path / "red"))
    assert verdict.caught, verdict.why
    assert (verdict.caught_by, verdict.after) == ("test_sum::test_sum", "1 test")
    with pytest.raises(NoLongerAppliesError, match=r"common/sum\.py"):
        put_in(tree, EXHIBIT)


def test_a_module_that_does_not_import_catches_nothing(
    tree: Path, tmp_path: Path
) -> None:
    (tree / "common/sum.py").write_text("def subtract() -> None: ...\n")
    found = run(tree, EXHIBIT.caught_by, tmp_path / "run")
    assert not judge(EXHIBIT, found).caught
    assert "did not end in order" in judge(EXHIBIT, found).why
    assert why_not_green(EXHIBIT.caught_by, found)


def _report(case: str) -> bytes:
    return f"<testsuites><testsuite>{case}</testsuite></testsuites>".encode()


@pytest.mark.parametrize(
    ("code", "case", "why"),
    [
        (0, '<testcase name="t"/>', "nothing failed"),
        (0, '<testcase name="t"><skipped/></testcase>', "nothing failed"),
        (1, '<testcase name="t"><error message="x"/></testcase>', "nothing failed"),
        (2, '<testcase name="t"><error message="x"/></testcase>', "in order"),
        (1, "", "nothing failed"),
        (
            1,
            '<testcase name="t"><failure message="NameError: name"/></testcase>',
            "a mistake of the exhibit",
        ),
        (
            1,
            '<testcase name="t"><failure message="assert 4 == 3"/></testcase>',
            "red, but not for",
        ),
    ],
)
def test_red_for_another_reason_is_not_caught(code: int, case: str, why: str) -> None:
    found = pytest_run(code, "", 0.1, _report(case))
    verdict = judge(EXHIBIT, found)
    assert not verdict.caught
    assert why in verdict.why


def test_a_test_that_is_skipped_here_is_not_green() -> None:
    found = pytest_run(0, "", 0.1, _report('<testcase name="t"><skipped/></testcase>'))
    assert "skipped" in why_not_green(EXHIBIT.caught_by, found)


def test_the_first_failure_is_what_counts() -> None:
    cases = (
        '<testcase name="a"/>'
        '<testcase name="b"><failure message="assert -1 == 3"/></testcase>'
        '<testcase name="c"><failure message="NameError: x"/></testcase>'
    )
    verdict = judge(EXHIBIT, pytest_run(1, "", 0.1, _report(cases)))
    assert verdict.caught
    assert verdict.caught_by.endswith("::b")


@pytest.mark.parametrize(
    ("code", "output", "caught"),
    [
        (1, '{"ran": 3, "red": {"name": "seed 2", "says": "I1: no"}}', True),
        (1, 'a warning\n{"ran": 3, "red": {"name": "seed 2", "says": "I1"}}\n', True),
        (1, '{"ran": 3, "red": {"name": "seed 2", "says": "TypeError: x"}}', False),
        (0, '{"ran": 3, "red": null}', False),
        (1, '{"ran": 3, "red": null}', False),
        (1, "Traceback (most recent call last):\n  ...\nKeyError: 'x'", False),
        (-9, "", False),
    ],
)
def test_a_seed_counts_only_by_what_the_hunt_says(
    code: int, output: str, caught: bool
) -> None:
    exhibit = Exhibit("O1", "t", (), Seeds("simulation", 10), says="I1")
    found: Run = hunt_run(code, output, 0.1)
    verdict = judge(exhibit, found)
    assert verdict.caught == caught
    assert bool(why_not_green(exhibit.caught_by, found)) == (code != 0)


def test_the_page_is_what_the_museum_shows() -> None:
    assert PAGE.read_text() == page(), "run python -m tests.museum.page"
