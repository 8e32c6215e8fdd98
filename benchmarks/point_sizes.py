"""What recovery points cost at the remote, beside what their cycles sent.

python -m benchmarks.point_sizes --directory /var/tmp    as root, for it mounts

Plays the databases of `wan.py`, one cut a step, through both daemons, every point kept.
Then it packs, apart from them, what each cycle overwrote: whole, as journals do, and as
the difference to what overwrote it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import zstandard

from benchmarks import wan_images, wan_workloads
from benchmarks.counting_proxy import counting
from benchmarks.farshore_sites import Pair, Site, idle
from benchmarks.processes import wait_until
from benchmarks.wan_peers import SECONDS_MAX, passed_when_still, write_version
from common.storage.journal_format import RECORD_HEADER_BYTES, RUN_TRACKS_MAX

TRACK_BYTES = 4096
LEVELS = (-1, 3, 9)
DIFFERENCE_LEVEL = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--directory", type=Path, default=None)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--jobs", default="", help="part of a workload's name")
    options = parser.parse_args()
    wan_images.leave_mount_namespace()
    with tempfile.TemporaryDirectory(prefix="fs-", dir=options.directory) as name:
        Path(name).chmod(0o755)  # a database server is another user
        for job in (wan_workloads.Sqlite(), wan_workloads.Postgres()):
            if options.jobs in job.name and getattr(job, "is_here", True):
                place = Path(name) / type(job).__name__
                place.mkdir()
                found = measured(job, place, options.steps)
                print(f"{job.name}: {json.dumps(found)}", flush=True)


def measured(job: wan_workloads.Workload, where: Path, steps: int) -> dict[str, int]:
    """Return bytes of all steps together."""
    images = wan_images.record(job, where / "versions", steps).images
    found = through_both_sites(images, where / "sites")
    for before, after in itertools.pairwise(images):
        for old, new in overwritten(before, after):
            found["raw"] = found.get("raw", 0) + len(old)
            for way, size in packed(old, new).items():
                found[way] = found.get(way, 0) + size
    return found


def through_both_sites(images: list[Path], where: Path) -> dict[str, int]:
    """Return what cycles sent, both ways counted, and what their points take."""
    where.mkdir()
    pair = Pair(where, f"{images[0].stat().st_size}B", "manual = true")
    config = where / "remote.toml"
    peer = 'peer = "near"\n'
    config.write_text(
        config.read_text().replace(peer, peer + 'retain = ["all for 1d"]\n')
    )
    shutil.copyfile(images[0], pair.image)
    sent = 0
    with counting(pair.replication_port) as proxy:
        pair.link_through(proxy.port, f"compression = {wan_images.ZSTD_LEVEL}")
        with pair.remote() as far, pair.primary() as near:
            wait_until(lambda: _link(near) == "connected", "link", SECONDS_MAX)
            near.call("cut", group="bench", wait=True, label=None)
            wait_until(lambda: idle(near), "first copy", SECONDS_MAX)
            for before, after in itertools.pairwise(images):
                write_version(pair.uri, before, after)
                passed = passed_when_still(proxy)
                near.call("cut", group="bench", wait=True, label=None)
                sent += passed_when_still(proxy) - passed
            listed: Any = far.call("points", group="bench", keep=None, release=None)
    return {"sent": sent, "points": sum(point["bytes"] for point in listed)}


def _link(site: Site) -> object:
    return cast("dict[str, object]", site.group()["link"])["state"]


def overwritten(before: Path, after: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield (old, new) of runs of changed tracks, as long as a journal's; no zeroes."""
    old, new = (
        np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, TRACK_BYTES)
        for path in (before, after)
    )
    changed = np.flatnonzero((old != new).any(axis=1))
    for run in np.split(changed, np.flatnonzero(np.diff(changed) != 1) + 1):
        for first in range(0, len(run), RUN_TRACKS_MAX):
            part = run[first : first + RUN_TRACKS_MAX]
            tracks = slice(part[0], part[-1] + 1)
            if old[tracks].any():
                yield old[tracks].tobytes(), new[tracks].tobytes()


def packed(old: bytes, new: bytes) -> dict[str, int]:
    """Return what a record of the old content takes, by how it is packed."""
    found = {}
    for level in LEVELS:
        whole = zstandard.ZstdCompressor(level=level).compress(old)
        found[f"whole, level {level}"] = RECORD_HEADER_BYTES + len(whole)
    base = zstandard.ZstdCompressionDict(new, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    packer = zstandard.ZstdCompressor(level=DIFFERENCE_LEVEL, dict_data=base)
    found["difference"] = RECORD_HEADER_BYTES + len(packer.compress(old))
    return found


if __name__ == "__main__":
    main()
