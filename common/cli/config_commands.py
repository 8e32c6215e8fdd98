"""`farshore config …` and `farshore init`: before there is a daemon."""

from __future__ import annotations

from pathlib import Path

import click

from common.cli.daemon_options import json_option
from common.cli.display import print_json
from common.cli.sample_configs import PRIMARY_TOML, REMOTE_TOML
from common.errors import ConfigError, FarshoreError
from common.service.config import load_any, schema
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


@click.command()
@click.argument("directory", metavar="DIR")
def init(directory: str) -> None:
    """Write a matching pair of config files, with comments, into DIR.

    They replicate in plain text: this version has no other way. Certificates for
    both sites come with a later version.
    """
    folder = Path(directory)
    files = {"primary.toml": PRIMARY_TOML, "remote.toml": REMOTE_TOML}
    for name in files:
        if (folder / name).exists():
            raise FarshoreError(
                f"{folder / name} exists: choose another folder, or remove it"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            _write_new(folder / name, text)
    except OSError as error:
        raise ConfigError(
            f"{directory}: the files cannot be written ({error.strerror}): "
            "choose another folder"
        ) from None
    click.echo(f"wrote {folder / 'primary.toml'} and {folder / 'remote.toml'}")
    click.echo("edit the names, addresses, devices and sizes, then, for each:")
    click.echo(f"  farshore config check {folder / 'primary.toml'}")


def _write_new(path: Path, text: str) -> None:
    """Write a file that must not exist: an operator's file is never overwritten."""
    path.touch(mode=CONFIG_MODE, exist_ok=False)
    path.write_text(text, encoding="utf-8")
