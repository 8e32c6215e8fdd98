"""What a start makes of volumes that have grown, or were about to. All blocking."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

import structlog

from common.errors import DeviceError, StateMismatchError, StorageError
from common.ports import File, FileIdentity
from common.replication.lineage import ID_BYTES
from common.service.config_primary import PrimaryGroup
from common.storage.extending import extend
from primary_site.group_state import GroupState, VolumeState

log = structlog.get_logger()


def check_known_device(
    device: File, configured_bytes: int | None, saved: VolumeState, key: str
) -> None:
    """Raise unless a device is, by its length, that of a volume of a group that ran.

    A file has exactly the size of its volume, or that which a growth cut short was
    giving it. A block device may be longer: it has to be before its volume can grow.
    Raises `StateMismatchError`, whatever the config says: device and state directory
    are of different times, or the device is another.
    """
    size = device.size()
    may_be_longer = device.is_block_device and size > saved.size_bytes
    if size not in {saved.size_bytes, saved.growing_bytes} and not may_be_longer:
        raise StateMismatchError(
            f"{key}: device {device.path} has {size} bytes, but the volume has "
            f"{saved.size_bytes} by the state directory: {_remedy(size, saved)}"
        )
    if configured_bytes is not None:
        _check_configured(configured_bytes, saved, key)


def _remedy(size_bytes: int, saved: VolumeState) -> str:
    """Return what to do about a device of another length than its volume.

    Never to set `size`: it is not asked of a volume that is known, and the length is
    what tells that device and state directory do not belong together.
    """
    of_one_time = "one of them is an older copy: put both back as of one time"
    if size_bytes < saved.size_bytes:
        return f"mend device if it is another one's; else {of_one_time}"
    return (
        f"if it was only made longer, cut it to {saved.size_bytes} bytes, for farshore "
        f"grow to make it longer; else {of_one_time}"
    )


def _check_configured(size_bytes: int, saved: VolumeState, key: str) -> None:
    """Raise `DeviceError` for a `size` above the volume's.

    One below it is only warned of, for the volume has most likely outgrown it, maybe
    while another site sent: it keeps the size it has.
    """
    if size_bytes in {saved.size_bytes, saved.growing_bytes}:
        return
    if size_bytes < saved.size_bytes:
        log.warning(
            "configured_size_outgrown",
            key=key,
            size_bytes=size_bytes,
            served_bytes=saved.size_bytes,
        )
        return
    raise DeviceError(
        f"{key}: size is {size_bytes} bytes, but the volume has {saved.size_bytes}; "
        "mend size, or leave it out: farshore grow makes a volume larger"
    )


def resume_growths(
    state: GroupState, config: PrimaryGroup, devices: Sequence[File | None]
) -> GroupState:
    """Return the state with every growth that was begun carried out, or dropped.

    Order: the devices here; then room for bitmaps, an fdatasync of the device, and
    the record, all before any host writes: as in a growth of a volume that is served.
    """
    for volume, device in zip(config.volumes, devices, strict=True):
        before = state.volumes[volume.name]
        saved = _resumed(config.name, volume.name, before, device)
        state = state.with_volume(volume.name, saved)
        if saved.size_bytes != before.size_bytes:
            # Of the last track the remote was sent a part: see `growing`.
            state = replace(state, acked_tag=secrets.token_bytes(ID_BYTES))
    return state


def _resumed(
    group: str, name: str, saved: VolumeState, device: File | None
) -> VolumeState:
    if saved.growing_bytes is None or device is None:
        return saved
    try:
        extend(device, saved.growing_bytes)
    except (DeviceError, StorageError) as error:
        log.warning("growth_dropped", group=group, volume=name, reason=str(error))
        return replace(saved, growing_bytes=None)
    size_bytes = saved.growing_bytes
    log.info("growth_resumed", group=group, volume=name, size_bytes=size_bytes)
    return saved.grown(saved.growing_bytes)


def known_identity(device: File, saved: VolumeState | None) -> FileIdentity:
    """Return a device's identity; a block device that became longer is the same one."""
    found = device.identity()
    before = None if saved is None else saved.identity
    if before is None or not device.is_block_device:
        return found
    if found.size_bytes > before.size_bytes:
        return replace(found, size_bytes=before.size_bytes)
    return found
