"""Real daemons and their HTTP listener: what it tells, and that it hurts no host."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.service.http.taking import SHARED_SECONDS
from tests.support.http_raw import RawHttp, ask, request
from tests.support.sites import Pair, VolumeSpec, until

CHANGING = ("age_seconds", "round_trip", "current_as_of", "received_bytes")
"""What is another number a moment later, in keys of the status."""

LOOKS = 20


def standing(value: Any) -> Any:
    """Return a status without what changes while nothing happens."""
    if isinstance(value, dict):
        return {
            key: standing(inner)
            for key, inner in value.items()
            if not any(word in key for word in CHANGING) and "sent_bytes" not in key
        }
    if isinstance(value, list):
        return [standing(inner) for inner in value]
    return value


def value_of(page: bytes, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", page.decode(), re.MULTILINE)
    assert found is not None, name
    return float(found[1])


async def test_both_sites_tell_the_same_over_http_as_over_their_control_socket(
    tmp_path: Path,
) -> None:
    with Pair(tmp_path, [VolumeSpec("v", 8 << 20)], http=True) as pair:
        assert pair.http_ports is not None
        await pair.start()
        client = await pair.primary.nbd("g/v")
        await client.write(0, b"x" * 65536)
        cut = await pair.cut()
        await until(
            lambda: pair.group("g")["recovery_point"]["number"] == cut["number"],
            "the primary knows its commit",
        )

        for daemon, port in zip(pair.daemons, pair.http_ports, strict=True):
            assert (await ask(port, "/healthz")).text == "alive\n"
            assert (await ask(port, "/readyz")).text == "serving 1 groups\n"
            # What HTTP tells may be half a second old.
            for _ in range(LOOKS):
                told = json.loads((await ask(port, "/status.json")).body)
                if standing(told) == standing(daemon.call("status")):
                    break
                await asyncio.sleep(SHARED_SECONDS)
            assert standing(told) == standing(daemon.call("status"))
            page = (await ask(port, "/metrics")).body
            number = 'farshore_recovery_point_number{group="g"}'
            assert value_of(page, number) == cut["number"]
            assert value_of(page, 'farshore_cycles_total{group="g"}') >= 1

        page = (await ask(pair.http_ports[0], "/metrics")).body
        group = pair.group("g")
        commits = group["totals"]["cycles_committed"]
        assert value_of(page, 'farshore_hold_seconds_count{group="g"}') == commits
        assert value_of(page, 'farshore_nbd_connections{export="g/v"}') == 1
        wire = 'farshore_cycle_wire_bytes_total{group="g"}'
        assert value_of(page, wire) == group["totals"]["bytes_on_wire"]
        page = (await ask(pair.http_ports[1], "/metrics")).body
        assert value_of(page, 'farshore_commit_seconds_count{group="g"}') == commits
        assert value_of(page, 'farshore_recovery_points{group="g"}') == 1
        await client.disconnect()
        await pair.primary.stop()
        await pair.remote.stop()


async def test_hosts_are_served_whatever_clients_of_the_listener_do(
    tmp_path: Path,
) -> None:
    with Pair(tmp_path, [VolumeSpec("v", 8 << 20)], http=True) as pair:
        assert pair.http_ports is not None
        port = pair.http_ports[0]
        await pair.start()
        host = await pair.primary.nbd("g/v")

        async def abuse(number: int) -> None:
            kinds = (
                request("/metrics") * 50,
                request("/status.json", "Content-Length: 1000000000"),
                b"GET / HTTP/1.1\r\nX: " + b"y" * 30000,
                bytes(range(256)) * 20,
                b"",
            )
            client = await RawHttp.connect(port)
            client.send(kinds[number % len(kinds)])
            abusers.append(client)

        abusers: list[RawHttp] = []
        await asyncio.gather(*(abuse(number) for number in range(60)))
        for at in range(0, 64 << 10, 4096):
            await host.write(at, bytes([at >> 12]) * 4096)
        await pair.cut()
        assert await host.read(4096, 4096) == b"\x01" * 4096
        for client in abusers:
            await client.close()
        assert (await ask(port, "/readyz")).status == 200
        await host.disconnect()
        await pair.primary.stop()
        await pair.remote.stop()


async def test_an_address_in_use_refuses_the_start_by_its_key(tmp_path: Path) -> None:
    with Pair(tmp_path, [VolumeSpec("v", 1 << 20)], http=True) as pair:
        assert pair.http_ports is not None
        port = pair.http_ports[0]
        taken = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", port)
        async with taken:
            pair.primary.spawn()
            assert await pair.primary.ended() == ConfigError.exit_code
        assert f"http.listen: 127.0.0.1:{port}" in pair.primary.log_text()
