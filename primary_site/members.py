"""Volumes that come to a group that is sent, and leave it: `farshore volume`.

    add       the remote is asked; then all that the volume needs on disk, then the
              record with the volume; one step on the loop; a new session, whose HELLO
              has it
    remove    hosts are gone; the record without the volume; one step on the loop; what
              is kept of it goes; a new session, whose HELLO has it no more

Both lie between two cycles, so that a cut has one set of volumes. Each step is durable
before the next begins; docs/internals/membership.md walks through a crash between any
two. What a remote makes of it is in `remote_site/enrolling.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from common.errors import (
    ConnectionLostError,
    RefusedError,
    StorageError,
)
from common.replication.features import MEMBERS
from common.replication.lineage import ID_BYTES
from common.replication.session_messages import VOLUMES_MAX, VolumeOffer
from common.service.config_primary import PrimaryGroup
from common.service.config_primary import PrimaryVolume as ConfiguredVolume
from common.storage.geometry import Geometry
from primary_site.adding import (
    close_opened,
    look_at_device,
    open_added,
    remove_leavings,
    remove_targets,
)
from primary_site.group_state import COPYING, GroupState, VolumeState
from primary_site.growing import find_volume
from primary_site.opening import OpenedVolume
from primary_site.replicator import Replicator
from primary_site.session import SendingSession
from primary_site.superseded import follow_role
from primary_site.volume import PrimaryVolume

SESSION_SECONDS = 5.0
"""An operator's next command finds a link, if there is one so soon."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Leaving:
    """What an operator is told before a volume leaves its group."""

    volume: str
    size_bytes: int
    device: str
    is_joining: bool


def why_not_add(state: GroupState, name: str) -> str:
    """Return why a volume can't be added to a group in this state; empty: it can.

    Pure.
    """
    if name in state.volumes:
        return f"group {state.group} has volume {name} already"
    if state.committed_number is None:
        return (
            f"group {state.group} has no recovery point yet: wait for the first one, "
            "see farshore status"
        )
    if len(state.volumes) >= VOLUMES_MAX:
        return f"a group has at most {VOLUMES_MAX} volumes"
    return ""


def why_not_remove(state: GroupState, name: str) -> str:
    """Return why a volume can't leave a group in this state; empty: it can. Pure."""
    if name not in state.volumes:
        known = ", ".join(state.volumes)
        return f"group {state.group} has no volume {name!r}; it has: {known}"
    if len(state.volumes) == 1:
        return (
            f"{name} is the only volume of group {state.group}: a group has one at "
            "least; farshore forget gives a group up"
        )
    if state.volumes[name].growing_bytes is not None:
        return f"{name} is growing: try again in a moment"
    return ""


def with_added(
    state: GroupState, name: str, volume_id: bytes, opened: OpenedVolume
) -> GroupState:
    """Return the state with a volume more, of which nothing is copied yet. Pure but
    for the device's identity."""
    geometry = opened.geometry
    saved = VolumeState(
        volume_id,
        geometry.size_bytes,
        geometry.track_bytes,
        geometry.region_bytes,
        identity=opened.device.identity(),
        joining=COPYING,
    )
    return state.with_volume(name, saved)


def without(state: GroupState, name: str) -> GroupState:
    """Return the state without a volume. Pure."""
    left = {n: saved for n, saved in state.volumes.items() if n != name}
    return replace(state, volumes=left)


class GroupMembers:
    """Of one group; everything on its loop."""

    def __init__(
        self, replicator: Replicator, state_directory: str, config_path: str
    ) -> None:
        group = replicator.group
        self._replicator = replicator
        self._group = group
        self._config_path = config_path
        self._directory = f"{state_directory}/groups/{group.name}"
        self._changing = asyncio.Lock()
        self._log = log.bind(group=group.name)

    # -- adding ------------------------------------------------------------------------

    async def add(self, config: PrimaryGroup, volume: ConfiguredVolume) -> int:
        """Add a volume, as its config says; it is served on return. Returns its size.

        Raises `RefusedError`, or what its device is refused for: then nothing has
        changed.
        """
        async with self._changing:
            session = self._session("add volumes to")
            self._check(why_not_add(self._group.state, volume.name))
            threads, files = self._group.state_threads, self._group.files
            geometry = await threads.run(
                look_at_device, files, config, volume, self._config_path
            )
            volume_id = secrets.token_bytes(ID_BYTES)
            await self._ask_remote(session, volume.name, volume_id, geometry)
            await self._replicator.cycles.reshaping.run(
                f"volume {volume.name} comes",
                lambda: self._add(config, volume, volume_id),
            )
            await self._met_again()
        size_bytes = geometry.size_bytes
        self._log.info("volume_added", volume=volume.name, size_bytes=size_bytes)
        return size_bytes

    async def _ask_remote(
        self, session: SendingSession, name: str, volume_id: bytes, geometry: Geometry
    ) -> None:
        offer = VolumeOffer(name, volume_id, geometry.size_bytes, geometry.track_bytes)
        try:
            why_not = await session.offer_volume(offer)
        except (TimeoutError, ConnectionLostError) as error:
            raise RefusedError(
                f"the remote of group {self._group.name} does not answer: try again"
            ) from error
        self._check(why_not)

    async def _add(
        self, config: PrimaryGroup, volume: ConfiguredVolume, volume_id: bytes
    ) -> None:
        """Add a volume between two cycles.

        Order: device, region log and bitmaps, durable, with their names (`open_added`);
        then the record with the volume; only then may hosts write to it, and the remote
        hear of it. The crash it defends against: a host's write that a restart does not
        know of; a remote with a volume that this site has forgotten.
        """
        group = self._group
        self._replicator.check_may_reshape()  # it waited for its turn
        self._check(why_not_add(group.state, volume.name))
        opened = await group.state_threads.run(
            open_added, group.files, self._directory, config, volume, self._config_path
        )
        try:
            await group.change(
                lambda state: with_added(state, volume.name, volume_id, opened)
            )
        except StorageError:
            close_opened(opened)
            raise
        group.come(group.make_volume(opened, volume.hot_regions_max))
        follow_role(group)  # the remote may have taken over meanwhile
        self._replicator.begin_anew()

    # -- removing ----------------------------------------------------------------------

    async def leaving(self, name: str) -> Leaving:
        """Return what `remove` would take out of the group; raises `RefusedError`."""
        self._session("remove volumes from")
        self._check(why_not_remove(self._group.state, name))
        saved = self._group.state.volumes[name]
        volume = find_volume(self._group, name)
        is_joining = saved.joining is not None
        return Leaving(name, saved.size_bytes, volume.device.path, is_joining)

    async def remove(self, name: str, leaves: Callable[[str], None]) -> None:
        """Take a volume out of the group. Its hosts are gone, its export as well.

        `leaves` is told of it, in a thread, before the record: what has points of the
        volume here keeps them. Raises `RefusedError`: then nothing has changed.
        """
        async with self._changing:
            await self.leaving(name)
            await self._replicator.cycles.reshaping.run(
                f"volume {name} leaves", lambda: self._remove(name, leaves)
            )
            await self._met_again()
        self._log.info("volume_removed", volume=name)

    async def _remove(self, name: str, leaves: Callable[[str], None]) -> None:
        """Take a volume out between two cycles.

        Order: where its device is, for points of it that are kept here (`leaves`); the
        record without the volume; only then is anything of it let go of, and the remote
        told. The crashes it defends against: points of a device that no config names
        and no record; a record that names a volume whose change records are gone, so
        that what hosts wrote is forgotten; a remote that lets go of a volume which is
        still in the group.
        """
        group = self._group
        self._replicator.check_may_reshape()  # it waited for its turn
        self._check(why_not_remove(group.state, name))
        volume = find_volume(group, name)
        await volume.flush()  # a device that hangs hangs this, and nobody else
        await group.state_threads.run(leaves, name)
        await group.change(lambda state: without(state, name))
        group.leave(volume)
        await self._let_go(volume)
        self._replicator.begin_anew()

    async def _let_go(self, volume: PrimaryVolume) -> None:
        """Close all of a volume; what is kept of it goes, its device stays as it is."""
        group = self._group
        await group.let_go(volume)
        targets = f"{group.config.flashcopy.directory}/{group.name}"
        try:
            await group.state_threads.run(
                remove_leavings, group.files, self._directory, volume.name
            )
        except StorageError as error:  # gone with the next volume of that name
            self._log.warning("leavings_stay", volume=volume.name, reason=str(error))
        await group.state_threads.run(remove_targets, group.files, targets, volume.name)

    # -- both --------------------------------------------------------------------------

    async def _met_again(self) -> None:
        """Wait for the session that knows, but not for long: it comes by itself."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SESSION_SECONDS):
                await self._replicator.met.wait()

    def _session(self, what: str) -> SendingSession:
        """Return the session; raises `RefusedError` where volumes can't change now."""
        name, replicator = self._group.name, self._replicator
        replicator.check_may_reshape()
        if self._group.failed is not None:
            raise RefusedError(f"group {name} has failed: {self._group.failed}")
        session = replicator.session
        if session is None:
            raise RefusedError(
                f"group {name} has no link to its remote now "
                f"({replicator.link_state}); see farshore status"
            )
        if MEMBERS not in session.features:
            raise RefusedError(
                f"the remote of group {name} runs a release that can't {what} a group; "
                "upgrade it first"
            )
        return session

    def _check(self, why_not: str) -> None:
        if why_not:
            raise RefusedError(why_not)
