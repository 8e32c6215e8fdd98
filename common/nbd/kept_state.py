"""What is written down of a connection that outlives its daemon, and read back. Pure.

The next process is given the connection's socket and these bytes (msgpack, a list):

| index | type | what |
|---|---|---|
| 0 | int | `FORMAT_VERSION` |
| 1 | int | place: connections to one export are taken up in this order |
| 2 | str | the export's name |
| 3 | int | form of replies: 0 simple, 1 structured, 2 extended |
| 4 | list | [id, name] of each agreed metadata context |
| 5 | int | size in bytes, as told to the client |
| 6 | bool | whether the client was told of FAST_ZERO |
| 7 | bool | whether a newer connection may have made this one's requests stale |
| 8 | bin | received, and no part of it run or answered |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast

import msgpack  # type: ignore[import-untyped]

from common.nbd.outcome import Agreed
from common.nbd.protocol import NAME_BYTES_MAX, WireForm

FORMAT_VERSION: Final = 1
CONTEXTS_MAX: Final = 16
"""A volume has two or three."""
STATE_BYTES_MAX: Final = 80 << 20
"""The longest request served and a full receive buffer, and some room."""


class BadKeptStateError(Exception):
    """These bytes were not written by `encode`, or by another version of it."""


@dataclass(frozen=True, slots=True)
class KeptState:
    """All that a connection is, but for its socket."""

    agreed: Agreed
    size_bytes: int
    fast_zero: bool
    is_doubted: bool
    unread: bytes
    place: int = 0

    def encode(self) -> bytes:
        agreed = self.agreed
        fields = [
            FORMAT_VERSION,
            self.place,
            agreed.export_name,
            int(agreed.form),
            agreed.contexts,
            self.size_bytes,
            self.fast_zero,
            self.is_doubted,
            self.unread,
        ]
        return cast("bytes", msgpack.packb(fields, use_bin_type=True))


def decode(data: bytes) -> KeptState:
    """Return what `encode` was given; raises `BadKeptStateError` for all else."""
    try:
        fields = msgpack.unpackb(data, raw=False, use_list=True)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise BadKeptStateError(f"no msgpack: {error}") from None
    _check(isinstance(fields, list) and bool(fields), "no list")
    _check(_is_int(fields[0]) and fields[0] == FORMAT_VERSION, "of another version")
    _check(len(fields) == 9, "of another length")
    _, place, name, form, contexts, size_bytes, fast_zero, is_doubted, unread = fields
    _check(_is_int(place) and 0 <= place < 1 << 63, "place")
    _check(isinstance(name, str), "export")
    _check(len(name.encode("utf-8", "replace")) <= NAME_BYTES_MAX, "export")
    _check(_is_int(form) and form in set(WireForm), "form")
    _check(_is_int(size_bytes) and 0 <= size_bytes < 1 << 63, "size")
    _check(isinstance(fast_zero, bool) and isinstance(is_doubted, bool), "a flag")
    _check(isinstance(unread, bytes), "what was received")
    return KeptState(
        Agreed(name, WireForm(form), _contexts(contexts)),
        size_bytes,
        fast_zero,
        is_doubted,
        unread,
        place,
    )


def _contexts(told: Any) -> tuple[tuple[int, str], ...]:
    _check(isinstance(told, list) and len(told) <= CONTEXTS_MAX, "contexts")
    for pair in told:
        _check(isinstance(pair, list) and len(pair) == 2, "a context")
        number, name = pair
        _check(_is_int(number) and 0 <= number < 1 << 32, "a context's number")
        _check(
            isinstance(name, str) and len(name) <= NAME_BYTES_MAX, "a context's name"
        )
    return tuple((number, name) for number, name in told)


def _is_int(value: object) -> bool:
    return type(value) is int  # no bool


def _check(condition: bool, what: str) -> None:
    if not condition:
        raise BadKeptStateError(f"not as written: {what}")
