"""Telling zeroes from data: zero tracks cost nothing to keep or send."""

from __future__ import annotations

_STEP_BYTES = 1 << 20
_ZEROES = bytes(_STEP_BYTES)
_HEAD = bytes(64)


def is_zero(data: bytes | bytearray) -> bool:
    """Tell whether all bytes are zero; for most data a look at the first will do."""
    length = len(data)
    if length > len(_HEAD) and data[: len(_HEAD)] != _HEAD:
        return False
    if length <= _STEP_BYTES:
        return data == _ZEROES[:length]  # compared as memory: no views, they are slow
    return all(
        is_zero(data[at : at + _STEP_BYTES]) for at in range(0, length, _STEP_BYTES)
    )
