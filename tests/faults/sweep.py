"""Every call to either disk meets every fault: run the script once for each.

python -m tests.faults.sweep                      all of them, on all cores
python -m tests.faults.sweep --site remote --number 17 --kind ENOSPC   one again
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.faults.fault_rules import Fault, Kind
from tests.faults.fault_script import Outcome, kinds_of, run
from tests.support import evidence

COMMAND = "python -m tests.faults.sweep"
AGAIN = COMMAND + ' --site {site} --number {number} --kind "{kind}"'
WAYS = (False, True)
"""Hosts' writes by a thread, and at once on the loop."""


@dataclass
class Swept:
    """What a sweep found out."""

    runs: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    by_kind: dict[str, Counter[str]] = field(default_factory=dict)
    never_met: int = 0
    """Faults at calls that a run did not come to: a power loss had taken them."""
    restarts: int = 0
    points_compared: int = 0
    problems: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, evidence.Figure]:
        return {
            "runs": self.runs,
            "calls": self.calls,
            "runs_by_site_and_kind": {s: dict(k) for s, k in self.by_kind.items()},
            "faults_never_met": self.never_met,
            "restarts": self.restarts,
            "points_compared": self.points_compared,
            "violations": len(self.problems),
        }


def faults(calls: dict[str, list[tuple[str, str]]], *, at_once: bool) -> list[Fault]:
    """Return every fault of a run that makes these calls."""
    return [
        Fault(site, number, kind)
        for site in ("primary", "remote")
        for number, (operation, path) in enumerate(calls[site], start=1)
        if not at_once or _is_of_writes(site, path)
        for kind in kinds_of(operation, path)
    ]


def _is_of_writes(site: str, path: str) -> bool:
    """Tell whether the way of writing makes a difference to a call."""
    return site == "primary" and path.startswith(("/devices/", "/flashcopy/"))


FAILURES_MAX = 10
"""A sweep that found so much is over: something is broken, not a corner of it."""


def sweep(jobs: int | None = None) -> Swept:
    """Run them all; a problem names the command that shows it again."""
    found = Swept()
    chosen: list[tuple[Fault, bool]] = []
    for at_once in WAYS:
        sound = run(None, at_once=at_once)
        found.problems += sound.problems
        for site, calls in sound.calls.items():
            found.calls[site] = max(found.calls.get(site, 0), len(calls))
        chosen += [(f, at_once) for f in faults(sound.calls, at_once=at_once)]
    for (fault, at_once), outcome in _outcomes(chosen, jobs or os.cpu_count() or 1):
        found.runs += 1
        kinds = found.by_kind.setdefault(fault.site, Counter())
        kinds[fault.kind.value] += 1
        found.never_met += outcome.hit is None
        found.restarts += sum(outcome.restarts.values())
        found.points_compared += outcome.points_compared
        again = AGAIN.format(
            site=fault.site, number=fault.number, kind=fault.kind.value
        )
        again += " --at-once" * at_once
        found.problems += [f"{text}\n  again: {again}" for text in outcome.problems[:1]]
        if len(found.problems) >= FAILURES_MAX:
            break
    return found


def _run(chosen: tuple[Fault, bool]) -> Outcome:
    fault, at_once = chosen
    return run(fault, at_once=at_once)


def _outcomes(
    chosen: list[tuple[Fault, bool]], jobs: int
) -> Iterator[tuple[tuple[Fault, bool], Outcome]]:
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from zip(chosen, pool.imap(_run, chosen, chunksize=16), strict=True)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--site", choices=("primary", "remote"))
    options.add_argument("--number", type=int)
    options.add_argument("--kind", type=Kind)
    options.add_argument("--at-once", action="store_true")
    options.add_argument("--jobs", type=int)
    asked = options.parse_args()
    if asked.site is not None:
        fault = Fault(asked.site, asked.number, asked.kind)
        outcome = run(fault, at_once=asked.at_once, keep_trace=True)
        print("\n".join((*outcome.trace, *outcome.problems)))
        return bool(outcome.problems)
    found = sweep(asked.jobs)
    print("\n".join(found.problems))
    print(found.figures())
    evidence.record("fault_sweep", COMMAND, found.figures())
    return bool(found.problems)


if __name__ == "__main__":
    sys.exit(main())
