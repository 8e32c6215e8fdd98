"""A primary volume, made of its parts as a start has found them."""

from __future__ import annotations

from collections.abc import Callable

from common.errors import StorageError
from common.ports import Clock, Files, Threads
from primary_site.changes import VolumeChanges
from primary_site.gate import Gate
from primary_site.group_state import COPYING, GroupState
from primary_site.opening import OpenedVolume
from primary_site.preserving import Preserver
from primary_site.regions import RegionHeat
from primary_site.shared_flush import SharedFlush
from primary_site.volume import PrimaryVolume


def made_volume(
    opened: OpenedVolume,
    *,
    gate: Gate,
    state: GroupState,
    files: Files,
    threads: Threads,
    clock: Clock,
    targets: str,
    hot_regions_max: int,
    failed: Callable[[StorageError], None],
) -> PrimaryVolume:
    """Return a volume of the group whose gate and state these are.

    `targets`: the directory of the group's FlashCopy targets. `failed` is told of an
    error after which nothing of the volume may be trusted (I9).
    """
    changes = VolumeChanges(opened.geometry)
    changes.carry(opened.verdict.carried)
    changes.suspect = opened.verdict.suspect
    changes.acked = opened.verdict.acked
    saved = state.volumes[opened.name]
    changes.whole = saved.full or saved.carried_from_bytes is not None
    if saved.joining == COPYING:
        changes.hold_back()
    flush = SharedFlush(opened.device, threads, failed)
    heat = RegionHeat(
        opened.geometry,
        changes,
        opened.durable,
        flush,
        threads,
        hot_regions_max,
        failed,
    )
    heat.acked_tag = state.acked_tag
    preserver = Preserver(files, threads, targets, opened.name, opened.geometry)
    preserver.open()
    return PrimaryVolume(
        opened.name,
        opened.geometry,
        opened.device,
        threads,
        gate,
        changes,
        preserver,
        heat,
        flush,
        clock,
    )
