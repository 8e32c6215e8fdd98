"""A host of its own process: writes one small thing after another, and times each.

    python -m tests.torture.write_probe ADDRESS EXPORT OFFSET LENGTH

writes zeroes to that part of the export, which nobody else writes, until its input
ends; then it prints what it measured as JSON. Apart from the process of the test,
whose own work would be taken for the daemon's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.nbd_client import NbdClient
from tests.support.sites import REPOSITORY

WRITE_BYTES = 4096
PAUSE_SECONDS = 0.002
END_SECONDS = 30.0


@dataclass(slots=True)
class Measured:
    writes: int = 0
    longest_seconds: float = 0.0
    failed: int = 0


async def _probe(address: str, export: str, offset: int, length: int) -> Measured:
    found = Measured()
    client = await NbdClient.connect(address, export)
    ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    print("writing", flush=True)
    at = 0
    while not ended.done():
        began = time.monotonic()
        try:
            await client.write(offset + at, bytes(WRITE_BYTES))
        except Exception:  # noqa: BLE001 - any failure is the finding
            found.failed += 1
            break
        took = time.monotonic() - began
        found.longest_seconds = max(found.longest_seconds, took)
        found.writes += 1
        at = (at + WRITE_BYTES) % length
        await asyncio.sleep(PAUSE_SECONDS)
    await ended
    client.abort()
    return found


@contextlib.contextmanager
def probing(
    address: str, export: str, offset: int, length: int, into: Measured
) -> Iterator[None]:
    """Measure host writes until the end of the block; adds to `into`."""
    words = [address, export, str(offset), str(length)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.torture.write_probe", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "writing\n", "the write probe did not start"
        yield
        output, _ = process.communicate("", timeout=END_SECONDS)
    finally:
        process.kill()
        process.wait()
    found = Measured(**json.loads(output))
    into.writes += found.writes
    into.failed += found.failed
    into.longest_seconds = max(into.longest_seconds, found.longest_seconds)


def main() -> None:
    address, export, offset, length = sys.argv[1:]
    found = asyncio.run(_probe(address, export, int(offset), int(length)))
    print(json.dumps({name: getattr(found, name) for name in found.__slots__}))


if __name__ == "__main__":
    main()
