"""Health, readiness and status of a site that starts, serves, fails and stops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from common.addresses import TcpAddress
from common.errors import FarshoreError
from common.service.clock import SystemClock
from common.service.config_http import HttpTable, is_loopback
from common.service.http.limits import HttpLimits
from common.service.http.sharing import COST_SHARE, SharedBodies
from common.service.http.site import SiteHttp
from common.service.http.taking import SHARED_SECONDS, StatusTaker
from common.service.status import (
    GroupRole,
    GroupState,
    GroupStatus,
    LinkState,
    LinkStatus,
    SiteStatus,
)
from tests.support.daemon import free_port
from tests.support.http_raw import RawHttp, ask, request


class Site:
    """A site whose status a test writes."""

    def __init__(self) -> None:
        self.state = GroupState.IDLE
        self.error: FarshoreError | None = None
        self.taken = 0
        self.since: list[dict[str, int]] = []
        self.asked: list[tuple[str, tuple[object, ...]]] = []
        """Commands, with what their arguments are beside the group."""
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def status(self) -> SiteStatus:
        self.taken += 1
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        group = GroupStatus(
            name="g",
            role=GroupRole.SENDING,
            state=self.state,
            link=LinkStatus(state=LinkState.DOWN),
        )
        return SiteStatus(site="a", role="primary", version="1", groups=(group,))

    async def ask(self, command: str, arguments: dict[str, Any]) -> Any:
        assert arguments["group"] == "g"
        told = tuple(v for name, v in arguments.items() if name != "group")
        self.asked.append((command, told))
        if command == "points":
            return [{"number": 7}]
        assert command == "write_map"
        self.since.append(arguments["since"])
        return {"v": {"mark": 5, "columns": [0, 3]}}


class MovedClock(SystemClock):
    """A clock that only tests move."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@asynccontextmanager
async def served(site: Site, clock: SystemClock) -> AsyncIterator[tuple[SiteHttp, int]]:
    port = free_port()
    table = HttpTable(listen=TcpAddress("127.0.0.1", port).host_and_port)
    limits = HttpLimits(turns_at_once=1000)
    http = SiteHttp(table, site.status, site.ask, clock, limits)
    await http.listen()
    try:
        yield http, port
    finally:
        await http.close()


async def test_health_and_readiness_follow_the_site() -> None:
    site, clock = Site(), MovedClock()

    async with served(site, clock) as (http, port):
        assert (await ask(port, "/healthz")).status == 200
        for page in ("/readyz", "/status.json"):
            assert (await ask(port, page)).status == 503
        assert b"farshore_serving 0" in (await ask(port, "/metrics")).body
        assert site.taken == 0

        http.serving()
        assert (await ask(port, "/readyz")).status == 200
        status = json.loads((await ask(port, "/status.json")).body)
        assert status == (await site.status()).to_json()

        clock.now += SHARED_SECONDS
        site.state = GroupState.FAILED
        told = await ask(port, "/readyz")
        assert (told.status, told.text) == (503, "failed: g\n")

        clock.now += SHARED_SECONDS
        site.error = FarshoreError("group g does not answer")
        for page in ("/readyz", "/status.json", "/metrics"):
            told = await ask(port, page)
            assert (told.status, told.text) == (503, "group g does not answer\n")
        assert (await ask(port, "/healthz")).status == 200

        accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain"
        site.error = None
        told = await ask(port, "/metrics", accept)
        assert told.headers["content-type"].startswith("application/openmetrics-text")
        assert told.body.endswith(b"# EOF\n")

        http.ending()
        assert (await ask(port, "/readyz")).status == 503


async def test_the_history_begins_with_the_first_sample() -> None:
    site, clock = Site(), MovedClock()

    async with served(site, clock) as (http, port):
        page = "/history.json?group=g"
        assert (await ask(port, page)).status == 503
        http.serving()
        while (told := await ask(port, page)).status != 200:
            await asyncio.sleep(0.005)
        found = json.loads(told.body)
        assert found["points"] == [{"number": 7}]
        assert found["written"]["v"]["rows"] == [[0, 3]]
        assert len(found["fine"][0]) == 1
        assert found["coarse"] == [[] for _ in found["fields"]]
        assert site.since == [{}]
        for other in (
            "/history.json",
            "/history.json?group=x",
            "/history.json?" + "&" * 9,
        ):
            assert (await ask(port, other)).status in {400, 404}


async def test_nothing_that_is_asked_changes_anything() -> None:
    site, clock = Site(), MovedClock()

    async with served(site, clock) as (http, port):
        http.serving()
        page = "/history.json?group=g"
        while (await ask(port, page)).status != 200:
            await asyncio.sleep(0.005)
        clock.now += 1000.0  # nothing is answered from what was made before
        for more in ("&keep=7", "&release=7", "&action=delete&number=7"):
            assert (await ask(port, page + more)).status == 200
            clock.now += 1000.0
        for path in ("/cut", "/takeover", "/control", "/points", "/../control"):
            assert (await ask(port, path)).status == 404
        for path in (page, "/status.json", "/events", "/"):
            for method in ("POST", "PUT", "DELETE", "PATCH"):
                client = await RawHttp.connect(port)
                client.send(request(path, method=method))
                assert (await client.answer()).status == 405
                await client.close()

    points = [told for command, told in site.asked if command == "points"]
    assert len(points) >= 4
    assert set(points) == {(None, None)}
    assert {command for command, _ in site.asked} == {"points", "write_map"}


async def test_a_page_that_is_watched_gets_the_status_as_events() -> None:
    site, clock = Site(), MovedClock()

    async with served(site, clock) as (http, port):
        http.serving()
        watching = await RawHttp.connect(port)
        watching.send(request("/events"))
        status, headers = await watching.head()
        assert status == 200
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        event = await watching.reader.readuntil(b"\n\n")
        assert b"event: status\ndata: {" in event
        told = json.loads(event.split(b"data: ", 1)[1])
        assert told == (await site.status()).to_json()

        site.error = FarshoreError("group g does not answer")
        clock.now += SHARED_SECONDS
        trouble = b""
        while b"event: trouble" not in trouble:
            trouble = await watching.reader.readuntil(b"\n\n")
        assert b"group g does not answer" in trouble
        await watching.close()


async def test_all_who_ask_at_once_cost_one_status() -> None:
    site, clock = Site(), MovedClock()
    site.go_on.clear()
    taker = StatusTaker(site.status, clock)

    asking = [asyncio.create_task(taker.take()) for _ in range(5)]
    await asyncio.sleep(0)
    asking[0].cancel()
    clock.now += 10 * SHARED_SECONDS
    asking.append(asyncio.create_task(taker.take()))
    await asyncio.sleep(0)
    site.go_on.set()
    found = await asyncio.gather(*asking, return_exceptions=True)

    assert isinstance(found[0], asyncio.CancelledError)
    assert len({id(each) for each in found[1:]}) == 1
    assert site.taken == 1
    clock.now += SHARED_SECONDS
    await taker.take()
    assert site.taken == 2
    await taker.close()


async def test_what_took_long_to_make_is_kept_for_longer() -> None:
    clock = MovedClock()
    bodies = SharedBodies(clock)
    made = []

    async def make() -> bytes:
        made.append(None)
        clock.now += 0.2
        return b"body"

    assert [await bodies.get("a", make) for _ in range(3)] == [b"body"] * 3
    clock.now += 0.2 * COST_SHARE - 0.01
    await bodies.get("a", make)
    assert len(made) == 1
    clock.now += 0.02
    await bodies.get("a", make)
    assert len(made) == 2


async def test_without_a_table_there_is_no_listener() -> None:
    http = SiteHttp(None, Site().status, Site().ask, SystemClock())

    await http.listen()
    http.serving()
    await http.close()


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("localhost.example.net", False),
        ("192.0.2.1", False),
    ],
)
def test_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
