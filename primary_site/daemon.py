"""The primary daemon: composes volumes, groups, NBD, replication and control."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click
import structlog

from common.errors import RefusedError
from common.nbd.server import NbdServer
from common.ports import Threads
from common.replication.link import Link
from common.replication.stream import Address, connect
from common.service.clock import SystemClock
from common.service.config import load_primary
from common.service.config_primary import PrimaryConfig
from common.service.control import ControlServer
from common.service.notify import notify_ready
from common.service.runner import run
from common.service.site_record import SiteState, open_state_directory
from common.service.status import CutStatus, SiteStatus
from common.service.version import farshore_version
from common.storage.files import SystemFiles
from common.storage.threads import WorkerThreads
from primary_site.exports import PrimaryExports
from primary_site.group import ConsistencyGroup
from primary_site.opening import check_group, open_group
from primary_site.replicator import Replicator
from primary_site.report import group_status, points

NAME = "farshore-primary"

DEVICE_THREADS = 8
"""Calls that may block at once on one device: its queue depth, in a way."""

CONNECT_SECONDS = 10.0

log = structlog.get_logger()


def make_threads(name: str) -> Threads:
    return WorkerThreads(name, DEVICE_THREADS)


class PrimaryDaemon:
    """One process at the sending site."""

    def __init__(self, config: PrimaryConfig, config_path: str) -> None:
        self._config = config
        self._config_path = config_path
        self._clock = SystemClock()
        self._files = SystemFiles()
        self._threads = WorkerThreads("state", 2)
        self._replicators: dict[str, Replicator] = {}

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
        state: SiteState = await self._threads.run(
            open_state_directory,
            self._files,
            site.state_directory,
            "primary",
            site.name,
        )
        try:
            for config in self._config.groups:
                opened = await self._threads.run(
                    open_group,
                    self._files,
                    site.state_directory,
                    config,
                    self._config_path,
                )
                group = ConsistencyGroup(
                    config,
                    opened,
                    self._files,
                    make_threads,
                    self._threads,
                    self._clock,
                )
                self._replicators[config.name] = Replicator(
                    group, site.name, self._connect, self._clock
                )
            await self._serve_hosts(stop)
        finally:
            for replicator in self._replicators.values():
                await replicator.group.close()
            self._threads.close()
            state.lock.close()

    async def _serve_hosts(self, stop: asyncio.Event) -> None:
        """Serve; on the way out hosts go first, so that nothing writes any more."""
        nbd = NbdServer(
            PrimaryExports(self._replicators), self._config.nbd.limits.nbd_limits()
        )
        control = ControlServer(self._config.site.control_socket, self._control)
        replicating = [
            asyncio.create_task(r.run(), name=f"replicate {name}")
            for name, r in self._replicators.items()
        ]
        try:
            await nbd.listen([str(a) for a in self._config.nbd.listen])
            await control.listen()
            notify_ready(f"serving {len(self._replicators)} groups")
            log.info("daemon_started", site=self._config.site.name, nbd=nbd.addresses)
            await wait_for_stop(stop, replicating)
        finally:
            await nbd.close()
            for replicator in self._replicators.values():
                replicator.stop()
            for task in replicating:
                task.cancel()
            await asyncio.gather(*replicating, return_exceptions=True)
            await control.close()
            log.info("daemon_stopped")

    async def _connect(self, address: str) -> Link:
        stream = await connect(Address.parse(address), CONNECT_SECONDS)
        return Link(stream, self._clock)

    # -- control -----------------------------------------------------------------------

    async def _control(self, command: str, arguments: dict[str, Any]) -> Any:
        if command == "status":
            return SiteStatus(
                site=self._config.site.name,
                role="primary",
                version=farshore_version(),
                groups=tuple(
                    group_status(r, self._clock) for r in self._replicators.values()
                ),
            ).to_json()
        replicator = self._group(arguments["group"])
        match command:
            case "cut":
                return await self._cut(replicator, **arguments)
            case "suspend":
                return await replicator.suspend()
            case "resume":
                return await replicator.resume()
            case "points":
                return [point.to_json() for point in points(replicator)]
        raise RefusedError(f"{command}: not a command of a sending site")

    def _group(self, name: str) -> Replicator:
        replicator = self._replicators.get(name)
        if replicator is None:
            known = ", ".join(self._replicators)
            raise RefusedError(f"no group {name!r} here; this site has: {known}")
        return replicator

    async def _cut(
        self, replicator: Replicator, *, group: str, wait: bool, label: str | None
    ) -> dict[str, Any]:
        assert group == replicator.group.name
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


async def wait_for_stop(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the stop; a task that ends before it is a bug and ends the daemon."""
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait(
            [stopping, *tasks], return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()
    finally:
        stopping.cancel()


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

    Runs in the foreground until SIGTERM or SIGINT.
    """

    async def serve(stop: asyncio.Event) -> None:
        await PrimaryDaemon(load_primary(path), path).serve(stop)

    sys.exit(run(NAME, serve))


def main() -> None:
    command()
