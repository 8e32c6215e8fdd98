"""Traces on their way: bounded, counted, never waited for; and their config."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence

import pytest
from pydantic import ValidationError

from common.errors import ConfigError
from common.service.config_tracing import TracingTable
from common.service.cycle_trace import (
    CycleTrace,
    Span,
    in_turn,
    trace_id,
    whole_span_id,
)
from common.service.tracing import CYCLES_QUEUED_MAX, SiteTracing

ENDPOINT = TracingTable(endpoint="http://127.0.0.1:4318")
CYCLE_ID = bytes(range(16))
TOLD = CycleTrace(
    CYCLE_ID, {}, in_turn(0, ("hold", 0.5), ("drain", 1.0)), Span("cycle", 0, 1)
)


class Stuck:
    """A collector that takes nothing until it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.asked = threading.Event()
        self.taken = 0

    def send(self, cycles: Sequence[CycleTrace]) -> bool:
        self.asked.set()
        self.may.wait()
        self.taken += len(cycles)
        if self.taken > 10:
            raise OSError("a library's own trouble")
        return True

    def close(self) -> None:
        self.may.set()


async def test_a_collector_that_hangs_costs_what_has_no_room() -> None:
    tracing, stuck = SiteTracing(ENDPOINT, "primary", "a"), Stuck()
    tracing.send_with(stuck)

    tracing.take(TOLD)
    await asyncio.to_thread(stuck.asked.wait)
    for _ in range(CYCLES_QUEUED_MAX + 7):
        tracing.take(TOLD)  # it would hang here

    status = tracing.status()
    assert status is not None
    assert (status.spans_sent, status.spans_lost) == (0, 7 * TOLD.spans)
    stuck.may.set()
    await tracing.close()
    status = tracing.status()
    assert status is not None
    assert status.spans_sent == TOLD.spans
    assert status.spans_lost == (CYCLES_QUEUED_MAX + 7) * TOLD.spans


async def test_without_a_table_nothing_is_traced() -> None:
    tracing = SiteTracing(None, "remote", "b")

    await tracing.start()
    tracing.take(TOLD)
    await tracing.close()

    assert tracing.status() is None


async def test_the_extra_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "common.service.tracing_export", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    with pytest.raises(ConfigError, match=r"tracing\.endpoint.*farshore\[otel\]"):
        await SiteTracing(ENDPOINT, "primary", "a").start()


def test_ids_follow_from_the_cycle_s() -> None:
    assert trace_id(CYCLE_ID) == int.from_bytes(CYCLE_ID, "big")
    assert 0 < whole_span_id(CYCLE_ID) < 1 << 64
    assert whole_span_id(CYCLE_ID) != whole_span_id(bytes(16))


def test_parts_follow_each_other_and_none_ends_before_it_begins() -> None:
    parts = in_turn(100, ("a", 1e-9), ("b", -5.0), ("c", 2e-9))

    assert [(part.start_ns, part.end_ns) for part in parts] == [
        (100, 101),
        (101, 101),
        (101, 103),
    ]


@pytest.mark.parametrize(
    "endpoint",
    [
        *("http://collector:4318", "https://otel.example.net", "http://[::1]:4318"),
        "http://127.0.0.1:4318/otlp",
    ],
)
def test_addresses_of_collectors(endpoint: str) -> None:
    assert TracingTable(endpoint=endpoint).endpoint == endpoint
    assert TracingTable(endpoint=endpoint + "/").endpoint == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        *("", "127.0.0.1:4318", "grpc://collector:4317", "http://", "http://:4318"),
        *("http://user:secret@collector", "http://collector?x=1", "http://a b:1"),
        *(
            "http://collector:0",
            "http://collector:99999",
            5,
            None,
            "http://" + "a" * 2000,
        ),
    ],
)
def test_what_is_no_address_of_a_collector_is_refused(endpoint: object) -> None:
    with pytest.raises(ValidationError, match="is not the address of a collector"):
        TracingTable(endpoint=endpoint)  # type: ignore[arg-type]
