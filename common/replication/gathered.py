"""Headers of many records before their data, the first byte of each, then the second.

Pure. Between their data they would cost a compressor twice as much: most bytes of a
header are the same as in the one before, and only side by side this shows.

    offset          size  field
         0             4  count n of records, little-endian
         4   header x n   byte 0 of all headers, byte 1 of all, ...
                          the records' data, one after the other
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from common.errors import ProtocolError

_COUNT = struct.Struct("<I")
COUNT_BYTES = _COUNT.size


def gather(headers: Sequence[bytes]) -> bytes:
    """Return what stands before the data: headers of equal length, at least one."""
    table = np.frombuffer(b"".join(headers), np.uint8).reshape(len(headers), -1)
    return _COUNT.pack(len(headers)) + table.T.tobytes()


def part(raw: memoryview, header_bytes: int) -> tuple[bytes, memoryview]:
    """Return the headers one after the other, and the data. Raises `ProtocolError`."""
    if len(raw) < COUNT_BYTES:
        raise ProtocolError("TRACKS: a count of records is cut short")
    (count,) = _COUNT.unpack_from(raw)
    end = COUNT_BYTES + count * header_bytes
    if not count or end > len(raw):
        raise ProtocolError(f"TRACKS: {count} records do not fit")
    table = np.frombuffer(raw[COUNT_BYTES:end], np.uint8).reshape(header_bytes, count)
    return table.T.tobytes(), raw[end:]
