"""The end of a connection here that its client is not to notice."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable

import structlog

from common.nbd.detaching import detach
from common.nbd.kept_connection import KeptConnection
from common.nbd.kept_state import KeptState
from common.nbd.protocol import Command
from common.ports import HostRequest, HostVolume

_log = structlog.get_logger(__name__)


class Departure:
    """Of one connection: a last flush of its volume, then it goes; each once."""

    def __init__(
        self, kept: Callable[[KeptConnection], None], flushed: Callable[[], None]
    ) -> None:
        """`kept` is given the connection; `flushed` is called once the flush ended."""
        self.is_flushed = False
        """The flush has been asked for, and `flushed` was or will be called."""
        self.has_failed = False
        """The flush has failed: what the client wrote may be lost."""
        self._kept = kept
        self._flushed = flushed
        self._has_ended = False

    def flush(self, volume: HostVolume) -> None:
        """Begin to make durable all that the client was told is written."""
        self.is_flushed = True
        flush = HostRequest(int(Command.FLUSH), 0, 0)
        try:
            volume.submit([flush], self._completed)
        except Exception:  # noqa: BLE001 - it ends as any other then
            _log.exception("nbd_submit_raised")
            flush.error = errno.EIO
            self._completed([flush])

    def go(self, transport: asyncio.Transport, state: KeptState, peer: str) -> None:
        """Take the connection from its transport, which has nothing unsent."""
        self._kept(KeptConnection(detach(transport), state, peer))

    def _completed(self, requests: list[HostRequest]) -> None:
        if self._has_ended:
            return  # of a volume that raised, and completed it all the same
        self._has_ended = True
        self.has_failed = requests[0].error != 0
        self._flushed()
