"""Keys of later versions: refused by name, so that none is ever ignored.

A key is a dotted path; lists are passed through, so "group.link.seed" means that
key of every group. A value that asks for nothing (`reflink = false`) is accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RefusedKey:
    """`accepted` are the values that ask for nothing this version lacks."""

    path: str
    reason: str
    accepted: tuple[object, ...] = ()


_COMMON = (
    RefusedKey(
        "nbd.tls.psk_file",
        "Python's ssl module offers pre-shared keys from 3.13 on, where this version "
        "was not tried: remove it and use certificates",
    ),
)

PRIMARY_REFUSED = (
    *_COMMON,
    RefusedKey(
        "group.flashcopy.limit",
        "a limit for FlashCopy targets arrives with a later version: remove it",
    ),
    RefusedKey(
        "group.flashcopy.reserve",
        "a reserve beside FlashCopy targets arrives with a later version: remove it",
    ),
    RefusedKey(
        "group.flashcopy.reflink",
        "sharing extents arrives with a later version: remove it",
        accepted=(False,),
    ),
)

REMOTE_REFUSED = _COMMON


def find_refused(
    raw: Mapping[str, Any], refused: tuple[RefusedKey, ...]
) -> tuple[tuple[str | int, ...], str] | None:
    """Return (place, sentence) of the first key that this version refuses."""
    for key in refused:
        for place, value in _find(raw, key.path.split("."), ()):
            if not any(
                value is accepted or (value == accepted and isinstance(value, str))
                for accepted in key.accepted
            ):
                return place, key.reason
    return None


def _find(
    value: Any, names: list[str], place: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _find(item, names, (*place, index))
    elif not names:
        yield place, value
    elif isinstance(value, dict) and names[0] in value:
        inner = value[names[0]]
        if len(names) == 1:
            yield (*place, names[0]), inner
        else:
            yield from _find(inner, names[1:], (*place, names[0]))
