"""Opening a group at the start: devices, durable state, recovery. All blocking.

Everything is checked before anything is changed on disk, so that a mistake in
the config costs one sentence and nothing else.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import dataclass, replace

import structlog

from common.errors import DeviceError, StateMismatchError, StorageError
from common.ports import File, Files
from common.replication.lineage import ID_BYTES
from common.service.config_primary import PrimaryGroup, PrimaryVolume
from common.storage.bitmap_file import BitmapFile
from common.storage.geometry import Geometry, default_track_bytes
from common.storage.record import DurableRecord
from common.storage.region_log import RegionLog
from primary_site.durable_bitmaps import DurableBitmaps
from primary_site.group_state import (
    GroupState,
    Verdict,
    VolumeState,
    from_record,
    to_record,
    verdict,
)
from primary_site.growth_opening import (
    known_identity,
    resume_growths,
)
from primary_site.volume_devices import create_device, find_device, make_names_durable

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class OpenedVolume:
    name: str
    geometry: Geometry
    device: File
    durable: DurableBitmaps
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class OpenedGroup:
    state: GroupState
    record: DurableRecord
    volumes: list[OpenedVolume]


def open_group(
    files: Files, state_directory: str, config: PrimaryGroup, config_path: str
) -> OpenedGroup:
    """Open a group's devices and state, recovered; the record is marked unclean.

    Order: every check, then absent devices created, then the state loaded, then the
    names of devices that this or an earlier first start has made, durably, then the
    record with `clean` unset, durably, before any host can write: a crash at any
    later moment is known as one.
    """
    directory = f"{state_directory}/groups/{config.name}"
    path = f"{directory}/group.record"
    state = _load_state(files, path, config, config_path)
    config = _with_known_volumes(config, state)
    devices, geometries = _checked(files, state, config, config_path)
    if state is not None:
        state = resume_growths(state, config, devices)
        geometries = [
            replace(geometry, size_bytes=state.volumes[volume.name].size_bytes)
            for geometry, volume in zip(geometries, config.volumes, strict=True)
        ]
    files.make_directory(directory)
    volumes = [
        open_volume(
            files,
            directory,
            volume.name,
            geometry,
            device or create_device(files, volume.device, geometry.size_bytes),
            state,
            is_seeded=config.link.seed == "checksum",
        )
        for volume, geometry, device in zip(
            config.volumes, geometries, devices, strict=True
        )
    ]
    if state is None:
        make_names_durable(files, config.volumes)
    state = _begun(state, config.name, volumes)
    record = DurableRecord(path, files)
    record.load()
    record.store(to_record(state))
    return OpenedGroup(state, record, volumes)


def check_group(
    files: Files, state_directory: str, config: PrimaryGroup, config_path: str
) -> None:
    """Raise what `open_group` would for a mistake of the operator; change nothing.

    For all groups of a daemon, before the first of them is opened.
    """
    path = f"{state_directory}/groups/{config.name}/group.record"
    state = _load_state(files, path, config, config_path)
    config = _with_known_volumes(config, state)
    devices, _ = _checked(files, state, config, config_path)
    for device in devices:
        if device is not None:
            device.close()


def _checked(
    files: Files, state: GroupState | None, config: PrimaryGroup, config_path: str
) -> tuple[list[File | None], list[Geometry]]:
    """Return the devices that exist, open, and all geometries."""
    devices: list[File | None] = []
    try:
        devices.extend(
            find_device(
                files,
                volume,
                config,
                config_path,
                None if state is None else state.volumes[volume.name],
            )
            for volume in config.volumes
        )
        geometries = [
            new_geometry(device.size() if device else volume.size_bytes or 0, volume)
            if state is None
            else _known_geometry(state.volumes[volume.name], volume)
            for device, volume in zip(devices, config.volumes, strict=True)
        ]
        _check_geometries(state, config, geometries, config_path)
    except BaseException:
        for device in devices:
            if device is not None:
                device.close()
        raise
    return devices, geometries


def _load_state(
    files: Files, path: str, config: PrimaryGroup, config_path: str
) -> GroupState | None:
    if not files.exists(path):
        return None
    stored = DurableRecord(path, files).load()
    if stored is None:
        return None
    state = from_record(stored, path)
    names = {volume.name for volume in config.volumes}
    if state.group != config.name or not set(state.volumes) <= names:
        raise StateMismatchError(
            f"{config_path}: group {config.name!r} has volumes {sorted(names)}, but "
            f"{path} belongs to group {state.group!r} with volumes "
            f"{sorted(state.volumes)}; mend [[group.volume]] or name another "
            "site.state_dir"
        )
    return state


def _with_known_volumes(config: PrimaryGroup, state: GroupState | None) -> PrimaryGroup:
    """Return the config of the volumes that a group has.

    It may name more: one that is to be added, or that was removed.
    """
    if state is None:
        return config
    known = tuple(v for v in config.volumes if v.name in state.volumes)
    for volume in config.volumes:
        if volume not in known:
            log.warning("volume_not_in_group", group=config.name, volume=volume.name)
    return config.model_copy(update={"volumes": known})


def new_geometry(size_bytes: int, volume: PrimaryVolume) -> Geometry:
    track_bytes = volume.track_bytes or default_track_bytes(size_bytes)
    return Geometry(size_bytes, track_bytes, max(volume.region_bytes, track_bytes))


def _known_geometry(saved: VolumeState, volume: PrimaryVolume) -> Geometry:
    """Return what a group that ran has: the track size is fixed, also when it grows."""
    track_bytes = volume.track_bytes or saved.track_bytes
    region_bytes = max(volume.region_bytes, track_bytes)
    return Geometry(saved.size_bytes, track_bytes, region_bytes)


def _check_geometries(
    state: GroupState | None,
    config: PrimaryGroup,
    geometries: list[Geometry],
    config_path: str,
) -> None:
    if state is None:
        return
    for volume, geometry in zip(config.volumes, geometries, strict=True):
        saved = state.volumes[volume.name]
        for key, found, stored in (
            ("track_size", geometry.track_bytes, saved.track_bytes),
            ("region_size", geometry.region_bytes, saved.region_bytes),
        ):
            if found != stored:
                raise StateMismatchError(
                    f"{config_path}: group {config.name!r}, volume {volume.name!r}: "
                    f"{key} is {found} bytes, but the state directory has {stored}; "
                    f"set {key} back"
                )


def open_volume(
    files: Files,
    directory: str,
    name: str,
    geometry: Geometry,
    device: File,
    state: GroupState | None,
    *,
    is_seeded: bool,
) -> OpenedVolume:
    durable = _open_durable(files, directory, name, geometry)
    changed, acked, log = durable.changed, durable.acked, durable.log
    # The names of new files, too, must outlive a power loss.
    files.sync_directory(directory)
    if state is None or not state.clean:
        # What is compared and trusted from here on has to be what the disk has. At a
        # first start, too: one that was killed has left a size in memory only.
        device.datasync()
        device.drop_cache()
    saved = None if state is None else state.volumes[name]
    tag = bytes(ID_BYTES) if state is None else state.acked_tag
    found = verdict(
        geometry,
        saved,
        clean=state is not None and state.clean,
        identity=known_identity(device, saved),
        changed=changed.load(when_damaged=True),
        acked=acked.load(tag, when_damaged=False),
        hot={region for region in log.hot if region < geometry.region_count},
        has_committed=(
            state is not None
            and state.committed_number is not None
            and not (saved and saved.joining)
        ),
        is_seeded=is_seeded,
    )
    return OpenedVolume(name, geometry, device, durable, found)


def _open_durable(
    files: Files, directory: str, name: str, geometry: Geometry
) -> DurableBitmaps:
    """Open what hosts' writes wait for, with the room that it will ever need."""
    tracks = geometry.track_count
    with ExitStack() as undo:
        try:
            log = RegionLog.open(files, f"{directory}/{name}.regions")
            undo.callback(log.close)
            changed = BitmapFile.open(files, f"{directory}/{name}.changed", tracks)
            undo.callback(changed.close)
            acked = BitmapFile.open(files, f"{directory}/{name}.acked", tracks)
        except StorageError as error:
            if not error.is_out_of_space:
                raise
            raise DeviceError(
                f"{error}: its room is set aside at the start, so that hosts never "
                "want for it; make room there, or put site.state_dir elsewhere"
            ) from error
        undo.pop_all()
    return DurableBitmaps(changed, acked, log)


def _begun(
    state: GroupState | None, group: str, volumes: list[OpenedVolume]
) -> GroupState:
    if state is None:
        state = GroupState(
            group, secrets.token_bytes(ID_BYTES), secrets.token_bytes(ID_BYTES)
        )
    for opened in volumes:
        saved = state.volumes.get(opened.name) or VolumeState(
            secrets.token_bytes(ID_BYTES),
            opened.geometry.size_bytes,
            opened.geometry.track_bytes,
            opened.geometry.region_bytes,
        )
        state = state.with_volume(
            opened.name,
            replace(
                saved,
                full=opened.verdict.full,
                suspect=opened.verdict.altered,
                identity=opened.device.identity(),
            ),
        )
    return replace(state, clean=False)
