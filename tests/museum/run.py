"""The bug museum: put each bug back, and see the tests turn red.

python -m tests.museum.run                 the whole table; `make museum`
python -m tests.museum.run --only B3 O12   some exhibits; nothing is recorded
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.museum.collection import ALL, HISTORICAL, MISSING, OWN
from tests.museum.exhibit import ByTests, Exhibit, Seeds, put_in
from tests.museum.judging import (
    Verdict,
    end_all,
    environment,
    judge,
    run,
    why_not_green,
)
from tests.support.evidence import REPOSITORY, record

COMMAND = "make museum"
AT_ONCE = 2
NOT = "NOT CAUGHT"
GREEN_SECONDS_MAX = 900.0
TREE = ("common", "config", "demo", "docs", "primary_site", "remote_site", "tests")
NOT_COPIED = shutil.ignore_patterns("__pycache__", ".*", "build")

_WHERE = "import common, primary_site, remote_site as r; print(r.__path__[0])"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", nargs="+", metavar="NUMBER", default=[])
    options.add_argument("--at-once", type=int, default=AT_ONCE)
    options.add_argument("--unchecked", action="store_true", help="no green run first")
    chosen = options.parse_args()
    exhibits = [e for e in ALL if not chosen.only or _is_asked(e, chosen.only)]
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="farshore-museum-") as name:
        place = Path(name)
        base = place / "as-it-is"
        copy_tree(REPOSITORY, base)
        if not chosen.unchecked and not _are_tests_green(base, exhibits, place):
            return 2
        verdicts = _walk(base, exhibits, place, chosen.at_once)
        if not chosen.unchecked and not _are_seeds_green(
            base, exhibits, verdicts, place
        ):
            return 2
    seconds = time.monotonic() - began
    print(f"\n{_table(exhibits, verdicts)}\n")
    if not chosen.only:
        print("\n".join(f"{m.number:<5} {m.title}: {m.reason}" for m in MISSING))
    for exhibit in exhibits:
        if why := verdicts[exhibit.number].why:
            print(f"\n{exhibit.number} NOT CAUGHT: {why}")
    caught = sum(verdict.caught for verdict in verdicts.values())
    print(f"\n{caught} of {len(exhibits)} caught, in {seconds:.0f} s")
    if not chosen.only and not chosen.unchecked:
        record("museum", COMMAND, figures(verdicts, seconds))
    return int(caught < len(exhibits))


def _is_asked(exhibit: Exhibit, numbers: Sequence[str]) -> bool:
    return exhibit.number in numbers or exhibit.bug in numbers


def copy_tree(source: Path, target: Path) -> None:
    """Copy what the tests need, without what other runs have left."""
    for name in TREE:
        shutil.copytree(source / name, target / name, ignore=NOT_COPIED)
    shutil.copy2(source / "pyproject.toml", target)
    found = subprocess.run(
        [sys.executable, "-c", _WHERE],
        cwd=target,
        env=environment(target),
        capture_output=True,
        text=True,
        check=True,
    )
    # Or every exhibit would be tried on the tree that the package is installed from.
    assert Path(found.stdout.strip()) == target / "remote_site", found.stdout


def _are_tests_green(base: Path, exhibits: Sequence[Exhibit], place: Path) -> bool:
    """Run every test that is to turn red, once, on the tree as it is."""
    checks = {e.caught_by for e in exhibits}
    ids = {i for c in checks if isinstance(c, ByTests) for i in c.ids}
    return not ids or _is_green(base, ByTests(tuple(sorted(ids))), place)


def _are_seeds_green(
    base: Path,
    exhibits: Sequence[Exhibit],
    verdicts: dict[str, Verdict],
    place: Path,
) -> bool:
    """Run the seeds that caught something, and those before, on the tree as it is."""
    needed: dict[tuple[str, int], int] = {}
    for each in exhibits:
        if isinstance(each.caught_by, Seeds):
            key = each.caught_by.of, each.caught_by.first
            needed[key] = max(needed.get(key, 0), verdicts[each.number].ran)
    return all(
        _is_green(base, Seeds(of, count, first), place)
        for (of, first), count in needed.items()
        if count
    )


def _is_green(base: Path, checks: ByTests | Seeds, place: Path) -> bool:
    scratch = Path(tempfile.mkdtemp(prefix="green-", dir=place)) / "run"
    found = run(base, checks, scratch, GREEN_SECONDS_MAX)
    if why := why_not_green(checks, found):
        print(f"Not green without any bug, so nothing is shown by {checks}: {why}")
        return False
    what = checks.of if isinstance(checks, Seeds) else "chosen"
    print(
        f"green: {found.ran} {checks.kind} ({what}), {found.seconds:.0f} s", flush=True
    )
    return True


def _walk(
    base: Path, exhibits: Sequence[Exhibit], place: Path, at_once: int
) -> dict[str, Verdict]:
    """Try every exhibit, `at_once` of them at a time; tell of each as it ends."""
    verdicts: dict[str, Verdict] = {}

    def show(exhibit: Exhibit) -> tuple[str, Verdict]:
        room = place / exhibit.number
        tree = room / "tree"
        shutil.copytree(base, tree)
        put_in(tree, exhibit)
        found = run(tree, exhibit.caught_by, room / "scratch")
        shutil.rmtree(room)
        return exhibit.number, judge(exhibit, found)

    with ThreadPoolExecutor(at_once) as pool:
        try:
            for number, verdict in pool.map(show, exhibits):
                verdicts[number] = verdict
                said = f"{verdict.seconds:5.1f} s  {verdict.caught_by}"
                print(f"{number:<5} {said if verdict.caught else NOT}", flush=True)
        except BaseException:  # told to stop: leave no process and no file
            pool.shutdown(wait=False, cancel_futures=True)
            end_all()
            raise
    return verdicts


def _table(exhibits: Sequence[Exhibit], verdicts: dict[str, Verdict]) -> str:
    rows = [("bug", "what goes wrong", "after", "caught by")]
    for each in exhibits:
        verdict = verdicts[each.number]
        by = verdict.caught_by if verdict.caught else NOT
        rows.append((each.number, each.title, verdict.after, by))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d}"
        for a, b, c, d in rows
    )


def figures(verdicts: dict[str, Verdict], seconds: float) -> dict[str, Any]:
    """Return what docs/reliability.md tells of a whole walk."""

    def caught(exhibits: Sequence[Exhibit]) -> int:
        return sum(verdicts[each.number].caught for each in exhibits)

    return {
        "historical_bugs": len({e.bug for e in HISTORICAL}),
        "historical_bugs_caught": len({e.bug for e in HISTORICAL})
        - len({e.bug for e in HISTORICAL if not verdicts[e.number].caught}),
        "historical_bugs_that_cannot_be_here": len(MISSING),
        "historical_exhibits": len(HISTORICAL),
        "historical_exhibits_caught": caught(HISTORICAL),
        "own_orders": len(OWN),
        "own_orders_caught": caught(OWN),
        "seconds": round(seconds),
        "missing": [
            {"bug": m.number, "title": m.title, "reason": m.reason} for m in MISSING
        ],
        "table": [
            {
                "bug": each.number,
                "title": each.title,
                "elsewhere": each.elsewhere,
                "caught": verdicts[each.number].caught,
                "caught_by": verdicts[each.number].caught_by,
                "after": verdicts[each.number].after,
            }
            for each in ALL
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
