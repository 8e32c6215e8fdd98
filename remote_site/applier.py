"""Apply received tracks to a secondary volume without harming its newest point.

Synchronous; runs in threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from common.replication.tracks import TrackRecord
from common.storage.bitmap import Bitmap
from common.storage.journal import Journal
from common.storage.journal_format import (
    BATCH_RAW_BYTES_MAX,
    BATCH_RECORDS_MAX,
    ZERO_TRACKS_MAX,
    OldRun,
)
from common.storage.zeroes import is_zero
from remote_site.bases import Run, Runs, resolve
from remote_site.secondary import SecondaryVolume

BEGUN_BYTES = 256 << 10
"""Of a run this long the disk begins with the writing at once, so that the flush that
acknowledges it finds little left to do. Of scattered tracks it would make many small
requests, which the flush orders and joins."""


def apply_tracks(volume: SecondaryVolume, records: Sequence[TrackRecord]) -> Runs:
    """Preserve what the records overwrite, then overwrite it.

    Returns the runs, ascending, that were not applied: the volume does not hold
    what their differences are relative to. They have to come whole.

    Order: old content into the journal, fdatasync, its index entries; only then the
    device. The crash it defends against: a power loss that keeps the new track and
    not the old one, which makes the newest point a mixture (I1). Readers of the
    point rely on the same order: an entry is visible before its track changes.

    Not durable on the device yet. Raises `StorageError`; the same call may be
    repeated later: what is preserved already is not preserved again. Raises
    `ProtocolError`, before anything is written, if a difference is not what it says.
    """
    with volume.lock:
        volume.guard.check()
        resolved = resolve(volume, records)
        records = resolved.records
        if volume.journals:
            _preserve(volume, volume.journals[-1], _united(records))
        for record in records:
            _overwrite(volume, record)
        return sorted(resolved.refused)


def preserve(volume: SecondaryVolume, runs: Iterable[Run]) -> None:
    """Preserve tracks (first, count) that are about to be overwritten by hosts.

    Runs ascend and do not overlap. Order: as in `apply_tracks`; the caller overwrites
    them only after this has returned. Raises `StorageError`; after lack of room the
    same call may be repeated.
    """
    with volume.lock:
        volume.guard.check()
        if volume.journals:
            _preserve(volume, volume.journals[-1], runs)


def _united(records: Iterable[TrackRecord]) -> Runs:
    return united((record.first, record.count) for record in records)


def united(found: Iterable[Run]) -> Runs:
    """Return runs of tracks as ascending ones that do not overlap."""
    runs: Runs = []
    for first, count in sorted(found):
        if runs and first <= sum(runs[-1]):
            start = runs[-1][0]
            runs[-1] = (start, max(sum(runs[-1]), first + count) - start)
        else:
            runs.append((first, count))
    return runs


def _preserve(
    volume: SecondaryVolume, journal: Journal, runs: Iterable[tuple[int, int]]
) -> None:
    preserved = journal.preserved
    assert preserved is not None
    pending: list[OldRun] = []
    pending_bytes = 0
    # What a volume has grown by since its newest point is no part of that point.
    end = journal.header.track_count
    for first, count in runs:
        for clear in _clear_runs(preserved, first, min(count, end - first)):
            for old in _old_runs(volume, journal, *clear):
                size = len(old.data) if old.data is not None else 0
                if (
                    pending_bytes + size > BATCH_RAW_BYTES_MAX
                    or len(pending) == BATCH_RECORDS_MAX
                ):
                    journal.append(pending)
                    pending, pending_bytes = [], 0
                pending.append(old)
                pending_bytes += size
    if pending:
        journal.append(pending)


def _clear_runs(bitmap: Bitmap, first: int, count: int) -> Iterator[tuple[int, int]]:
    end = first + count
    while (first := bitmap.next_clear(first, end)) < end:
        stop = bitmap.next_set(first, end)
        yield first, stop - first
        first = stop


def _old_runs(
    volume: SecondaryVolume, journal: Journal, first: int, count: int
) -> Iterator[OldRun]:
    """Yield the device's content; holes become records of zeroes, unread.

    A short run is read at once: asking for its holes would cost more. The last track
    of the journal's point may be cut where the volume has grown on.
    """
    geometry = journal.header.geometry
    if count <= journal.header.run_tracks_max:
        old = volume.device.read(*geometry.byte_range(first, count))
        yield OldRun(first, count, None if is_zero(old) else old)
        return
    for start, tracks, is_hole in volume.track_extents(first, count):
        step = ZERO_TRACKS_MAX if is_hole else journal.header.run_tracks_max
        for at in range(start, start + tracks, step):
            run = min(step, start + tracks - at)
            data = None
            if not is_hole:
                data = volume.device.read(*geometry.byte_range(at, run))
            yield OldRun(at, run, data)


def _overwrite(volume: SecondaryVolume, record: TrackRecord) -> None:
    """Write a record's tracks, and only then call the device unsynced.

    A flush that began before and finds it so takes care of what had been written,
    not of this: said earlier, the next flush would believe that nothing is left to
    do, and what is acknowledged could still be lost.
    """
    offset, length = volume.geometry.byte_range(record.first, record.count)
    try:
        if record.data is not None:
            assert len(record.data) == length
            volume.device.write(offset, record.data)
            if length >= BEGUN_BYTES:
                volume.device.begin_writing(offset, length)
            return
        for start, size, is_hole in volume.byte_extents(offset, length):
            if not is_hole:
                volume.device.write_zeroes(start, size, punch=True)
    finally:
        volume.is_unsynced = True  # a failed write may have changed something, too
