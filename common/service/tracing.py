"""Traces of cycles on their way to a collector; without `[tracing]` there are none.

A thread of its own sends what a bounded queue holds. A collector that is slow, or not
there, fills the queue; what finds no room is counted and forgotten, as what could not
be sent is. Nothing waits for it, and nothing is logged.
"""

from __future__ import annotations

import asyncio
import importlib
import queue
import threading
from collections.abc import Sequence
from typing import Final, Protocol

from common.errors import ConfigError
from common.service.config_tracing import TracingTable
from common.service.cycle_trace import CycleTrace, Trace, no_trace
from common.service.status import TracingStatus

CYCLES_QUEUED_MAX: Final = 512
CYCLES_AT_ONCE_MAX: Final = 64

SEND_SECONDS_MAX: Final = 5.0
"""For one request to the collector, tries again included."""

CLOSE_SECONDS_MAX: Final = 2.0
"""A stop waits so long for what is still to be sent."""


class Sender(Protocol):
    """Who sends to a collector; see `tracing_export.Collector`."""

    def send(self, cycles: Sequence[CycleTrace]) -> bool: ...

    def close(self) -> None: ...


class SiteTracing:
    """Of one daemon: `start` once, `take` from any thread, `close` once."""

    def __init__(self, config: TracingTable | None, role: str, site: str) -> None:
        self.take: Trace = no_trace
        self._config = config
        self._role = role
        self._site = site
        self._queue: queue.Queue[CycleTrace | None] = queue.Queue(CYCLES_QUEUED_MAX)
        self._counting = threading.Lock()
        self._sent = 0
        self._lost = 0
        self._sender: Sender | None = None
        self._thread: threading.Thread | None = None
        self._has_ended = False
        """The thread's own: nothing comes any more."""

    async def start(self) -> None:
        """Raises `ConfigError` where the libraries for it are not installed."""
        if self._config is not None:
            sender = await asyncio.to_thread(self._connect, self._config.endpoint)
            self.send_with(sender)

    def _connect(self, endpoint: str) -> Sender:
        try:
            export = importlib.import_module("common.service.tracing_export")
        except ImportError as error:
            raise ConfigError(
                f"tracing.endpoint: {error}: install the extra farshore[otel], or "
                "remove [tracing]"
            ) from None
        found: Sender = export.Collector(
            endpoint, self._role, self._site, SEND_SECONDS_MAX
        )
        return found

    def send_with(self, sender: Sender) -> None:
        """Begin to send what `take` is given from now on."""
        self._sender = sender
        self._thread = threading.Thread(
            target=self._run, args=(sender,), name="tracing", daemon=True
        )
        self._thread.start()
        self.take = self._put

    async def close(self) -> None:
        """Send what is left, if that does not take long."""
        self.take = no_trace
        if self._thread is not None:
            await asyncio.to_thread(self._close, self._thread)

    def _close(self, thread: threading.Thread) -> None:
        try:
            self._queue.put(None, timeout=CLOSE_SECONDS_MAX)
        except queue.Full:
            pass  # whoever hangs in a request is left behind
        else:
            thread.join(CLOSE_SECONDS_MAX)
        assert self._sender is not None
        self._sender.close()

    def status(self) -> TracingStatus | None:
        """Return what became of spans so far; None where nothing is traced."""
        if self._config is None:
            return None
        with self._counting:
            return TracingStatus(spans_sent=self._sent, spans_lost=self._lost)

    def _put(self, told: CycleTrace) -> None:
        """On loops that hosts are served by: never waits."""
        try:
            self._queue.put_nowait(told)
        except queue.Full:
            self._count([told], is_sent=False)

    def _count(self, cycles: Sequence[CycleTrace], *, is_sent: bool) -> None:
        spans = sum(each.spans for each in cycles)
        with self._counting:
            if is_sent:
                self._sent += spans
            else:
                self._lost += spans

    def _run(self, sender: Sender) -> None:
        while batch := self._next_batch():  # ends with `close`
            self._send(sender, batch)

    def _next_batch(self) -> list[CycleTrace]:
        """Wait for a cycle; return it, and those that came meanwhile; none: the end."""
        batch: list[CycleTrace] = []
        while not self._has_ended and len(batch) < CYCLES_AT_ONCE_MAX:
            if batch and self._queue.empty():
                break
            following = self._queue.get()
            if following is None:
                self._has_ended = True
            else:
                batch.append(following)
        return batch

    def _send(self, sender: Sender, batch: Sequence[CycleTrace]) -> None:
        try:
            is_sent = sender.send(batch)
        except Exception:  # noqa: BLE001 - a library's bug ends no thread of ours
            is_sent = False
        self._count(batch, is_sent=is_sent)
