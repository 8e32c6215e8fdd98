"""What the doctor has looked at, and what is to be done about it."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import Any


class Verdict(enum.StrEnum):
    """In the order of their gravity."""

    OK = "ok"
    UNKNOWN = "unknown"
    """It could not be looked at: from here, by this user, or now."""
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """`topic` is one of a closed set; `remedy` is empty only where there is none."""

    topic: str
    subject: str
    verdict: Verdict
    text: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fine(topic: str, subject: str, text: str) -> Finding:
    return Finding(topic, subject, Verdict.OK, text)


def unknown(topic: str, subject: str, text: str, remedy: str = "") -> Finding:
    return Finding(topic, subject, Verdict.UNKNOWN, text, remedy)


def warning(topic: str, subject: str, text: str, remedy: str) -> Finding:
    return Finding(topic, subject, Verdict.WARNING, text, remedy)


def failed(topic: str, subject: str, text: str, remedy: str) -> Finding:
    return Finding(topic, subject, Verdict.FAILED, text, remedy)
