"""Run seeds one after the other, up to the first in which a promise is broken.

python -m tests.museum.hunting simulation 0 100

Prints one line of JSON: how many ran, and of the one that failed its name and words.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator

from tests.faults import fault_script, sweep
from tests.museum.exhibit import FAULTS, KINDS
from tests.support.crash.campaign import run_task
from tests.support.simulation.seeds import goes_round, simulate


def main() -> int:
    kind, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    assert kind in KINDS, kind
    ran, red = 0, None
    for name, says in itertools.islice(_runs(kind, first), count):
        ran += 1
        if says is not None:
            red = {"name": name, "says": says}
            break
    print(json.dumps({"ran": ran, "red": red}))
    return int(red is not None)


def _runs(kind: str, first: int) -> Iterator[tuple[str, str | None]]:
    """Yield (name, problem or None); without an end, but for faults."""
    if kind in FAULTS:
        yield from itertools.islice(_faults(FAULTS[kind]), first, None)
        return
    for seed in itertools.count(first):
        if kind == "circles" and not goes_round(seed):
            continue
        if kind in {"simulation", "circles"}:
            problems = simulate(seed).problems
            yield f"simulation, seed {seed}", problems[0] if problems else None
        else:
            yield f"crashes of {kind}, seed {seed}", run_task((kind, seed)).problem


def _faults(operations: frozenset[str]) -> Iterator[tuple[str, str | None]]:
    """Yield what becomes of a fault at each such call, as the sweep has them."""
    for at_once in sweep.WAYS:
        sound = fault_script.run(None, at_once=at_once)
        yield "no fault", sound.problems[0] if sound.problems else None
        for fault in sweep.faults(sound.calls, at_once=at_once):
            if sound.calls[fault.site][fault.number - 1][0] not in operations:
                continue
            problems = fault_script.run(fault, at_once=at_once).problems
            yield str(fault), problems[0] if problems else None


if __name__ == "__main__":
    sys.exit(main())
