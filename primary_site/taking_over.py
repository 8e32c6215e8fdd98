"""What a site that took over sends with: the state of a sender in mid-course.

Synchronous; everything blocks. Written in the sending role's own formats, so that
`open_group` finds a group that was killed, and goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.ports import Files
from common.replication.lineage import CycleName
from common.storage.bitmap import Bitmap
from common.storage.bitmap_file import PAGE_BYTES, BitmapFile
from common.storage.geometry import SECTOR_BYTES, Geometry
from common.storage.record import DurableRecord
from primary_site.group_state import GroupState, VolumeState, to_record

SMALLEST_BYTES = SECTOR_BYTES
"""What a volume began with, where that is not known: it may have grown before this
site took over, and a receiver that was put back to before that has to follow."""

PAGES_PER_SAVE = 256
"""Pages of a bitmap written at once: a megabyte."""


@dataclass(frozen=True, slots=True)
class StartingVolume:
    """`carried`: the tracks that a receiver with the common point may lack.

    `growing_bytes`: what its device is long already, where it was to follow a growth of
    the former sender's; the sending role finishes that as it opens.
    """

    name: str
    volume_id: bytes
    geometry: Geometry
    carried: Bitmap
    growing_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SendingStart:
    """Where a new lineage of a group begins.

    `newest`: the newest cycle that this site has ever heard of; numbers go on above
    it. `point`, `cut_ns`, `current_as_of_ns`, `label` are of the common point.
    """

    group: str
    group_id: bytes
    lineage: bytes
    newest: CycleName
    point: CycleName
    cut_ns: int
    current_as_of_ns: int
    label: str | None
    volumes: Sequence[StartingVolume]

    def state(self) -> GroupState:
        """Return the durable state of a sender that is about to begin.

        Not stopped cleanly: what is carried goes as hashes first, for much of it may
        be there already. With what size its volumes began nobody here knows: a smaller
        one of their id, at an older copy of the other site, was theirs all the same.
        """
        return GroupState(
            group=self.group,
            group_id=self.group_id,
            lineage=self.lineage,
            cycle_number=self.newest.number,
            cycle_id=self.newest.cycle_id,
            committed_number=self.point.number,
            committed_cycle_id=self.point.cycle_id,
            committed_cut_ns=self.cut_ns,
            current_as_of_ns=self.current_as_of_ns,
            committed_label=self.label,
            volumes={
                volume.name: VolumeState(
                    volume.volume_id,
                    volume.geometry.size_bytes,
                    volume.geometry.track_bytes,
                    volume.geometry.region_bytes,
                    full=False,
                    first_bytes=SMALLEST_BYTES,
                    growing_bytes=volume.growing_bytes,
                )
                for volume in self.volumes
            },
        )


def prepare_sending(files: Files, state_directory: str, start: SendingStart) -> None:
    """Write what `open_group` opens below `state_directory`, whole and durable.

    Order: what an earlier try left goes, the record first; the bitmaps, fdatasynced;
    their names; then the record with the identities. The caller records that hosts may
    write only after this has returned. The crash it defends against: a sender that
    begins with bitmaps of which a part is missing, or of another time at which this
    site was the sender.

    No host may have written in this lineage yet: what they changed would be forgotten.
    """
    directory = f"{state_directory}/groups/{start.group}"
    files.make_directory(directory)
    record_path = f"{directory}/group.record"
    left = files.list(directory)
    if files.exists(record_path):
        files.remove(record_path)
        files.sync_directory(directory)
    for name in left:
        if files.exists(f"{directory}/{name}"):
            files.remove(f"{directory}/{name}")
    for volume in start.volumes:
        _write_bitmap(files, f"{directory}/{volume.name}.changed", volume.carried)
    files.sync_directory(directory)
    record = DurableRecord(record_path, files)
    record.load()
    record.store(to_record(start.state()))


def _write_bitmap(files: Files, path: str, bits: Bitmap) -> None:
    opened = BitmapFile.open(files, path, bits.bit_count)
    try:
        pages = range(-(-len(bits.data) // PAGE_BYTES))
        for first in range(0, len(pages), PAGES_PER_SAVE):
            told = {
                page: bytes(bits.data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES])
                for page in pages[first : first + PAGES_PER_SAVE]
            }
            known = -(-bits.bit_count // (8 * PAGE_BYTES))
            opened.save({p: d for p, d in told.items() if p < known and any(d)})
        opened.datasync()
    finally:
        opened.close()
