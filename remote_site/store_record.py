"""A group's durable state: the record, and the catalogue of its older points.

Synchronous; one call at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from common.errors import StorageError
from common.ports import Files
from common.storage.flush_guard import FlushGuard
from common.storage.record import DurableRecord
from remote_site.point_catalogue import (
    NAME,
    CatalogueName,
    format_catalogue,
    read_catalogue,
    write_catalogue,
)
from remote_site.store_state import (
    Point,
    StoreState,
    from_record,
    to_record,
)

RECORD_NAME = "store"

TAIL_POINTS_MAX = 128
TAIL_BYTES_MAX = 24 << 10
"""Of the points in the record itself: it has 64 KiB, and volumes and names beside."""

TAIL_POINTS_LEFT = 8
"""Stay in the record when others are moved to a catalogue: what changes most."""

Named = tuple[Point, bytes]


class StoreRecord:
    """`load` once, then `store`. `failed`: which record the disk holds is unknown."""

    def __init__(self, files: Files, directory: str, guard: FlushGuard) -> None:
        self.path = f"{directory}/{RECORD_NAME}"
        self._files = files
        self._directory = directory
        self._guard = guard
        self._record = DurableRecord(self.path, files)
        self._name: CatalogueName | None = None
        self._catalogued: list[Named] = []
        self._sequence = 0
        self._points: tuple[Point, ...] | None = None
        """Of the last store: the first `_used` of them are in the catalogue."""
        self._used = 0

    @property
    def failed(self) -> StorageError | None:
        return self._record.failed

    def load(self) -> StoreState | None:
        """Return the newest state, or None if there is none; see `DurableRecord.load`.

        Raises `CorruptStateError`, `StateMismatchError`.
        """
        record = self._record.load()
        if record is None:
            return None
        values = record.get("catalogue")
        if values is not None:
            self._name = CatalogueName(*values)
            self._sequence = self._name.sequence
            self._catalogued = read_catalogue(
                self._files, self._directory, self._name, record["group_id"]
            )
        return from_record(record, self.path, self._catalogued)

    def store(self, state: StoreState) -> None:
        """Make a state durable.

        Order: a new catalogue if the old one does not hold or the record has no room,
        its fdatasync, its directory; then the record that names it; then the old one
        goes. The crash it defends against: a record whose older points are nowhere.
        """
        if state.points is not self._points:  # else as before: nothing to look at
            named = list(zip(state.points, state.relations, strict=True))
            used = self._still_true(named)
            if used is None or not _fits(named[used:]):
                self._replace_catalogue(state, named)
                return
            self._points, self._used = state.points, used
        name = self._name if self._used else None
        self._record.store(to_record(state, _values(name), self._used))

    def _still_true(self, named: Sequence[Named]) -> int | None:
        """Return how many of the points the catalogue has as they are; None: it has
        others among them, too. Points older than the first do not count."""
        if not named or not self._catalogued:
            return 0
        oldest, last = named[0][0].number, self._catalogued[-1][0].number
        here = [each for each in self._catalogued if each[0].number >= oldest]
        if not here or last > named[-1][0].number:
            return None if here else 0
        return len(here) if named[: len(here)] == here else None

    def _replace_catalogue(self, state: StoreState, named: list[Named]) -> None:
        count = 0 if _fits(named) else len(named) - TAIL_POINTS_LEFT
        old, name = self._name, None
        if count:
            self._sequence += 1
            name, data = format_catalogue(self._sequence, state.group_id, named[:count])
            write_catalogue(self._files, self._directory, name, data, self._guard)
        self._record.store(to_record(state, _values(name), count))
        self._name, self._catalogued = name, named[:count]
        self._points, self._used = state.points, count
        if old is not None:
            with suppress(StorageError):  # else the next start does it
                self._files.remove(f"{self._directory}/{old.file_name}")

    def remove_orphans(self) -> None:
        """Delete catalogues that the record does not name."""
        named = None if self._name is None else self._name.file_name
        for name in self._files.list(self._directory):
            if name.startswith(NAME) and name != named:
                self._files.remove(f"{self._directory}/{name}")


def _values(name: CatalogueName | None) -> list[int] | None:
    return None if name is None else name.values()


def _fits(tail: Sequence[Named]) -> bool:
    if len(tail) > TAIL_POINTS_MAX:
        return False
    # What a point takes in msgpack, at most.
    return (
        sum(
            100 + len((point.label or "").encode()) + 9 * len(point.sizes)
            for point, _ in tail
        )
        <= TAIL_BYTES_MAX
    )
