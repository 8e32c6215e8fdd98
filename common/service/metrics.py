"""The /metrics page: a status, in Prometheus's words, by its official client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from common.service.metric_definitions.catalogue import METRICS
from common.service.metric_definitions.metric import Kind, Metric
from common.service.status import HistogramStatus, SiteStatus

OPENMETRICS = "application/openmetrics-text"
SERVING = "farshore_serving"
SERVING_MEANING = "1 once the site serves, 0 while it starts or stops."


class MetricsPage:
    """Renders pages; any thread may."""

    def render(self, status: SiteStatus | None, *, wants_openmetrics: bool) -> bytes:
        """Return a page; `status` is None while there is none."""
        registry = CollectorRegistry()
        registry.register(_StatusCollector(status))
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        if wants_openmetrics:
            page: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
            return page
        return generate_latest(registry)

    def content_type(self, wants_openmetrics: bool) -> str:
        return (
            openmetrics.CONTENT_TYPE_LATEST
            if wants_openmetrics
            else CONTENT_TYPE_LATEST
        )


class _StatusCollector(Collector):
    def __init__(self, status: SiteStatus | None) -> None:
        self._status = status

    def describe(self) -> Iterable[Family]:
        return []

    def collect(self) -> Iterator[Family]:
        serving = self._status is not None
        yield GaugeMetricFamily(SERVING, SERVING_MEANING, value=float(serving))
        if self._status is not None:
            for metric in METRICS:
                found = family(metric, self._status)
                if found.samples:
                    yield found


def family(metric: Metric, status: SiteStatus) -> Family:
    """Return a metric with its samples, in the client's form."""
    match metric.kind:
        case Kind.GAUGE:
            found: Family = GaugeMetricFamily(
                metric.name, metric.meaning, labels=metric.labels
            )
        case Kind.COUNTER:
            found = CounterMetricFamily(
                metric.name, metric.meaning, labels=metric.labels
            )
        case Kind.HISTOGRAM:
            found = HistogramMetricFamily(
                metric.name, metric.meaning, labels=metric.labels
            )
    for labels, value in metric.samples(status):
        if isinstance(value, HistogramStatus):
            assert isinstance(found, HistogramMetricFamily)
            found.add_metric(labels, _buckets(value), value.sum_seconds)
        elif value is not None:
            assert isinstance(found, GaugeMetricFamily | CounterMetricFamily)
            found.add_metric(labels, float(value))
    return found


def _buckets(histogram: HistogramStatus) -> list[tuple[str, float]]:
    """Return cumulative buckets, as Prometheus wants them."""
    bounds = [*(str(bound) for bound in histogram.bounds_seconds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
