"""The journals of a group: their files, names and headers.

Synchronous; everything may block and runs in threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from common.errors import CorruptStateError
from common.ports import Files
from common.replication.session_messages import VolumeOffer
from common.storage.flush_guard import FlushGuard
from common.storage.journal import Journal
from common.storage.journal_files import JournalPlace, index_path
from common.storage.journal_format import JournalHeader
from common.storage.journal_merge import JournalMerge, remove_journal
from common.storage.open_journals import OpenJournals
from remote_site.secondary import SecondaryVolume
from remote_site.store_state import Point, StoreState

JOURNAL_SUFFIX = ".journal"


class GroupJournals:
    """`directory` belongs to one group. Files: `VOLUME@POINT.journal[.index]`, and
    `VOLUME@POINT.GENERATION.journal` once others were merged into it."""

    def __init__(self, files: Files, directory: str, guard: FlushGuard) -> None:
        self._files = files
        self._directory = directory
        self._guard = guard
        self._opened = OpenJournals()

    def _header(
        self,
        group_id: bytes,
        offer: VolumeOffer,
        size_bytes: int,
        relation_id: bytes,
        number: int,
    ) -> JournalHeader:
        """`size_bytes`: of the volume at the point, which it may have outgrown."""
        return JournalHeader(
            group_id=group_id,
            volume_id=offer.volume_id,
            relation_id=relation_id,
            point_number=number,
            size_bytes=size_bytes,
            track_bytes=offer.track_bytes,
        )

    def _path(self, offer: VolumeOffer, number: int, generation: int = 0) -> str:
        # "@" is in no volume's name: no two volumes share a path.
        name = f"{offer.name}@{number}" + (f".{generation}" if generation else "")
        return f"{self._directory}/{name}{JOURNAL_SUFFIX}"

    def _place(self, path: str, header: JournalHeader) -> JournalPlace:
        return JournalPlace(self._files, path, header, self._guard, self._opened)

    def attach(
        self,
        state: StoreState,
        volumes: Sequence[SecondaryVolume],
        undo: ExitStack,
        record_path: str,
    ) -> None:
        """Open the journals that the record names and give them to their volumes.

        Of each volume those of the points that have it. The open ones are recovered,
        the finished ones only looked for. Raises `CorruptStateError`; changes nothing
        but torn tails.
        """
        if not state.points:
            return
        # Their names are durable: made so before any record has them.
        present = set(self._files.list(self._directory))
        for index, volume in enumerate(volumes):
            journals: list[Journal] = []
            for point, relation_id in zip(state.points, state.relations, strict=True):
                if not state.has(point.number, index):
                    continue
                header = self._header(
                    state.group_id,
                    volume.offer,
                    state.size_at(point, index),
                    relation_id,
                    point.number,
                )
                path = self._path(volume.offer, point.number, point.generation)
                if path.rpartition("/")[2] not in present:
                    raise CorruptStateError(
                        f"{path}: missing, but {record_path} names its point "
                        f"{point.number}; restore it, or start the group anew"
                    )
                make = Journal.recover if point is state.points[-1] else Journal
                journals.append(make(self._place(path, header)))
                undo.callback(journals[-1].close)
            volume.journals = tuple(journals)

    def create(
        self,
        group_id: bytes,
        volumes: Sequence[VolumeOffer],
        relation_id: bytes,
        number: int,
    ) -> list[Journal]:
        """Make the open journals of the next relation, and their names, durable.

        `volumes`: those that its point has, with the sizes that it has.
        """
        journals: list[Journal] = []
        try:
            for offer in volumes:
                header = self._header(
                    group_id, offer, offer.size_bytes, relation_id, number
                )
                place = self._place(self._path(offer, number), header)
                journals.append(Journal.create(place))
            self._guard.sync_directory(self._files, self._directory)
        except BaseException:
            for journal in journals:
                journal.close()
            raise
        return journals

    def remove_orphans(self, state: StoreState) -> None:
        """Delete journals that the durable record does not name.

        They were made for a commit whose record never landed, or their point was
        dropped and the deletion cut short.
        """
        named = {
            self._path(offer, point.number, point.generation)
            for index, offer in enumerate(state.volumes)
            for point in state.points
            if state.has(point.number, index)
        }
        named |= {index_path(path) for path in named}
        suffixes = (JOURNAL_SUFFIX, index_path(JOURNAL_SUFFIX))
        for name in self._files.list(self._directory):
            path = f"{self._directory}/{name}"
            if name.endswith(suffixes) and path not in named:
                self._files.remove(path)

    def remove(self, journal: Journal) -> None:
        """Delete a journal that the record no longer names; if that fails, the next
        start does it."""
        journal.close()
        remove_journal(self._files, journal.path)

    def merge(
        self,
        offer: VolumeOffer,
        into: Point,
        relation_id: bytes,
        sources: Sequence[Journal],
    ) -> JournalMerge:
        """Begin to merge journals of a volume, the first of them that of `into`."""
        header = replace(sources[0].header, relation_id=relation_id)
        assert header.point_number == into.number
        path = self._path(offer, into.number, into.generation + 1)
        return JournalMerge(self._place(path, header), sources)

    def sync_names(self) -> None:
        """Make the names of new journals durable."""
        self._guard.sync_directory(self._files, self._directory)
