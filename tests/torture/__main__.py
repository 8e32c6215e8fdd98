"""Torture both daemons for as long as one likes: `make torture`.

    python -m tests.torture                            twenty minutes, all parts
    python -m tests.torture --minutes 240 --seed 7
    python -m tests.torture --only links --only soak
    python -m tests.torture --list

Each part says what it does and prints what it finds; the table at the end says what
held, what failed, and what could not run here and why. What fails leaves its files in
run/torture/ and prints the command that runs it again. Figures go to build/evidence.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from tests.support.evidence import REPOSITORY, record
from tests.torture.bench import Bench, Outcome, Part
from tests.torture.clocks import clocks
from tests.torture.kill_sweep import kill_sweep
from tests.torture.links import links
from tests.torture.mounts import leave_mount_namespace
from tests.torture.power_cuts import again, power_cuts
from tests.torture.shutdowns import shutdowns
from tests.torture.soak import soak

RUN = REPOSITORY / "run" / "torture"
SEED_BITS = 32
PARTS = (
    Part(
        "kills",
        "SIGKILL at the n-th system call of either daemon, running or starting",
        4.0,
        kill_sweep,
        commands=("strace", "setpriv"),
    ),
    Part(
        "power-cuts",
        "both daemons' file systems as a power loss leaves them, at each flush",
        5.5,
        power_cuts,
        commands=("fusermount3", "setpriv"),
        needs_root=True,
    ),
    Part(
        "shutdowns",
        "the kernel's emergency stop of the file systems beneath the daemons",
        3.0,
        shutdowns,
        commands=("xfs_io", "setpriv"),
        needs_root=True,
    ),
    Part(
        "links",
        "loss, black holes, resets, flapping, 8 Mbit/s, 200 ms, stale data",
        3.5,
        links,
        commands=("ip", "unshare", "nsenter", "setpriv"),
        needs_root=True,
    ),
    Part(
        "clocks",
        "wall clocks that jump, other monotonic clocks, SIGSTOP",
        2.5,
        clocks,
        commands=("setpriv",),
    ),
    Part(
        "soak",
        "faults without end: descriptors and memory stay as they are",
        1.5,
        soak,
        commands=("setpriv",),
    ),
)


def main() -> int:
    options = argparse.ArgumentParser(
        prog="python -m tests.torture",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [part.name for part in PARTS]
    options.add_argument("--minutes", type=float, default=20.0, help="for all parts")
    options.add_argument("--seed", type=int, help="of all chances (default: a new one)")
    options.add_argument("--only", action="append", choices=names, metavar="PART")
    options.add_argument("--point", help="the one point of a sweep, as a failure named")
    options.add_argument("--again", type=Path, help="a recording that a failure kept")
    options.add_argument("--list", action="store_true", help="say what parts there are")
    asked = options.parse_args()
    if asked.list:
        for part in PARTS:
            print(f"{part.name:12} {part.does}")
        return 0
    # Also who is told to end undoes what was mounted and started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if os.geteuid() == 0:
        leave_mount_namespace()
    seed = secrets.randbits(SEED_BITS) if asked.seed is None else asked.seed
    if asked.again is not None:
        bench = Bench("again", seed, 0.0, RUN)
        asyncio.run(again(bench, asked.again, asked.point))
        print("nothing failed")
        return 0
    parts = [part for part in PARTS if not asked.only or part.name in asked.only]
    print(f"seed {seed}, {asked.minutes:g} minutes", flush=True)
    seconds_a_share = asked.minutes * 60 / sum(part.share for part in parts)
    outcomes = [_run(part, seed, part.share * seconds_a_share, asked) for part in parts]
    _print_table(outcomes, seed)
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def _run(part: Part, seed: int, seconds: float, asked: argparse.Namespace) -> Outcome:
    """Run a part; whatever it raises is its result."""
    lacks = part.lacks()
    if lacks:
        print(f"=== {part.name}: absent, {'; '.join(lacks)}", flush=True)
        return Outcome(part, f"absent: {'; '.join(lacks)}")
    print(f"=== {part.name}, {seconds:.0f} s: {part.does}", flush=True)
    folder = RUN / f"{part.name}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bench = Bench(part.name, seed, seconds, folder)
    bench.point = asked.point
    began = time.monotonic()
    outcome = Outcome(part, "held", absent=bench.absent)
    try:
        outcome.figures = asyncio.run(part.run(bench))
        shutil.rmtree(folder)
    except Exception as error:  # noqa: BLE001 - every failure is a finding, and told
        traceback.print_exc()
        summary = str(error).strip().splitlines() or [repr(error)]
        outcome.result = f"failed: {summary[0]}"
        outcome.again = f"--only {part.name} --seed {seed} {bench.again or ''}".strip()
        print(f"  its files: {folder.relative_to(REPOSITORY)}")
        print(f"  again: {sys.executable} -m tests.torture {outcome.again}", flush=True)
    outcome.seconds = time.monotonic() - began
    for name, value in outcome.figures.items():
        print(f"  {name}: {value}")
    if asked.point is None:
        _record(outcome, seed, asked)
    return outcome


def _record(outcome: Outcome, seed: int, asked: argparse.Namespace) -> None:
    arguments = f"--minutes {asked.minutes:g} --seed {seed}"
    for name in asked.only or ():
        arguments += f" --only {name}"
    record(
        f"torture_{outcome.part.name.replace('-', '_')}",
        f'make torture ARGS="{arguments}"',
        {
            **outcome.figures,
            "result": outcome.result,
            "seconds": round(outcome.seconds),
            "seed": seed,
            "left_out": outcome.absent,
        },
    )


def _print_table(outcomes: list[Outcome], seed: int) -> None:
    print(f"\n{'part':12} {'seconds':>7}  result (seed {seed})")
    for outcome in outcomes:
        print(f"{outcome.part.name:12} {outcome.seconds:7.0f}  {outcome.result}")
        for what in outcome.absent:
            print(f"{'':12} {'':7}  left out: {what}")
        if outcome.again:
            print(f"{'':12} {'':7}  again: python -m tests.torture {outcome.again}")


if __name__ == "__main__":
    sys.exit(main())
