"""What a snapshot of the region log leaves when power goes in the middle of it."""

from __future__ import annotations

import pytest

from common.storage import region_log
from common.storage.region_log import BLOCK_BYTES, RegionLog
from tests.support.simulated_files import SimulatedFiles

PATH = "/state/data.regions"
SECTOR_BYTES = 512


@pytest.fixture(autouse=True)
def small_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_log, "AREA_BLOCKS", 4)


def test_what_a_snapshot_cut_short_left_is_gone_before_anything_is_written() -> None:
    """Its first sector and the others of the next snapshot would make it whole again,
    and with it a hot set that lacks region 7, which hosts have written to since."""
    files = SimulatedFiles()
    files.make_directory("/state")
    RegionLog.open(files, PATH).write({7}, ())
    cooling = RegionLog.open(files, PATH)
    at = (1 - area_of(cooling)) * 4 * BLOCK_BYTES
    cooling.write({8}, {7})
    files.trash(PATH, at + SECTOR_BYTES, b"\xff" * (BLOCK_BYTES - SECTOR_BYTES))

    RegionLog.open(files, PATH)

    assert files.unflushed_sectors(PATH) == 0
    left = files.open(PATH).read(at, 4 * BLOCK_BYTES)
    assert left == bytes(4 * BLOCK_BYTES)


def area_of(log: RegionLog) -> int:
    return log._generation & 1
