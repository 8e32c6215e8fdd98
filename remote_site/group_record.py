"""The record of a group: what is durable of it, and whose turn it is to change it.

Synchronous; may block, and runs in threads.
"""

from __future__ import annotations

import threading

from common.errors import ProtocolError
from common.ports import Files
from common.storage.flush_guard import FlushGuard
from remote_site.store_record import StoreRecord
from remote_site.store_state import StoreState


class GroupRecord:
    """`state` is replaced as a whole, and only once it is durable."""

    def __init__(self, files: Files, directory: str, guard: FlushGuard) -> None:
        self.state: StoreState | None = None
        self.lock = threading.Lock()
        """Held by whoever changes the record: one read-change-write at a time."""
        self._guard = guard
        self._record = StoreRecord(files, directory, guard)
        self.path = self._record.path

    def load(self) -> StoreState | None:
        """Return what the disk has, not shown yet; see `StoreRecord.load`."""
        return self._record.load()

    def store(self, state: StoreState) -> None:
        """Make the state durable, then visible."""
        self._guard.check()
        try:
            self._record.store(state)
        finally:
            # Which record the disk holds is unknown now: nothing may rely on it.
            self._guard.failed = self._guard.failed or self._record.failed
        self.state = state

    def known(self) -> StoreState:
        """Return the state, whatever the group does now."""
        assert self.state is not None, "the group is not bound yet"
        return self.state

    def bound(self) -> StoreState:
        """Return the state of a group that receives.

        Raises `ProtocolError` once the intent to take over is durable: whatever asks
        late has no effect any more (I8).
        """
        state = self.known()
        if state.takeover is not None:
            raise ProtocolError(
                f"group {state.group!r} was taken over here: it receives no more"
            )
        return state

    def remove_orphans(self) -> None:
        """Delete what no record names; see `StoreRecord.remove_orphans`."""
        self._record.remove_orphans()
