"""Page cache that a failed flush left behind is not what a restart goes by.

Linux calls pages clean whose write-back failed: reads go on showing them, the next
fdatasync says that all is well, and the disk never gets them. So whatever a start
reads has to be what a power loss right after it would leave.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from typing import Any

import pytest

from common.errors import StorageError
from common.storage.bitmap import Bitmap
from common.storage.bitmap_file import PAGE_BYTES, BitmapFile
from common.storage.record import DurableRecord
from common.storage.region_log import RegionLog
from remote_site.applier import apply_tracks
from remote_site.group_disk import GroupDisk
from tests.support.remote_store_group import (
    BINDING,
    DATA,
    SETTINGS,
    filled,
    make_files,
    tracks_of,
)
from tests.support.simulated_files import SimulatedFiles

BITS = 100


class Record:
    """A record of one number."""

    def __init__(self, files: SimulatedFiles) -> None:
        self._record = DurableRecord("/state/a.record", files)
        self.found: Any = self._record.load()

    def change(self, value: int) -> None:
        self._record.store({"value": value})


class Bits:
    """A durable bitmap with one bit set."""

    def __init__(self, files: SimulatedFiles) -> None:
        self._file = BitmapFile.open(files, "/state/a.changed", BITS)
        files.sync_directory("/state")
        self.found: Any = list(self._file.load(when_damaged=True).runs())

    def change(self, value: int) -> None:
        bitmap = Bitmap(BITS)
        bitmap.set(value)
        self._file.save({0: bytes(bitmap.data).ljust(PAGE_BYTES, b"\0")})
        self._file.datasync()


class Regions:
    """A region log with one more region hot."""

    def __init__(self, files: SimulatedFiles) -> None:
        self._log = RegionLog.open(files, "/state/a.regions")
        files.sync_directory("/state")
        self.found: Any = set(self._log.hot)

    def change(self, value: int) -> None:
        self._log.write([value], [])


class Secondary:
    """The device of a secondary volume, its first track written and flushed."""

    def __init__(self, files: SimulatedFiles) -> None:
        self._disk = GroupDisk(files, SETTINGS)
        self._disk.open()
        if self._disk.state is None:
            binding: Any = BINDING
            self._disk.bind(**binding)
        self.found: Any = self._disk.volumes[0].device.read(0, DATA.track_bytes)

    def change(self, value: int) -> None:
        apply_tracks(self._disk.volumes[0], [tracks_of(DATA, 0, filled(DATA, value))])
        self._disk.flush()


@pytest.mark.parametrize("kind", [Record, Bits, Regions, Secondary])
def test_what_a_start_reads_is_what_a_power_loss_after_it_leaves(
    kind: Callable[[SimulatedFiles], Any],
) -> None:
    files = make_files()
    files.make_directory("/state")
    kind(files).change(1)
    files = files.after_kill()
    running = kind(files)
    before = running.found
    files.inject = lambda operation, _path: (
        errno.EIO if operation == "datasync" else None
    )
    with pytest.raises(StorageError):
        running.change(2)
    restarted = files.after_kill()
    assert kind(restarted).found == before
    assert kind(restarted.crash_image(random.Random(0), "lost")).found == before
