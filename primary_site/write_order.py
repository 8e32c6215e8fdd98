"""Writes that overlap one under way wait until it has ended. One volume's, on its loop.

Hosts are promised no order between what they send without waiting for answers, but
some go by it: fio trims a block and writes it at once.
"""

from __future__ import annotations

from collections.abc import Iterable

from common.ports import Complete, HostRequest

Span = tuple[int, int]
"""[start, end) in bytes."""


class WriteOrder:
    """Which writes, trims and zeroings are under way, and which wait behind them."""

    def __init__(self) -> None:
        self.under_way: dict[int, Span] = {}
        """Those that a thread is at, or will be."""
        # What overlaps one of them, or of these, in the order in which it came.
        self._behind: list[tuple[HostRequest, Complete]] = []

    def admit(self, request: HostRequest, complete: Complete) -> bool:
        """Note a write as under way, until `ended`, unless it has to be held back."""
        if self.hold_back(request, complete):
            return False
        self.under_way[id(request)] = span(request)
        return True

    def hold_back(self, request: HostRequest, complete: Complete) -> bool:
        """Keep a write for later that overlaps one under way; tell whether it is."""
        behind = [span(waiting) for waiting, _ in self._behind]
        if not overlaps(request, [*self.under_way.values(), *behind]):
            return False
        self._behind.append((request, complete))
        return True

    def ended(self, requests: list[HostRequest]) -> list[tuple[HostRequest, Complete]]:
        """Note writes as ended; return what waited, to be submitted now, in order."""
        for request in requests:
            self.under_way.pop(id(request), None)
        behind, self._behind = self._behind, []
        return behind


def span(request: HostRequest) -> Span:
    return request.offset, request.offset + request.length


def overlaps(request: HostRequest, spans: Iterable[Span]) -> bool:
    start, end = span(request)
    return any(first < end and start < last for first, last in spans)
