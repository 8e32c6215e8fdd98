"""`farshore volume`: asked of a site that sends a group, in the roles it began with."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from common.errors import RefusedError
from common.nbd.server import NbdServer
from primary_site.sending_groups import SendingGroups


async def volume_request(
    sending: SendingGroups,
    nbd: NbdServer | None,
    name: str,
    *,
    is_received: bool,
    action: str,
    volume: str,
    cut_off: bool = False,
) -> dict[str, Any]:
    """Add a volume, say what removing one would do (`plan`), or remove it.

    `is_received`: the group has a store at this site. Raises `RefusedError`.
    """
    _check_role(sending, name, action, is_received=is_received)
    if action == "add":
        size_bytes = await sending.add_volume(name, volume)
        return {"group": name, "volume": volume, "size_bytes": size_bytes}
    hosted = sending.hosted[name]
    leaving = await hosted.ask(lambda: hosted.members.leaving(volume))
    hosts = _hosts(nbd, f"{name}/{volume}")
    plan = {"group": name, **asdict(leaving), "hosts": hosts}
    if action == "plan":
        return plan
    if hosts and not cut_off:
        raise RefusedError(
            f"{hosts} connections of hosts use {name}/{volume}: end them first, or "
            "have them cut off (cut_off)"
        )

    async def disconnect(export: str) -> None:
        if nbd is not None:
            await nbd.disconnect(export)

    await sending.remove_volume(name, volume, disconnect)
    return plan


def _check_role(
    sending: SendingGroups, name: str, action: str, *, is_received: bool
) -> None:
    if name not in sending.hosted:
        raise RefusedError(
            f"volume: this site receives group {name!r}; run the command at the "
            "sending site"
        )
    if is_received:
        raise RefusedError(
            f"volume: the roles of group {name!r} were exchanged: such a group keeps "
            f"the volumes that it has. {_instead(action)}"
        )


def _instead(action: str) -> str:
    """Return what to do where a group keeps its volumes."""
    if action == "add":
        return (
            "Give the new volume a group of its own: a [[group]] in the config of both "
            "sites, and a start of both daemons"
        )
    return "Have hosts leave this one alone: unchanged, it sends nothing"


def _hosts(nbd: NbdServer | None, export: str) -> int:
    if nbd is None:
        return 0
    found = nbd.connections_by_export()
    return found.get(export, 0) + found.get(f"{export}@cut", 0)
