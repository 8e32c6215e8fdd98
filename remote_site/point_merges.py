"""Several points of a group made one: their journals merged, the record without them.

Synchronous; may block, and runs in threads. What is merged when: `history.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from common.storage.journal import Journal
from common.storage.journal_merge import JournalMerge
from remote_site.secondary import SecondaryVolume
from remote_site.store_state import StoreState

if TYPE_CHECKING:
    from remote_site.group_disk import GroupDisk


class PointMerges:
    """Of one group; between `merge_of` and `replace_merged` nothing of it is locked."""

    def __init__(self, disk: GroupDisk) -> None:
        self._disk = disk

    def merge_of(
        self, into: int, victims: Sequence[int]
    ) -> tuple[bytes, list[JournalMerge]] | None:
        """Return the relation and a merge for each volume, that make one point of
        several; None if they do not follow each other (any more)."""
        disk = self._disk
        with disk.record.lock:
            state = disk.record.known()
            if not _can_be_merged(state, into, victims):
                return None
            point = next(p for p in state.points if p.number == into)
            numbers = {into, *victims}
            relation_id = disk.new_identity()
            return relation_id, [
                disk.journals.merge(
                    volume.offer,
                    point,
                    relation_id,
                    [j for j in volume.journals if j.header.point_number in numbers],
                )
                for index, volume in enumerate(disk.volumes)
                if state.has(into, index)
            ]

    def replace_merged(
        self,
        into: int,
        victims: Sequence[int],
        relation_id: bytes,
        journals: Sequence[Journal],
    ) -> bool:
        """Put merged journals in the place of those they were made of.

        Order: the new journals, fdatasynced, and their directory; the record without
        the merged points, which names the new journals, fdatasync; only then readers
        get them, and once the last reader of the old ones has left, those are deleted.
        The crashes it defends against: a point whose journals are nowhere; one that
        shows what a later point overwrote.

        False, and nothing has changed, if one of the points is read or kept meanwhile
        or is not there any more.
        """
        disk, gone = self._disk, frozenset(victims)
        with disk.record.lock:
            disk.guard.check()
            state = disk.record.known()
            with disk.listed.leaving(gone) as is_free:
                if not is_free or not _can_be_merged(state, into, victims):
                    return False
                disk.journals.sync_names()
                size_bytes = sum(journal.size_bytes for journal in journals)
                disk.record.store(state.without(gone, into, size_bytes, relation_id))
                merged = {p.number: p for p in disk.record.known().points}
                disk.listed.replace(
                    [
                        merged.get(point.number, point)
                        for point in disk.points
                        if point.number not in gone
                    ]
                )
            by_volume = {journal.header.volume_id: journal for journal in journals}
            for volume in disk.volumes:
                merged_here = by_volume.get(volume.offer.volume_id)
                self._swap(volume, into, merged_here, gone)
            return True

    def _swap(
        self,
        volume: SecondaryVolume,
        into: int,
        merged: Journal | None,
        gone: frozenset[int],
    ) -> None:
        """`merged` is None where point `into` does not have the volume: then no point
        needs the journals of those that are gone."""
        old = [
            journal
            for journal in volume.journals
            if journal.header.point_number in gone
            or journal.header.point_number == into
        ]
        volume.journals = tuple(
            merged if merged and journal.header.point_number == into else journal
            for journal in volume.journals
            if journal.header.point_number not in gone
        )
        for journal in old:
            volume.leases.retire(partial(self._disk.journals.remove, journal))


def _can_be_merged(state: StoreState, into: int, victims: Sequence[int]) -> bool:
    """Tell whether these still follow `into`, nobody keeps them, and one is newer."""
    numbers = [point.number for point in state.points]
    if state.is_on_its_way_back:
        return False
    if into not in numbers or state.kept_numbers & set(victims):
        return False
    end = numbers.index(into) + 1 + len(victims)
    return numbers[end - 1 - len(victims) : end] == [into, *victims] and end < len(
        numbers
    )
