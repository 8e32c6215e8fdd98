"""From `farshore takeover` to a host's first write, of a large sparse volume.

python -m benchmarks.takeover                              100 GiB with 10 GiB of data
python -m benchmarks.takeover --size 8 --data 1            GiB of volume, and of data

A first copy, then hosts overwrite some of it and a cycle begins; the primary is killed
within it. Timed is what an operator waits for: the command, then a host that connects,
writes 4 KiB and flushes.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.farshore_sites import Pair, Site
from benchmarks.processes import wait_until

MIB = 1 << 20
CYCLE_MIB = 512
"""Overwritten before the last cycle, of which a part has come in when it ends."""

IN_CYCLE_SECONDS = 0.5


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--size", type=int, default=100, help="GiB of the volume")
    options.add_argument("--data", type=int, default=10, help="GiB of data in it")
    options.add_argument("--where", type=Path, help="a folder with room; default /tmp")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.where) as directory:
        pair = Pair(Path(directory), f"{chosen.size}GiB", "manual = true")
        step = chosen.size * 1024 // (chosen.data * 1024) * MIB
        _fill(pair.image, chosen.size << 30, chosen.data * 1024, step)
        _run(pair, min(CYCLE_MIB, chosen.data * 1024), step)


def _fill(image: Path, size_bytes: int, count: int, step: int) -> None:
    """Make a sparse file with a megabyte of data every so often."""
    noise = os.urandom(MIB)
    with image.open("wb") as file:
        file.truncate(size_bytes)
        for index in range(count):
            file.seek(index * step)
            file.write(index.to_bytes(8, "big") + noise[8:])
        os.fsync(file.fileno())


def _run(pair: Pair, overwritten: int, step: int) -> None:
    with pair.remote() as remote:
        with pair.primary() as primary:
            wait_until(lambda: _link(primary) == "connected", "link", 30)
            began = time.monotonic()
            primary.call("cut", group="bench", wait=True)
            print(f"first copy: {time.monotonic() - began:.1f} s")
            words = [
                f"write -P {i % 255 + 1} {i * step} 1M" for i in range(overwritten)
            ]
            _qemu_io(pair.uri, *words, "flush")
            primary.call("cut", group="bench", wait=False)
            time.sleep(IN_CYCLE_SECONDS)
            os.kill(primary.pid, signal.SIGKILL)
            wait_until(lambda: _link(remote) != "connected", "its end", 30)
        began = time.monotonic()
        done = remote.call(
            "takeover", group="bench", action="start", point=None, force=True
        )
        served = time.monotonic()
        _qemu_io(
            f"nbd+unix:///bench/data?socket={pair.where}/far-nbd.sock",
            "write -P 1 0 4k",
            "flush",
        )
        written = time.monotonic()
    assert isinstance(done, dict)
    print(f"taken over from point {done['point']}: {served - began:.2f} s")
    print(f"to the first write, flushed: {written - began:.2f} s")
    for line in (pair.where / "remote.log").read_text().splitlines():
        if "takeover" in line:
            print(line)


def _link(site: Site) -> object:
    link = site.group()["link"]
    assert isinstance(link, dict)
    return link["state"]


def _qemu_io(uri: str, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(
        ["qemu-io", "-f", "raw", *words, uri], check=True, stdout=subprocess.DEVNULL
    )


if __name__ == "__main__":
    main()
