"""Write with FUA through libnbd for a while; prints one line of JSON.

Runs with Debian's Python, which has libnbd's module; fio's nbd engine has no FUA.
Arguments: URI, bytes to write in, bytes of a write, depth, seconds.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time

import nbd  # type: ignore[import-not-found]


def main() -> None:
    uri, size, block, depth, seconds = sys.argv[1:]
    handle = nbd.NBD()
    handle.connect_uri(uri)
    assert handle.can_fua(), "the server does not offer FUA"
    took_ns = _write(handle, int(size), int(block), int(depth), float(seconds))
    elapsed = took_ns.pop() / 1e9
    handle.shutdown()
    ordered, count = sorted(took_ns), len(took_ns)
    figures = {
        "operations_per_second": count / elapsed,
        "bytes_per_second": count * int(block) / elapsed,
        "mean_us": sum(took_ns) / count / 1000,
        "p99_us": ordered[min(int(0.99 * count), count - 1)] / 1000,
        "written_bytes": count * int(block),
    }
    print(json.dumps(figures))


def _write(
    handle: nbd.NBD, size: int, block: int, depth: int, seconds: float
) -> list[int]:
    """Return the nanoseconds of each write, and last those of all together."""
    data = nbd.Buffer.from_bytearray(bytearray(os.urandom(block)))
    draw = random.Random(1)
    began = time.monotonic_ns()
    until = began + int(seconds * 1e9)
    started: dict[int, int] = {}
    took: list[int] = []
    while True:
        now = time.monotonic_ns()
        while now < until and len(started) < depth:
            offset = draw.randrange(size // block) * block
            cookie = handle.aio_pwrite(data, offset, flags=nbd.CMD_FLAG_FUA)
            started[cookie] = now
        if not started:
            return [*took, time.monotonic_ns() - began]
        handle.poll(-1)
        done = [c for c in started if handle.aio_command_completed(c)]
        now = time.monotonic_ns()
        took += [now - started.pop(cookie) for cookie in done]


if __name__ == "__main__":
    main()
