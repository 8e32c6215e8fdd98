"""`farshore init`: from nothing to two sites that can be started."""

from __future__ import annotations

import grp
import os
import sys
import tarfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from common.cli.daemon_options import json_option
from common.cli.device_check import check_device
from common.cli.display import print_json
from common.cli.site_certificates import (
    CA_CERTIFICATE,
    CA_KEY,
    certificate_files,
    make_certificates,
)
from common.cli.site_pair import PairPlan, VolumePlan, check_address, check_rpo
from common.errors import ConfigError, FarshoreError
from common.service.config import load_primary, load_remote
from common.service.config_common import check_name
from common.service.logging import escape

CONFIG_MODE = 0o640
"""Later versions may name secrets in it: not for everybody to read."""

KEY_MODE = 0o600
SYSTEMD_FOLDER = Path("/etc/farshore")
"""Where the units look: init writes for them when it writes there."""

KEYS = "keys"
DAEMON_GROUP = "farshore"

T = TypeVar("T")


def _checked(check: Callable[[str], T]) -> Callable[..., T | None]:
    """Return a click callback that gives a ValueError's sentence as the usage error."""

    def callback(
        _context: click.Context, _option: click.Parameter, value: str | None
    ) -> T | None:
        try:
            return None if value is None else check(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def _volumes(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> tuple[VolumePlan, ...] | None:
    try:
        return tuple(VolumePlan.parse(value) for value in values) or None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("--primary", callback=_checked(check_name), help="The sending site.")
@click.option("--remote", callback=_checked(check_name), help="The receiving site.")
@click.option(
    "--address",
    metavar="HOST[:PORT]",
    callback=_checked(check_address),
    help="Where the primary finds the remote; without PORT, 7420.",
)
@click.option("--group", callback=_checked(check_name), help="The volumes' group.")
@click.option(
    "--volume",
    "volumes",
    multiple=True,
    metavar="NAME=SIZE|NAME=DEVICE",
    callback=_volumes,
    help="A volume: a file that is made with SIZE, or a device there is. Repeatable.",
)
@click.option(
    "--rpo",
    callback=_checked(check_rpo),
    help="How old the newest recovery point may become, as in 5s.",
)
@click.option(
    "--no-certificates",
    is_flag=True,
    help="Write the configs alone, with no CA and no certificates beside them.",
)
@click.option(
    "--no-device-check",
    is_flag=True,
    help="Do not look at the devices: this is not the primary's host.",
)
@click.option("--yes", is_flag=True, help="Do not ask, also on a terminal.")
@json_option
def init(
    directory: str,
    no_certificates: bool,
    no_device_check: bool,
    yes: bool,
    as_json: bool,
    **told: Any,
) -> None:
    """Write a matching pair of config files and of certificates into DIR.

    On a terminal it asks what no option says; Return takes what is offered. The
    certificates are those of a private CA that is made for them, whose key is
    replication-ca.key: keep it in a safe place, away from both sites. NAME.tar, of the
    remote's name, holds what the remote needs. Nothing is ever overwritten.

    With /etc/farshore as DIR the files are for the systemd units, keys are
    credentials, which root alone may read, and the remote's files are in NAME.tar only.
    """
    folder = Path(directory)
    if sys.stdin.isatty() and not (yes or as_json):
        told = _ask(told)
    given = {name: value for name, value in told.items() if value is not None}
    for_systemd = folder.absolute() == SYSTEMD_FOLDER
    plan = PairPlan(**given, is_for_systemd=for_systemd)
    if plan.primary == plan.remote:
        raise ConfigError("both sites have the same name: give them two")
    if not no_device_check:
        for volume in plan.volumes:
            for note in check_device(volume):
                click.echo(escape(note), err=True)
    names = _names(plan, with_certificates=not no_certificates)
    _check_new(folder, names)
    try:
        _write(folder, plan, with_certificates=not no_certificates)
    except OSError as error:
        raise ConfigError(
            f"{directory}: the files cannot be written ({error.strerror}): "
            "choose another folder"
        ) from None
    if as_json:
        print_json({"directory": str(folder), "files": names})
    else:
        _say_what_is_next(folder, plan, with_certificates=not no_certificates)


# -- questions -------------------------------------------------------------------------

_QUESTIONS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("primary", "Name of the primary site", check_name),
    ("remote", "Name of the remote site", check_name),
    ("address", "The remote's host name or address", check_address),
    ("group", "Name of the group of volumes", check_name),
    ("rpo", "How old may the newest recovery point become", check_rpo),
)


def _ask(told: dict[str, Any]) -> dict[str, Any]:
    """Ask what no option says, with the samples' values as what is offered."""
    sample = PairPlan()
    offered = {each.name: getattr(sample, each.name) for each in fields(sample)}
    answers = dict(told)
    for name, question, check in _QUESTIONS:
        if answers[name] is None:
            answers[name] = _answer(question, check, offered[name])
    if answers["volumes"] is None:
        click.echo("Volumes: NAME=SIZE for a file that is made, NAME=/dev/DEVICE for a")
        click.echo("device there is. What belongs to one application is cut together.")
        volumes = [_answer("First volume", VolumePlan.parse, "data=100GiB")]
        while another := _answer("Another (Return: no more)", _no_more, ""):
            volumes.append(another)
        answers["volumes"] = tuple(volumes)
    return answers


def _answer(question: str, check: Callable[[str], T], offered: str) -> T:
    while True:  # ends with an answer that will do, or Ctrl-C
        text = click.prompt(question, default=offered, show_default=bool(offered))
        try:
            return check(text)
        except ValueError as error:
            click.echo(f"  {escape(str(error))}")


def _no_more(text: str) -> VolumePlan | None:
    return VolumePlan.parse(text) if text else None


# -- files -----------------------------------------------------------------------------


def _key_place(plan: PairPlan, name: str) -> str:
    is_key = plan.is_for_systemd and name.endswith(".key") and name != CA_KEY
    return f"{KEYS}/{name}" if is_key else name


def _names(plan: PairPlan, *, with_certificates: bool) -> list[str]:
    names = ["primary.toml", "remote.toml"]
    if with_certificates:
        made = certificate_files((plan.primary, plan.remote))
        names += [f"{plan.remote}.tar", *(_key_place(plan, name) for name in made)]
    return names


def _check_new(folder: Path, names: list[str]) -> None:
    for name in names:
        if (folder / name).exists():
            raise FarshoreError(
                f"{folder / name} exists: choose another folder, or remove it"
            )


def _write(folder: Path, plan: PairPlan, *, with_certificates: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sites = (plan.primary, plan.remote)
    if with_certificates:
        make_certificates(folder, sites)
        if plan.is_for_systemd:
            (folder / KEYS).mkdir(mode=0o700, exist_ok=True)
            for site in sites:
                (folder / f"{site}.key").rename(folder / KEYS / f"{site}.key")
    _write_new(folder / "primary.toml", plan.primary_text(), plan)
    _write_new(folder / "remote.toml", plan.remote_text(), plan)
    # What is wrong with them is said now, not when a daemon starts.
    load_primary(str(folder / "primary.toml"))
    load_remote(str(folder / "remote.toml"))
    if with_certificates:
        _pack_for_remote(folder, plan)


def _write_new(path: Path, text: str, plan: PairPlan) -> None:
    """Write a file that must not exist: an operator's file is never overwritten."""
    path.touch(mode=CONFIG_MODE, exist_ok=False)
    path.write_text(text, encoding="utf-8")
    if plan.is_for_systemd:
        try:
            os.chown(path, -1, grp.getgrnam(DAEMON_GROUP).gr_gid)
        except KeyError:
            click.echo(
                f"there is no group {DAEMON_GROUP}: make the daemons' user, then "
                f"chgrp {DAEMON_GROUP} {path}",
                err=True,
            )


def _pack_for_remote(folder: Path, plan: PairPlan) -> None:
    """Write NAME.tar: unpacked by root it has the owners that the daemon needs."""

    def owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = "root"
        entry.gname = DAEMON_GROUP if entry.name == "remote.toml" else "root"
        return entry

    key = _key_place(plan, f"{plan.remote}.key")
    own = ("remote.toml", f"{plan.remote}.pem", key)
    path = folder / f"{plan.remote}.tar"
    path.touch(mode=KEY_MODE, exist_ok=False)
    with tarfile.open(path, "w") as packed:
        for name in (CA_CERTIFICATE, *own):
            packed.add(folder / name, name, filter=owned)
    if plan.is_for_systemd:
        # The units here would hand the other site's key to this one's daemon.
        for name in own:
            (folder / name).unlink()


def _say_what_is_next(folder: Path, plan: PairPlan, *, with_certificates: bool) -> None:
    is_packed = plan.is_for_systemd and with_certificates
    other = f"{plan.remote}.tar" if is_packed else "remote.toml"
    click.echo(f"wrote {folder / 'primary.toml'} and {folder / other}")
    if with_certificates:
        click.echo(f"keep {CA_KEY} in a safe place, away from both")
    click.echo("look them over; what is wrong after a change says:")
    click.echo(f"  farshore config check {folder / 'primary.toml'}")
    click.echo("next: bring the remote its files, start it, and then the primary:")
    for command in _next_commands(folder, plan, with_certificates=with_certificates):
        click.echo(f"  {command}")


def _next_commands(
    folder: Path, plan: PairPlan, *, with_certificates: bool
) -> tuple[str, str, str]:
    host = plan.address.rpartition(":")[0]
    files = f"{plan.remote}.tar" if with_certificates else "remote.toml"
    bring = f"scp {folder / files} root@{host}:"
    if plan.is_for_systemd:
        place = f"install -g {DAEMON_GROUP} -m 640 {files} {SYSTEMD_FOLDER}"
        if with_certificates:
            place = f"tar -xf {files} -C {SYSTEMD_FOLDER}"
        remote = f"{place} && systemctl enable --now farshore-remote"
        primary = "systemctl enable --now farshore-primary"
    else:
        unpack = f"tar -xf {files} && " if with_certificates else ""
        remote = f"{unpack}farshore-remote --config remote.toml"
        primary = f"farshore-primary --config {folder / 'primary.toml'}"
    there, here = f"    # at {plan.remote}", f"    # at {plan.primary}"
    return bring, remote + there, primary + here
