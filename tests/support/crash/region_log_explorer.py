"""The region log: what recovery finds hot is all that a write may have gone into.

Found hot are at least the regions that were hot before the transaction under way and
not cooled by it, and no others than those and the ones it heats: a log that calls
everything hot would be safe and useless. Areas are made small, so that the log
changes sides many times, and some transactions are longer than a block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from common.storage import region_log
from common.storage.region_log import NUMBERS_PER_BLOCK, RegionLog
from tests.support.crash.disk import CrashDisk
from tests.support.crash.exploration import (
    Exploration,
    NothingToRecover,
    ViolationError,
)

PATH = "/state/data.regions"
AREA_BLOCKS = 6
TRANSACTIONS = 14
REGIONS = 1400
"""A snapshot of most of them takes three of an area's blocks."""


@contextlib.contextmanager
def small_areas() -> Iterator[None]:
    """Make the areas of region logs small for a while."""
    was, region_log.AREA_BLOCKS = region_log.AREA_BLOCKS, AREA_BLOCKS
    try:
        yield
    finally:
        region_log.AREA_BLOCKS = was


class RegionLogExploration(Exploration):
    """Transactions, power cuts, transactions."""

    COMPONENT = "region_log"

    def explore(self) -> None:
        with small_areas():
            self._explore()

    def _explore(self) -> None:
        disk = self.new_disk()
        disk.make_directory("/state")
        self._is_named = False
        self._least: set[int] = set()
        self._most: set[int] = set()
        self.watch(disk)
        log = RegionLog.open(disk, PATH)
        disk.sync_directory("/state")
        self._is_named = True
        for _ in range(TRANSACTIONS):
            self._write(log)
            if self.rng.random() < 0.25:
                log.close()
                self.watch(self.some_power_cut())
                log = RegionLog.open(self.disk, PATH)
                self._least = self._most = set(log.hot)
                self.promised()

    def _write(self, log: RegionLog) -> None:
        hot = self._most
        count = self.rng.choice((1, 1, 2, 30, NUMBERS_PER_BLOCK + 20))
        heated = set(self.rng.sample(range(REGIONS), count))
        count = min(self.rng.choice((0, 0, 1, 20, 2000)), len(hot))
        cooled = set(self.rng.sample(sorted(hot), count)) - heated
        self._least, self._most = hot - cooled, hot | heated
        self.promised()
        log.write(heated, cooled)
        self._least = self._most = (hot - cooled) | heated
        self.promised()
        self.at_step("written", PATH)

    def recover(self, disk: CrashDisk) -> None:
        if not disk.exists(PATH):
            if self._is_named:
                raise ViolationError("the file is gone")
            raise NothingToRecover
        log = RegionLog.open(disk, PATH)
        log.close()
        if forgotten := self._least - log.hot:
            raise ViolationError(f"{len(forgotten)} hot regions are forgotten")
        if strange := log.hot - self._most:
            raise ViolationError(f"{len(strange)} regions are hot that never were")

    def go_on_from(self, disk: CrashDisk) -> None:
        """Heat and cool after the recovery, crashed in its turn."""
        was = self._least, self._most
        log = RegionLog.open(disk, PATH)
        hot = set(log.hot)
        heated = {self.cut_rng.randrange(REGIONS) for _ in range(3)}
        cooled = set(sorted(hot)[:1]) - heated
        try:
            self._least, self._most = hot - cooled, hot | heated
            self.promised()
            log.write(heated, cooled)
        finally:
            log.close()
            self._least, self._most = was
