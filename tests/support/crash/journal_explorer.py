"""A journal: what was appended is there, whole and nothing else, open or finished.

Recovery finds every run that an append had made durable, with the bytes it had, and
of the append under way all runs or none. So may one that found no room, and changed
nothing on the device, until the next is durable. A journal that was finished is read in
full, with its index, without it, and with one that a crash has damaged.
"""

from __future__ import annotations

from common.storage.flush_guard import FlushGuard
from common.storage.journal import Journal
from common.storage.journal_files import JournalPlace, index_path
from common.storage.journal_format import JournalHeader, OldRun
from tests.support.crash.disk import CrashDisk
from tests.support.crash.exploration import (
    Exploration,
    NothingToRecover,
    ViolationError,
)

DIRECTORY = "/journal"
PATH = "/journal/data@1.journal"
TRACK_BYTES = 4096
TRACKS = 40
APPENDS = 7

Old = dict[int, bytes]
"""Old content by track."""


class JournalExploration(Exploration):
    """Appends, power cuts, appends, the end of the journal, its index."""

    COMPONENT = "journal"

    def explore(self) -> None:
        disk = self.new_disk()
        disk.make_directory(DIRECTORY)
        self.header = JournalHeader(
            b"g" * 16,
            b"d" * 16,
            self.rng.randbytes(16),
            1,
            TRACKS * TRACK_BYTES - 1536,
            TRACK_BYTES,
        )
        self._is_named = self._is_finished = False
        self._durable: Old = {}
        self._under_way: list[Old] = []
        self.watch(disk)
        journal = Journal.create(JournalPlace(disk, PATH, self.header, FlushGuard()))
        disk.sync_directory(DIRECTORY)
        self._is_named = True
        self.promised()
        for _ in range(APPENDS):
            self._append(journal)
            if self.rng.random() < 0.35:
                journal = self._restarted(journal)
        journal.finish()
        self._is_finished = True
        self.promised()
        journal.seal()
        self.at_step("sealed", PATH)
        journal.close()

    def _append(self, journal: Journal) -> None:
        runs = self._runs()
        if not runs:
            return
        tracks = {t: old for run in runs for t, old in self._tracks(run)}
        self._under_way.append(tracks)
        self.promised()
        if self.rng.random() < 0.15 and self._interrupted(journal, runs):
            return
        journal.append(runs)
        self._durable |= tracks
        self._under_way = []
        self.promised()
        self.at_step("appended", PATH)

    def _interrupted(self, journal: Journal, runs: list[OldRun]) -> bool:
        """There was no room for the append; it is tried again, or power goes."""
        self.disk.inject = lambda operation, _: 28 if operation == "write" else None
        try:
            journal.append(runs)
        except Exception:  # noqa: BLE001 - whatever it raises, nothing is appended
            return self.rng.random() < 0.5
        finally:
            self.disk.inject = None
        raise ViolationError("an append without room succeeded")

    def _restarted(self, journal: Journal) -> Journal:
        journal.close()
        self.watch(self.some_power_cut())
        journal = Journal.recover(
            JournalPlace(self.disk, PATH, self.header, FlushGuard())
        )
        self._durable = self._found(journal)
        self._under_way = []
        self.promised()
        return journal

    def _runs(self) -> list[OldRun]:
        """Return a few runs of tracks that are not preserved yet."""
        free = [t for t in range(TRACKS) if t not in self._durable]
        runs: list[OldRun] = []
        for _ in range(self.rng.randint(1, 3)):
            if not free:
                break
            first = self.rng.choice(free)
            count = 1
            while count < 4 and first + count in free and self.rng.random() < 0.5:
                count += 1
            free = [t for t in free if not first <= t < first + count]
            runs.append(OldRun(first, count, self._content(first, count)))
        return sorted(runs, key=lambda run: run.first)

    def _content(self, first: int, count: int) -> bytes | None:
        length = self.header.run_bytes(first, count)
        kind = self.rng.random()
        if kind < 0.2:
            return None
        if kind < 0.6:  # much shorter when compressed
            return self.rng.randbytes(16).ljust(length, b"\1")
        return self.rng.randbytes(length)

    def _tracks(self, run: OldRun) -> list[tuple[int, bytes]]:
        length = self.header.run_bytes(run.first, run.count)
        data = bytes(length) if run.data is None else run.data
        return [
            (run.first + i, data[i * TRACK_BYTES : (i + 1) * TRACK_BYTES])
            for i in range(run.count)
        ]

    # -- recovery ----------------------------------------------------------------------

    def recover(self, disk: CrashDisk) -> None:
        if not self._is_named:
            raise NothingToRecover
        if self._is_finished:
            self._recover_finished(disk)
            return
        journal = Journal.recover(JournalPlace(disk, PATH, self.header, FlushGuard()))
        try:
            self._compare(journal)
        finally:
            journal.close()

    def _recover_finished(self, disk: CrashDisk) -> None:
        journal = Journal(JournalPlace(disk, PATH, self.header, FlushGuard()))
        try:
            self._compare(journal)
        finally:
            journal.close()

    def _compare(self, journal: Journal) -> None:
        found = self._found(journal)
        allowed = [self._durable, *(self._durable | new for new in self._under_way)]
        if found not in allowed:
            raise ViolationError(
                f"tracks {sorted(found)} are preserved, or not as they were; "
                f"appended were {sorted(self._durable)}"
            )

    def _found(self, journal: Journal) -> Old:
        found: Old = {}
        for entry in journal.find(0, TRACKS):
            for track, old in self._tracks(OldRun(*entry[:2], journal.read(entry))):
                if track in found:
                    raise ViolationError(f"track {track} is preserved twice")
                found[track] = old
        return found

    def go_on_from(self, disk: CrashDisk) -> None:
        """Append after the recovery, crashed in its turn; finish, and read that."""
        was = self._durable, self._under_way
        if self._is_finished or not self._is_named:
            return
        journal = Journal.recover(JournalPlace(disk, PATH, self.header, FlushGuard()))
        try:
            self._durable, self._under_way = self._found(journal), []
            self.promised()
            free = [t for t in range(TRACKS) if t not in self._durable]
            if free:
                run = OldRun(free[0], 1, None)
                self._under_way = [dict(self._tracks(run))]
                self.promised()
                journal.append([run])
                self._durable = self._durable | self._under_way[0]
                self._under_way = []
                self.promised()
            self._compare(journal)
            journal.finish()
            self._recover_finished(disk.after_kill())
            self._is_finished = True
            self.promised()
            journal.seal()
            if disk.exists(index_path(PATH)):
                self._recover_finished(disk.after_kill())
        finally:
            self._is_finished = False
            self._durable, self._under_way = was
            journal.close()
