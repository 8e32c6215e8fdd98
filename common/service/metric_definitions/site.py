"""The process, and hosts at it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from common.service.metric_definitions.metric import Kind, Metric, Sample
from common.service.status import SiteStatus


def _build(status: SiteStatus) -> Iterator[Sample]:
    yield (status.site, status.role, status.version), 1


def _exports(status: SiteStatus) -> Iterator[Sample]:
    for export, count in (status.nbd.exports if status.nbd else {}).items():
        yield (export,), count


def _handshakes(status: SiteStatus) -> Iterator[Sample]:
    yield (), status.nbd.handshakes if status.nbd else None


def _waiting(status: SiteStatus) -> Iterator[Sample]:
    yield (), status.nbd.waiting_for_memory if status.nbd else None


def _spans(status: SiteStatus) -> Iterator[Sample]:
    if status.tracing:
        yield ("sent",), status.tracing.spans_sent
        yield ("lost",), status.tracing.spans_lost


SITE_METRICS: Final = (
    Metric(
        "farshore_build_info",
        Kind.GAUGE,
        "Always 1; the labels say who and what answers.",
        ("site", "role", "version"),
        "both",
        _build,
    ),
    Metric(
        "farshore_trace_spans_total",
        Kind.COUNTER,
        "Spans of cycles: those that a collector has, and those that nobody has.",
        ("result",),
        "both",
        _spans,
        ("sent", "lost"),
    ),
)

HOST_METRICS: Final = (
    Metric(
        "farshore_nbd_connections",
        Kind.GAUGE,
        "Hosts' connections to each export that has any.",
        ("export",),
        "both",
        _exports,
    ),
    Metric(
        "farshore_nbd_handshakes",
        Kind.GAUGE,
        "Connections that have not chosen an export yet.",
        (),
        "both",
        _handshakes,
    ),
    Metric(
        "farshore_nbd_waiting_for_memory",
        Kind.GAUGE,
        "Batches of requests that wait for memory of `[nbd.limits]`.",
        (),
        "both",
        _waiting,
    ),
)
