"""Write over NBD what differs between two images. For Debian's Python (libnbd).

wan_writes.py URI BEFORE AFTER
"""

from __future__ import annotations

import sys

import nbd  # type: ignore[import-not-found]

BLOCK_BYTES = 4096


def main() -> None:
    uri, before, after = sys.argv[1:]
    handle = nbd.NBD()
    handle.connect_uri(uri)
    with open(before, "rb") as old, open(after, "rb") as new:
        offset = 0
        while data := new.read(256 * BLOCK_BYTES):
            held = old.read(len(data))
            for at in range(0, len(data) if data != held else 0, BLOCK_BYTES):
                block = data[at : at + BLOCK_BYTES]
                if block != held[at : at + BLOCK_BYTES]:
                    handle.pwrite(block, offset + at)
            offset += len(data)
    handle.flush()
    handle.shutdown()


main()
