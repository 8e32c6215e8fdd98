"""The files behind a volume's change records, and their orders. All blocking."""

from __future__ import annotations

from common.storage.bitmap_file import BitmapFile
from common.storage.region_log import RegionLog


class DurableBitmaps:
    """What hosts' writes and commits wait for, of one volume."""

    def __init__(self, changed: BitmapFile, acked: BitmapFile, log: RegionLog) -> None:
        self.changed = changed
        self.acked = acked
        self.log = log

    def save_pages(
        self,
        changed: dict[int, bytes],
        acked: dict[int, bytes],
        tag: bytes,
        progress_count: int,
    ) -> None:
        """Write pages and make them durable, both files, in one order."""
        self.changed.save(changed)
        self.acked.save(acked, tag, progress_count)
        self.changed.datasync()
        self.acked.datasync()

    def extend(self, track_count: int) -> None:
        """Make room for the pages of a larger volume, durably; the log needs none."""
        self.changed.extend(track_count)
        self.acked.extend(track_count)

    def close(self) -> None:
        for opened in (self.changed, self.acked, self.log):
            opened.close()
