"""What an old recovery point costs: to open, to read, on disk and in memory.

python -m benchmarks.old_points --directory /var/tmp --points 1000 --gib 4

Makes a history with the remote's own code on real files, each cycle overwriting tracks
all over the volume, starts anew, and reads the oldest point.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence

from common.replication.cycle_messages import Encoding
from common.replication.session_messages import VolumeOffer
from common.replication.tracks import TrackRecord, run_hash
from common.storage.files import SystemFiles
from remote_site.applier import apply_tracks
from remote_site.group_disk import GroupDisk, StoreSettings
from remote_site.history import History
from remote_site.recovery_point import PointImage
from remote_site.store_state import Point

TRACK_BYTES = 4096
READ_BYTES = 256 << 10


def keep_all(points: Sequence[Point]) -> set[int]:
    return {point.number for point in points}


def opened(place: str) -> GroupDisk:
    settings = StoreSettings(
        group="g",
        state_directory=f"{place}/state",
        journal_directory=f"{place}/journal",
        devices={"v": f"{place}/v.img"},
    )
    disk = GroupDisk(SystemFiles(), settings, keep_all)
    disk.open()
    return disk


def record(rng: random.Random, tracks: int) -> TrackRecord:
    """Return eight tracks somewhere, half of whose bytes do not compress."""
    half = rng.randbytes(4 * TRACK_BYTES)
    data = half + bytes([rng.randrange(256)]) * (4 * TRACK_BYTES)
    first = rng.randrange(tracks - 8)
    return TrackRecord(first, 8, Encoding.RAW, memoryview(data), run_hash(data))


def make(place: str, points: int, gib: float, runs: int) -> int:
    """Make the history; return the bytes that a cycle overwrites."""
    size_bytes = int(gib * (1 << 30))
    rng, tracks = random.Random(1), size_bytes // TRACK_BYTES
    disk = opened(place)
    offer = VolumeOffer("v", b"v" * 16, size_bytes, TRACK_BYTES)
    disk.bind(b"g" * 16, b"L" * 16, "a", (offer,))
    history = History(disk)
    for number in range(1, points + 1):
        for _ in range(runs):
            apply_tracks(disk.volumes[0], [record(rng, tracks)])
        disk.commit_point(number, number.to_bytes(16, "big"), number, None)
        history.seal()
    disk.close()
    return runs * 8 * TRACK_BYTES


def figures(place: str, number: int, gib: float) -> dict[str, float]:
    size_bytes = int(gib * (1 << 30))
    rng = random.Random(2)
    before_bytes = resident_bytes()
    began = time.perf_counter()
    disk = opened(place)
    start_seconds = time.perf_counter() - began
    began = time.perf_counter()
    assert disk.pin(number) == number
    image = PointImage(disk.volumes[0], number)
    image.read(rng.randrange(size_bytes // 4096) * 4096, 4096)
    first_seconds = time.perf_counter() - began
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 8:
        image.read(rng.randrange(size_bytes // 4096) * 4096, 4096)
        count += 1
    cold_reads = count / (time.perf_counter() - began)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 4:
        image.read(rng.randrange(size_bytes // 4096) * 4096, 4096)
        count += 1
    warm_reads = count / (time.perf_counter() - began)
    began, offset = time.perf_counter(), 0
    while time.perf_counter() - began < 8:
        image.read(offset % size_bytes, READ_BYTES)
        offset += READ_BYTES
    sequential = offset / (time.perf_counter() - began)
    disk.close()
    return {
        "start_seconds": start_seconds,
        "opened_and_first_read_seconds": first_seconds,
        "random_4k_reads_per_second_at_first": cold_reads,
        "random_4k_reads_per_second_then": warm_reads,
        "sequential_mib_per_second": sequential / (1 << 20),
        "memory_mib": (resident_bytes() - before_bytes) / (1 << 20),
    }


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--directory", default=None)
    options.add_argument("--points", type=int, default=1000)
    options.add_argument("--gib", type=float, default=4.0)
    options.add_argument("--runs", type=int, default=32, help="of 32 KiB, a cycle")
    chosen = options.parse_args()
    place = tempfile.mkdtemp(prefix="old-points-", dir=chosen.directory)
    try:
        changed = make(place, chosen.points, chosen.gib, chosen.runs)
        journals = f"{place}/journal"
        stored = sum(
            os.stat(f"{journals}/{name}").st_blocks * 512
            for name in os.listdir(journals)
        )
        found = {
            "points": chosen.points,
            "cycle_overwrites_bytes": changed,
            "stored_bytes_per_point": stored // chosen.points,
            "oldest": figures(place, 1, chosen.gib),
            "newest": figures(place, chosen.points, chosen.gib),
        }
        print(json.dumps(found, indent=2))
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
