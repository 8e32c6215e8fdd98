"""Checks of single message fields: what the peer says is data, never trusted.

Pure. A check takes what msgpack made of the bytes, returns the value of the
declared Python type, or raises `ProtocolError`. The same checks guard encoding.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from common.errors import ProtocolError

Check = Callable[[Any], Any]

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
"""Groups, volumes, sites and features: never a path, harmless in a log."""


def count(limit: int) -> Check:
    """Accept whole numbers from 0 to `limit`; no bool, no float."""

    def check(value: Any) -> int:
        if type(value) is not int or not 0 <= value <= limit:
            raise ProtocolError(f"expected a number up to {limit}")
        return value

    return check


def identity(length_bytes: int) -> Check:
    """Accept exactly this many bytes."""

    def check(value: Any) -> bytes:
        if type(value) is not bytes or len(value) != length_bytes:
            raise ProtocolError(f"expected an identity of {length_bytes} bytes")
        return value

    return check


def truth(value: Any) -> bool:
    """Accept true and false only."""
    if type(value) is not bool:
        raise ProtocolError("expected true or false")
    return value


def name(value: Any) -> str:
    """Accept a name as users may choose it."""
    if type(value) is not str or not NAME.fullmatch(value):
        raise ProtocolError("expected a name of 1 to 64 of A-Z a-z 0-9 . _ -")
    return value


def text(limit_bytes: int) -> Check:
    """Accept text for people; counted in bytes of UTF-8."""

    def check(value: Any) -> str:
        if type(value) is not str or len(value) > limit_bytes:
            raise ProtocolError(f"expected a text of at most {limit_bytes} bytes")
        try:
            encoded_bytes = len(value.encode())
        except UnicodeEncodeError:
            raise ProtocolError("text is not valid Unicode") from None
        if encoded_bytes > limit_bytes:
            raise ProtocolError(f"expected a text of at most {limit_bytes} bytes")
        return value

    return check


def optional(inner: Check) -> Check:
    """Accept nil as None."""

    def check(value: Any) -> Any:
        return None if value is None else inner(value)

    return check


def power_of_two(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high or value & (value - 1):
            raise ProtocolError(f"expected a power of two from {low} to {high}")
        return value

    return check


def multiple(unit: int, limit: int) -> Check:
    """Accept positive multiples of `unit` up to `limit`."""

    def check(value: Any) -> int:
        if type(value) is not int or not 0 < value <= limit or value % unit:
            raise ProtocolError(f"expected a multiple of {unit} up to {limit}")
        return value

    return check


def many(inner: Check, count_max: int) -> Check:
    """Accept an array of at most `count_max` elements, as a tuple."""

    def check(value: Any) -> tuple[Any, ...]:
        if type(value) not in {list, tuple} or len(value) > count_max:
            raise ProtocolError(f"expected an array of at most {count_max}")
        return tuple(inner(element) for element in value)

    return check


def record(*checks: Check) -> Check:
    """Accept an array of exactly these elements, as a tuple."""

    def check(value: Any) -> tuple[Any, ...]:
        if type(value) not in {list, tuple} or len(value) != len(checks):
            raise ProtocolError(f"expected an array of {len(checks)}")
        return tuple(
            inner(element) for inner, element in zip(checks, value, strict=True)
        )

    return check
