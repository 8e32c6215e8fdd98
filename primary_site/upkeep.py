"""Upkeep of a group's durable bitmaps: regions cool, what is acked is saved.

It makes restarts cheap; no cycle and no host waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from common.errors import StorageError
from primary_site.group_state import GroupState
from primary_site.volume import PrimaryVolume

if TYPE_CHECKING:
    from primary_site.group import ConsistencyGroup

ACKED_UNSAVED_BYTES = 16 << 20
"""Acked since the last save: so much has the next one begin, so that a restart in the
middle of a long drain goes on where it was, to within about one window of the link."""


class Upkeep:
    """Of one group; owned by its loop."""

    def __init__(self, group: ConsistencyGroup) -> None:
        self._group = group
        self.lock = asyncio.Lock()
        """Held while a volume is being seen to."""
        self.acked_unsaved = asyncio.Event()
        """Set when acked bits are worth being made durable: see `save_acked`."""
        self._acked_unsaved_bytes = 0

    async def tend(self) -> None:
        """Cool idle regions, save stale pages; end `full` once the bitmaps say all."""
        async with self.lock:
            await self._tend()

    async def _tend(self) -> None:
        for volume in self._group.volumes:
            if volume.failed is not None:
                return
            try:
                await volume.heat.cool_idle()
            except StorageError as error:
                self._group.volume_failed(error)
                return
            with contextlib.suppress(StorageError):  # the record's: hosts go on
                await self.end_full(volume)

    def note_acked(self, acked_bytes: int) -> None:
        """Count what was acked, until it is worth a save."""
        self._acked_unsaved_bytes += acked_bytes
        if self._acked_unsaved_bytes >= ACKED_UNSAVED_BYTES:
            self.acked_unsaved.set()

    async def save_acked(self) -> None:
        """Make durable what is acked: a restart needn't send, nor compare, it again."""
        self.acked_unsaved.clear()
        self._acked_unsaved_bytes = 0
        async with self.lock:
            for volume in self._group.volumes:
                if self._group.failed is not None:
                    return
                try:
                    await volume.heat.save_acked()
                except StorageError as error:
                    self._group.volume_failed(error)

    async def end_full(self, volume: PrimaryVolume) -> None:
        """Trust the durable bitmap, once it holds exactly what is not committed."""
        whole = volume.changes.whole or volume.changes.stale_pages
        saved = self._group.state.volumes.get(volume.name)
        if saved is None:  # it leaves the group just now
            return
        if whole or not (saved.full or saved.carried_from_bytes is not None):
            return

        def ended(state: GroupState) -> GroupState:
            if volume.name not in state.volumes:  # it has left meanwhile
                return state
            if volume.changes.whole:  # suspected anew while this waited for its turn
                return state
            saved = replace(
                state.volumes[volume.name],
                full=False,
                suspect=False,
                carried_from_bytes=None,
            )
            return state.with_volume(volume.name, saved)

        await self._group.change(ended)
