"""The remote daemon: composes stores, groups, the listener, NBD and control."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from common.service.certificate_watch import CertificateWatch
from common.service.clock import SystemClock
from common.service.config import load_remote
from common.service.config_remote import RemoteConfig
from common.service.config_roles import sending_group
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
from primary_site.live_config import SENDING_KEYS
from primary_site.sending_groups import TLS_KEYS as LINK_TLS_KEYS
from remote_site.receiving_groups import KEEPING_KEYS, TLS_KEYS
from remote_site.roles import SiteGroups

NAME = "farshore-remote"

log = structlog.get_logger()


class RemoteDaemon:
    """One process at the receiving site."""

    def __init__(
        self, config: RemoteConfig, config_path: str, reload: asyncio.Event
    ) -> None:
        """`reload` is set to have the config read again."""
        self._config = config
        self._config_path = config_path
        self._reload = reload
        self._clock = SystemClock()
        self._files = SystemFiles()
        site = config.site.name
        self._groups = SiteGroups(site, config_path, self._files, self._clock)
        self._http = SiteHttp(config.http, self._status, self._control, self._clock)
        self._tracing = SiteTracing(config.tracing, "remote", site)
        self.reloader = Reloader(config, self._load)
        self.reloader.register(TLS_KEYS, self._prepare_credentials)
        self.reloader.register(LINK_TLS_KEYS, self._prepare_link_credentials)
        self.reloader.register(SENDING_KEYS, self._prepare_following)
        self.reloader.register(KEEPING_KEYS, self._prepare_keeping)

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
        site, receiving = self._config.site, self._groups.receiving
        await receiving.read_credentials(self._config.replication)
        state: SiteState = await asyncio.to_thread(
            open_state_directory,
            self._files,
            site.state_directory,
            "remote",
            site.name,
        )
        try:
            for config in self._config.groups:
                notify_status(f"opening group {config.name}")
                directory = f"{site.state_directory}/groups/{config.name}"
                await self._groups.open_received(config, directory)
            await self._serve_peers(stop)
        finally:
            try:
                await self._groups.close()
            finally:
                state.lock.close()

    async def _serve_peers(self, stop: asyncio.Event) -> None:
        """Serve; on the way out senders go first, then hosts, then operators."""
        groups = self._groups
        receiving = groups.receiving
        nbd = nbd_server(groups.exports, self._config.nbd, self.reloader)
        groups.serve(nbd)
        control = ControlServer(self._config.site.control_socket, self._control)
        others = [
            asyncio.create_task(groups.sending.watch()),
            asyncio.create_task(self.reloader.serve(self._reload)),
            asyncio.create_task(
                CertificateWatch(groups.certificates, self._clock).run()
            ),
        ]
        try:
            await nbd.listen([str(address) for address in self._config.nbd.listen])
            await receiving.listen(self._config.replication)
            # Last: who asks for the status and is answered finds the rest serving.
            await control.listen()
            self._http.serving()
            notify_ready(f"receiving {len(receiving.groups)} groups")
            log.info(
                "daemon_started",
                site=self._config.site.name,
                nbd=nbd.addresses,
                replication_ports=receiving.listener.ports,
                encrypted=receiving.listener.credentials is not None,
            )
            line = StatusLine(self._status, self.reloader.said)
            others.append(asyncio.create_task(line.run()))
            await wait_for_stop(stop, others)
        finally:
            self._http.ending()
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await receiving.stop()
            await nbd.close()
            await groups.stop()
            await control.close()
            log.info("daemon_stopped")

    # -- reload ------------------------------------------------------------------------

    async def _load(self) -> RemoteConfig:
        return await asyncio.to_thread(load_remote, self._config_path)

    async def _prepare_credentials(self, new: RemoteConfig) -> Commit:
        return await self._groups.receiving.prepare_credentials(new.replication)

    async def _prepare_keeping(self, new: RemoteConfig) -> Commit:
        return self._groups.receiving.prepare_keeping(new.groups)

    async def _prepare_link_credentials(self, new: RemoteConfig) -> Commit:
        configs = [sending_group(group) for group in new.groups if group.link]
        return await self._groups.sending.prepare_credentials(configs)

    async def _prepare_following(self, new: RemoteConfig) -> Commit:
        configs = [sending_group(group) for group in new.groups if group.link]
        return self._groups.sending.prepare_following(configs)

    # -- control -----------------------------------------------------------------------

    async def _control(self, command: str, arguments: dict[str, Any]) -> Any:
        if command == "status":
            return (await self._status()).to_json()
        return await self._groups.ask(command, arguments)

    async def _status(self) -> SiteStatus:
        return SiteStatus(
            site=self._config.site.name,
            role="remote",
            version=farshore_version(),
            nbd=nbd_status(self._groups.receiving.nbd),
            tracing=self._tracing.status(),
            groups=await self._groups.status(),
        )


async def _serve(path: str, reload: asyncio.Event, stop: asyncio.Event) -> None:
    await RemoteDaemon(load_remote(path), path, reload).serve(stop)


command = daemon_command(
    NAME,
    "remote.toml",
    "Receive volumes from primary sites and serve their recovery points.",
    _serve,
)


def main() -> None:
    command()
