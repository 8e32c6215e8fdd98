"""Spans of cycles in OpenTelemetry's form, sent as OTLP over HTTP.

The one module that needs the extra `farshore[otel]`: imported only where a config has
`[tracing]`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from common.service.cycle_trace import (
    SPAN_ID_BYTES,
    CycleTrace,
    Span,
    trace_id,
    whole_span_id,
)
from common.service.version import farshore_version

SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Collector:
    """One collector; everything blocks, and one thread at a time calls `send`."""

    def __init__(self, endpoint: str, role: str, site: str, seconds: float) -> None:
        """`seconds`: for one `send`, tries again included."""
        # What it says of a collector that is away, every few seconds, helps nobody.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._exporter = OTLPSpanExporter(
            endpoint=f"{endpoint}/v1/traces", timeout=seconds
        )
        self._scope = InstrumentationScope("farshore", farshore_version())
        self._resource = Resource.create(
            {
                "service.name": f"farshore-{role}",
                "service.instance.id": site,
                "service.version": farshore_version(),
            }
        )

    def send(self, cycles: Sequence[CycleTrace]) -> bool:
        """Tell whether the collector has them now; raises what the library does."""
        spans = [span for each in cycles for span in self._spans(each)]
        return self._exporter.export(spans) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """Give up what is under way; any thread may."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _spans(self, told: CycleTrace) -> Iterator[ReadableSpan]:
        whole_id = whole_span_id(told.cycle_id)
        whole = _context(told, whole_id, is_remote=told.whole is None)
        if told.whole is not None:
            yield self._span(told, told.whole, whole, None, told.given_up)
        for part in told.parts:
            own = _context(told, int.from_bytes(secrets.token_bytes(SPAN_ID_BYTES)))
            yield self._span(told, part, own, whole)

    def _span(
        self,
        told: CycleTrace,
        span: Span,
        context: SpanContext,
        parent: SpanContext | None,
        error: str = "",
    ) -> ReadableSpan:
        return ReadableSpan(
            span.name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=told.attributes,
            start_time=span.start_ns,
            end_time=span.end_ns,
            status=Status(StatusCode.ERROR, error) if error else Status(),
            instrumentation_scope=self._scope,
        )


def _context(told: CycleTrace, span_id: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace_id(told.cycle_id), span_id, is_remote, SAMPLED)
