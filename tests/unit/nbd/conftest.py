"""NBD tests run on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
import structlog
import uvloop


def pytest_asyncio_loop_factories() -> dict[
    str, Callable[[], asyncio.AbstractEventLoop]
]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def no_loop_complaints(caplog: pytest.LogCaptureFixture) -> Any:
    """Fail if the event loop had to report an exception."""
    yield
    bad = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert not bad, [r.getMessage() for r in bad]


@pytest.fixture
def log_lines() -> Any:
    """The structured log lines of a test, in order."""
    with structlog.testing.capture_logs() as lines:
        yield lines
