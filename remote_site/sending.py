"""Groups that this site has taken over: it sends them now, with the sending role.

Beside `daemon` the one module here that knows both roles. What it gives the sending
role is the secondary devices, behind a file system that preserves what hosts overwrite.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import structlog

from common.errors import FarshoreError
from common.ports import Clock, Files
from common.replication.lineage import CycleName, Fork
from common.service.config_primary import PrimaryGroup
from common.service.config_roles import sending_group
from common.service.role_status import role_change
from common.service.status import GroupState, GroupStatus, LinkState, RoleStep
from common.storage.geometry import Geometry
from primary_site.sending_groups import SendingGroups
from primary_site.taking_over import SendingStart, StartingVolume, prepare_sending
from remote_site.group import ReceivingGroup
from remote_site.group_disk import GroupDisk
from remote_site.growing import begun_growth
from remote_site.preserving_device import (
    MakeRoom,
    PreservingDevice,
    PreservingFiles,
    no_room,
)
from remote_site.room_for_hosts import room_maker
from remote_site.store_state import StoreState, Takeover
from remote_site.takeover import GroupTakeover
from remote_site.takeover_disk import carried

log = structlog.get_logger()


def sending_directory(directory: str) -> str:
    """Return where the sending role keeps its state of a group kept in `directory`."""
    return f"{directory}/sending"


def sending_start(disk: GroupDisk, config: PrimaryGroup) -> SendingStart:
    """Return what a site sends with that has rolled its devices back. May block."""
    state = disk.state
    assert state is not None
    takeover = state.takeover
    assert takeover is not None
    fork = takeover.fork
    point = next(each for each in state.points if each.number == fork.cycle.number)
    regions = {volume.name: volume.region_bytes for volume in config.volumes}
    return SendingStart(
        group=state.group,
        group_id=state.group_id,
        lineage=fork.lineage,
        newest=_newest(state, takeover),
        point=fork.cycle,
        cut_ns=point.cut_ns,
        current_as_of_ns=point.current_as_of_ns,
        label=point.label,
        volumes=[
            StartingVolume(
                volume.offer.name,
                volume.offer.volume_id,
                _geometry(volume.geometry, regions[volume.offer.name]),
                carried(volume, fork.cycle.number),
                begun_growth(volume),
            )
            for volume in disk.members
        ],
    )


def _geometry(geometry: Geometry, region_bytes: int) -> Geometry:
    return replace(geometry, region_bytes=max(region_bytes, geometry.track_bytes))


def _newest(state: StoreState, takeover: Takeover) -> CycleName:
    """Return the newest cycle ever heard of here: no number is used again."""
    newest = state.points[-1] if state.points else None
    known = [takeover.fork.cycle]
    if newest is not None:
        known.append(CycleName(newest.number, newest.cycle_id))
    if state.begun is not None:
        known.append(state.begun)
    return max(known, key=lambda cycle: cycle.number)


def _sized_by_its_state(config: PrimaryGroup) -> PrimaryGroup:
    """Return a group whose volumes may have grown at the other site since."""
    volumes = tuple(
        volume.model_copy(update={"size_bytes": None}) for volume in config.volumes
    )
    return config.model_copy(update={"volumes": volumes})


def preserving_files(
    files: Files, disk: GroupDisk, make_room: MakeRoom = no_room
) -> PreservingFiles:
    """Return a file system whose secondary devices keep the points of before."""
    assert disk.state is not None
    paths = disk.settings.devices
    # One that has left, too: a removal that was cut short leaves it with its hosts.
    return PreservingFiles(
        files,
        {
            member.device or paths[volume.offer.name]: PreservingDevice(
                volume, make_room
            )
            for volume, member in zip(disk.volumes, disk.state.memberships, strict=True)
        },
    )


class TakenOverGroups:
    """The takeovers of a daemon's groups, by the group's name."""

    def __init__(self, sending: SendingGroups, clock: Clock) -> None:
        self.sending = sending
        self.takeovers: dict[str, GroupTakeover] = {}
        self._clock = clock
        self._has_link: dict[str, bool] = {}
        self._at_home: set[str] = set()
        """Groups that this site sends by its config: nothing is left to go back to."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def attach(
        self,
        group: ReceivingGroup,
        directory: str,
        files: Files,
        home: PrimaryGroup | None = None,
    ) -> GroupTakeover:
        """Make a group's takeover possible; one that was decided goes on by itself.

        `home`: how a site sends it that sent it at first, by the config that it was
        started with. Where it was taken over already, hosts may write once this
        returns. Raises what opening a group to be sent raises.
        """
        state_directory = sending_directory(directory)

        def config() -> PrimaryGroup:
            sent = home or sending_group(group.config)
            return _sized_by_its_state(self.sending.added.to_sent(sent))

        def prepare(disk: GroupDisk) -> None:
            prepare_sending(files, state_directory, sending_start(disk, config()))

        async def begin(group: ReceivingGroup) -> None:
            disk, takeover = group.store.disk, group.store.takeover
            assert takeover is not None
            hosted = await self.sending.open(
                config(),
                state_directory,
                preserving_files(files, disk, room_maker(group)),
                has_link=group.config.link is not None,
            )
            hosted.replicator.split_brain.taken_from = takeover.fork.parent
            self.sending.replicate(group.name)

        def handed_over(fork: Fork) -> str | None:
            if group.config.link is None:
                return (
                    f"group {group.name!r} can't be handed over: add [group.link] to "
                    "the remote's config, so that it can send, and restart it"
                )
            self._hand_over(group.name, fork)
            return None

        if home is not None:
            self._at_home.add(group.name)
        group.on_hand_over = handed_over
        self._has_link[group.name] = group.config.link is not None
        takeover = GroupTakeover(group, prepare, begin, self._clock)
        self.takeovers[group.name] = takeover
        if takeover.intent is not None:
            if takeover.intent.is_done:
                await takeover.serve_again()
            else:
                takeover.resume()
        return takeover

    def _hand_over(self, name: str, fork: Fork) -> None:
        """Take a group over as its sender asks; that ends the session that asked."""

        async def take_over() -> None:
            try:
                await self.takeovers[name].take_over(
                    fork.cycle.number,
                    force=True,
                    lineage=fork.lineage,
                    at_ns=fork.at_ns,
                )
            except FarshoreError as error:  # tried again, or asked again
                log.warning("hand_over_failed", group=name, reason=str(error))

        task = asyncio.create_task(take_over(), name=f"hand over {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what operators ask ------------------------------------------------------------

    async def ask(
        self, name: str, *, action: str, point: int | None, force: bool
    ) -> dict[str, Any]:
        """Answer `farshore takeover`: tell what it would do, or do it."""
        takeover = self.takeovers[name]
        if action == "plan":
            return takeover.plan(point, force=force).to_json()
        return (await takeover.take_over(point, force=force)).to_json()

    async def status(self, name: str) -> GroupStatus:
        """Return the status of a group that is sent, by what it does now.

        `taken_over` as long as the other site has never followed.
        """
        hosted = self.sending.hosted[name]  # it may be closed meanwhile
        status = await self.sending.status(name)
        state = hosted.replicator.group.state  # replaced as a whole
        # The other site has received in the line that this one began.
        is_followed = state.epoch > 0 and state.reclaimed is None
        intent = self.takeovers[name].intent
        is_over = is_followed and name in self._at_home
        if status.role_change is None and intent is not None and not is_over:
            changed = role_change(RoleStep.TAKEN_OVER, intent.fork)
            status = status.model_copy(update={"role_change": changed})
        if status.state is GroupState.DISCONNECTED and not is_followed:
            status = status.model_copy(update={"state": GroupState.TAKEN_OVER})
        if not self._has_link[name]:
            link = status.link.model_copy(update={"state": LinkState.DOWN})
            status = status.model_copy(update={"link": link})
        return status

    # -- the end -----------------------------------------------------------------------

    async def stop(self) -> None:
        """End takeovers between two steps, and all cycles: hosts are gone."""
        await self._stop_takeovers()
        await self.sending.stop()

    async def _stop_takeovers(self) -> None:
        for takeover in self.takeovers.values():
            await takeover.stop()

    async def close(self) -> None:
        """Close the groups that are sent, before their stores."""
        await self._stop_takeovers()
        await self.sending.close_all()
