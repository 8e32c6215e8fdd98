"""Is what a config, or a sender, says of a group what its record says? Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import structlog

from common.errors import StateMismatchError
from common.replication.session_messages import VolumeOffer
from remote_site.store_state import StoreState

log = structlog.get_logger()


def check_settings(
    state: StoreState,
    group: str,
    devices: Mapping[str, str],
    peer: str | None,
    record_path: str,
) -> None:
    """Raise `StateMismatchError` unless a config is that of the group in the record.

    It may name a volume more: one that is to be added, or that was removed.
    """
    names = {offer.name for offer in state.current}
    configured = set(devices)
    if state.group != group or not names <= configured:
        raise StateMismatchError(
            f"{record_path} belongs to group {state.group!r} with volumes "
            f"{sorted(names)}, but the config has group {group!r} "
            f"with volumes {sorted(configured)}; mend [[group.volume]] or name "
            "another site.state_dir"
        )
    if peer not in {None, state.peer}:
        raise StateMismatchError(
            f"{record_path} holds group {state.group!r} as received from "
            f"site {state.peer!r}, but the config has group.peer = "
            f"{peer!r}; give group.peer back its value or name "
            "another site.state_dir"
        )
    for name in sorted(configured - names):
        log.warning("volume_not_in_group", group=group, volume=name)


def check_offer(
    group: str, volumes: tuple[VolumeOffer, ...], configured: Collection[str]
) -> None:
    """Raise `StateMismatchError` unless the config has the volumes of a sender.

    It may name more, that were removed: a HELLO of a new group has them all.
    """
    offered = {offer.name for offer in volumes}
    if not offered <= set(configured) or len(offered) != len(volumes):
        raise StateMismatchError(
            f"group {group!r}: the sender has volumes "
            f"{sorted(offered)}, this site {sorted(configured)}; mend "
            "[[group.volume]] at either site"
        )


def check_bound(
    state: StoreState,
    group_id: bytes,
    lineage: bytes,
    peer: str,
    volumes: tuple[VolumeOffer, ...],
    record_path: str,
) -> None:
    """Raise `StateMismatchError` unless the group is bound to this sender already."""
    for name, mine, theirs in (
        ("group id", state.group_id.hex(), group_id.hex()),
        ("lineage", state.lineage.hex(), lineage.hex()),
        ("peer", state.peer, peer),
        ("volumes", _described(state.current), _described(volumes)),
    ):
        if mine != theirs:
            raise StateMismatchError(
                f"{record_path}: group {state.group!r} is bound to {name} "
                f"{mine}, the sender has {theirs}; if that is meant, name another "
                "site.state_dir and devices"
            )


def _described(volumes: tuple[VolumeOffer, ...]) -> str:
    return ", ".join(
        f"{offer.name} ({offer.size_bytes} bytes in tracks of {offer.track_bytes}, "
        f"id {offer.volume_id.hex()})"
        for offer in volumes
    )
