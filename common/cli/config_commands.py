"""`farshore config …`: before there is a daemon."""

from __future__ import annotations

import click

from common.cli.daemon_options import json_option
from common.cli.display import print_json
from common.service.config import load_any, schema
from common.service.config_primary import PrimaryConfig
from common.service.config_text import config_text, config_values


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
