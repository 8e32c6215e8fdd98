"""The groups that a daemon sends: opened, replicated, asked and closed one by one.

A group may come and go while the daemon runs. Everything here is the main loop's;
what happens in a group happens on that group's own loop (`hosted_group.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from common.certificates import Certificate
from common.errors import RefusedError
from common.ports import Clock, Files, Threads
from common.replication.credentials import Credentials
from common.replication.link import Link
from common.service.added_volumes import AddedVolumes
from common.service.certificate_status import with_certificates
from common.service.config_primary import PrimaryGroup
from common.service.cycle_trace import Trace, no_trace
from common.service.reload import Commit
from common.service.runner import make_loop
from common.service.status import GroupStatus
from common.storage.threads import WorkerThreads
from primary_site.dialing import Dialer
from primary_site.exports import PrimaryExports
from primary_site.hosted_group import HostedGroup
from primary_site.live_config import followed
from primary_site.opening import check_group
from primary_site.operations import OPERATIONS
from primary_site.points_here import NO_POINTS, PointsHere
from primary_site.volume import PrimaryVolume

DEVICE_THREADS = 8
"""Calls that may block at once on one device: its queue depth, in a way."""

TLS_KEYS = ("group.link.tls.ca", "group.link.tls.cert", "group.link.tls.key")
"""What a reload applies: other files, but not whether there is TLS at all."""

log = structlog.get_logger()


def make_threads(name: str) -> Threads:
    return WorkerThreads(name, DEVICE_THREADS)


def read_credentials(config: PrimaryGroup) -> Credentials | None:
    """Read a group's certificates; None: it replicates in plain text. Blocks."""
    if config.link.tls is None:
        return None
    table = f"group[{config.name}].link.tls"
    return Credentials.read(config.link.tls.files(), table, is_server=False)


async def _nobody(address: str) -> Link:
    """Connect a group that has no link: that takes until it is stopped."""
    del address
    link: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    return await link


class SendingGroups:
    """`hosted` has those that are open now, by name; `exports` their volumes."""

    def __init__(self, site: str, config_path: str, clock: Clock) -> None:
        self.hosted: dict[str, HostedGroup] = {}
        self._volumes: dict[str, Sequence[PrimaryVolume]] = {}
        self.exports = PrimaryExports(self._volumes)
        self._site = site
        self.added = AddedVolumes(config_path)
        self._config_path = config_path
        self._clock = clock
        self._dialers: dict[str, Dialer] = {}
        self._newest: dict[str, PrimaryGroup] = {}
        """Configs of the last reload."""
        self._replicating: dict[str, asyncio.Task[None]] = {}
        self.when_gave_up: Callable[[str], Awaitable[None]] | None = None
        """Called once a group's sender has recorded that this site is to receive it."""
        self._watching: dict[str, asyncio.Task[None]] = {}
        self.trace: Trace = no_trace
        """Told of the cycles of groups that are opened from now on."""
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # -- one group ---------------------------------------------------------------------

    async def check(
        self, config: PrimaryGroup, state_directory: str, files: Files
    ) -> None:
        """Raise what `open` would for a mistake of the operator; change nothing."""
        await asyncio.to_thread(
            check_group, files, state_directory, config, self._config_path
        )
        await self._dial(config)

    async def _dial(self, config: PrimaryGroup) -> Dialer:
        credentials = await asyncio.to_thread(read_credentials, config)
        dialer = Dialer(config.link.peer, credentials, self._clock)
        self._dialers[config.name] = dialer
        return dialer

    async def open(
        self,
        config: PrimaryGroup,
        state_directory: str,
        files: Files,
        *,
        has_link: bool = True,
    ) -> HostedGroup:
        """Open a group, on a loop of its own, and serve its volumes from now on.

        Its state is below `state_directory`; `files` opens its devices, too. Nothing is
        sent before `replicate`; without a link nothing is, and changes are recorded.
        """
        assert config.name not in self.hosted
        newest = self._newest.get(config.name)
        config = followed(config, newest or config)
        dialer = self._dialers.get(config.name) or await self._dial(config)
        hosted = await HostedGroup.open(
            config,
            self._config_path,
            state_directory,
            self._site,
            files,
            make_threads,
            dialer.connect if has_link else _nobody,
            self._clock,
            make_loop,
        )
        hosted.trace_to(self.trace)
        self.hosted[config.name] = hosted
        self._volumes[config.name] = hosted.volumes
        since = self._newest.get(config.name)
        if since is not None and since is not newest:
            hosted.follow(since)  # a reload that came while it was opened
        return hosted

    def replicate(self, name: str) -> None:
        """Begin a group's cycles; they end with `stop` or `close`."""
        task = asyncio.create_task(
            self.hosted[name].replicate(), name=f"replicate {name}"
        )
        self._replicating[name] = task
        task.add_done_callback(self._ended)
        if self.when_gave_up is not None:
            watching = asyncio.create_task(
                self._watch_role(name, self.when_gave_up), name=f"role of {name}"
            )
            self._watching[name] = watching
            watching.add_done_callback(self._role_changed)

    def is_replicating(self, name: str) -> bool:
        return name in self._replicating

    async def _watch_role(
        self, name: str, gave_up: Callable[[str], Awaitable[None]]
    ) -> None:
        await self.hosted[name].gave_up()
        await gave_up(name)

    def _role_changed(self, task: asyncio.Task[None]) -> None:
        """An error that nobody expected ends the daemon; its next start goes on."""
        if not task.cancelled() and task.exception() is not None:
            self._ended(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Cycles end when they are told to: any other end is a bug of ours."""
        if task.cancelled() or self._failed.done():
            return
        error = task.exception() or RuntimeError(f"{task.get_name()} has ended")
        self._failed.set_exception(error)

    async def watch(self) -> None:
        """Raise what ends the cycles of any group; for ever, where nothing does."""
        await asyncio.shield(self._failed)

    async def add_volume(
        self, name: str, volume: str, points: PointsHere = NO_POINTS
    ) -> int:
        """Add a volume, as the config has it now, to a group; return its size.

        It is served on return. Raises `RefusedError`, `ConfigError`, or what its device
        is refused for: then nothing has changed.
        """
        found = await self.added.find(name)
        config = found.volume(volume)
        if config is None:
            text = self.added.absent_text(name, volume)
            raise RefusedError(f"{text}, and in the other site's config")
        hosted = self.sent(name)
        if all(each.name != volume for each in hosted.volumes):
            points.check_free(config)
            self.added.keep(found, {volume})
        size_bytes = await hosted.ask(lambda: hosted.members.add(found.sent, config))
        self._export(hosted)
        return size_bytes

    async def remove_volume(
        self,
        name: str,
        volume: str,
        cut_off: Callable[[str], Awaitable[None]],
        points: PointsHere = NO_POINTS,
    ) -> None:
        """Take a volume out of a group; its exports end before, by `cut_off`.

        Raises `RefusedError`: then nothing has changed, but that hosts were cut off.
        """
        hosted = self.sent(name)
        await hosted.ask(lambda: hosted.members.leaving(volume))
        self._volumes[name] = [v for v in hosted.volumes if v.name != volume]
        try:
            for export in (f"{name}/{volume}", f"{name}/{volume}@cut"):
                await cut_off(export)
            await hosted.ask(lambda: hosted.members.remove(volume, points.leaves))
        finally:
            self._export(hosted)

    def sent(self, name: str) -> HostedGroup:
        """Return a group; raises `RefusedError` where this site sends it no more."""
        hosted = self.hosted.get(name)
        if hosted is None:
            raise RefusedError(
                f"volume: this site receives group {name!r}; run the command at the "
                "sending site"
            )
        return hosted

    def _export(self, hosted: HostedGroup) -> None:
        """Export the volumes that a group has now, unless it was withdrawn."""
        name = hosted.name
        if name in self._volumes and self.hosted.get(name) is hosted:
            self._volumes[name] = hosted.volumes

    def withdraw(self, name: str) -> list[str]:
        """Export a group's volumes no more; return the names of its exports."""
        volumes = self._volumes.pop(name, [])
        names = [f"{name}/{volume.name}" for volume in volumes]
        return [*names, *(f"{each}@cut" for each in names)]

    async def close(self, name: str) -> None:
        """Stop a group in good order. Its hosts are gone, or were cut off."""
        hosted = self.hosted.pop(name)
        self._volumes.pop(name, None)
        watching = self._watching.get(name)
        # A change of roles closes what it has given up, and is under way until `stop`.
        if watching is not None and watching is not asyncio.current_task():
            del self._watching[name]
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        await self._stop(name)
        await hosted.close()

    async def _stop(self, name: str) -> None:
        task = self._replicating.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def end_hooks(self) -> None:
        """Let applications go that hooks hold, while hosts are still served."""
        await asyncio.gather(*(each.end_hooks() for each in self.hosted.values()))

    async def stop(self) -> None:
        """End all cycles, and changes of roles: no host is served any more."""
        watching = list(self._watching.values())
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await asyncio.gather(*(self._stop(name) for name in list(self._replicating)))

    async def close_all(self) -> None:
        """Close all groups at once; raises the first of what went wrong."""
        closed = await asyncio.gather(
            *(self.close(name) for name in list(self.hosted)), return_exceptions=True
        )
        for error in closed:
            if isinstance(error, BaseException):
                raise error

    # -- what operators ask ------------------------------------------------------------

    async def ask(self, command: str, name: str, arguments: dict[str, Any]) -> Any:
        """Carry out a command for a group that this site sends."""
        operation = OPERATIONS.get(command)
        if operation is None:
            raise RefusedError(
                f"{command}: this site sends group {name!r}; run the command at the "
                "receiving site"
            )
        hosted = self.hosted[name]
        return await hosted.ask(lambda: operation(hosted.replicator, **arguments))

    async def status(self, name: str) -> GroupStatus:
        """Return a group's status, with the certificates of its link."""
        dialer = self._dialers[name]
        own = None if dialer.credentials is None else dialer.credentials.own
        return with_certificates(
            await self.hosted[name].status(),
            own,
            dialer.peer_certificate,
            self._clock.now_ns(),
        )

    # -- what a reload changes ---------------------------------------------------------

    def prepare_following(self, configs: Sequence[PrimaryGroup]) -> Commit:
        """Have groups go on by `configs`, those that are opened later, too."""

        def commit() -> None:
            for new in configs:
                self._newest[new.name] = new
                if hosted := self.hosted.get(new.name):
                    hosted.follow(new)

        return commit

    async def prepare_credentials(self, configs: Sequence[PrimaryGroup]) -> Commit:
        """Read every group's files again, also where only their content is new."""
        found: dict[str, Credentials] = {}
        for config in configs:
            dialer = self._dialers.get(config.name)
            if dialer is None or dialer.credentials is None:
                continue  # its own restart is needed, and said
            credentials = await asyncio.to_thread(read_credentials, config)
            if credentials is not None:
                found[config.name] = credentials

        def commit() -> None:
            for name, credentials in found.items():
                self._dialers[name].credentials = credentials

        return commit

    def certificates(self) -> dict[str, Certificate]:
        """Return those in use, by what people call them."""
        found: dict[str, Certificate] = {}
        for name, dialer in self._dialers.items():
            if dialer.credentials is not None:
                found[dialer.credentials.cert_path] = dialer.credentials.own
            if dialer.peer_certificate is not None:
                found[f"the remote's of group {name}"] = dialer.peer_certificate
        return found
