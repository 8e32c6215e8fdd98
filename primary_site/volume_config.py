"""The entry of a volume in the config, as the file has it now. Blocks."""

from __future__ import annotations

from common.errors import RefusedError
from common.service.config import load_primary
from common.service.config_primary import PrimaryGroup, PrimaryVolume


def find_volume_config(
    path: str, group: str, volume: str
) -> tuple[PrimaryGroup, PrimaryVolume]:
    """Return a group and a volume of it, from a primary's config that is read again.

    Raises `ConfigError`, or `RefusedError` where the file does not have it.
    """
    for config in load_primary(path).groups:
        if config.name != group:
            continue
        for found in config.volumes:
            if found.name == volume:
                return config, found
        raise RefusedError(
            f'{path} has no [[group.volume]] with name = "{volume}" in group '
            f'"{group}": add it, with its device, here and in the remote\'s config'
        )
    raise RefusedError(f"{path} has no group {group!r}")
