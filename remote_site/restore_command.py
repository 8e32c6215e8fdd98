"""`farshore restore`: a remote's points on a bare host, without a daemon."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from common.addresses import SystemdAddress, UnixAddress
from common.cli.daemon_options import json_option
from common.cli.display import console, plain, print_json, size_text
from common.errors import RefusedError
from common.nbd.addresses import parse_address
from common.nbd.server import NbdServer
from common.nbd.uris import uris
from common.service.config import load_remote
from common.service.logging import escape
from common.service.moments import rfc3339
from common.service.runner import make_loop
from common.storage.files import SystemFiles
from common.storage.threads import WorkerThreads
from remote_site.exports import RecoveryExports
from remote_site.group_disk import GroupDisk
from remote_site.restoring import (
    Places,
    RestoredSite,
    find_point,
    image_of,
    write_image,
)
from remote_site.store import GroupStore

READERS = 4
"""Threads that read a served group."""


class DevicePlace(click.ParamType[tuple[tuple[str, str], str]]):
    """Where a device is: GROUP/VOLUME=PATH."""

    name = "place"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[str, str], str]:
        names, _, path = str(value).partition("=")
        group, _, volume = names.partition("/")
        if not (group and volume and path):
            self.fail(f"{value!r}: write GROUP/VOLUME=PATH", param, ctx)
        return (group, volume), path


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False))
@click.argument("volume", metavar="[GROUP/VOLUME]", required=False)
@click.option("--point", type=int, help="The recovery point; default: the newest.")
@click.option("--to", "target", metavar="FILE", help="Write it to a new, sparse file.")
@click.option("--serve", metavar="ADDRESS", help="Serve all points, as NBD exports.")
@click.option(
    "--device",
    "devices",
    multiple=True,
    type=DevicePlace(),
    metavar="GROUP/VOLUME=PATH",
    help="Where a device is.",
)
@click.option(
    "--journals",
    metavar="FOLDER",
    help="Where the groups' journals are; default: DIRECTORY/journal.",
)
@click.option(
    "--config", metavar="FILE", help="Take both places from this remote's config."
)
@json_option
def restore(
    directory: str,
    volume: str | None,
    point: int | None,
    target: str | None,
    serve: str | None,
    devices: tuple[tuple[tuple[str, str], str], ...],
    journals: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """List the recovery points in a remote's state DIRECTORY, or a copy of it; write
    one to a file, or serve them all.

    Needs no daemon and no network, and changes nothing on the disks: read-only media
    will do. A daemon that has the directory, or a device, is in the way (exit code 5).
    """
    if (volume is None) != (target is None) or (serve and target):
        raise click.UsageError(
            "give GROUP/VOLUME and --to FILE, or --serve, or neither"
        )
    files = SystemFiles()
    site = RestoredSite(str(Path(directory).absolute()), files)
    try:
        places = _places(site, dict(devices), journals, config)
        if serve is not None:
            _serve(site, places, serve)
        elif volume is not None and target is not None:
            done = _write(site, places, volume, point, target)
            print_json(done) if as_json else click.echo(_written_text(done))
        else:
            _list(site, as_json=as_json)
    finally:
        site.close()


def _places(
    site: RestoredSite,
    devices: dict[tuple[str, str], str],
    journals: str | None,
    config: str | None,
) -> Places:
    """Put together what options say, which win, and what a config says."""
    folders: dict[str, str] = {}
    if config is not None:
        for group in load_remote(config).groups:
            folders[group.name] = f"{group.journal.directory}/{group.name}"
            for volume in group.volumes:
                devices.setdefault((group.name, volume.name), volume.device)
    if journals is not None:
        root = Path(journals).absolute()
        folders = {name: str(root / name) for name in site.names}
    return Places(devices, folders)


# -- listing ---------------------------------------------------------------------------


def _list(site: RestoredSite, *, as_json: bool) -> None:
    listed: list[dict[str, Any]] = []
    for name in site.names:
        state = site.state(name)
        points = [
            {
                "number": point.number,
                "cut_time": rfc3339(point.cut_ns),
                "current_as_of": rfc3339(point.current_as_of_ns),
                "label": point.label,
            }
            for point in reversed(state.points)
        ]
        volumes = [
            {"name": offer.name, "size_bytes": offer.size_bytes}
            for offer in state.volumes
        ]
        listed.append(
            {"group": name, "peer": state.peer, "volumes": volumes, "points": points}
        )
    if as_json:
        print_json(listed)
        return
    for group in listed:
        volumes_text = ", ".join(
            f"{volume['name']} ({size_text(volume['size_bytes'])})"
            for volume in group["volumes"]
        )
        click.echo(escape(f"{group['group']}, from {group['peer']}: {volumes_text}"))
        if group["points"]:
            console().print(_points_table(group["points"]))
        else:
            click.echo("  no recovery point: its first copy was never complete")


def _points_table(points: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2))
    for title in ("POINT", "CUT", "CURRENT AS OF", "LABEL"):
        table.add_column(title, header_style="dim")
    for point in points:
        table.add_row(
            plain(point["number"], "bold"),
            plain(point["cut_time"]),
            plain(point["current_as_of"]),
            plain(point["label"] or ""),
        )
    return table


# -- writing ---------------------------------------------------------------------------


def _write(
    site: RestoredSite, places: Places, name: str, number: int | None, target: str
) -> dict[str, Any]:
    group, _, volume = name.partition("/")
    if not group or not volume:
        raise click.UsageError(f"{name!r}: name a volume as GROUP/VOLUME")
    with _opened(site, group, places) as disk:
        point = find_point(disk, number)
        image = image_of(disk, volume, point.number)
        size = image.geometry.size_bytes
        with Console(stderr=True).status("") as line:
            for done in write_image(image, SystemFiles(), target):
                line.update(f"{size_text(done)} of {size_text(size)}")
    return {
        "group": group,
        "volume": volume,
        "point": point.number,
        "cut_time": rfc3339(point.cut_ns),
        "size_bytes": size,
        "file": target,
    }


def _written_text(done: dict[str, Any]) -> str:
    return escape(
        f"{done['group']}/{done['volume']}, point {done['point']}, cut at "
        f"{done['cut_time']}: {size_text(done['size_bytes'])} in {done['file']}"
    )


@contextmanager
def _opened(site: RestoredSite, group: str, places: Places) -> Iterator[GroupDisk]:
    disk = site.open(group, places)
    try:
        yield disk
    finally:
        disk.close()


# -- serving ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Served:
    """An `ExportedGroup`."""

    name: str
    store: GroupStore
    test_copies: None = None


def _serve(site: RestoredSite, places: Places, address: str) -> None:
    listen = parse_address(address)
    if isinstance(listen, SystemdAddress) or (
        not isinstance(listen, UnixAddress) and listen.is_tls
    ):
        raise RefusedError(f"{address}: serve at unix:PATH or tcp:127.0.0.1:PORT")
    with ExitStack() as stack:
        disks = {
            name: stack.enter_context(_opened(site, name, places))
            for name in site.names
            if site.state(name).points
        }
        if not disks:
            raise RefusedError("there is no recovery point to serve")
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(_serving(disks, str(listen)))


async def _serving(disks: dict[str, GroupDisk], address: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    threads = {name: WorkerThreads(name, READERS) for name in disks}
    groups = {
        name: _Served(name, GroupStore(disk, threads[name]))
        for name, disk in disks.items()
    }
    exports = RecoveryExports(groups)
    server = NbdServer(exports)
    try:
        await server.listen([address])
        for name, description in exports.names():
            for uri in uris(server.addresses, name):
                click.echo(f"{escape(uri)}  {escape(description)}")
        click.echo("serving, read-only, until Ctrl-C")
        await stop.wait()
    finally:
        await server.close()
        for group in groups.values():
            await group.store.settled()
        for each in threads.values():
            each.close()
