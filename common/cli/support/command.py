"""`farshore support-bundle`: what somebody who helps wants to see, in one file."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path

import click
from rich.console import Console

from common.cli.daemon_options import connect, daemon_options, json_option
from common.cli.display import print_json
from common.cli.support.collected import Asked, Part, collect
from common.errors import FarshoreError
from common.service.control_client import ControlClient

MODE = 0o600
"""Names and addresses are in it: for whoever made it to hand on."""


@click.command("support-bundle")
@click.option(
    "--output",
    metavar="FILE",
    help="Where to write it; default: farshore-support-TIME.tar.gz in this folder.",
)
@click.option(
    "--log",
    metavar="FILE",
    help="A file with the daemon's log; default: systemd's journal.",
)
@json_option
@daemon_options
def support_bundle(
    output: str | None,
    log: str | None,
    as_json: bool,
    socket_path: str | None,
    config: str | None,
) -> None:
    """Collect config, status, doctor, logs, metrics and records for those who help.

    No keys, certificates, passwords or data of volumes are in it; names, addresses and
    sizes are. Look through it before you hand it on: it is a tar file of texts. With
    the daemon running or not.
    """
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    name = output or f"farshore-support-{now}.tar.gz"
    asked = Asked(socket_path, config, log)
    try:
        client = connect(socket_path, config)
    except (FarshoreError, click.UsageError):  # the parts say why
        client = None
    with Console(stderr=True).status("collecting"):
        members = _write(Path(name), collect(asked, client), client)
    if as_json:
        print_json({"file": name, "members": members})
    else:
        click.echo(f"{name}: {len(members)} texts\nto look through it: tar tzf {name}")


def _write(
    path: Path, parts: Iterable[Part], client: ControlClient | None
) -> list[str]:
    """Write a new archive; return the names in it. Nothing is left of half of one."""
    members = []
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, MODE)
    except OSError as error:
        raise FarshoreError(
            f"{path}: cannot be written ({error.strerror}): name another --output"
        ) from None
    try:
        with (
            os.fdopen(descriptor, "wb") as file,
            tarfile.open(fileobj=file, mode="w:gz") as archive,
        ):
            for name, text in parts:
                content = text.encode()
                member = tarfile.TarInfo(f"farshore-support/{name}")
                member.size, member.mode, member.mtime = len(content), MODE, time.time()
                archive.addfile(member, io.BytesIO(content))
                members.append(name)
    except BaseException:
        path.unlink()
        raise
    finally:
        if client is not None:
            client.close()
    return members
