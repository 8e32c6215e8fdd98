"""The volumes of a group as its record names them, opened at a start."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from common.ports import Files
from common.storage.flush_guard import FlushGuard
from remote_site.secondary import SecondaryVolume
from remote_site.secondary_device import open_device
from remote_site.store_state import StoreState


def open_volumes(
    files: Files,
    devices: Mapping[str, str],
    state: StoreState,
    guard: FlushGuard,
    undo: ExitStack,
) -> tuple[SecondaryVolume, ...]:
    """Open the devices of the volumes that a group's record names, in its order.

    Order: fdatasync of each, then memory forgets it. The crash it defends against: a
    power loss that takes back what a killed process left in the page cache.
    """
    volumes = []
    growing = state.growing or (0,) * len(state.volumes)
    has_hosts = state.takeover is not None and state.takeover.is_done
    for offer, growing_bytes, member in zip(
        state.volumes, growing, state.memberships, strict=True
    ):
        key = f"group {state.group!r}, volume {offer.name!r}"
        if member.has_left:
            key += f" (removed; points up to {member.last} have it)"
        path = member.device or devices[offer.name]
        device = open_device(
            files,
            path,
            offer.size_bytes,
            key,
            is_bound=True,
            growing_bytes=growing_bytes,
            may_be_longer=has_hosts,
        )
        volume = SecondaryVolume(offer, device, guard)
        undo.callback(volume.close)
        volume.is_unsynced = True  # by a process that was killed
        volume.datasync()
        device.drop_cache()
        volumes.append(volume)
    return tuple(volumes)
