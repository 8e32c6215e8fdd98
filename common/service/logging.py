"""Logs: structlog events, JSON lines for machines, colours on a terminal.

Event names are snake_case and in the past tense; numbers are fields whose names
end in their unit. Names that peers or hosts chose may hold anything: control
bytes never reach the output as they are.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

TEXT_CHARACTERS_MAX = 2000
"""One field's longest text: a peer's words cannot flood the log with one line."""


def configure_logging(stream: TextIO | None = None) -> None:
    """Send structlog's events, and the standard library's, to `stream` (stdout)."""
    stream = stream or sys.stdout
    pretty = stream.isatty()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        escape_fields,
    ]
    render: Any = structlog.processors.JSONRenderer()
    if pretty:
        plain = structlog.dev.plain_traceback
        render = structlog.dev.ConsoleRenderer(colors=True, exception_formatter=plain)
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    # asyncio reports what nobody awaited by the standard library's logging.
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def escape_fields(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Escape what a terminal or a line-based reader would act upon, and cut."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = escape(value, keep_lines=key in {"exception", "stack"})
        elif isinstance(value, bytes):
            event[key] = value[:TEXT_CHARACTERS_MAX].hex()
    return event


def escape(text: str, *, keep_lines: bool = False) -> str:
    """Write control and unprintable characters as `\\x1b`, `\\u2028` and so on.

    Lone surrogates, which no encoding can print, are escaped too. `keep_lines`
    leaves line feeds and length alone: our own tracebacks.
    """
    if not keep_lines:
        text = text[:TEXT_CHARACTERS_MAX]
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or (keep_lines and character == "\n")
        else character.encode("unicode_escape").decode()
        for character in text
    )
