"""What reaches the log cannot forge lines, move cursors or flood it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from common.service.logging import TEXT_CHARACTERS_MAX, configure_logging, escape


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_service_logs_one_json_object_a_line() -> None:
    stream = io.StringIO()
    configure_logging(stream)
    structlog.get_logger().info("peer_connected", peer="a\x1b[2J\nb", size_bytes=3)
    structlog.get_logger().debug("left_out")

    (line,) = stream.getvalue().splitlines()
    event = json.loads(line)
    assert event["event"] == "peer_connected"
    assert event["peer"] == "a\\x1b[2J\\nb"
    assert (event["size_bytes"], event["level"]) == (3, "info")
    assert event["timestamp"].endswith("Z")


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_no_control_byte_of_a_peer_reaches_the_output(
    kind: type[io.StringIO],
) -> None:
    stream = kind()
    configure_logging(stream)
    hostile = "\x9b\x00\x07\u2028\u202e\ud800"
    try:
        raise ValueError(hostile)  # noqa: TRY301
    except ValueError:
        structlog.get_logger().exception("peer_failed", name=hostile)
    logging.getLogger("asyncio").error("%s", hostile)

    assert not set(hostile) & set(stream.getvalue())
    assert "\\x9b" in stream.getvalue()
    stream.getvalue().encode()


def test_a_terminal_gets_no_json() -> None:
    stream = Terminal()
    configure_logging(stream)
    structlog.get_logger().info("cycle_committed", number=3)

    assert "cycle_committed" in stream.getvalue()
    assert "{" not in stream.getvalue()


def test_the_standard_library_s_warnings_are_json_too() -> None:
    stream = io.StringIO()
    configure_logging(stream)
    logging.getLogger("asyncio").warning("slow %d", 3)

    assert json.loads(stream.getvalue())["event"] == "slow 3"


@given(st.text())
def test_escaped_text_is_printable_and_plain_text_is_left_alone(text: str) -> None:
    escaped = escape(text)

    assert escaped.isprintable()
    if text.isprintable():
        assert escaped == text


def test_a_long_text_is_cut() -> None:
    assert len(escape("x" * 10_000)) == TEXT_CHARACTERS_MAX
