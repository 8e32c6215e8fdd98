"""The HTTP listener on both loops, against clients that mean no good."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from common.addresses import TcpAddress
from common.errors import ConfigError
from common.service.clock import SystemClock
from common.service.http.answers import Answer, Request, Stream, text
from common.service.http.limits import HttpLimits
from common.service.http.listener import HttpListener
from common.service.http.pace import Pace
from tests.support.http_raw import RawHttp, Told, ask, request

Run = Callable[[Coroutine[Any, Any, None]], None]

BIG = b"x" * (4 << 20)


def run_plain(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario, debug=True)


def run_uvloop(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario)


@pytest.fixture(params=[run_plain, run_uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    chosen: Run = request.param
    return chosen


@pytest.fixture(autouse=True)
def no_mistake_of_ours() -> Iterator[None]:
    """Whatever clients do, nothing ends by an exception that nobody expected."""
    with structlog.testing.capture_logs() as lines:
        yield
    wrong = [line for line in lines if line["event"] == "http_connection_failed"]
    assert wrong == []


class Pages:
    """What is served, and what was asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.go_on = asyncio.Event()
        self.streams_open = 0
        self.listener: HttpListener
        self._clients: list[RawHttp] = []

    async def connect(self, port: int) -> RawHttp:
        """Connect a client that is closed when the listener is."""
        client = await RawHttp.connect(port)
        self._clients.append(client)
        return client

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    async def fine(self, asked: Request) -> Answer:
        self.asked.append(asked)
        return text(200, "fine")

    async def big(self, _asked: Request) -> Answer:
        return Answer(BIG)

    async def wait(self, _asked: Request) -> Answer:
        await self.go_on.wait()
        return text(200, "waited")

    async def broken(self, _asked: Request) -> Answer:
        raise KeyError("a bug")

    async def stream(self, _asked: Request) -> Stream:
        return Stream(self._pieces(b"piece\n"), "text/event-stream")

    async def flood(self, _asked: Request) -> Stream:
        return Stream(self._pieces(BIG), "text/event-stream")

    def sockets(self) -> list[socket.socket]:
        """Return this side's sockets of the connections that are open."""
        return [
            connection._writer.get_extra_info("socket")
            for connection in self.listener._connections.values()
        ]

    async def _pieces(self, piece: bytes) -> AsyncIterator[bytes]:
        self.streams_open += 1
        try:
            while True:
                yield piece
                await asyncio.sleep(0.01)
        finally:
            self.streams_open -= 1


@asynccontextmanager
async def served(limits: HttpLimits | None = None) -> AsyncIterator[tuple[int, Pages]]:
    pages = Pages()
    routes = {
        "/": pages.fine,
        "/big": pages.big,
        "/wait": pages.wait,
        "/broken": pages.broken,
        "/stream": pages.stream,
        "/flood": pages.flood,
    }
    fast = limits or HttpLimits(turns_per_second=1e6, turns_at_once=1000)
    names = frozenset({"localhost", "a.example"})
    listener = HttpListener(routes, names, SystemClock(), fast)
    pages.listener = listener
    await listener.listen(TcpAddress("127.0.0.1", 0))
    try:
        yield int(listener.addresses[0].rsplit(":", 1)[1]), pages
    finally:
        await listener.close()
        await pages.close()


def test_one_connection_asks_for_several_pages(run: Run) -> None:
    async def scenario() -> None:
        async with served() as (port, pages):
            connection = await pages.connect(port)
            connection.send(request("/?a=b") + request("/", method="HEAD"))
            first = await connection.answer()
            second = await connection.answer(is_head=True)
            connection.send(request("/"))
            third = await connection.answer()

        assert (first.status, first.text) == (200, "fine\n")
        assert second.status == 200
        assert second.headers["content-length"] == "5"
        assert third.text == "fine\n"
        assert (pages.asked[0].path, pages.asked[0].query) == ("/", "a=b")

    run(scenario())


def test_every_answer_forbids_what_a_page_from_elsewhere_could_do(run: Run) -> None:
    async def scenario() -> None:
        async with served() as (port, _):
            for path in ("/", "/none"):
                headers = (await ask(port, path)).headers
                assert "default-src 'none'" in headers["content-security-policy"]
                assert "frame-ancestors 'none'" in headers["content-security-policy"]
                assert headers["x-content-type-options"] == "nosniff"
                assert headers["cache-control"] == "no-store"
                assert "access-control-allow-origin" not in headers

    run(scenario())


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("/none"), 404),
        (request("/../etc/passwd"), 404),
        (request("/", method="POST"), 405),
        (request("/", method="OPTIONS"), 405),
        (request("/", "Content-Length: 5") + b"hello", 413),
        (request("/", "Content-Length: 99999999999"), 413),
        (request("/", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n", 413),
        (request("/", "Content-Length: x"), 400),
        (request("/", "Content-Length: 1", "Content-Length: 2"), 400),
        (request("/", "Transfer-Encoding: gzip"), 501),
        (request("/", host="evil.example"), 421),
        (request("/", host="localhost.evil.example:9464"), 421),
        (request("/", host=""), 421),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n", 400),
        (b"HELP\r\n\r\n", 400),
        (b"GET /" + b"a" * (20 << 10) + b" HTTP/1.1\r\n", 431),
        (request("/", *(f"X-{n}: {'y' * 100}" for n in range(300))), 431),
        (request("/broken"), 500),
    ],
    ids=itertools.count(),
)
def test_what_is_no_request_of_ours_gets_its_status(
    run: Run, sent: bytes, status: int
) -> None:
    async def scenario() -> None:
        async with served() as (port, pages):
            connection = await pages.connect(port)
            connection.send(sent)
            assert (await connection.answer()).status == status
            assert pages.asked == []
            assert (await ask(port, "/")).status == 200

    run(scenario())


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:9464", "a.example", "127.0.0.1:1", "[::1]:9464", "[::1]"],
)
def test_names_that_are_ours_and_all_addresses_are_answered(
    run: Run, host: str
) -> None:
    async def scenario() -> None:
        async with served() as (port, _):
            assert (await ask(port, "/", host=host)).status == 200

    run(scenario())


def test_a_big_answer_arrives_whole_and_the_connection_ends_in_good_order(
    run: Run,
) -> None:
    async def scenario() -> None:
        async with served() as (port, pages):
            connection = await pages.connect(port)
            connection.send(request("/big", "Connection: close"))
            told = await connection.answer()
            assert told.body == BIG
            assert await connection.ended()

    run(scenario())


def test_a_client_that_does_not_take_its_answer_is_dropped(run: Run) -> None:
    limits = HttpLimits(write_seconds_max=0.2, turns_per_second=1e6, connections_max=1)

    async def scenario() -> None:
        async with served(limits) as (port, pages):
            slow = await pages.connect(port)
            slow.send(request("/big") * 4)
            # It never reads; with one connection at most, another is served only once
            # this one is gone.
            assert (await ask(port, "/")).status == 200

    run(scenario())


def test_a_client_that_sends_its_request_byte_by_byte_is_not_waited_for(
    run: Run,
) -> None:
    limits = HttpLimits(head_seconds_max=0.2, turns_per_second=1e6)

    async def scenario() -> None:
        async with served(limits) as (port, pages):
            slow = await pages.connect(port)
            slow.send(b"GET / HTTP/1.1\r\nHost: loc")
            assert await slow.ended()

    run(scenario())


def test_clients_that_say_nothing_keep_nobody_out(run: Run) -> None:
    limits = HttpLimits(connections_max=4, turns_per_second=1e6)

    async def scenario() -> None:
        async with served(limits) as (port, pages):
            for _ in range(20):
                await pages.connect(port)
            assert (await ask(port, "/")).status == 200

    run(scenario())


def test_connections_at_work_are_not_ended_for_new_ones(run: Run) -> None:
    limits = HttpLimits(connections_max=2, turns_per_second=1e6)

    async def scenario() -> None:
        async with served(limits) as (port, pages):
            at_work = [await pages.connect(port) for _ in range(2)]
            for each in at_work:
                each.send(request("/wait"))
            late = asyncio.create_task(ask(port, "/"))
            pages.go_on.set()
            assert [(await each.answer()).text for each in at_work] == ["waited\n"] * 2
            assert (await late).status == 200

    run(scenario())


def test_an_answer_that_takes_too_long_is_given_up(run: Run) -> None:
    limits = HttpLimits(work_seconds_max=0.05, turns_per_second=1e6)

    async def scenario() -> None:
        async with served(limits) as (port, _):
            assert (await ask(port, "/wait")).status == 503

    run(scenario())


def test_a_stream_goes_on_until_its_client_goes(run: Run) -> None:
    async def scenario() -> None:
        async with served() as (port, pages):
            connection = await pages.connect(port)
            connection.send(request("/stream"))
            status, headers = await connection.head()
            assert (status, headers["content-type"]) == (200, "text/event-stream")
            seen = b""
            while seen.count(b"piece\n") < 3:
                seen += await connection.reader.read(100)
            assert pages.streams_open == 1
            await connection.close()
            while pages.streams_open:
                await asyncio.sleep(0.005)

    run(scenario())


def test_only_so_many_streams_are_open_at_once(run: Run) -> None:
    limits = HttpLimits(streams_max=2, turns_per_second=1e6)

    async def scenario() -> None:
        async with served(limits) as (port, pages):
            watching = [await pages.connect(port) for _ in range(2)]
            for each in watching:
                each.send(request("/stream"))
                assert (await each.head())[0] == 200
            assert (await ask(port, "/stream")).status == 503
            assert (await ask(port, "/")).status == 200

    run(scenario())


def test_who_watches_and_does_not_read_gives_the_place_up(run: Run) -> None:
    limits = HttpLimits(streams_max=1, write_seconds_max=0.2, turns_per_second=1e6)

    async def scenario() -> None:
        async with served(limits) as (port, pages):
            slow = await pages.connect(port)
            slow.send(request("/flood"))
            while not pages.streams_open:
                await asyncio.sleep(0.005)
            # It never reads; its only place is another's only once it is gone.
            while (await ask(port, "/none")).status == 404:
                other = await pages.connect(port)
                other.send(request("/stream"))
                if (await other.head())[0] == 200:
                    break
                await other.close()
            assert pages.streams_open == 1

    run(scenario())


def test_a_client_whose_machine_has_gone_is_not_written_to_for_long(run: Run) -> None:
    async def scenario() -> None:
        async with served(HttpLimits(write_seconds_max=7.0)) as (port, pages):
            client = await pages.connect(port)
            client.send(request("/stream"))
            await client.head()
            (served_end,) = pages.sockets()
            found = served_end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert found == 7000

    run(scenario())


def test_a_head_of_a_stream_ends_and_takes_no_place(run: Run) -> None:
    limits = HttpLimits(streams_max=1, turns_per_second=1e6)

    async def scenario() -> None:
        async with served(limits) as (port, pages):
            for _ in range(3):
                client = await pages.connect(port)
                client.send(request("/stream", method="HEAD"))
                assert (await client.head())[0] == 200
                assert await client.ended()
            assert pages.streams_open == 0

    run(scenario())


def test_closing_ends_everything_that_is_open(run: Run) -> None:
    async def scenario() -> None:
        async with served() as (port, pages):
            open_now = [await pages.connect(port) for _ in range(3)]
            open_now[0].send(request("/stream"))
            open_now[1].send(request("/wait"))
            await open_now[0].head()
        assert pages.streams_open == 0
        with pytest.raises(ConnectionRefusedError):
            await ask(port, "/")

    run(scenario())


def test_an_address_that_is_taken_is_refused_by_its_key(run: Run) -> None:
    async def scenario() -> None:
        async with served() as (port, _):
            other = HttpListener({}, frozenset(), SystemClock())
            with pytest.raises(ConfigError, match=r"http\.listen: 127\.0\.0\.1"):
                await other.listen(TcpAddress("127.0.0.1", port))

    run(scenario())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.sampled_from(
                [
                    request("/"),
                    request("/", "Content-Length: 3"),
                    b"GET / HTTP/1.1\r\n",
                    b"\r\n",
                    b"Host: localhost\r\n\r\n",
                ]
            ),
        ),
        max_size=8,
    )
)
def test_no_bytes_at_all_disturb_the_next_client(pieces: list[bytes]) -> None:
    async def scenario() -> None:
        async with served() as (port, pages):
            connection = await pages.connect(port)
            for piece in pieces:
                connection.send(piece)
            connection.writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await connection.reader.read()
            told: Told = await ask(port, "/")
            assert told.text == "fine\n"

    asyncio.run(scenario())


class StandingClock(SystemClock):
    """A clock that tests move."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_turns_beyond_what_a_second_has_wait_for_it() -> None:
    clock = StandingClock()
    pace = Pace(10, 5, clock)

    waits = [pace.take(clock.now) for _ in range(8)]

    assert waits[:5] == [0] * 5
    assert waits[5:] == pytest.approx([0.1, 0.2, 0.3])
    clock.now = 100.0
    assert [pace.take(clock.now) for _ in range(5)] == [0] * 5
