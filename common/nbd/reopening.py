"""Whether a connection of a daemon before would be let in today, and to what."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from common.nbd.access import AccessRule
from common.nbd.connections import HandedOver, release_where_it_lives
from common.nbd.kept_connection import KeptConnection
from common.nbd.kept_state import KeptState
from common.nbd.opening import ExportTable, Opening, as_told, caller_of
from common.ports import HostVolume


class NotWelcomeError(Exception):
    """Why a connection is not gone on with."""


def reopen(
    kept: KeptConnection,
    exports: ExportTable,
    rules: tuple[AccessRule, ...],
    plain: Sequence[socket.socket],
) -> HandedOver:
    """Open the export of a kept connection for its client once more.

    `plain`: the sockets listened on without TLS; one of them has to be where the client
    connected. Raises `NotWelcomeError`.
    """
    state, connection = kept.state, kept.connection
    if not any(_is_of(connection, listening) for listening in plain):
        raise NotWelcomeError("this address is not listened on any more")
    opening = Opening(exports, rules)
    opening.caller = caller_of(connection)
    name = state.agreed.export_name
    if opening.facts(name) is None:
        raise NotWelcomeError("there is no such export for this client any more")
    volume = opening.take(name)
    changed = _changed(state, volume)
    if changed is not None:
        release_where_it_lives(volume)
        raise NotWelcomeError(changed)
    return HandedOver(
        connection,
        as_told(volume, state.size_bytes),
        state.agreed,
        state.unread,
        kept.peer,
        is_doubted=state.is_doubted,
    )


def _changed(state: KeptState, volume: HostVolume) -> str | None:
    """Say what the client was told and is not so any more."""
    if volume.read_only:
        return "it may only be read now"
    if volume.size_bytes < state.size_bytes:
        return "the volume is smaller now"
    if not {name for _, name in state.agreed.contexts} <= set(volume.contexts):
        return "a metadata context is gone"
    if state.fast_zero and not volume.fast_zero:
        return "zeroing is slow now"
    return None


def _is_of(connection: socket.socket, listening: socket.socket) -> bool:
    """Tell whether a listening socket is one that could have accepted a connection."""
    if connection.family != listening.family:
        return False
    name, own = listening.getsockname(), connection.getsockname()
    if connection.family == socket.AF_UNIX:
        return bool(name == own)
    return name[1] == own[1] and name[0] in {own[0], "0.0.0.0", "::"}  # noqa: S104
