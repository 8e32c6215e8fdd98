"""The age of a recovery point while its link falls to a tenth and comes back.

    python benchmarks/wan_fall.py --json docs/performance/link_falls.json
    python benchmarks/wan_fall_plot.py docs/performance/link_falls.json

With an `rpo`, over a cable between two network namespaces, once with hosts that write
less than the tenth carries, and once with hosts that write more. Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.long_link import LongLink, long_link
from benchmarks.servers import describe_machine
from tests.support.sites import Pair, VolumeSpec, until

MIB = 1 << 20
SIZE_BYTES = 64 * MIB
BLOCK_BYTES = 16 << 10
MEGABITS, ROUND_TRIP_SECONDS = 40.0, 0.02
FALLEN_SHARE = 0.1
RPO_SECONDS = 5.0
BEFORE_SECONDS, FALLEN_SECONDS, AFTER_SECONDS = 15.0, 30.0, 30.0
LOADS = {"less than the tenth carries": 0.25e6, "more than the tenth carries": 1.5e6}
"""Bytes a second that hosts write."""

LOOK_SECONDS = 0.1
LATE_SECONDS_MAX = 1.0
"""A writer that comes late does not catch up with more than this."""


@contextlib.asynccontextmanager
async def load(pair: Pair, bytes_per_second: float) -> AsyncIterator[None]:
    """Write random blocks at a steady rate, in the background."""
    client = await pair.primary.nbd("g/v")
    chance = random.Random(1)
    step = BLOCK_BYTES / bytes_per_second

    async def write() -> None:
        due = time.monotonic()
        while True:
            offset = chance.randrange(SIZE_BYTES // BLOCK_BYTES) * BLOCK_BYTES
            await client.write(offset, chance.randbytes(BLOCK_BYTES))
            due = max(due + step, time.monotonic() - LATE_SECONDS_MAX)
            await asyncio.sleep(due - time.monotonic())

    writing = asyncio.create_task(write())
    try:
        yield
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        client.abort()


async def fall(link: LongLink, directory: Path, rate: float) -> list[dict[str, Any]]:
    """Return looks at the group, every tenth of a second; 0 is the link's fall."""
    whole = link.cable.bytes_per_second
    assert whole is not None
    volumes = [VolumeSpec("v", SIZE_BYTES)]
    group: dict[str, object] = {"rpo": f"{RPO_SECONDS:g}s"}
    with link.pair(directory, volumes, {"compression": "off"}, group) as pair:
        await pair.start()
        async with load(pair, rate):
            await until(
                lambda: (pair.group("g")["forecast"] or {}).get("promise") == "kept",
                "the target is kept",
            )
            try:
                return await _watch(link, pair, whole)
            finally:
                link.cable.bytes_per_second = whole


async def _watch(link: LongLink, pair: Pair, whole: float) -> list[dict[str, Any]]:
    began = time.monotonic()
    looks: list[dict[str, Any]] = []
    ends = BEFORE_SECONDS + FALLEN_SECONDS + AFTER_SECONDS
    while (now := time.monotonic() - began) < ends:
        is_fallen = BEFORE_SECONDS <= now < BEFORE_SECONDS + FALLEN_SECONDS
        link.cable.bytes_per_second = whole * (FALLEN_SHARE if is_fallen else 1.0)
        group = pair.group("g")
        forecast = group["forecast"] or {}
        looks.append(
            {
                "seconds": round(now - BEFORE_SECONDS, 2),
                "age_seconds": round(group["recovery_point_age_seconds"], 2),
                "promise": forecast.get("promise"),
                "cause": forecast.get("cause"),
            }
        )
        await asyncio.sleep(LOOK_SECONDS)
    return looks


def summary(looks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return when it was foreseen, when it was breached, and when all was well."""
    fallen = [look for look in looks if look["seconds"] >= 0]

    def first(promise: str, since: float = 0.0) -> float | None:
        found = (
            look["seconds"]
            for look in fallen
            if look["promise"] == promise and look["seconds"] >= since
        )
        return next(found, None)

    troubles = [first("in_danger"), first("breached")]
    troubled = min((at for at in troubles if at is not None), default=0.0)
    return {
        "age_seconds_max": max(look["age_seconds"] for look in fallen),
        "age_seconds_max_before": max(
            look["age_seconds"] for look in looks if look["seconds"] < 0
        ),
        "in_danger_at": first("in_danger"),
        "breached_at": first("breached"),
        "kept_again_at": first("kept", troubled),
        "causes": sorted({look["cause"] for look in fallen if look["cause"]}),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", type=Path, help="write every look here")
    chosen = options.parse_args()
    runs = []
    for name, rate in LOADS.items():
        with (
            tempfile.TemporaryDirectory(prefix="fs-") as where,
            long_link(MEGABITS, ROUND_TRIP_SECONDS) as link,
        ):
            looks = asyncio.run(fall(link, Path(where) / "pair", rate))
        runs.append(
            {"hosts_write": name, "bytes_per_second": rate, **summary(looks)}
            | {"looks": looks}
        )
        print({key: value for key, value in runs[-1].items() if key != "looks"})
    found = {
        "machine": describe_machine(),
        "megabits": MEGABITS,
        "round_trip_seconds": ROUND_TRIP_SECONDS,
        "fallen_share": FALLEN_SHARE,
        "fallen_seconds": FALLEN_SECONDS,
        "rpo_seconds": RPO_SECONDS,
        "runs": runs,
    }
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
