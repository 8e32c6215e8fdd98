"""Traces of cycles: one for both sites, and no harm from a collector that is away."""

from __future__ import annotations

import asyncio
import os
import tomllib
from pathlib import Path
from typing import Any

from tests.support.sites import Daemon, Pair, VolumeSpec, toml, until
from tests.support.trace_collector import Collector, Taken

SENT = ["hold", "settle", "drain", "commit"]
RECEIVED = ["apply", "remote commit"]


class TracedPair(Pair):
    """Both sites tell the same collector."""

    def __init__(self, directory: Path, endpoint: str, **options: Any) -> None:
        self._endpoint = endpoint
        super().__init__(directory, [VolumeSpec("v", 4 << 20)], **options)

    def primary_toml(self) -> str:
        return self._traced(super().primary_toml())

    def remote_toml(self) -> str:
        return self._traced(super().remote_toml())

    def _traced(self, config: str) -> str:
        return toml(tomllib.loads(config) | {"tracing": {"endpoint": self._endpoint}})


def lost(daemon: Daemon) -> int:
    found = daemon.call("status")["tracing"]["spans_lost"]
    assert isinstance(found, int)
    return found


async def test_both_sites_tell_one_trace_and_need_no_collector(tmp_path: Path) -> None:
    with Collector() as collector, TracedPair(tmp_path, collector.endpoint) as pair:
        await pair.start()
        host = await pair.primary.nbd("g/v")
        await host.write(0, b"x" * 65536)
        number = (await pair.cut())["number"]

        def of_cycle() -> list[Taken]:
            key = "farshore.cycle.number"
            return [s for s in collector.spans if s.attributes[key] == number]

        await until(lambda: len(of_cycle()) == 7, "both sites have told the cycle")
        look_at(of_cycle())
        assert collector.paths == {"/v1/traces"}

        # Hosts and cycles go on; what nobody takes is counted, and nothing else.
        collector.stop()
        for value in (b"y", b"z"):
            await host.write(0, value * 65536)
            await pair.cut()
        for daemon in pair.daemons:
            await until(lambda d=daemon: lost(d) > 0, "spans are lost")  # type: ignore[misc]
            assert not [e for e in daemon.events() if "opentelemetry" in str(e)]
        collector.start()
        await host.write(0, b"w" * 65536)
        number = (await pair.cut())["number"]
        await until(lambda: len(of_cycle()) == 7, "a collector that is back is told")
        await host.disconnect()
        await pair.primary.stop()
        await pair.remote.stop()


async def test_a_cycle_that_is_given_up_ends_in_an_error(tmp_path: Path) -> None:
    slow = {"bandwidth": "64KiB/s", "compression": "off"}
    briefly: dict[str, object] = {"manual": True, "resume_timeout": "100ms"}
    with (
        Collector() as collector,
        TracedPair(tmp_path, collector.endpoint, group=briefly, link=slow) as pair,
    ):
        pair.device("v").write_bytes(os.urandom(4 << 20))
        await pair.start()

        await drain_begins(pair)
        await pair.remote.stop()
        await until(lambda: len(given_up(collector)) == 1, "a lost link is told")
        await pair.remote.start()
        await pair.connected()
        await drain_begins(pair)
        await pair.primary.stop()
        await until(lambda: len(given_up(collector)) == 2, "the stop is told")

        lost, stopped = given_up(collector)
        assert lost.error == "no link for 0.1 s"
        assert stopped.error == "the daemon was stopped"
        assert lost.trace_id != stopped.trace_id
        for whole in (lost, stopped):
            parts = [s for s in collector.spans if s.parent_id == whole.span_id]
            assert [part.name for part in parts] == ["hold", "settle", "drain"]
            assert {part.error for part in parts} == {None}
            assert parts[0].start_ns == whole.start_ns
            assert parts[-1].start_ns < parts[-1].end_ns == whole.end_ns
            assert whole.parent_id == b""
            assert whole.attributes["farshore.group"] == "g"
        await pair.remote.stop()


async def drain_begins(pair: Pair) -> None:
    """Cut, and return once some of what has changed is on its way."""

    def sent() -> int:
        return int(pair.primary.group()["link"]["session_sent_bytes"])

    before = sent()
    await asyncio.to_thread(pair.primary.call, "cut", group="g", wait=False)
    await until(lambda: sent() > before + (32 << 10), "it is being sent")


def given_up(collector: Collector) -> list[Taken]:
    return [s for s in collector.spans if s.error is not None]


def look_at(spans: list[Taken]) -> None:
    by_name = {span.name: span for span in spans}
    assert {span.error for span in spans} == {None}
    assert set(by_name) == {"cycle", *SENT, *RECEIVED}
    whole = by_name["cycle"]
    assert {span.trace_id for span in spans} == {whole.trace_id}
    assert len(whole.trace_id) == 16
    assert len({span.span_id for span in spans}) == len(spans)
    assert whole.parent_id == b""
    for name in (*SENT, *RECEIVED):
        assert by_name[name].parent_id == whole.span_id
    services = {
        names: {by_name[name].service for name in names}
        for names in (("cycle", *SENT), tuple(RECEIVED))
    }
    assert list(services.values()) == [{"farshore-primary"}, {"farshore-remote"}]
    assert whole.attributes["farshore.group"] == "g"
    assert whole.attributes["farshore.cycle.changed_bytes"] == 4 << 20
    for names, began, ended in (
        (SENT, whole.start_ns, whole.end_ns),
        (RECEIVED, by_name["apply"].start_ns, by_name["remote commit"].end_ns),
    ):
        at = began
        for name in names:
            assert by_name[name].start_ns == at
            assert by_name[name].end_ns >= at
            at = by_name[name].end_ns
        assert at == ended
