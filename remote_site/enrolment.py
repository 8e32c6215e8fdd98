"""Which volumes a receiving group takes: those of its config, which is read again.

A volume that a sender adds has to stand in the config of this site, too, with its
device. Nobody need restart or reload the daemon for it: the file is looked at when a
sender asks, or comes with a volume that is not known yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import structlog

from common.errors import (
    DeviceBusyError,
    DeviceError,
    FarshoreError,
    StateMismatchError,
)
from common.replication.member_messages import OfferVolume
from common.replication.session_messages import (
    VOLUMES_MAX,
    Goodbye,
    GoodbyeReason,
    VolumeOffer,
    goodbye,
)
from common.service.config import load_remote
from common.service.config_remote import RemoteGroup, RemoteVolume
from remote_site.enrolling import name_taken_text
from remote_site.group_disk import GroupDisk
from remote_site.secondary_device import DeviceHoldsDataError, find_devices
from remote_site.store import GroupStore

log = structlog.get_logger()


class Enrolment:
    """Of one group; owned by the event loop. `config` has what is known by now."""

    def __init__(self, config: RemoteGroup, store: GroupStore) -> None:
        self.config = config
        self.config_path: str | None = None
        """The file that may name more volumes; None: this group's are fixed."""
        self._store = store

    async def learn(self, names: Sequence[str]) -> str:
        """Read the config again for volumes that the group does not have yet.

        Returns why it has none of that name, for an operator; empty if it has all.
        """
        current = {offer.name for offer in self._store.current}
        missing = [name for name in names if name not in current]
        if not missing:
            return ""
        if self.config_path is None:
            return self._fixed_text()
        try:
            loaded = await asyncio.to_thread(load_remote, self.config_path)
        except FarshoreError as error:
            return f"the remote's config can't be read again: {error}"
        groups = [group for group in loaded.groups if group.name == self.config.name]
        found = [v for g in groups for v in g.volumes if v.name in missing]
        kept = [v for v in self.config.volumes if v.name not in missing]
        self._take((*kept, *found))
        left = sorted(set(missing) - {volume.name for volume in found})
        if not left:
            return ""
        return (
            f"{self.config_path} at the remote has no [[group.volume]] with name = "
            f'"{left[0]}" in group "{self.config.name}": add it there, with its device'
        )

    def _take(self, volumes: tuple[RemoteVolume, ...]) -> None:
        self.config = self.config.model_copy(update={"volumes": volumes})
        disk = self._store.disk
        disk.settings = replace(
            disk.settings,
            devices={volume.name: volume.device for volume in self.config.volumes},
            accept_existing=frozenset(
                v.name for v in self.config.volumes if v.accept_existing
            ),
        )

    def _fixed_text(self) -> str:
        return (
            f"the remote's group {self.config.name!r} keeps the volumes it has: its "
            "roles were exchanged"
        )

    async def why_not(self, offer: OfferVolume) -> str:
        """Return why a volume can't come to the group, for an operator; empty: it can.

        Changes nothing but what is known of the config.
        """
        store = self._store
        if self.config_path is None or store.takeover is not None or store.is_divided:
            return self._fixed_text()
        if offer.name in {each.name for each in store.current}:
            return f"the remote has {self.config.name}/{offer.name} already"
        if len(store.volumes) >= VOLUMES_MAX:
            return f"a group has at most {VOLUMES_MAX} volumes, removed ones included"
        for volume, member in zip(store.volumes, store.memberships, strict=True):
            if volume.name == offer.name and any(
                member.has(point.number) for point in store.points
            ):
                return name_taken_text(self.config.name, offer.name, member)
        return await self.learn([offer.name]) or await self._why_no_device(offer)

    async def _why_no_device(self, offer: OfferVolume) -> str:
        shape = VolumeOffer(
            offer.name, offer.volume_id, offer.size_bytes, offer.track_bytes
        )
        try:
            await self._store.run_reader(partial(_look, self._store.disk, shape))
        except FarshoreError as error:
            return str(error)
        return ""

    async def change(self, volumes: tuple[VolumeOffer, ...]) -> Goodbye | None:
        """Have the volumes that a HELLO has, durably; return why not, if they can't be.

        Between two sessions.
        """
        try:
            change = await self._store.change_members(volumes)
        except DeviceHoldsDataError as error:
            return goodbye(GoodbyeReason.NOT_PERMITTED, str(error))
        except (StateMismatchError, DeviceError, DeviceBusyError) as error:
            return goodbye(GoodbyeReason.VOLUME_MISMATCH, str(error))
        if change:
            log.info(
                "volumes_changed",
                group=self.config.name,
                added=change.added,
                removed=change.removed,
                forgotten=change.forgotten,
            )
        return None


def _look(disk: GroupDisk, offer: VolumeOffer) -> None:
    """In a thread: raise what opening the device would."""
    key = f"the remote's group {disk.settings.group!r}"
    with ExitStack() as closed:
        find_devices(
            disk.files,
            disk.settings.devices,
            key,
            (offer,),
            disk.settings.accept_existing,
            closed,
        )
