"""A volume as it is typed: GROUP/VOLUME."""

from __future__ import annotations

import click


def split_volume_name(typed: str) -> tuple[str, str]:
    """Return (group, volume); raises `click.UsageError`."""
    group, _, name = typed.partition("/")
    if not group or not name:
        raise click.UsageError(f"{typed!r}: name a volume as GROUP/VOLUME")
    return group, name
