"""A primary that has lost its state takes up where the other site knows it to be.

Where the other site receives, it becomes the sender that this one has last met, with
every track suspected: nothing of the devices is trusted, all of it is compared by
hashes, and what differs is sent with the next cycle. Where the other site has taken
over, it becomes one that was superseded by that, and knows nothing of what it has
changed: an operator's failback compares every track. Recovery points stay.
"""

from __future__ import annotations

from contextlib import ExitStack

from common.errors import RefusedError, StateMismatchError
from common.ports import Files
from common.replication.lineage import CycleName, Fork, ToldFork
from common.service.config_primary import PrimaryConfig, PrimaryGroup
from common.service.group_identity import GroupIdentity, ServedIdentity, VolumeIdentity
from common.service.site_record import open_state_directory
from common.storage.record import DurableRecord
from primary_site.group_state import GroupState, VolumeState, to_record
from primary_site.volume_devices import create_device

RECORD_NAME = "group.record"


def adopt(
    files: Files, config: PrimaryConfig, group: PrimaryGroup, found: GroupIdentity
) -> None:
    """Write the record of a group that has none, durably. The daemon has to be down.

    Order: every check, then devices that a new site in place of a lost one has not yet,
    their names durable, then the one record, whole when it has its name. A crash leaves
    a group with a state or without one, as it was; adopting again finds its devices.

    Raises `RefusedError` where there is a state already, `StateMismatchError` where the
    identity is of something else, `DeviceBusyError` where the daemon runs.
    """
    state = _state(config, group, found)
    site = config.site
    with ExitStack() as stack:
        held = open_state_directory(files, site.state_directory, "primary", site.name)
        stack.callback(held.lock.close)
        directory = f"{site.state_directory}/groups/{group.name}"
        record = DurableRecord(f"{directory}/{RECORD_NAME}", files)
        if record.load() is not None:
            raise RefusedError(
                f"{directory}/{RECORD_NAME} has the state of group {group.name} "
                f"already; farshore forget {group.name} --config FILE gives it up"
            )
        for volume in found.volumes:
            path = _device(group, volume)
            if found.served is None:
                _check_device(files, path, volume)
            else:
                _find_or_make_device(files, path, volume)
        files.make_directory(directory)
        record.store(to_record(state))


def _device(group: PrimaryGroup, volume: VolumeIdentity) -> str:
    return next(each.device for each in group.volumes if each.name == volume.name)


def _find_or_make_device(files: Files, path: str, volume: VolumeIdentity) -> None:
    """Check a device that is there, and make one that is not; its name is durable.

    A try that was cut short leaves an empty file, or one whose name is not durable.
    """
    if files.exists(path):
        size, is_block_device = _looked_at(files, path)
        if size or is_block_device:
            _check_device(files, path, volume)
        if is_block_device:
            return
    else:
        size = 0
    if not size:
        create_device(files, path, volume.size_bytes).close()
    files.sync_directory(path.rpartition("/")[0] or "/")


def _looked_at(files: Files, path: str) -> tuple[int, bool]:
    """Return (bytes, is a block device)."""
    device = files.open(path, read_only=True, lock=True)
    try:
        return device.size(), device.is_block_device
    finally:
        device.close()


def _check_device(files: Files, path: str, volume: VolumeIdentity) -> None:
    size, _ = _looked_at(files, path)
    if size < volume.size_bytes:
        raise StateMismatchError(
            f"device {path} of volume {volume.name} has {size} bytes, the remote's "
            f"points have {volume.size_bytes}; name the device that was replicated"
        )


def _state(
    config: PrimaryConfig, group: PrimaryGroup, found: GroupIdentity
) -> GroupState:
    for what, told, own in (
        ("group", found.group, group.name),
        ("primary", found.primary, config.site.name),
    ):
        if told != own:
            raise StateMismatchError(
                f"the identity has {what} {told!r}, the config {own!r}; take the "
                "identity that the remote tells of this group"
            )
    there = sorted(volume.name for volume in found.volumes)
    here = sorted(volume.name for volume in group.volumes)
    if there != here:
        raise StateMismatchError(
            f"group {group.name} has volumes {', '.join(there)} by the identity, "
            f"{', '.join(here)} by the config: have the config name those of the "
            "identity; farshore volume add brings others in later"
        )
    newest, point = found.begun or found.point, found.point
    # Of one that is to receive: the line that parted, for it was of that one.
    lineage = found.lineage if found.served is None else found.served.parent
    return GroupState(
        group=group.name,
        group_id=bytes.fromhex(found.group_id),
        lineage=bytes.fromhex(lineage),
        cycle_number=newest.number if newest else 0,
        cycle_id=bytes.fromhex(newest.id) if newest else b"",
        committed_number=point.number if point else None,
        committed_cycle_id=bytes.fromhex(point.id) if point else b"",
        committed_cut_ns=point.cut_ns if point else None,
        current_as_of_ns=point.current_as_of_ns if point else None,
        committed_label=point.label if point else None,
        epoch=found.epoch,
        receipt=bytes.fromhex(found.receipt),
        volumes={
            volume.name: VolumeState(
                volume_id=bytes.fromhex(volume.id),
                size_bytes=volume.size_bytes,
                track_bytes=volume.track_bytes,
                region_bytes=max(_region_bytes(group, volume), volume.track_bytes),
                suspect=True,
            )
            for volume in found.volumes
        },
        superseded=None if found.served is None else _told(found.served),
    )


def _told(served: ServedIdentity) -> ToldFork:
    """Return by what this site is superseded, and that it knows nothing else."""
    fork = Fork(
        bytes.fromhex(served.lineage),
        bytes.fromhex(served.parent),
        CycleName(served.point.number, bytes.fromhex(served.point.id)),
        served.cut_ns,
        served.at_ns,
    )
    return ToldFork(fork, is_known=False)


def _region_bytes(group: PrimaryGroup, volume: VolumeIdentity) -> int:
    return next(each.region_bytes for each in group.volumes if each.name == volume.name)
