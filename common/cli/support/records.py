"""The durable records of a site, as they are on disk: read, decoded, not touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]

from common.storage.record import SLOT_BYTES, parse_slot

RECORDS_MAX = 2000
"""Several a group: more groups than a config may have."""


def read_records(state_directory: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (path below the state directory, newest whole record) of each record.

    A daemon may be writing: a slot that is not whole is left out. Raises OSError.
    """
    root = Path(state_directory)
    found = 0
    for path in sorted(root.rglob("*")):
        if path.is_file() and found < RECORDS_MAX:
            with path.open("rb") as file:
                record = _newest(file.read(2 * SLOT_BYTES))
            if record is not None:
                found += 1
                yield str(path.relative_to(root)), record


def _newest(content: bytes) -> dict[str, Any] | None:
    slots = (content[at : at + SLOT_BYTES] for at in (0, SLOT_BYTES))
    whole = [parsed for slot in slots if (parsed := parse_slot(slot)) is not None]
    if not whole:
        return None
    _, _, body = max(whole, key=lambda parsed: parsed[1])
    unpacked: dict[str, Any] = msgpack.unpackb(body, strict_map_key=False)
    return unpacked
