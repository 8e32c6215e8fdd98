"""`farshore config …` and `farshore init`: before there is a daemon."""

from __future__ import annotations

from pathlib import Path

import click

from common.cli.daemon_options import json_option
from common.cli.display import print_json
from common.cli.sample_configs import (
    PRIMARY_SITE,
    PRIMARY_TOML,
    REMOTE_SITE,
    REMOTE_TOML,
    renamed,
)
from common.cli.site_certificates import (
    CA_CERTIFICATE,
    CA_KEY,
    certificate_files,
    make_certificates,
)
from common.errors import ConfigError, FarshoreError
from common.service.config import load_any, schema
from common.service.config_common import check_name
from common.service.config_primary import PrimaryConfig
from common.service.config_text import config_text, config_values

CONFIG_MODE = 0o640
"""Later versions may name secrets in it: not for everybody to read."""


@click.group()
def config() -> None:
    """Check and explain config files."""


@config.command()
@click.argument("file")
@json_option
def check(file: str, as_json: bool) -> None:
    """Say whether FILE is a config that a daemon would start with.

    Reads nothing but the file: devices are looked at when a daemon starts.
    """
    loaded = load_any(file)
    kind = "primary" if isinstance(loaded, PrimaryConfig) else "remote"
    volumes = [f"{g.name}/{v.name}" for g in loaded.groups for v in g.volumes]
    if as_json:
        print_json({"file": file, "kind": kind, "volumes": volumes})
    else:
        click.echo(f"{file}: a valid {kind} config, volumes {', '.join(volumes)}")
        click.echo(f"to start it: farshore-{kind} --config {file}")


@config.command("schema")
@click.argument("kind", type=click.Choice(["primary", "remote"]), default="primary")
def show_schema(kind: str) -> None:
    """Print the JSON Schema of a primary's (the default) or a remote's config."""
    print_json(schema("remote" if kind == "remote" else "primary"))


@config.command()
@click.argument("file")
@json_option
def show(file: str, as_json: bool) -> None:
    """Print the effective config of FILE, defaults included, paths absolute."""
    loaded = load_any(file)
    if as_json:
        print_json(config_values(loaded))
    else:
        click.echo(config_text(loaded), nl=False)


def _site_name(_context: click.Context, _option: click.Parameter, value: str) -> str:
    try:
        return check_name(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("directory", metavar="DIR")
@click.option(
    "--primary", default=PRIMARY_SITE, callback=_site_name, help="The sending site."
)
@click.option(
    "--remote", default=REMOTE_SITE, callback=_site_name, help="The receiving site."
)
@click.option(
    "--no-certificates",
    is_flag=True,
    help="Write the configs alone, with no CA and no certificates beside them.",
)
def init(directory: str, primary: str, remote: str, no_certificates: bool) -> None:
    """Write a matching pair of config files and of certificates into DIR.

    The certificates are those of a private CA that is made for them, whose key is
    replication-ca.key: keep it in a safe place, away from both sites.
    """
    if primary == remote:
        raise ConfigError("both sites have the same name: give them two")
    folder = Path(directory)
    files = {
        "primary.toml": renamed(PRIMARY_TOML, primary, remote),
        "remote.toml": renamed(REMOTE_TOML, primary, remote),
    }
    sites = (primary, remote)
    for name in (*files, *(() if no_certificates else certificate_files(sites))):
        if (folder / name).exists():
            raise FarshoreError(
                f"{folder / name} exists: choose another folder, or remove it"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not no_certificates:
            make_certificates(folder, sites)
        for name, text in files.items():
            _write_new(folder / name, text)
    except OSError as error:
        raise ConfigError(
            f"{directory}: the files cannot be written ({error.strerror}): "
            "choose another folder"
        ) from None
    click.echo(f"wrote {folder / 'primary.toml'} and {folder / 'remote.toml'}")
    if not no_certificates:
        click.echo(
            f"each site needs {CA_CERTIFICATE} and its own two beside its config: "
            f"{primary}.pem and .key, {remote}.pem and .key"
        )
        click.echo(f"keep {CA_KEY} in a safe place, away from both")
    click.echo("edit the names, addresses, devices and sizes, then, for each:")
    click.echo(f"  farshore config check {folder / 'primary.toml'}")


def _write_new(path: Path, text: str) -> None:
    """Write a file that must not exist: an operator's file is never overwritten."""
    path.touch(mode=CONFIG_MODE, exist_ok=False)
    path.write_text(text, encoding="utf-8")
