"""The primary daemon: composes volumes, groups, NBD, replication and control."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any

import click
import structlog

from common.certificates import Certificate
from common.errors import RefusedError
from common.nbd.server import NbdServer
from common.ports import Threads
from common.replication.credentials import Credentials
from common.service.certificate_status import with_certificates
from common.service.certificate_watch import CertificateWatch
from common.service.clock import SystemClock
from common.service.config import load_primary
from common.service.config_nbd import NBD_TLS_KEYS, nbd_certificates
from common.service.config_primary import PrimaryConfig, PrimaryGroup
from common.service.control import ControlServer
from common.service.notify import notify_ready
from common.service.reload import Commit, Reloader
from common.service.runner import make_loop, run, wait_for_stop
from common.service.site_record import SiteState, open_state_directory
from common.service.status import CutStatus, GroupStatus, SiteStatus
from common.service.units import parse_bandwidth
from common.service.version import farshore_version
from common.storage.files import SystemFiles
from common.storage.threads import WorkerThreads
from primary_site.dialing import Dialer
from primary_site.exports import PrimaryExports
from primary_site.hosted_group import HostedGroup
from primary_site.opening import check_group
from primary_site.replicator import Replicator
from primary_site.report import points

NAME = "farshore-primary"

DEVICE_THREADS = 8
"""Calls that may block at once on one device: its queue depth, in a way."""

TLS_KEYS = ("group.link.tls.ca", "group.link.tls.cert", "group.link.tls.key")
"""What a reload applies: other files, but not whether there is TLS at all."""

log = structlog.get_logger()


def make_threads(name: str) -> Threads:
    return WorkerThreads(name, DEVICE_THREADS)


PACING_KEYS = (
    "group.link.profile",
    "group.link.bandwidth",
    "group.link.bandwidth_schedule",
)


class PrimaryDaemon:
    """One process at the sending site."""

    def __init__(
        self, config: PrimaryConfig, config_path: str, reload: asyncio.Event
    ) -> None:
        """`reload` is set to have the config read again."""
        self._config = config
        self._config_path = config_path
        self._reload = reload
        self.reloader = Reloader(config, self._load)
        self._clock = SystemClock()
        self._files = SystemFiles()
        self._threads = WorkerThreads("state", 2)
        self._groups: dict[str, HostedGroup] = {}
        self._dialers: dict[str, Dialer] = {}
        self.reloader.register(TLS_KEYS, self._prepare_credentials)
        self.reloader.register(PACING_KEYS, self._prepare_pacing)

    async def serve(self, stop: asyncio.Event) -> None:
        """Open everything, serve until `stop`, close in order."""
        site = self._config.site
        for config in self._config.groups:
            await self._threads.run(
                check_group,
                self._files,
                site.state_directory,
                config,
                self._config_path,
            )
            credentials = await self._threads.run(read_credentials, config)
            self._dialers[config.name] = Dialer(
                config.link.peer, credentials, self._clock
            )
        state: SiteState = await self._threads.run(
            open_state_directory,
            self._files,
            site.state_directory,
            "primary",
            site.name,
        )
        try:
            for config in self._config.groups:
                self._groups[config.name] = await HostedGroup.open(
                    config,
                    self._config_path,
                    site.state_directory,
                    site.name,
                    self._files,
                    make_threads,
                    self._dialers[config.name].connect,
                    self._clock,
                    make_loop,
                )
            await self._serve_hosts(stop)
        finally:
            closed = await asyncio.gather(
                *(group.close() for group in self._groups.values()),
                return_exceptions=True,
            )
            self._threads.close()
            state.lock.close()
            for error in closed:
                if error is not None:
                    raise error

    async def _serve_hosts(self, stop: asyncio.Event) -> None:
        """Serve; on the way out hosts go first, so that nothing writes any more."""
        exports = PrimaryExports({n: g.volumes for n, g in self._groups.items()})
        hosts = self._config.nbd
        nbd = NbdServer(exports, hosts.limits.nbd_limits(), hosts.security())
        self.reloader.register(NBD_TLS_KEYS, nbd_certificates(nbd))
        control = ControlServer(self._config.site.control_socket, self._control)
        replicating = [
            asyncio.create_task(group.replicate(), name=f"replicate {name}")
            for name, group in self._groups.items()
        ]
        others = [
            asyncio.create_task(self.reloader.serve(self._reload)),
            asyncio.create_task(
                CertificateWatch(self._certificates, self._clock).run()
            ),
        ]
        try:
            await nbd.listen([str(a) for a in self._config.nbd.listen])
            await control.listen()
            notify_ready(f"serving {len(self._groups)} groups")
            log.info("daemon_started", site=self._config.site.name, nbd=nbd.addresses)
            await wait_for_stop(stop, [*replicating, *others])
        finally:
            for task in others:
                task.cancel()
            await nbd.close()
            for task in replicating:
                task.cancel()
            await asyncio.gather(*replicating, *others, return_exceptions=True)
            await control.close()
            log.info("daemon_stopped")

    async def _prepare_pacing(self, config: PrimaryConfig) -> Commit:
        def commit() -> None:
            for new in config.groups:
                if group := self._groups.get(new.name):
                    group.pace(new.link)

        return commit

    async def _load(self) -> PrimaryConfig:
        return await asyncio.to_thread(load_primary, self._config_path)

    # -- certificates ------------------------------------------------------------------

    async def _prepare_credentials(self, new: PrimaryConfig) -> Commit:
        """Read every group's files again, also where only their content is new."""
        found: dict[str, Credentials] = {}
        for config in new.groups:
            dialer = self._dialers.get(config.name)
            if dialer is None or dialer.credentials is None:
                continue  # its own restart is needed, and said
            credentials = await self._threads.run(read_credentials, config)
            if credentials is not None:
                found[config.name] = credentials

        def commit() -> None:
            for name, credentials in found.items():
                self._dialers[name].credentials = credentials

        return commit

    def _certificates(self) -> dict[str, Certificate]:
        """Return those in use, by what people call them."""
        found: dict[str, Certificate] = {}
        for name, dialer in self._dialers.items():
            if dialer.credentials is not None:
                found[dialer.credentials.cert_path] = dialer.credentials.own
            if dialer.peer_certificate is not None:
                found[f"the remote's of group {name}"] = dialer.peer_certificate
        return found

    async def _group_status(self, group: HostedGroup) -> GroupStatus:
        dialer = self._dialers[group.name]
        own = None if dialer.credentials is None else dialer.credentials.own
        return with_certificates(
            await group.status(), own, dialer.peer_certificate, self._clock.now_ns()
        )

    # -- control -----------------------------------------------------------------------

    async def _control(self, command: str, arguments: dict[str, Any]) -> Any:
        if command == "status":
            return SiteStatus(
                site=self._config.site.name,
                role="primary",
                version=farshore_version(),
                groups=tuple(
                    await asyncio.gather(
                        *(self._group_status(g) for g in self._groups.values())
                    )
                ),
            ).to_json()
        group = self._group(arguments.pop("group"))
        operation = OPERATIONS.get(command)
        if operation is None:
            raise RefusedError(f"{command}: not a command of a sending site")
        return await group.ask(lambda: operation(group.replicator, **arguments))

    def _group(self, name: str) -> HostedGroup:
        group = self._groups.get(name)
        if group is None:
            known = ", ".join(self._groups)
            raise RefusedError(f"no group {name!r} here; this site has: {known}")
        return group


def read_credentials(config: PrimaryGroup) -> Credentials | None:
    """Read a group's certificates; None: it replicates in plain text. Blocks."""
    if config.link.tls is None:
        return None
    table = f"group[{config.name}].link.tls"
    return Credentials.read(config.link.tls.files(), table, is_server=False)


async def _cut(
    replicator: Replicator, *, wait: bool, label: str | None
) -> dict[str, Any]:
    ticket = await replicator.request_cut(label)
    cut = await ticket.taken
    if wait:
        await ticket.safe
    return CutStatus(
        number=cut.number,
        cut_ns=cut.cut_ns,
        hold_seconds=cut.hold_seconds,
        committed=ticket.safe.done(),
    ).to_json()


async def _points(replicator: Replicator) -> list[dict[str, Any]]:
    return [point.to_json() for point in points(replicator)]


async def _verify(
    replicator: Replicator, *, action: str, repair: bool, rate: str
) -> dict[str, Any] | None:
    verifying = replicator.verifying
    if action == "start":
        verifying.start(repair=repair, rate_bytes=parse_bandwidth(rate))
    elif action == "stop":
        await verifying.stop()
    report = verifying.report()
    return None if report is None else report.to_json()


async def _grow(
    replicator: Replicator, *, volume: str, size_bytes: int
) -> dict[str, Any]:
    return asdict(await replicator.grow(volume, size_bytes))


OPERATIONS: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "cut": _cut,
    "suspend": Replicator.suspend,
    "resume": Replicator.resume,
    "points": _points,
    "verify": _verify,
    "grow": _grow,
}
"""What operators ask of one group; run on its loop."""


@click.command(name=NAME)
@click.option(
    "--config",
    "path",
    required=True,
    type=click.Path(dir_okay=False),
    help="The primary.toml of this site.",
)
@click.version_option(farshore_version(), prog_name=NAME)
def command(path: str) -> None:
    """Serve volumes to hosts and replicate them to the remote site.

    Runs in the foreground until SIGTERM or SIGINT. SIGHUP has it read its config
    again.
    """

    reload = asyncio.Event()

    async def serve(stop: asyncio.Event) -> None:
        await PrimaryDaemon(load_primary(path), path, reload).serve(stop)

    sys.exit(run(NAME, serve, reload))


def main() -> None:
    command()
