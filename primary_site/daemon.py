"""The primary daemon: composes volumes, groups, NBD, replication and control."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click
import structlog

from common.errors import RefusedError
from common.nbd.server import NbdServer
from common.service.certificate_watch import CertificateWatch
from common.service.clock import SystemClock
from common.service.config import load_primary
from common.service.config_nbd import NBD_TLS_KEYS, nbd_certificates
from common.service.config_primary import PrimaryConfig
from common.service.control import ControlServer
from common.service.http.site import SiteHttp
from common.service.nbd_status import nbd_status
from common.service.notify import notify_ready
from common.service.reload import Commit, Reloader
from common.service.runner import run, wait_for_stop
from common.service.site_record import SiteState, open_state_directory
from common.service.status import SiteStatus
from common.service.version import farshore_version
from common.storage.files import SystemFiles
from primary_site.sending_groups import PACING_KEYS, TLS_KEYS, SendingGroups

NAME = "farshore-primary"

log = structlog.get_logger()


class PrimaryDaemon:
    """One process at the sending site."""

    def __init__(
        self, config: PrimaryConfig, config_path: str, reload: asyncio.Event
    ) -> None:
        """`reload` is set to have the config read again."""
        self._config = config
        self._config_path = config_path
        self._reload = reload
        self._clock = SystemClock()
        self._files = SystemFiles()
        self._sending = SendingGroups(config.site.name, config_path, self._clock)
        self._nbd: NbdServer | None = None
        self._http = SiteHttp(config.http, self._status, self._clock)
        self.reloader = Reloader(config, self._load)
        self.reloader.register(TLS_KEYS, self._prepare_credentials)
        self.reloader.register(PACING_KEYS, self._prepare_pacing)

    async def serve(self, stop: asyncio.Event) -> None:
        """Open everything, serve until `stop`, close in order."""
        try:
            await self._http.listen()
            await self._serve(stop)
        finally:
            await self._http.close()

    async def _serve(self, stop: asyncio.Event) -> None:
        site = self._config.site
        for config in self._config.groups:
            await self._sending.check(config, site.state_directory, self._files)
        state: SiteState = await asyncio.to_thread(
            open_state_directory,
            self._files,
            site.state_directory,
            "primary",
            site.name,
        )
        try:
            for config in self._config.groups:
                await self._sending.open(config, site.state_directory, self._files)
            await self._serve_hosts(stop)
        finally:
            try:
                await self._sending.close_all()
            finally:
                state.lock.close()

    async def _serve_hosts(self, stop: asyncio.Event) -> None:
        """Serve; on the way out hosts go first, so that nothing writes any more."""
        sending, hosts = self._sending, self._config.nbd
        nbd = NbdServer(sending.exports, hosts.limits.nbd_limits(), hosts.security())
        self._nbd = nbd
        self.reloader.register(NBD_TLS_KEYS, nbd_certificates(nbd))
        control = ControlServer(self._config.site.control_socket, self._control)
        for name in sending.hosted:
            sending.replicate(name)
        others = [
            asyncio.create_task(sending.watch()),
            asyncio.create_task(self.reloader.serve(self._reload)),
            asyncio.create_task(
                CertificateWatch(sending.certificates, self._clock).run()
            ),
        ]
        try:
            await nbd.listen([str(a) for a in self._config.nbd.listen])
            await control.listen()
            self._http.serving()
            notify_ready(f"serving {len(sending.hosted)} groups")
            log.info("daemon_started", site=self._config.site.name, nbd=nbd.addresses)
            await wait_for_stop(stop, others)
        finally:
            self._http.ending()
            for task in others:
                task.cancel()
            await nbd.close()
            await sending.stop()
            await asyncio.gather(*others, return_exceptions=True)
            await control.close()
            log.info("daemon_stopped")

    # -- reload ------------------------------------------------------------------------

    async def _load(self) -> PrimaryConfig:
        return await asyncio.to_thread(load_primary, self._config_path)

    async def _prepare_pacing(self, new: PrimaryConfig) -> Commit:
        return self._sending.prepare_pacing(new.groups)

    async def _prepare_credentials(self, new: PrimaryConfig) -> Commit:
        return await self._sending.prepare_credentials(new.groups)

    # -- control -----------------------------------------------------------------------

    async def _control(self, command: str, arguments: dict[str, Any]) -> Any:
        if command == "status":
            return (await self._status()).to_json()
        name = arguments.pop("group")
        if name not in self._sending.hosted:
            known = ", ".join(self._sending.hosted)
            raise RefusedError(f"no group {name!r} here; this site has: {known}")
        return await self._sending.ask(command, name, arguments)

    async def _status(self) -> SiteStatus:
        names = self._sending.hosted
        return SiteStatus(
            site=self._config.site.name,
            role="primary",
            version=farshore_version(),
            nbd=nbd_status(self._nbd),
            groups=tuple(
                await asyncio.gather(*(self._sending.status(name) for name in names))
            ),
        )


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
