"""What the page tells of each kind of run: a title, and its figures in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Figures = dict[str, Any]
Tell = Callable[[Figures], list[str]]
SECONDS_PER_YEAR = 365.25 * 86400
MIB = 1 << 20


@dataclass(frozen=True)
class Run:
    """A kind of run; `tell` turns its figures into sentences without a full stop."""

    record: str
    title: str
    about: str
    tell: Tell
    command: str
    """What makes it, told where it was not run."""


def count(number: Any, singular: str, plural: str | None = None) -> str:
    """Write a number with its noun, thousands apart."""
    if not isinstance(number, int):
        return f"{number} {plural or singular + 's'}"
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def plain(figures: Figures) -> list[str]:
    """Tell every number under its own name, and tables as lists."""
    told = []
    for name, value in figures.items():
        words = name.replace("_", " ")
        if isinstance(value, dict):
            inner = ", ".join(f"{key} {_number(each)}" for key, each in value.items())
            told.append(f"{words}: {inner}")
        elif not isinstance(value, list):
            told.append(f"{words}: {_number(value)}")
    return told


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _crash_images(found: Figures) -> list[str]:
    return [
        (
            f"**{count(found['distinct_images'], 'distinct crash image')}** recovered "
            f"and compared, of {count(found['images'], 'made image')}"
        ),
        count(found["recoveries"], "recovery", "recoveries")
        + f", of which {found['crashes_of_recoveries']:,} were crashed in turn",
        _images_by_component(found),
        count(found["violations"], "violation"),
    ]


def _images_by_component(found: Figures) -> str:
    told = (
        f"{name.replace('_', ' ')} {each['distinct_images']:,}"
        for name, each in found["components"].items()
    )
    return f"distinct ones, by what was explored: {', '.join(told)}"


def _simulation(found: Figures) -> list[str]:
    years = found["simulated_seconds"] / SECONDS_PER_YEAR
    return [
        f"**{count(found['seeds'], 'seed')}**, {found['failed']:,} failed",
        f"{years:.3g} simulated years ({found['simulated_seconds'] / 3600:,.1f} hours)",
        (
            f"{count(found['cuts'], 'cut')}, {count(found['commits'], 'commit')}, "
            f"**{count(found['images_compared'], 'image')} compared byte for byte**"
        ),
        (
            f"{count(found['starts'], 'start')} of daemons, "
            f"{count(found['kills'], 'kill')}, "
            f"{count(found['power_losses'], 'power loss', 'power losses')}"
        ),
        *_roles_that_go_round(found),
    ]


def _roles_that_go_round(found: Figures) -> list[str]:
    if "circles" not in found:
        return []  # of an earlier run
    return [
        (
            f"{count(found['circle_takeovers'], 'takeover')}, "
            f"{count(found['failbacks'], 'failback')} and "
            f"{count(found['switchovers'], 'switchover')}, one after the other in "
            f"{count(found['circles'], 'run')}; {count(found['forks_kept'], 'fork')} "
            "kept"
        )
    ]


def _fault_sweep(found: Figures) -> list[str]:
    calls = ", ".join(f"{site} {n:,}" for site, n in found["calls"].items())
    return [
        (
            f"**{count(found['runs'], 'fault')}**, each in a run of its own, at every "
            f"call of a script ({calls})"
        ),
        f"{count(found['points_compared'], 'point')} compared",
        count(found["violations"], "violation"),
    ]


def _lineage(found: Figures) -> list[str]:
    return [
        f"**{count(found['combinations'], 'combination')}**",
        count(len(found["rules"]), "rule"),
        _verdicts(found),
    ]


def _lineage_carried_out(found: Figures) -> list[str]:
    return [count(found["arrangements"], "arrangement"), _verdicts(found)]


def _verdicts(found: Figures) -> str:
    told = (f"{v.replace('_', ' ')} {n:,}" for v, n in found["verdicts"].items())
    return f"verdicts: {', '.join(told)}"


def _museum(found: Figures) -> list[str]:
    bugs, caught = found["historical_bugs"], found["historical_bugs_caught"]
    own, own_caught = found["own_orders"], found["own_orders_caught"]
    missing = found["historical_bugs_that_cannot_be_here"]
    return [
        (
            f"**{caught} of {bugs}** historical bugs of other systems, put into this "
            "one, turned the tests red"
        ),
        (
            f"**{own_caught} of {own}** orders of this product, each broken on "
            "purpose, did so"
        ),
        f"{missing} historical bugs cannot exist here; `make museum` says why",
    ]


def _torture(*keys: tuple[str, str]) -> Tell:
    """Tell what a part of the torture said by these names, in these words."""

    def tell(found: Figures) -> list[str]:
        told = [f"**{found['result']}**"] if found["result"] != "held" else []
        told += [
            words.format(_number(found[key])) for key, words in keys if key in found
        ]
        told.append(f"{found['seconds']:,} s, seed {found['seed']}")
        told += [f"left out: {what}" for what in found["left_out"]]
        return told

    return tell


def _power_cuts(found: Figures) -> list[str]:
    told = _torture(
        ("mounts", "**{} mounts after a power cut**"),
        ("daemon_recoveries", "{} moments at which the real daemons recovered both"),
    )(found)
    recorded = sum(
        each for name, each in found.items() if name.endswith("_boundaries_recorded")
    )
    if recorded:
        told.append(
            f"{found['flush_boundaries']:,} of {recorded:,} moments between two flushes"
        )
    return told


def _soak(found: Figures) -> list[str]:
    told = _torture(
        ("laps", "{} laps"),
        ("faults", "{} faults"),
        ("cuts", "{} cuts"),
    )(found)
    for site in ("primary", "remote"):
        memory = found.get(f"{site}_memory_growth_bytes")
        if memory is not None:
            told.append(
                f"growth of the {site} from the middle third to the last: "
                f"{memory / MIB:+.1f} MiB, {found[f'{site}_descriptor_growth']:+d} "
                f"descriptors (bounds {found['memory_growth_bound_bytes'] / MIB:g} MiB,"
                f" {found['descriptor_growth_bound']})"
            )
    return told


def _fuzz(found: Figures) -> list[str]:
    targets = found["executions_by_target"]
    return [
        (
            f"**{count(found['executions'], 'execution')}** of "
            f"{count(len(targets), 'parser')}: {', '.join(targets)}"
        ),
        count(found["failed_targets"], "failed parser"),
    ]


RUNS = (
    Run(
        "crash_images",
        "Crash images",
        "The storage code of both sites on a disk that loses, tears or trashes any "
        "subset of what was not flushed, at every write and flush; recovery too is "
        "crashed.",
        _crash_images,
        "make hunt",
    ),
    Run(
        "simulation",
        "Two sites, simulated",
        "The code of both daemons over simulated disks, links and clocks: kills at any "
        "await, power losses, full disks, operators, roles that go round; then "
        "everything heals and the newest cut has to become safe.",
        _simulation,
        "make hunt",
    ),
    Run(
        "fault_sweep",
        "A fault at every call",
        "EIO, no room and short writes at the n-th call of each device, for every n, "
        "at both sites.",
        _fault_sweep,
        "make test",
    ),
    Run(
        "cut_oracle",
        "Cuts compared",
        "The real daemons under hosts that stamp every sector; every point is read "
        "whole and has to be one instant of all volumes.",
        plain,
        "make test",
    ),
    Run(
        "kills",
        "Kills under load",
        "The real daemons, killed one or both at random moments and again within their "
        "recovery, and stopped for long.",
        plain,
        "make test",
    ),
    Run(
        "lineage",
        "Lineage table",
        "Every combination of identifiers, roles and states at both sites against an "
        "independent specification.",
        _lineage,
        "make test",
    ),
    Run(
        "lineage_carried_out",
        "Verdicts carried out",
        "Copies of either site put back in every way that the verdicts tell apart, and "
        "what becomes of the data.",
        _lineage_carried_out,
        "make test",
    ),
    Run(
        "museum",
        "Bug museum",
        "Bugs that cost users of other systems their data, and orders that this one "
        "relies on, broken, each put in on purpose: do the tests notice?",
        _museum,
        "make museum",
    ),
    Run(
        "torture_kills",
        "Kill points",
        "SIGKILL on entry of the n-th system call of the real daemons, running or in "
        "the middle of their recovery.",
        _torture(
            ("kill_points", "**{} kill points**"),
            ("kills", "{} kills"),
            ("kills_during_start", "{} of them in the middle of a start"),
            ("cuts_judged", "{} cuts judged"),
        ),
        "make torture",
    ),
    Run(
        "torture_power_cuts",
        "Power cuts with real file systems",
        "ext4 and XFS beneath both daemons, as power lost between any two flushes "
        "leaves them, mounted and recovered.",
        _power_cuts,
        "make torture",
    ),
    Run(
        "torture_shutdowns",
        "Emergency stops of file systems",
        "The kernel takes ext4 and XFS away beneath the daemons under load.",
        _torture(
            ("rounds", "**{} rounds**"),
            ("mounts", "{} mounts"),
            ("points_judged", "{} points judged"),
        ),
        "make torture",
    ),
    Run(
        "torture_links",
        "Bad links",
        "Loss, black holes each way, resets, flapping, 8 Mbit/s, 200 ms round trips, "
        "stale data, with hosts timed from outside.",
        _torture(
            ("detection_seconds_max", "**longest detection of a dead link: {} s**"),
            ("detection_bound_seconds", "the bound is {} s"),
            ("detections", "{} dead links"),
            ("host_write_seconds_max", "longest host write meanwhile: {} s"),
            ("host_writes_timed", "{} host writes timed"),
            ("host_writes_failed", "{} host writes failed"),
            ("rounds", "{} rounds"),
            ("resets_in_frames", "{} resets in the middle of a frame"),
        ),
        "make torture",
    ),
    Run(
        "torture_clocks",
        "Clocks",
        "Wall clocks that jump, other origins of the monotonic clock, SIGSTOP.",
        _torture(
            ("wall_clock_jumps", "{} jumps of wall clocks"),
            ("wall_clock_jump_days_max", "by up to {} days"),
            ("monotonic_origins", "{} origins of the monotonic clock"),
            ("stops", "{} SIGSTOPs"),
            ("stop_seconds", "each for {} s"),
        ),
        "make torture",
    ),
    Run("torture_soak", "Soak", "Faults without end.", _soak, "make torture"),
    Run(
        "fuzz",
        "Fuzzing",
        "Every parser of bytes from outside, guided by coverage.",
        _fuzz,
        "make fuzz",
    ),
)
