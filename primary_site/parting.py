"""What a site that gives a group up has of it: read once its sending role is closed.

Synchronous; may block.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from common.ports import Files
from common.replication.session_messages import VolumeOffer
from common.storage.bitmap import Bitmap
from common.storage.bitmap_file import BitmapFile
from common.storage.geometry import Geometry
from common.storage.record import DurableRecord
from primary_site.group_state import (
    GroupState,
    VolumeState,
    from_record,
    with_grown_by,
)


@dataclass(frozen=True, slots=True)
class Parted:
    """`changed`: tracks of each volume that may differ from the newest point known.

    None: that is not known, for the group was not closed in good order.
    """

    state: GroupState
    volumes: tuple[VolumeOffer, ...]
    changed: Mapping[str, Bitmap] | None


def read_parted(files: Files, state_directory: str, group: str) -> Parted:
    """Read the durable state of a group that nobody sends any more."""
    directory = f"{state_directory}/groups/{group}"
    path = f"{directory}/group.record"
    stored = DurableRecord(path, files).load()
    assert stored is not None, "a group that was sent has a record"
    state = from_record(stored, path)
    changed: dict[str, Bitmap] = {}
    for name, volume in state.volumes.items():
        geometry = Geometry(volume.size_bytes, volume.track_bytes, volume.region_bytes)
        path = f"{directory}/{name}.changed"
        opened = BitmapFile.open(files, path, geometry.track_count)
        with closing(opened):
            bits = opened.load(when_damaged=True)
        changed[name] = with_grown_by(bits, geometry, volume)
    is_known = state.clean and all(map(_is_recorded, state.volumes.values()))
    return Parted(state, state.offers(), changed if is_known else None)


def _is_recorded(volume: VolumeState) -> bool:
    """Tell whether the durable bitmap says all that differs, but for what is new."""
    return not (volume.full or volume.suspect)
