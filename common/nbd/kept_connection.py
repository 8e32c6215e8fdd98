"""Connections that outlive their daemon: given to the service manager, and taken back.

A manager that has a store for descriptors (systemd's FileDescriptorStoreMax=) holds
them between two processes. The socket stays open, so that its client only waits. Each
connection is two descriptors of one name: its socket, and a sealed memory file with
its `KeptState`. What comes back is looked at as if a stranger had sent it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from common.nbd.kept_state import (
    STATE_BYTES_MAX,
    BadKeptStateError,
    KeptState,
    decode,
)

NAME_PREFIX: Final = "nbd-host-"
"""Of the names under which the manager keeps them (FDNAME)."""
SEALS: Final = (
    fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
)
_STREAM_FAMILIES: Final = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6}

_log = structlog.get_logger(__name__)


class DescriptorStore(Protocol):
    """The manager's store. Every method may block for some seconds."""

    def put(self, name: str, descriptors: Sequence[int]) -> bool:
        """Give copies of these away under a name; tell whether they were sent."""
        ...

    def settle(self) -> bool:
        """Wait until the manager has done all it was told; tell whether it has."""
        ...

    def forget(self, names: Sequence[str]) -> bool:
        """Have the manager close what it keeps; tell whether it surely has."""
        ...


@dataclass(frozen=True, slots=True)
class KeptConnection:
    """A connection that nobody serves just now. Whoever holds it closes it."""

    connection: socket.socket
    state: KeptState
    peer: str

    def refuse(self, reason: str) -> None:
        """End it, also for those who hold other descriptors of it."""
        _log.warning(
            "nbd_connection_not_kept",
            peer=self.peer,
            export=self.state.agreed.export_name,
            reason=reason,
        )
        _end(self.connection)

    def at(self, place: int) -> KeptConnection:
        """Return it with its place among those to the same export."""
        return replace(self, state=replace(self.state, place=place))


def give(store: DescriptorStore, kept: Sequence[KeptConnection]) -> None:
    """Give connections away, and close what we have of them. Blocks.

    One that can't be given away ends, as all would without a store.
    """
    is_there = True
    for number, each in enumerate(kept):
        with each.connection, contextlib.ExitStack() as closing:
            try:
                memory = _sealed(each.state.encode())
            except OSError as error:
                # The others go over, and the daemon ends in good order, all the same.
                each.refuse(f"its state can't be written down: {error}")
                continue
            closing.callback(os.close, memory)
            # Once is enough to wait for a manager that takes nothing.
            name, both = f"{NAME_PREFIX}{number}", [each.connection.fileno(), memory]
            is_there = is_there and store.put(name, both)
            if not is_there:
                each.refuse("the service manager did not take it")
    store.settle()


def take_back(
    store: DescriptorStore | None, stored: dict[str, list[int]]
) -> list[KeptConnection]:
    """Return the connections that the manager kept, in order of their places. Blocks.

    The manager lets go of its copies first. Were it to keep them, a client's end
    would hang, and a daemon that starts after a crash would be given a state that
    was gone on from, and run its requests again. If that is not sure all are ended.
    """
    is_ours_alone = not stored or (store is not None and store.forget(list(stored)))
    kept = []
    for name, descriptors in stored.items():
        found = _unpacked(name, descriptors)
        if found is None:
            continue
        if is_ours_alone:
            kept.append(found)
        else:
            found.refuse("the service manager did not say that it let go")
    return sorted(kept, key=lambda each: each.state.place)


def _unpacked(name: str, descriptors: list[int]) -> KeptConnection | None:
    """Return what two descriptors are; close them, and say why, if it is nothing."""
    connection: socket.socket | None = None
    data: bytes | None = None
    reason = "it lacks a part"
    for descriptor in descriptors:
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode) and connection is None:
                connection = socket.socket(fileno=descriptor)
                continue
            if data is None:
                data = _read_sealed(descriptor)
        except (OSError, BadKeptStateError) as error:
            reason = str(error)
        with contextlib.suppress(OSError):
            os.close(descriptor)
    try:
        if connection is not None and data is not None:
            peer = _checked_peer(connection)
            return KeptConnection(connection, decode(data), peer)
    except (OSError, BadKeptStateError) as error:
        reason = str(error)
    _log.warning("nbd_connection_not_kept", peer=name, reason=reason)
    if connection is not None:
        _end(connection)
    return None


def _checked_peer(connection: socket.socket) -> str:
    """Return the peer's name for the log; raises where there is no connection."""
    if connection.family not in _STREAM_FAMILIES:
        raise BadKeptStateError("its socket is of a strange family")
    if connection.type != socket.SOCK_STREAM:
        raise BadKeptStateError("its socket is no stream")
    address = connection.getpeername()
    connection.setblocking(False)
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "unix"


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # its client was first
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _sealed(data: bytes) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    descriptor = os.memfd_create("farshore-nbd-host", flags)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _read_sealed(descriptor: int) -> bytes:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size > STATE_BYTES_MAX:
        raise BadKeptStateError("its state is not in a file of some length")
    # Where vm.memfd_noexec is set Linux adds a seal of its own, against execution.
    if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS != SEALS:
        raise BadKeptStateError("its state is not sealed")
    data = b""
    while piece := os.pread(descriptor, found.st_size - len(data), len(data)):
        data += piece
    return data
