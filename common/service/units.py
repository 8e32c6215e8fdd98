"""Sizes, times and bandwidths as people write them in a config file.

A value is a string of a number and one unit: "64KiB", "5s", "40MiB/s". Parsing
gives bytes and bytes a second as `int`, seconds as `float`. Only binary units
exist: "1MB" is refused, since half of its readers would take it for 1 MiB.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

KIB = 1024
MIB = 1024**2
GIB = 1024**3

SIZE_UNITS = {
    "B": 1,
    "KiB": KIB,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": 1024**4,
    "PiB": 1024**5,
}
TIME_UNITS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}

# Nothing farshore measures needs more digits; it bounds the work of a parse.
DIGITS_MAX = 18

_NUMBER = rf"[0-9]{{1,{DIGITS_MAX}}}(?:\.[0-9]{{1,{DIGITS_MAX}}})?"
_SIZE_PATTERN = rf"^{_NUMBER}(?:{'|'.join(SIZE_UNITS)})$"
_TIME_PATTERN = rf"^{_NUMBER}(?:{'|'.join(TIME_UNITS)})$"
_FORM = re.compile(rf"({_NUMBER})([A-Za-z/]+)", re.ASCII)


def parse_size(value: object) -> int:
    """Return the bytes that a string such as "64KiB" stands for.

    Raises ValueError with the form to write, also where the number of bytes would
    not be whole.
    """
    remedy = 'write a string of a number and a unit (B to PiB), as in "64KiB"'
    number, unit = _split(value, "a size", remedy)
    if unit not in SIZE_UNITS:
        raise ValueError(f"{value!r} is not a size: {remedy}")
    size = number * SIZE_UNITS[unit]
    if size != int(size):
        raise ValueError(f"{value!r} is not a whole number of bytes: {remedy}")
    return int(size)


def parse_seconds(value: object) -> float:
    """Return the seconds that a string such as "50ms" stands for."""
    remedy = 'write a string of a number and a unit (ms, s, m, h, d), as in "5s"'
    number, unit = _split(value, "a time", remedy)
    if unit not in TIME_UNITS:
        raise ValueError(f"{value!r} is not a time: {remedy}")
    return float(number * TIME_UNITS[unit])


def parse_bandwidth(value: object) -> int:
    """Return the bytes a second that a string such as "40MiB/s" stands for."""
    remedy = 'write a size a second, as in "40MiB/s"'
    if not isinstance(value, str) or not value.endswith("/s"):
        raise ValueError(f"{value!r} is not a bandwidth: {remedy}")
    try:
        return parse_size(value.removesuffix("/s"))
    except ValueError:
        raise ValueError(f"{value!r} is not a bandwidth: {remedy}") from None


def format_size(size_bytes: int) -> str:
    """Write a size so that `parse_size` gives it back, in the largest whole unit."""
    for unit, factor in reversed(SIZE_UNITS.items()):
        if size_bytes >= factor and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return f"{size_bytes}B"


def format_seconds(seconds: float) -> str:
    """Write a time so that `parse_seconds` gives it back, in the largest whole unit."""
    exact = Decimal(repr(seconds))
    for unit, factor in reversed(TIME_UNITS.items()):
        if exact >= factor and exact % factor == 0:
            return f"{int(exact / factor)}{unit}"
    return f"{(exact * 1000).normalize():f}ms"


def format_bandwidth(bytes_per_second: int) -> str:
    return f"{format_size(bytes_per_second)}/s"


def _split(value: object, what: str, remedy: str) -> tuple[Decimal, str]:
    match = _FORM.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not {what}: {remedy}")
    return Decimal(match[1]), match[2]


def _schema(kind: str, pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema(
        {"type": "string", "x-kind": kind, "pattern": pattern, "examples": [example]}
    )


Bytes = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    _schema("size", _SIZE_PATTERN, "64KiB"),
]
Seconds = Annotated[
    float,
    BeforeValidator(parse_seconds),
    PlainSerializer(format_seconds, return_type=str),
    _schema("time", _TIME_PATTERN, "5s"),
]
BytesPerSecond = Annotated[
    int,
    BeforeValidator(parse_bandwidth),
    PlainSerializer(format_bandwidth, return_type=str),
    _schema("bandwidth", _SIZE_PATTERN.replace("$", "/s$"), "40MiB/s"),
]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Annotation: the value lies between two values, both allowed.

    `low` and `high` are written as the config's users write them, so that the
    message and the reference page show the same words.
    """

    low: str
    high: str
    parse: Callable[[object], float]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | {"x-bounds": [self.low, self.high]}

    def check(self, value: Any) -> Any:
        if self.parse(self.low) <= value <= self.parse(self.high):
            return value
        raise ValueError(
            f"it is out of bounds: choose a value from {self.low} to {self.high}"
        )


def size_bounds(low: str, high: str) -> Bounds:
    return Bounds(low, high, parse_size)


def time_bounds(low: str, high: str) -> Bounds:
    return Bounds(low, high, parse_seconds)


def count_bounds(low: int, high: int) -> Bounds:
    return Bounds(str(low), str(high), _parse_count)


def _parse_count(value: object) -> int:
    return int(str(value))


def check_power_of_two(size_bytes: int) -> int:
    """Return the size if it is a power of two, else raise ValueError."""
    if size_bytes <= 0 or size_bytes & (size_bytes - 1):
        raise ValueError(
            f"{format_size(size_bytes)} is not a power of two: "
            'choose one, as in "64KiB"'
        )
    return size_bytes


def check_sectors(size_bytes: int) -> int:
    """Return the size if it is a multiple of 512 bytes, else raise ValueError."""
    if size_bytes % 512:
        raise ValueError(
            f"{format_size(size_bytes)} is not a multiple of 512 bytes: "
            f'the nearest smaller one is "{format_size(size_bytes // 512 * 512)}"'
        )
    return size_bytes
