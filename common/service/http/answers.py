"""What handlers of the HTTP listener get and give."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Request:
    """`headers`: lower-case names; of several with one name the last."""

    path: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `headers` come besides those that every answer has."""

    body: bytes
    content_type: str = TEXT
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer that goes on until its pieces end, or the client goes."""

    pieces: AsyncGenerator[bytes, None]
    content_type: str
    status: int = field(default=200, init=False)


Handler = Callable[[Request], Awaitable[Answer | Stream]]
Routes = Mapping[str, Handler]
"""By path, exactly."""


def text(status: int, words: str) -> Answer:
    return Answer(f"{words}\n".encode(), status=status)
