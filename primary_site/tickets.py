"""Who waits for a cut: told when it is taken, and when it is safe."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeVar

from common.errors import NotCommittedError
from primary_site.group import Cut

T = TypeVar("T")


@dataclass(slots=True)
class CutTicket:
    """One who asked. `safe` gives the number of the point that holds it."""

    label: str | None
    taken: asyncio.Future[Cut]
    safe: asyncio.Future[int]


class CutTickets:
    """Everybody who waits for a cut of one group; owned by the event loop."""

    def __init__(self) -> None:
        self._asked: list[CutTicket] = []
        self._cutting: list[CutTicket] = []

    def __bool__(self) -> bool:
        """Tell whether somebody waits for a cut to be taken."""
        return bool(self._asked or self._cutting)

    def ask(self, label: str | None) -> CutTicket:
        loop = asyncio.get_running_loop()
        ticket = CutTicket(label, loop.create_future(), loop.create_future())
        self._asked.append(ticket)
        return ticket

    def board(self) -> str | None:
        """Take along all of one cut; return its label.

        Those with another label wait: a point has one. Those of a cut that failed
        after its session are still waiting for one.
        """
        asked = self._cutting + self._asked
        label = next((t.label for t in asked if t.label), None)
        self._cutting = [t for t in asked if t.label in {None, label}]
        self._asked = [t for t in asked if t.label not in {None, label}]
        return label

    def taken(self, cut: Cut) -> None:
        for ticket in self._cutting:
            _resolve(ticket.taken, cut)

    def safe(self, number: int) -> None:
        """Everybody aboard is safe with point `number`."""
        for ticket in self._cutting:
            _resolve(ticket.safe, number)
        self._cutting = []

    def fail_aboard(self, why: str) -> None:
        """Tell those of the present cut that it will not be safe."""
        failed, self._cutting = self._cutting, []
        _fail(failed, why)

    def fail_asked(self, why: str) -> None:
        """Tell those still waiting for a cut that none comes."""
        failed, self._asked = self._asked, []
        _fail(failed, why)


def _fail(tickets: list[CutTicket], why: str) -> None:
    for ticket in tickets:
        for future in (ticket.taken, ticket.safe):
            if not future.done():
                future.set_exception(NotCommittedError(why))
                future.exception()  # whoever asked may have gone


def _resolve(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)
