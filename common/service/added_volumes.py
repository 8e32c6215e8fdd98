"""Volumes that come to groups while a daemon runs, as its config file has them by then.

A file has a group once, in the role that its site began with; both roles find a volume
there (`config_roles.py`). What was found is kept: a change of roles needs no file that
may be half edited just then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from common.errors import RefusedError
from common.service.config import load_any
from common.service.config_primary import PrimaryGroup, PrimaryVolume
from common.service.config_remote import RemoteGroup, RemoteVolume
from common.service.config_roles import receiving_group, sending_group


class Named(Protocol):
    """A volume in either role."""

    @property
    def name(self) -> str: ...


Volume = TypeVar("Volume", bound=Named)


@dataclass(frozen=True, slots=True)
class Found:
    """A group as the file has it now, in both roles."""

    sent: PrimaryGroup
    received: RemoteGroup

    def volume(self, name: str) -> PrimaryVolume | None:
        """Return a volume of it, as it is sent."""
        return next((each for each in self.sent.volumes if each.name == name), None)


class AddedVolumes:
    """Of all groups of a daemon; its main loop's."""

    def __init__(self, config_path: str) -> None:
        self.config_path = config_path
        self._sent: dict[str, dict[str, PrimaryVolume]] = {}
        self._received: dict[str, dict[str, RemoteVolume]] = {}

    async def find(self, group: str) -> Found:
        """Read the file again; return what it has of a group.

        Raises `ConfigError`, or `RefusedError` where it has no such group.
        """
        return await asyncio.to_thread(_read, self.config_path, group)

    def keep(self, found: Found, names: Collection[str]) -> None:
        """Have both roles know these volumes, of those found, from now on.

        And those that the file lacks no longer. Not of a volume that the group has:
        what it runs with counts until a restart.
        """
        group = found.sent.name
        sent = self._sent.setdefault(group, {})
        received = self._received.setdefault(group, {})
        for name in names:
            sent.pop(name, None)
            received.pop(name, None)
        sent |= {v.name: v for v in found.sent.volumes if v.name in names}
        received |= {v.name: v for v in found.received.volumes if v.name in names}

    def absent_text(self, group: str, volume: str, *, where: str = "") -> str:
        """Say that the file lacks a volume, and what to write."""
        return (
            f"{self.config_path}{where} has no [[group.volume]] with name = "
            f'"{volume}" in group "{group}": add it there, with its device'
        )

    def sent(self, group: str, volume: str) -> PrimaryVolume | None:
        """Return a volume that was found since the file was read, as it is sent."""
        return self._sent.get(group, {}).get(volume)

    def to_sent(self, config: PrimaryGroup) -> PrimaryGroup:
        """Return a group that is sent, with the volumes found since it was read."""
        found = self._sent.get(config.name, {})
        volumes = _joined(config.volumes, found.values())
        return config.model_copy(update={"volumes": volumes})

    def to_received(self, config: RemoteGroup) -> RemoteGroup:
        """Return a group that is received, with the volumes found since it was read."""
        found = self._received.get(config.name, {})
        volumes = _joined(config.volumes, found.values())
        return config.model_copy(update={"volumes": volumes})


def _joined(known: Iterable[Volume], found: Iterable[Volume]) -> tuple[Volume, ...]:
    """Return volumes by name, as they were found last, in their order."""
    return tuple(({v.name: v for v in known} | {v.name: v for v in found}).values())


def _read(path: str, name: str) -> Found:
    """Blocks."""
    for group in load_any(path).groups:
        if group.name != name:
            continue
        if isinstance(group, PrimaryGroup):
            return Found(group, receiving_group(group))
        return Found(sending_group(group), group)
    raise RefusedError(f"{path} has no group {name!r}")
