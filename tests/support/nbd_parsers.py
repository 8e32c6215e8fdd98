"""The parsers of the NBD server, made as the server makes them, for any form.

The property tests and the fuzzers feed bytes to these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from common.nbd.export_facts import ExportFacts
from common.nbd.limits import NbdLimits
from common.nbd.negotiation import Negotiation
from common.nbd.outcome import Ended
from common.nbd.protocol import WireForm
from common.nbd.request_stream import RequestStream
from common.nbd.requests import Rules
from common.ports import Complete, HostRequest
from tests.support import nbd_wire as wire
from tests.support.nbd_wire import Form

SIZE = 4 << 20
CONTEXTS = ((1, "base:allocation"), (2, "x-farshore-test:other"))
"""The ids and names of those that were agreed on."""
WIRE_FORMS = {
    Form.SIMPLE: WireForm.SIMPLE,
    Form.STRUCTURED: WireForm.STRUCTURED,
    Form.EXTENDED: WireForm.EXTENDED,
}


class OneExport:
    """Knows "g/v", of `SIZE` bytes."""

    def names(self) -> list[tuple[str, str]]:
        return [("g/v", "a volume")]

    def facts(self, name: str) -> ExportFacts | None:
        if name != "g/v":
            return None
        return ExportFacts(
            SIZE, read_only=False, description="a volume", preferred_block_bytes=4096
        )


def negotiation() -> Negotiation:
    return Negotiation(OneExport())


def request_stream(
    form: Form,
    limits: NbdLimits,
    answer: Callable[[bytes], None],
    completed: Complete,
) -> RequestStream:
    """Return the parser of a connection that agreed on `form` and on contexts."""
    contexts = () if form is Form.SIMPLE else CONTEXTS
    rules = Rules(
        size_bytes=SIZE,
        read_only=False,
        form=WIRE_FORMS[form],
        contexts=contexts,
        fast_zero=False,
        payload_bytes_max=limits.payload_bytes_max,
    )
    return RequestStream(rules, limits, answer, completed)


def pieces(stream: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """Cut a stream at the given offsets."""
    start = 0
    for cut in sorted(cuts):
        yield stream[start:cut]
        start = cut
    yield stream[start:]


class Taken:
    """Feeds a `RequestStream`; keeps what it hands out, and how it ended.

    Requests are completed at once, or only when the stream waits for that. Until
    then nobody may touch their payloads.
    """

    def __init__(
        self, form: Form, *, at_once: bool = True, limits: NbdLimits | None = None
    ) -> None:
        self.answers: list[bytes] = []
        self.requests: list[tuple[object, ...]] = []
        self._at_once = at_once
        self._limits = limits or NbdLimits()
        self._running: list[tuple[HostRequest, bytes, Any]] = []
        self._stream = request_stream(
            form, self._limits, self.answers.append, self._completed
        )

    @property
    def ended(self) -> Ended | None:
        return self._stream.ended

    @property
    def outcome(self) -> tuple[object, ...]:
        return self.requests, b"".join(self.answers), self._stream.ended

    def feed(self, piece: bytes) -> None:
        while piece and self._stream.ended is None:
            memory = self._stream.writable()
            count = min(len(memory), len(piece))
            assert count
            memory[:count] = piece[:count]
            piece = piece[count:]
            self._stream.received(count)
            self._take()

    def complete_all(self) -> None:
        running, self._running = self._running, []
        for request, payload, complete in running:
            assert bytes(request.data or b"") == payload
            complete([request])

    def _take(self) -> None:
        stream = self._stream
        while True:
            in_flight = len(self._running)
            batch = stream.take(in_flight, self._in_flight_bytes())
            self._check_bounds(batch)
            for request in batch:
                payload = bytes(request.data or b"")
                self._running.append((request, payload, stream.batch_complete))
                self.requests.append(
                    (
                        *(request.command, request.offset, request.length, payload),
                        *(request.fua, request.no_hole, request.fast),
                        *(request.sparse_ok, request.contexts, request.cookie),
                    )
                )
            if self._at_once or (stream.is_stopped and self._running):
                self.complete_all()
                if stream.is_stopped or stream.has_more:
                    continue
            if not (batch and stream.has_more):
                return

    def _check_bounds(self, batch: list[HostRequest]) -> None:
        sized = [r for r, _, _ in self._running] + batch
        assert len(sized) <= self._limits.requests_in_flight_max
        lengths = [r.length for r in sized if r.command <= wire.WRITE]
        assert sum(lengths) <= self._limits.bytes_in_flight_max or len(lengths) == 1

    def _in_flight_bytes(self) -> int:
        return sum(r.length for r, _, _ in self._running if r.command <= wire.WRITE)

    def _completed(self, _requests: list[HostRequest]) -> None:
        pass
