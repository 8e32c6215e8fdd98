"""Takes the figures of all groups every few seconds, and tells who watches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

import structlog

from common.errors import FarshoreError
from common.ports import Clock
from common.service.control_requests import parse_request
from common.service.http.history import FIELDS, SAMPLE_SECONDS, GroupHistory, sample
from common.service.http.taking import StatusTaker
from common.service.status import GroupRole, SiteStatus

Ask = Callable[[str, dict[str, Any]], Awaitable[Any]]
"""A daemon's commands: name and arguments in, JSON out."""

STATUS_SECONDS: Final = 1.0
"""Between two looks that a page which is watched gets."""

POINTS_SHOWN_MAX: Final = 500

log = structlog.get_logger()


class SiteHistory:
    """Of one daemon, on its main loop; `run` while it serves."""

    def __init__(self, taker: StatusTaker, ask: Ask, clock: Clock) -> None:
        self._taker = taker
        self._ask = ask
        self._clock = clock
        self._groups: dict[str, GroupHistory] = {}

    async def run(self) -> None:
        """Take figures for ever."""
        while True:  # ends with the daemon
            try:
                await self._take(await self._taker.take())
            except FarshoreError:
                pass  # a gap in the picture; /readyz and the log have the reason
            except Exception:  # a bug of ours must not end the daemon
                log.exception("history_sample_failed")
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _take(self, status: SiteStatus) -> None:
        now = self._clock.now_ns() / 1e9
        for group in status.groups:
            history = self._groups.setdefault(group.name, GroupHistory())
            history.add(sample(group, now))
            if group.role is GroupRole.SENDING:
                arguments = {"group": group.name, "since": history.marks()}
                history.add_map(now, await self._ask("write_map", arguments))

    def has(self, name: str) -> bool:
        """Tell whether something is known of a group."""
        return name in self._groups

    async def of_group(self, name: str) -> dict[str, Any]:
        """Return what a page draws of a group that there is."""
        history = self._groups[name]
        points = await self._ask(*_request("points", {"group": name}))
        return {**history.to_json(), "points": points[:POINTS_SHOWN_MAX]}


async def watch(status: Callable[[], Awaitable[bytes]]) -> AsyncGenerator[bytes, None]:
    """Yield the status again and again, as server-sent events.

    `status` returns it as JSON of one line, made once for all who watch.

    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    while True:  # ends with its client
        try:
            yield b"event: status\ndata: " + await status() + b"\n\n"
        except FarshoreError as error:
            told = json.dumps({"reason": str(error)})
            yield f"event: trouble\ndata: {told}\n\n".encode()
        await asyncio.sleep(STATUS_SECONDS)


def _request(command: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a command as the control socket would pass it on: with every argument."""
    line = json.dumps({"command": command, "arguments": arguments})
    return parse_request(line.encode())


__all__ = ["FIELDS", "SiteHistory", "watch"]
