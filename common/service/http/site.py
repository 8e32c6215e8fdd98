"""What a daemon tells over HTTP: health, metrics, status, and a page for people."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from collections.abc import Awaitable, Callable

import structlog

from common.errors import FarshoreError
from common.ports import Clock
from common.service.config_http import HttpTable
from common.service.http.answers import JSON, Answer, Request, Stream, text
from common.service.http.limits import HttpLimits
from common.service.http.listener import HttpListener
from common.service.http.pages import page_routes
from common.service.http.sharing import SharedBodies
from common.service.http.site_history import Ask, SiteHistory, watch
from common.service.http.taking import StatusTaker
from common.service.metrics import OPENMETRICS, MetricsPage
from common.service.status import GroupState, SiteStatus

log = structlog.get_logger()


class SiteHttp:
    """One daemon's HTTP listener; without an `[http]` table it does nothing.

    It listens from the beginning, so that a start that takes long can be watched, and
    until the end.
    """

    def __init__(
        self,
        config: HttpTable | None,
        status: Callable[[], Awaitable[SiteStatus]],
        ask: Ask,
        clock: Clock,
        limits: HttpLimits | None = None,
    ) -> None:
        """`status` and `ask`, the daemon's commands, aren't called before `serving`."""
        self.is_serving = False
        self._config = config
        self._taker = StatusTaker(status, clock)
        self._history = SiteHistory(self._taker, ask, clock)
        self._sampling: asyncio.Task[None] | None = None
        self._metrics = MetricsPage()
        self._bodies = SharedBodies(clock)
        self._clock = clock
        self._limits = limits
        self._listener: HttpListener | None = None

    async def listen(self) -> None:
        """Raises `ConfigError` where the address cannot be had."""
        if self._config is None:
            return
        address = self._config.listen
        names = frozenset({"localhost", address.host.lower(), *self._config.names})
        routes = {
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/metrics": self._show_metrics,
            "/status.json": self._show_status,
            "/history.json": self._show_history,
            "/events": self._watch,
            **await asyncio.to_thread(page_routes),
        }
        self._listener = HttpListener(routes, names, self._clock, self._limits)
        await self._listener.listen(address)
        log.info("http_listening", addresses=self._listener.addresses)

    def serving(self) -> None:
        """From now on the site serves, and has a status."""
        self.is_serving = True
        if self._listener is not None:
            self._sampling = asyncio.create_task(self._history.run())

    def ending(self) -> None:
        """From now on the site serves no more."""
        self.is_serving = False

    async def close(self) -> None:
        if self._listener is not None:
            await self._listener.close()
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.wait({self._sampling})
        await self._taker.close()

    async def _health(self, _request: Request) -> Answer:
        """That this is answered says all: the process lives, its main loop turns."""
        return text(200, "alive")

    async def _readiness(self, _request: Request) -> Answer:
        if not self.is_serving:
            return text(503, "not serving: starting, or stopping")
        try:
            status = await self._taker.take()
        except FarshoreError as error:
            return text(503, str(error))
        failed = [g.name for g in status.groups if g.state is GroupState.FAILED]
        if failed:
            return text(503, f"failed: {', '.join(failed)}")
        return text(200, f"serving {len(status.groups)} groups")

    async def _show_metrics(self, request: Request) -> Answer:
        wants_openmetrics = OPENMETRICS in request.headers.get("accept", "")
        render = self._metrics.render

        async def make() -> bytes:
            status = await self._taker.take() if self.is_serving else None
            # In a thread: thousands of lines must not hold up handshakes.
            return await asyncio.to_thread(
                render, status, wants_openmetrics=wants_openmetrics
            )

        name = f"metrics {self.is_serving} {wants_openmetrics}"
        try:
            body = await self._bodies.get(name, make)
        except FarshoreError as error:
            return text(503, str(error))
        return Answer(body, self._metrics.content_type(wants_openmetrics))

    async def _show_status(self, _request: Request) -> Answer:
        if not self.is_serving:
            return text(503, "not serving: starting, or stopping")
        try:
            return Answer(await self._shared_status(), JSON)
        except FarshoreError as error:
            return text(503, str(error))

    async def _shared_status(self) -> bytes:
        return await self._bodies.get("status", self._status_json)

    async def _status_json(self) -> bytes:
        status = await self._taker.take()
        return (await asyncio.to_thread(json.dumps, status.to_json())).encode()

    async def _show_history(self, request: Request) -> Answer:
        """Answer `/history.json?group=NAME`."""
        if not self.is_serving:
            return text(503, "not serving: starting, or stopping")
        try:
            asked = dict(urllib.parse.parse_qsl(request.query, max_num_fields=4))
        except ValueError:
            return text(400, "write /history.json?group=NAME")
        group = asked.get("group", "")
        if not self._history.has(group):
            return text(404, "there is no such group, or nothing is known of it yet")

        async def make() -> bytes:
            found = await self._history.of_group(group)
            return (await asyncio.to_thread(json.dumps, found)).encode()

        try:
            return Answer(await self._bodies.get(f"history {group}", make), JSON)
        except FarshoreError as error:
            return text(503, str(error))

    async def _watch(self, _request: Request) -> Answer | Stream:
        if not self.is_serving:
            return text(503, "not serving: starting, or stopping")
        return Stream(watch(self._shared_status), "text/event-stream; charset=utf-8")
