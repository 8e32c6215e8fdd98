"""The remote daemon: composes stores, groups, the listener, NBD and control."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click
import structlog

from common.certificates import Certificate
from common.errors import RefusedError
from common.nbd.server import NbdServer
from common.replication.credentials import Credentials
from common.replication.stream import Address
from common.service.certificate_status import with_certificates
from common.service.certificate_watch import CertificateWatch
from common.service.clock import SystemClock
from common.service.config import load_remote
from common.service.config_nbd import NBD_TLS_KEYS, nbd_certificates
from common.service.config_remote import RemoteConfig, RemoteGroup
from common.service.control import ControlServer
from common.service.notify import notify_ready
from common.service.reload import Commit, Reloader
from common.service.runner import run, wait_for_stop
from common.service.site_record import SiteState, open_state_directory
from common.service.status import SiteStatus
from common.service.units import parse_bandwidth
from common.service.version import farshore_version
from common.storage.files import SystemFiles
from common.storage.threads import WorkerThreads
from remote_site.exports import RecoveryExports
from remote_site.group import ReceivingGroup
from remote_site.listener import ReplicationListener
from remote_site.report import group_status, points
from remote_site.store import GroupStore, StoreSettings

NAME = "farshore-remote"

TLS_KEYS = ("replication.tls.ca", "replication.tls.cert", "replication.tls.key")
"""What a reload applies: other files, but not whether there is TLS at all."""

THREADS_MAX = 16
"""Blocking calls of one group at once: an apply a volume, a flush, some readers."""


class RemoteDaemon:
    """One process at the receiving site."""

    def __init__(
        self, config: RemoteConfig, config_path: str, reload: asyncio.Event
    ) -> None:
        """`reload` is set to have the config read again."""
        self._config = config
        self._config_path = config_path
        self._reload = reload
        self.reloader = Reloader(config, self._load)
        self.reloader.register(TLS_KEYS, self._prepare_credentials)
        self._clock = SystemClock()
        self._files = SystemFiles()
        self._groups: dict[str, ReceivingGroup] = {}
        self._listener = ReplicationListener(self._groups, self._clock)
        self._threads: list[WorkerThreads] = []
        self._log = structlog.get_logger()

    async def serve(self, stop: asyncio.Event) -> None:
        """Open everything, serve until `stop`, close in order."""
        threads = self._new_threads("state", 1)
        site = self._config.site
        self._listener.credentials = await threads.run(read_credentials, self._config)
        state: SiteState = await threads.run(
            open_state_directory,
            self._files,
            site.state_directory,
            "remote",
            site.name,
        )
        try:
            for config in self._config.groups:
                self._groups[config.name] = await self._open_group(config)
            await self._serve_peers(stop)
        finally:
            for group in self._groups.values():
                await group.close()
            state.lock.close()
            for each in self._threads:
                each.close()

    async def _serve_peers(self, stop: asyncio.Event) -> None:
        """Serve; on the way out senders go first, then hosts, then operators."""
        listener = self._listener
        nbd = NbdServer(
            RecoveryExports(self._groups),
            self._config.nbd.limits.nbd_limits(),
            self._config.nbd.security(),
        )
        self.reloader.register(NBD_TLS_KEYS, nbd_certificates(nbd))
        control = ControlServer(self._config.site.control_socket, self._control)
        others = [
            asyncio.create_task(self.reloader.serve(self._reload)),
            asyncio.create_task(
                CertificateWatch(self._certificates, self._clock).run()
            ),
        ]
        try:
            await nbd.listen([str(address) for address in self._config.nbd.listen])
            await listener.listen(
                [
                    Address(address.host, address.port)
                    for address in self._config.replication.listen
                ]
            )
            # Last: who asks for the status and is answered finds the rest serving.
            await control.listen()
            notify_ready(f"receiving {len(self._groups)} groups")
            self._log.info(
                "daemon_started",
                site=self._config.site.name,
                nbd=nbd.addresses,
                replication_ports=listener.ports,
                encrypted=listener.credentials is not None,
            )
            await wait_for_stop(stop, others)
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await listener.stop_accepting()
            for group in self._groups.values():
                await group.end_sessions()
            await listener.close()
            await nbd.close()
            await control.close()
            self._log.info("daemon_stopped")

    async def _open_group(self, config: RemoteGroup) -> ReceivingGroup:
        site = self._config.site
        threads = self._new_threads(
            config.name, min(2 * len(config.volumes) + 2, THREADS_MAX)
        )
        settings = StoreSettings(
            group=config.name,
            state_directory=f"{site.state_directory}/groups/{config.name}",
            journal_directory=f"{config.journal.directory}/{config.name}",
            devices={volume.name: volume.device for volume in config.volumes},
            peer=config.peer,
            accept_existing=frozenset(
                volume.name for volume in config.volumes if volume.accept_existing
            ),
        )
        store = await GroupStore.open(self._files, threads, settings)
        newest = store.points[-1].number if store.points else None
        self._log.info("group_opened", group=config.name, newest_point=newest)
        group = ReceivingGroup(config, site.name, store, threads, self._clock)
        if config.scrub.schedule is not None:
            group.scrubbing.follow(config.scrub.schedule, config.scrub.rate_bytes)
        return group

    async def _load(self) -> RemoteConfig:
        return await asyncio.to_thread(load_remote, self._config_path)

    def _new_threads(self, name: str, count: int) -> WorkerThreads:
        threads = WorkerThreads(name, count)
        self._threads.append(threads)
        return threads

    # -- certificates ----------------------------------------------------------------

    async def _prepare_credentials(self, new: RemoteConfig) -> Commit:
        """Read the files again, also where only their content is new."""
        listener = self._listener
        found = listener.credentials
        if found is not None:  # else a restart is needed, and said
            found = await asyncio.to_thread(read_credentials, new) or found

        def commit() -> None:
            listener.credentials = found

        return commit

    def _certificates(self) -> dict[str, Certificate]:
        """Return those in use, by what people call them."""
        found: dict[str, Certificate] = {}
        own = self._listener.credentials
        if own is not None:
            found[own.cert_path] = own.own
        for name, group in self._groups.items():
            if group.peer_certificate is not None:
                found[f"the primary's of group {name}"] = group.peer_certificate
        return found

    # -- control ---------------------------------------------------------------------

    async def _control(self, command: str, arguments: dict[str, Any]) -> Any:
        match command:
            case "status":
                return self._status().to_json()
            case "points":
                group = self._group(arguments["group"])
                return [point.to_json() for point in points(group)]
            case "scrub":
                group = self._group(arguments.pop("group"))
                return await _scrub(group, **arguments)
            case _:
                self._group(arguments["group"])
                raise RefusedError(
                    f"{command}: this site receives group {arguments['group']!r}; run "
                    "the command at the sending site"
                )

    def _status(self) -> SiteStatus:
        now_ns = self._clock.now_ns()
        credentials = self._listener.credentials
        return SiteStatus(
            site=self._config.site.name,
            role="remote",
            version=farshore_version(),
            groups=tuple(
                with_certificates(
                    group_status(each, now_ns),
                    None if credentials is None else credentials.own,
                    each.peer_certificate,
                    now_ns,
                )
                for each in self._groups.values()
            ),
        )

    def _group(self, name: str) -> ReceivingGroup:
        group = self._groups.get(name)
        if group is None:
            known = ", ".join(self._groups)
            raise RefusedError(f"no group {name!r} here; this site has: {known}")
        return group


def read_credentials(config: RemoteConfig) -> Credentials | None:
    """Read this site's certificates; None: it receives plain text. Blocks."""
    tls = config.replication.tls
    if tls is None:
        return None
    return Credentials.read(tls.files(), "replication.tls", is_server=True)


async def _scrub(
    group: ReceivingGroup, *, action: str, rate: str
) -> dict[str, Any] | None:
    if action == "start":
        group.scrubbing.start(parse_bandwidth(rate))
    elif action == "stop":
        await group.scrubbing.stop()
    report = group.scrubbing.report()
    return None if report is None else report.to_json()


@click.command(name=NAME)
@click.option(
    "--config",
    "path",
    required=True,
    type=click.Path(dir_okay=False),
    help="The remote.toml of this site.",
)
@click.version_option(farshore_version(), prog_name=NAME)
def command(path: str) -> None:
    """Receive volumes from primary sites and serve their recovery points.

    Runs in the foreground until SIGTERM or SIGINT. SIGHUP has it read its config
    again.
    """

    reload = asyncio.Event()

    async def serve(stop: asyncio.Event) -> None:
        await RemoteDaemon(load_remote(path), path, reload).serve(stop)

    sys.exit(run(NAME, serve, reload))


def main() -> None:
    command()
