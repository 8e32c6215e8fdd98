"""Which volumes a receiving group takes: those of its config, which is read again.

A volume that a sender adds has to stand in the config of this site, too, with its
device. Nobody need restart or reload the daemon for it: the file is looked at when a
sender asks, or comes with a volume that is not known yet.
"""

from __future__ import annotations

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
from common.service.added_volumes import AddedVolumes
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
        self.added: AddedVolumes | None = None
        """Knows of more volumes than the config of the start; None: nobody does."""
        self._store = store

    async def learn(self, names: Sequence[str]) -> str:
        """Read the config again for volumes that the group does not have yet.

        Returns why it has none of that name, for an operator; empty if it has all.
        """
        current = {offer.name for offer in self._store.current}
        missing = [name for name in names if name not in current]
        if not missing:
            return ""
        if self.added is None:
            return self._fixed_text()
        name = self.config.name
        try:
            found = await self.added.find(name)
        except FarshoreError as error:
            return f"the remote's config can't be read again: {error}"
        self.added.keep(found, missing)
        known = {volume.name for volume in found.received.volumes}
        left = [each for each in missing if each not in known]
        volumes = self.added.to_received(self.config).volumes
        self._take(tuple(v for v in volumes if v.name not in left))
        if not left:
            return ""
        return self.added.absent_text(name, left[0], where=" at the remote")

    def take_added(self) -> None:
        """Know of the volumes that have come since the config was read."""
        if self.added is not None:
            self._take(self.added.to_received(self.config).volumes)

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
        return f"the remote's group {self.config.name!r} keeps the volumes it has"

    async def why_not(self, offer: OfferVolume) -> str:
        """Return why a volume can't come to the group, for an operator; empty: it can.

        Changes nothing but what is known of the config.
        """
        store = self._store
        if store.takeover is not None:
            return self._fixed_text()
        if store.is_divided:
            return (
                f"the remote has received no point of group {self.config.name!r} since "
                "it gave the group up: wait for the first one"
            )
        if offer.name in {each.name for each in store.current}:
            return f"the remote has {self.config.name}/{offer.name} already"
        if len(store.volumes) >= VOLUMES_MAX:
            return f"a group has at most {VOLUMES_MAX} volumes, removed ones included"
        for volume, member in store.enrolled:
            if volume.name == offer.name and any(
                member.has(point.number) for point in store.points
            ):
                return name_taken_text(self.config.name, offer.name, member)
        return (
            await self.learn([offer.name])
            or self._why_not_as_sent(offer)
            or await self._why_no_device(offer)
        )

    def _why_not_as_sent(self, offer: OfferVolume) -> str:
        """Return why this site could not send the volume, once it takes over."""
        sent = (
            None
            if self.added is None
            else self.added.sent(self.config.name, offer.name)
        )
        if sent is None or sent.track_bytes in {None, offer.track_bytes}:
            return ""
        return (
            f"{self.config.name}/{offer.name} has tracks of {offer.track_bytes} bytes, "
            f"and track_size is {sent.track_bytes} at the remote: mend it there, or "
            "leave it out"
        )

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
