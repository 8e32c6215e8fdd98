"""Traces of cycles: one for both sites, and no harm from a collector that is away."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tests.support.sites import Daemon, Pair, VolumeSpec, toml, until
from tests.support.trace_collector import Collector, Taken

SENT = ["hold", "settle", "drain", "commit"]
RECEIVED = ["apply", "remote commit"]


class TracedPair(Pair):
    """Both sites tell the same collector."""

    def __init__(self, directory: Path, endpoint: str) -> None:
        self._endpoint = endpoint
        super().__init__(directory, [VolumeSpec("v", 4 << 20)])

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


def look_at(spans: list[Taken]) -> None:
    by_name = {span.name: span for span in spans}
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
