"""Exports as callers may open them: by name, by the rules of access."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Protocol

from common.nbd.access import ANYBODY, Access, AccessRule, Caller, access_to
from common.nbd.connections import release_where_it_lives
from common.nbd.export_facts import ExportFacts
from common.ports import HostVolume


class ExportTable(Protocol):
    """The exports of a daemon. Called on the main loop; both answer at once."""

    def names(self) -> list[tuple[str, str]]:
        """Return (name, description) of each export that LIST shows."""
        ...

    def open(self, name: str) -> HostVolume | None:
        """Open an export, or return None if there is no such name.

        The opening stays as it is (size, recovery point) until its `release`,
        which is called exactly once, on the volume's own loop.
        """
        ...


class _Narrowed:
    """A volume for a caller who may only read it, or knows less of it.

    Transmission refuses the rest by `read_only` and `size_bytes`; requests go straight
    to the volume.
    """

    def __init__(self, volume: HostVolume, *, read_only: bool, size_bytes: int) -> None:
        self.loop = volume.loop
        self.size_bytes = size_bytes
        self.read_only = read_only
        self.description = volume.description
        self.preferred_block_bytes = volume.preferred_block_bytes
        self.contexts = volume.contexts
        self.fast_zero = volume.fast_zero and not read_only
        self.submit = volume.submit
        self.release = volume.release


class Opening:
    """The export a handshake talks about, held open from INFO to GO.

    One opening serves both, so that GO can not tell anything else than INFO did
    and transmission serves exactly what was told, whatever commits meanwhile.
    """

    def __init__(self, exports: ExportTable, rules: tuple[AccessRule, ...]) -> None:
        self.caller = ANYBODY
        self._exports = exports
        self._rules = rules
        self._name = ""
        self._volume: HostVolume | None = None

    def names(self) -> Sequence[tuple[str, str]]:
        return [
            (name, description)
            for name, description in self._exports.names()
            if access_to(self._rules, name, self.caller) is not None
        ]

    def facts(self, name: str) -> ExportFacts | None:
        if self._volume is None or name != self._name:
            self.release()
            self._name, self._volume = name, self._open(name)
        volume = self._volume
        if volume is None:
            return None
        return ExportFacts(
            size_bytes=volume.size_bytes,
            read_only=volume.read_only,
            description=volume.description,
            preferred_block_bytes=volume.preferred_block_bytes,
            contexts=volume.contexts,
            fast_zero=volume.fast_zero,
        )

    def take(self, name: str) -> HostVolume:
        """Hand over the volume that `facts` told of; the taker releases it."""
        assert name == self._name
        volume, self._volume = self._volume, None
        assert volume is not None
        return volume

    def holds(self, name: str) -> bool:
        return self._volume is not None and self._name == name

    def release(self) -> None:
        volume, self._volume = self._volume, None
        if volume is not None:
            release_where_it_lives(volume)

    def _open(self, name: str) -> HostVolume | None:
        access = access_to(self._rules, name, self.caller)
        volume = None if access is None else self._exports.open(name)
        if volume is None or access is Access.READ_WRITE or volume.read_only:
            return volume
        return _Narrowed(volume, read_only=True, size_bytes=volume.size_bytes)


def as_told(volume: HostVolume, size_bytes: int) -> HostVolume:
    """Return a volume that may have grown, for a client who was told this size."""
    return _Narrowed(volume, read_only=volume.read_only, size_bytes=size_bytes)


def caller_of(connection: socket.socket) -> Caller:
    """Return who the kernel says is at the other end; TCP knows nobody."""
    if connection.family != socket.AF_UNIX:
        return ANYBODY
    size = struct.calcsize("3i")
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, gid = struct.unpack("3i", told)
    return Caller(uid=uid, gid=gid)
