"""The primary daemon: composes volumes, groups, NBD, replication and control."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from common.nbd.server import NbdServer
from common.service.certificate_watch import CertificateWatch
from common.service.clock import SystemClock
from common.service.config import load_primary
from common.service.config_primary import PrimaryConfig
from common.service.control import ControlServer
from common.service.daemon_command import daemon_command
from common.service.http.site import SiteHttp
from common.service.nbd_hosts import nbd_server
from common.service.nbd_status import nbd_status
from common.service.notify import notify_ready, notify_status
from common.service.reload import Commit, Reloader
from common.service.runner import wait_for_stop
from common.service.site_record import SiteState, open_state_directory
from common.service.status import SiteStatus
from common.service.status_line import StatusLine
from common.service.tracing import SiteTracing
from common.service.version import farshore_version
from common.storage.files import SystemFiles
from primary_site.live_config import HOLD_KEYS, HOOKS_KEYS, SENDING_KEYS, TRIGGER_KEYS
from primary_site.sending_groups import TLS_KEYS
from remote_site.receiving_groups import TLS_KEYS as LISTEN_TLS_KEYS
from remote_site.roles import SiteGroups

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
        site = config.site.name
        self._groups = SiteGroups(site, config_path, self._files, self._clock)
        self._groups.can_receive = config.replication is not None
        self._nbd: NbdServer | None = None
        self._http = SiteHttp(config.http, self._status, self._control, self._clock)
        self._tracing = SiteTracing(config.tracing, "primary", site)
        self.reloader = Reloader(config, self._load)
        self.reloader.register(TLS_KEYS, self._prepare_credentials)
        self.reloader.register(
            (*TRIGGER_KEYS, *HOLD_KEYS, *HOOKS_KEYS, *SENDING_KEYS),
            self._prepare_following,
        )
        self.reloader.register(LISTEN_TLS_KEYS, self._prepare_listen_credentials)

    async def serve(self, stop: asyncio.Event) -> None:
        """Open everything, serve until `stop`, close in order."""
        try:
            await self._tracing.start()
            self._groups.trace_to(self._tracing.take)
            await self._http.listen()
            await self._serve(stop)
        finally:
            await self._http.close()
            await self._tracing.close()

    async def _serve(self, stop: asyncio.Event) -> None:
        site, groups = self._config.site, self._groups
        for config in self._config.groups:
            await groups.check_sent(config, site.state_directory)
        if self._config.replication is not None:
            await groups.receiving.read_credentials(self._config.replication)
        state: SiteState = await asyncio.to_thread(
            open_state_directory,
            self._files,
            site.state_directory,
            "primary",
            site.name,
        )
        try:
            for config in self._config.groups:
                notify_status(f"opening group {config.name}")
                await groups.open_sent(config, site.state_directory)
            await self._serve_hosts(stop)
        finally:
            try:
                await groups.close()
            finally:
                state.lock.close()

    async def _serve_hosts(self, stop: asyncio.Event) -> None:
        """Serve; on the way out hosts go first, so that nothing writes any more."""
        groups = self._groups
        nbd = nbd_server(groups.exports, self._config.nbd, self.reloader)
        self._nbd = nbd
        control = ControlServer(self._config.site.control_socket, self._control)
        groups.serve(nbd)
        others = [
            asyncio.create_task(groups.sending.watch()),
            asyncio.create_task(self.reloader.serve(self._reload)),
            asyncio.create_task(
                CertificateWatch(groups.certificates, self._clock).run()
            ),
        ]
        try:
            await nbd.listen([str(a) for a in self._config.nbd.listen])
            if self._config.replication is not None:
                await groups.receiving.listen(self._config.replication)
            await control.listen()
            self._http.serving()
            notify_ready(f"serving {len(groups.names)} groups")
            log.info("daemon_started", site=self._config.site.name, nbd=nbd.addresses)
            line = StatusLine(self._status, self.reloader.said)
            others.append(asyncio.create_task(line.run()))
            await wait_for_stop(stop, others)
        finally:
            self._http.ending()
            for task in others:
                task.cancel()
            await groups.receiving.stop()
            await groups.sending.end_hooks()
            await nbd.close()
            await groups.stop()
            await asyncio.gather(*others, return_exceptions=True)
            await control.close()
            log.info("daemon_stopped")

    # -- reload ------------------------------------------------------------------------

    async def _load(self) -> PrimaryConfig:
        return await asyncio.to_thread(load_primary, self._config_path)

    async def _prepare_following(self, new: PrimaryConfig) -> Commit:
        return self._groups.sending.prepare_following(new.groups)

    async def _prepare_credentials(self, new: PrimaryConfig) -> Commit:
        return await self._groups.sending.prepare_credentials(new.groups)

    async def _prepare_listen_credentials(self, new: PrimaryConfig) -> Commit:
        if new.replication is None:
            return lambda: None  # a restart is needed, and said
        return await self._groups.receiving.prepare_credentials(new.replication)

    # -- control -----------------------------------------------------------------------

    async def _control(self, command: str, arguments: dict[str, Any]) -> Any:
        if command == "status":
            return (await self._status()).to_json()
        return await self._groups.ask(command, arguments)

    async def _status(self) -> SiteStatus:
        return SiteStatus(
            site=self._config.site.name,
            role="primary",
            version=farshore_version(),
            nbd=nbd_status(self._nbd),
            tracing=self._tracing.status(),
            groups=await self._groups.status(),
        )


async def _serve(path: str, reload: asyncio.Event, stop: asyncio.Event) -> None:
    await PrimaryDaemon(load_primary(path), path, reload).serve(stop)


command = daemon_command(
    NAME,
    "primary.toml",
    "Serve volumes to hosts and replicate them to the remote site.",
    _serve,
)


def main() -> None:
    command()
