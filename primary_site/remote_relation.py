"""The relation that the remote has open, and what is bound to it at the sending site.

What the remote has acknowledged, and that it still holds the last cut, is true of one
relation only. Another one, or an older copy of the remote, makes it worthless.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from common.storage.bitmap import Bitmap
from primary_site.changes import pages_with_bits
from primary_site.group_state import GroupState
from primary_site.joining import all_taken

if TYPE_CHECKING:
    from primary_site.group import ConsistencyGroup


class RemoteRelation:
    """As one group knows it; owned by its loop."""

    def __init__(self, group: ConsistencyGroup) -> None:
        self._group = group
        self._held: tuple[int, bytes] | None = None
        """The cycle completed last, and the relation that its commit opened."""

    def opened(self, number: int, relation_id: bytes) -> None:
        """The commit of a cycle has opened the relation, as the record says."""
        self._held = number, relation_id

    def progress_count(self) -> int:
        return max(volume.heat.progress_count for volume in self._group.volumes)

    def held_cycle(self) -> int | None:
        """Return the cycle whose cut the remote holds, unchanged but by the next one.

        Known only of a cycle completed here, in the relation that it opened.
        """
        if self._held is None or self._held[1] != self._group.state.relation_id:
            return None
        return self._held[0]

    def note_progress(self, count: int) -> None:
        """The remote's progress count, durable there; call it before `ack`."""
        for volume in self._group.volumes:
            volume.heat.progress_count = max(volume.heat.progress_count, count)

    def tag_acked(self, tag: bytes) -> None:
        """Have durable acked bits saved under this tag, which the record names."""
        for volume in self._group.volumes:
            volume.heat.acked_tag = tag
            volume.heat.progress_count = 0

    def retag_acked(self, tag: bytes) -> None:
        """Have what is acked saved anew, under a tag that the record names already.

        The relation is the same, and so is the progress count that acked bits rely on.
        """
        for volume in self._group.volumes:
            volume.heat.acked_tag = tag
            volume.heat.dirty_acked_pages |= pages_with_bits(volume.changes.acked)

    async def adopt(self, relation_id: bytes) -> None:
        """Bind acked bits to the remote's relation; those of another are worthless."""
        if self._group.state.relation_id == relation_id:
            return
        for volume in self._group.volumes:
            volume.preserver.drop_base()
            volume.changes.forget_acked()
        self.tag_acked(relation_id)
        await self._group.update(relation_id=relation_id, acked_tag=relation_id)

    async def doubt_acked(self) -> None:
        """The remote is an older copy of itself: compare what it had acknowledged.

        Order: the record names another tag, durably, before anything is acknowledged
        anew. The crash it defends against: acked bits of before, found on disk again
        when the remote has counted up to where it once was.
        """
        for volume in self._group.volumes:
            volume.changes.doubt_acked()
        tag = secrets.token_bytes(16)
        self.tag_acked(tag)
        await self._group.update(acked_tag=tag)

    async def suspect_everything(
        self,
        number: int | None,
        cycle_id: bytes,
        cut_ns: int | None,
        as_of_ns: int | None,
    ) -> None:
        """The remote does not hold the point this side relied on: compare all.

        Order: the record says so, durably, before any cycle may clear a bit. What
        the remote does hold becomes the newest point known here: relative to any
        point all tracks are carried, and the next session need not begin anew.
        """
        if self._group.cut is not None:
            self._group.abandon_cycle()
        self._held = None
        tag = secrets.token_bytes(16)
        self.tag_acked(tag)
        for volume in self._group.volumes:
            everything = Bitmap.full(volume.geometry.track_count)
            volume.changes.forget_acked()
            volume.changes.carry(everything)
            volume.changes.held_back = None
            volume.changes.suspect = everything
            volume.changes.whole = True

        def suspected(state: GroupState) -> GroupState:
            state = all_taken(state, state.volumes)
            for name, saved in state.volumes.items():
                state = state.with_volume(name, replace(saved, full=True, suspect=True))
            return replace(
                state,
                committed_number=number,
                committed_cycle_id=cycle_id,
                committed_cut_ns=cut_ns,
                committed_label=None,
                current_as_of_ns=as_of_ns,
                acked_tag=tag,
            )

        await self._group.change(suspected)
