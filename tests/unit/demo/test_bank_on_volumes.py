"""The demo's own yardstick: SQLite on volumes survives a cut at any write."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.bank import DATABASE, JOURNAL, Bank
from demo.recovery_host import Recovered, judge
from demo.verdict import Disaster, Verdict
from demo.volume_vfs import HEADER_BYTES, VolumeVfs, database_bytes

DATA_BYTES = 4 << 20
LOG_BYTES = 1 << 20
TRANSFERS = 12

_names = itertools.count()


class MemoryVolume:
    """A volume that remembers every write to it, in the order of all volumes."""

    def __init__(
        self, name: str, size_bytes: int, writes: list[tuple[str, int, bytes]]
    ) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self.flushes = 0
        self._image = bytearray(size_bytes)
        self._writes = writes

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self._image[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self._image[offset : offset + len(data)] = data
        self._writes.append((self.name, offset, data))

    def flush(self) -> None:
        self.flushes += 1


class Workload:
    """A bank that has committed TRANSFERS transfers, and how it wrote them."""

    def __init__(self) -> None:
        self.writes: list[tuple[str, int, bytes]] = []
        self.data = MemoryVolume(DATABASE, DATA_BYTES, self.writes)
        self.log = MemoryVolume(JOURNAL, LOG_BYTES, self.writes)
        vfs = VolumeVfs(
            f"memory-{next(_names)}", {DATABASE: self.data, JOURNAL: self.log}
        )
        bank = Bank(vfs.name)
        bank.open()
        self.opened = len(self.writes)
        self.flushes_before = self.data.flushes
        for _ in range(TRANSFERS):
            bank.transfer()
        self.commits = bank.commits
        bank.stop()
        vfs.unregister()

    def recovered_after(self, count: int, directory: Path) -> Recovered:
        """Judge the volumes as they were after the first `count` writes."""
        images = {DATABASE: bytearray(DATA_BYTES), JOURNAL: bytearray(LOG_BYTES)}
        for name, offset, data in self.writes[:count]:
            images[name][offset : offset + len(data)] = data
        directory.mkdir()
        length = database_bytes(bytes(images[DATABASE][:HEADER_BYTES]))
        (directory / DATABASE).write_bytes(images[DATABASE][:length])
        (directory / JOURNAL).write_bytes(images[JOURNAL])
        return judge(directory, length)


@pytest.fixture(scope="module")
def workload() -> Iterator[Workload]:
    return Workload()


def test_a_cut_after_any_write_holds_a_prefix_of_the_transactions(
    workload: Workload, tmp_path: Path
) -> None:
    counts = range(workload.opened, len(workload.writes) + 1)
    found = [workload.recovered_after(n, tmp_path / str(n)) for n in counts]
    assert all(recovered.is_sound for recovered in found), found
    held = [recovered.held for recovered in found]
    assert held == sorted(held, key=int)
    assert held[0] == 0
    assert held[-1] == TRANSFERS
    assert any(recovered.was_hot for recovered in found)


def test_volumes_of_different_moments_are_found_out(
    workload: Workload, tmp_path: Path
) -> None:
    """A journal from before, data from amid: what a group's cut must prevent."""
    by_volume = [name for name, _, _ in workload.writes]
    last_data = len(by_volume) - by_volume[::-1].index(DATABASE)
    without_log = [
        write
        for n, write in enumerate(workload.writes[: last_data - 2])
        if n < workload.opened or write[0] == DATABASE
    ]
    torn = Workload.__new__(Workload)
    torn.writes = without_log
    assert not torn.recovered_after(len(without_log), tmp_path / "torn").is_sound


def test_every_commit_waits_for_flushes_of_the_data_volume(workload: Workload) -> None:
    assert workload.data.flushes - workload.flushes_before >= TRANSFERS


def verdict(held: int | str, *, integrity: str = "ok") -> Verdict:
    disaster = Disaster(
        cycle=8, committed=50, begun=51, promised=40, commits=(0.0,) * 50, moment=1.0
    )
    return Verdict(2, disaster, 7, Recovered(4096, False, integrity, held))


@pytest.mark.parametrize(
    ("held", "expected"), [(39, False), (40, True), (51, True), (52, False)]
)
def test_a_prefix_counts_if_it_is_no_older_than_the_rpo(
    held: int, expected: bool
) -> None:
    assert verdict(held).held is expected
    assert ("NOT HELD" in verdict(held).lines()[-1]) is not expected


def test_a_database_that_is_damaged_does_not_hold() -> None:
    assert not verdict(45, integrity="row 3 missing from index").held
    assert not verdict("transaction 4 is missing, 5 is there").held


def test_a_volume_without_a_database_is_empty() -> None:
    assert database_bytes(bytes(HEADER_BYTES)) == 0
