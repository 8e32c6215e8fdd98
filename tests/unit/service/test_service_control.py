"""The control socket, on both loops, against its real client and against raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from common.errors import (
    ConfigError,
    DeviceBusyError,
    FarshoreError,
    NotCommittedError,
    RefusedError,
    UnreachableError,
)
from common.service import control
from common.service.control import ControlLimits, ControlServer
from common.service.control_client import ControlClient
from common.service.control_requests import parse_request

Scenario = Callable[[], Coroutine[Any, Any, None]]
Run = Callable[[Coroutine[Any, Any, None]], None]


def run_plain(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario, debug=True)


def run_uvloop(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario)


@pytest.fixture(params=[run_plain, run_uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    chosen: Run = request.param
    return chosen


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "control.sock")


@pytest.fixture
def log() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


async def echo(command: str, arguments: dict[str, Any]) -> Any:
    return {"command": command, "arguments": arguments}


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments)


def call(path: str, command: str, arguments: dict[str, Any] | None = None) -> Any:
    with ControlClient(path) as client:
        return client.call(command, arguments, timeout_seconds=10.0)


def raw(path: str, data: bytes) -> bytes:
    """Send bytes, end the sending half, and return all that comes back."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10.0)
        client.connect(path)
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except BrokenPipeError:
            pass  # the server has seen enough
        received = b""
        try:
            while data := client.recv(1 << 16):
                received += data
        except ConnectionResetError:
            pass
        return received


def serve(
    path: str,
    handle: control.Handle,
    *steps: Any,
    run: Run,
    limits: ControlLimits | None = None,
) -> list[Any]:
    """Run blocking `steps` against a server of `handle`; return their results."""
    results: list[Any] = []

    async def scenario() -> None:
        server = ControlServer(path, handle, limits)
        await server.listen()
        try:
            for step in steps:
                try:
                    results.append(await in_thread(*step))
                except FarshoreError as error:
                    results.append(error)
        finally:
            await server.close()

    run(scenario())
    return results


def test_a_request_reaches_the_handler_with_every_argument(run: Run, path: str) -> None:
    (reply,) = serve(path, echo, (call, path, "cut", {"group": "g"}), run=run)

    assert reply == {
        "command": "cut",
        "arguments": {"group": "g", "wait": False, "label": None},
    }


def test_requests_of_one_connection_are_answered_in_turn(run: Run, path: str) -> None:
    def talk() -> list[Any]:
        with ControlClient(path) as client:
            return [client.call("points", {"group": name}) for name in "abc"]

    (replies,) = serve(path, echo, (talk,), run=run)

    assert [reply["arguments"]["group"] for reply in replies] == ["a", "b", "c"]


def test_pipelined_requests_are_answered_though_the_sender_has_ended(
    run: Run, path: str
) -> None:
    line = b'{"command": "status"}\n'
    (reply,) = serve(path, echo, (raw, path, line * 3), run=run)

    assert [json.loads(item)["result"]["command"] for item in reply.splitlines()] == [
        "status"
    ] * 3


def test_an_error_carries_its_words_and_its_exit_code(run: Run, path: str) -> None:
    async def refuse(command: str, arguments: dict[str, Any]) -> Any:
        raise NotCommittedError("orders: the cycle was abandoned")

    (error,) = serve(path, refuse, (call, path, "status"), run=run)

    assert (str(error), error.exit_code) == ("orders: the cycle was abandoned", 9)


def test_a_bug_is_logged_and_told_without_its_details(
    run: Run, path: str, log: list[Any]
) -> None:
    async def fail(command: str, arguments: dict[str, Any]) -> Any:
        raise ZeroDivisionError("secret")

    replies = serve(path, fail, (call, path, "status"), (call, path, "status"), run=run)

    assert [error.exit_code for error in replies] == [70, 70]
    assert "secret" not in str(replies[0])
    assert [line["event"] for line in log] == ["control_request_failed"] * 2


def test_a_result_that_is_no_json_is_a_bug(run: Run, path: str, log: list[Any]) -> None:
    async def wrong(command: str, arguments: dict[str, Any]) -> Any:
        return object()

    (error,) = serve(path, wrong, (call, path, "status"), run=run)

    assert error.exit_code == 70
    assert len(log) == 1


@pytest.mark.parametrize(
    ("request_line", "words"),
    [
        (b"\n", "not a request: send"),
        (b"{}\n", "not a request: send"),
        (b"[" * 60_000 + b"\n", "not a request: send"),
        (b'{"command": "status", "x": 1}\n', "not a request: send"),
        (b'{"command": "format"}\n', "has no command 'format'"),
        (b'{"command": "status", "arguments": {"x": 1}}\n', "status: x: Extra"),
        (b'{"command": "cut"}\n', "cut: group: Field required"),
        (b'{"command": "cut", "arguments": {"group": "/"}}\n', "is not a name"),
        (b'{"command": "cut", "arguments": {"group": 1}}\n', "is not a name"),
        (
            b'{"command": "cut", "arguments": {"group": "g", "wait": 1}}\n',
            "cut: wait: Input should be a valid boolean",
        ),
        (
            b'{"command": "cut", "arguments": {"group": "g", "label": "\\u001b"}}\n',
            "cut: label: a label is one line of printable text",
        ),
        (
            b'{"command": "cut", "arguments": {"group": "g", "label": "%s"}}\n'
            % (b"x" * 257),
            "cut: label: a label has at most 256 bytes",
        ),
    ],
)
def test_a_bad_request_is_refused_in_words(
    path: str, request_line: bytes, words: str
) -> None:
    (reply,) = serve(path, echo, (raw, path, request_line), run=run_plain)

    error = json.loads(reply)["error"]
    assert words in error["message"]
    assert error["exit_code"] == 8


GROW = {"group": "g", "volume": "v", "size_bytes": 512}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"volume": "../v"}, "grow: volume: "),
        ({"volume": 7}, "grow: volume: "),
        ({"size_bytes": 0}, "grow: size_bytes: Input should be greater than 0"),
        ({"size_bytes": -512}, "grow: size_bytes: Input should be greater than 0"),
        ({"size_bytes": (1 << 50) + 1}, "grow: size_bytes: Input should be less than"),
        ({"size_bytes": 512.0}, "grow: size_bytes: Input should be a valid integer"),
        ({"size_bytes": "512"}, "grow: size_bytes: Input should be a valid integer"),
        ({"size_bytes": True}, "grow: size_bytes: Input should be a valid integer"),
        ({"shrink": True}, "grow: shrink: Extra"),
    ],
)
def test_a_growth_is_asked_for_within_bounds(
    changed: dict[str, Any], words: str
) -> None:
    for size in (1, 512, 1 << 50):  # what a volume can have of it, the site knows
        asked = {"command": "grow", "arguments": {**GROW, "size_bytes": size}}
        assert parse_request(json.dumps(asked).encode()) == ("grow", asked["arguments"])
    wrong = {"command": "grow", "arguments": {**GROW, **changed}}
    with pytest.raises(RefusedError) as refused:
        parse_request(json.dumps(wrong).encode())
    assert words in str(refused.value)


@pytest.mark.parametrize("absent", GROW)
def test_a_growth_without_one_of_its_arguments_is_refused(absent: str) -> None:
    arguments = {key: value for key, value in GROW.items() if key != absent}
    line = json.dumps({"command": "grow", "arguments": arguments}).encode()
    with pytest.raises(RefusedError, match=f"grow: {absent}: Field required"):
        parse_request(line)


@given(st.binary(max_size=200))
def test_any_line_is_a_request_or_refused(line: bytes) -> None:
    with pytest.raises(RefusedError):
        parse_request(line)


def test_a_line_without_end_is_not_answered(run: Run, path: str) -> None:
    replies = serve(
        path, echo, (raw, path, b'{"command": "status"}'), (raw, path, b""), run=run
    )

    assert replies == [b"", b""]


def test_a_line_that_is_too_long_ends_its_connection_only(
    run: Run, path: str, log: list[Any]
) -> None:
    long = b"x" * (control.REQUEST_BYTES_MAX + 1) + b"\n"
    replies = serve(path, echo, (raw, path, long), (call, path, "status"), run=run)

    # The reply may be lost: bytes left unread reset the connection.
    assert replies[0] == b"" or "longer than 64 KiB" in replies[0].decode()
    assert replies[1]["command"] == "status"
    assert log == []


def test_the_socket_is_for_its_owner_and_group_whatever_the_umask(
    run: Run, path: str
) -> None:
    for mask in (0o000, 0o077):
        previous = os.umask(mask)
        try:
            (mode,) = serve(path, echo, (lambda: os.stat(path).st_mode,), run=run)
        finally:
            os.umask(previous)
        assert stat.S_IMODE(mode) == 0o660


def test_the_socket_is_never_wider_before_its_mode_is_set(path: str) -> None:
    """Linux binds the file with the mode that the unbound socket had."""
    with control.bind_control_socket(path) as listener:
        assert stat.S_IMODE(os.fstat(listener.fileno()).st_mode) == 0o660


def test_a_daemon_too_busy_to_accept_is_alive(path: str) -> None:
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(path)
        busy.listen(0)
        with contextlib.suppress(BlockingIOError):
            for _ in range(100):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(path)

        with pytest.raises(DeviceBusyError):
            control.bind_control_socket(path)


def test_a_missing_folder_is_made(run: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "run/farshore/c.sock")
    (reply,) = serve(path, echo, (call, path, "status"), run=run)

    assert reply["command"] == "status"


def test_a_stale_socket_is_replaced(run: Run, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    (reply,) = serve(path, echo, (call, path, "status"), run=run)

    assert reply["command"] == "status"
    assert not os.path.exists(path)


def test_a_live_socket_is_left_alone(run: Run, path: str) -> None:
    async def second() -> None:
        await ControlServer(path, echo).listen()

    replies = serve(path, echo, (run_plain, second()), (call, path, "status"), run=run)

    assert isinstance(replies[0], DeviceBusyError)
    assert path in str(replies[0])
    assert replies[1]["command"] == "status"


def test_a_file_in_the_place_of_the_socket_is_left_alone(path: str) -> None:
    Path(path).write_text("mine")

    with pytest.raises(ConfigError, match=r"not a socket.*site\.control_socket"):
        control.bind_control_socket(path)

    assert Path(path).read_text() == "mine"


def test_a_place_that_cannot_be_bound_is_the_operator_s_to_mend(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match="cannot be made"):
        control.bind_control_socket(str(tmp_path / "file/c.sock"))


def test_closing_leaves_the_socket_of_a_newer_daemon(path: str) -> None:
    async def scenario() -> None:
        old, new = ControlServer(path, echo), ControlServer(path, echo)
        await old.listen()
        os.unlink(path)
        await new.listen()
        await old.close()
        assert (await in_thread(call, path, "status"))["command"] == "status"
        await new.close()

    run_plain(scenario())


def test_a_client_that_goes_away_cancels_nothing(run: Run, path: str) -> None:
    async def scenario() -> None:
        started, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def slow(command: str, arguments: dict[str, Any]) -> Any:
            started.set()
            await go_on.wait()
            ended.set()
            return None

        server = ControlServer(path, slow)
        await server.listen()
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        client.sendall(b'{"command": "cut", "arguments": {"group": "g"}}\n')
        await asyncio.wait_for(started.wait(), 10)
        client.close()
        go_on.set()
        await asyncio.wait_for(ended.wait(), 10)
        await server.close()

    run(scenario())


def test_waiting_cuts_leave_room_for_others(path: str) -> None:
    limits = ControlLimits(requests_per_command_max=2)

    async def scenario() -> None:
        waiting = asyncio.Semaphore(0)
        go_on = asyncio.Event()

        async def slow(command: str, arguments: dict[str, Any]) -> Any:
            if command == "cut":
                waiting.release()
                await go_on.wait()
            return command

        server = ControlServer(path, slow, limits)
        await server.listen()
        cuts = [
            asyncio.create_task(in_thread(call, path, "cut", {"group": "g"}))
            for _ in range(2)
        ]
        for _ in cuts:
            await asyncio.wait_for(waiting.acquire(), 10)
        with pytest.raises(FarshoreError, match="2 requests 'cut' are in work"):
            await in_thread(call, path, "cut", {"group": "g"})
        assert await in_thread(call, path, "status") == "status"
        go_on.set()
        assert await asyncio.gather(*cuts) == ["cut", "cut"]
        assert await in_thread(call, path, "cut", {"group": "g"}) == "cut"
        await server.close()

    run_plain(scenario())


def test_connections_over_the_limit_are_told_so(path: str) -> None:
    limits = ControlLimits(connections_max=1)

    def talk() -> Any:
        with ControlClient(path) as first:
            first.call("status")
            try:
                return call(path, "status")
            except FarshoreError as error:
                return error

    (error,) = serve(path, echo, (talk,), run=run_plain, limits=limits)

    # The refused client may see the reply or only the connection's end.
    assert isinstance(error, FarshoreError)
    assert isinstance(error, UnreachableError) or "too many" in str(error)


def test_an_idle_connection_is_closed(path: str) -> None:
    limits = ControlLimits(idle_seconds_max=0.01)

    def wait_for_end() -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10.0)
            client.connect(path)
            return client.recv(1)

    assert serve(path, echo, (wait_for_end,), run=run_plain, limits=limits) == [b""]


def test_closing_ends_idle_connections_and_cancels_what_takes_too_long(
    run: Run, path: str
) -> None:
    limits = ControlLimits(close_seconds_max=0.01)

    async def scenario() -> None:
        started = asyncio.Event()
        cancelled = asyncio.Event()

        async def forever(command: str, arguments: dict[str, Any]) -> Any:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        server = ControlServer(path, forever, limits)
        await server.listen()
        idle = ControlClient(path)
        asking = asyncio.create_task(in_thread(call, path, "status"))
        await asyncio.wait_for(started.wait(), 10)
        await server.close()
        assert cancelled.is_set()
        with pytest.raises(UnreachableError, match="went away"):
            await asking
        with pytest.raises(UnreachableError, match="went away"):
            await in_thread(idle.call, "status")
        idle.close()
        assert not os.path.exists(path)

    run(scenario())


def test_no_daemon_is_unreachable_with_the_socket_s_name(path: str) -> None:
    with pytest.raises(UnreachableError, match=r"no daemon answers at .*control\.sock"):
        ControlClient(path)


@pytest.mark.parametrize("reply", [b"SSH-2.0\n", b"{}\n", b'{"error": 1}\n', b"[]\n"])
def test_another_program_s_answer_is_not_taken_for_a_daemon_s(
    path: str, reply: bytes
) -> None:
    async def scenario() -> None:
        async def other(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            await reader.readline()
            writer.write(reply)
            await writer.drain()
            writer.close()

        server = await asyncio.start_unix_server(other, path)
        with pytest.raises(UnreachableError):
            await in_thread(call, path, "status")
        server.close()

    run_plain(scenario())
