"""The parsers of the NBD server, made as the server makes them, for any form.

The property tests and the fuzzers feed bytes to these.
"""

from __future__ import annotations

from collections.abc import Callable

from common.nbd.limits import NbdLimits
from common.nbd.negotiation import ExportFacts, Negotiation
from common.nbd.request_stream import RequestStream
from common.nbd.requests import Rules
from common.ports import Complete
from tests.support.nbd_wire import Form

SIZE = 4 << 20


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
    """Return the parser of a connection that agreed on `form` and on a context."""
    has_context = form is not Form.SIMPLE
    rules = Rules(
        size_bytes=SIZE,
        read_only=False,
        structured=form is not Form.SIMPLE,
        has_context=has_context,
        payload_bytes_max=limits.payload_bytes_max,
    )
    return RequestStream(rules, limits, answer, completed)
