"""Sockets bound to the addresses where NBD clients may connect.

Plain text over TCP is for this machine only, unless `Listening` says else.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.addresses import (
    Address,
    SystemdAddress,
    TcpAddress,
    UnixAddress,
    parse_listen_address,
)
from common.errors import ConfigError, DeviceBusyError
from common.nbd.limits import NbdLimits
from common.nbd.systemd_sockets import SystemdSockets
from common.socket_files import Occupied, clear_stale

UNIX_SOCKET_MODE: Final = 0o660
"""Owner and group: who may connect to a Unix socket may write the volumes."""


@dataclass(frozen=True, slots=True)
class Listening:
    """What holds for all addresses."""

    unix_mode: int = UNIX_SOCKET_MODE
    unix_uid: int = -1
    unix_gid: int = -1
    """Owner and group of socket files; -1 leaves the daemon's own."""
    allow_plaintext: bool = False
    """TCP without TLS beyond this machine."""
    has_tls: bool = False


def demands_tls(address: Address) -> bool:
    return not isinstance(address, UnixAddress) and address.is_tls


def parse_address(text: str) -> Address:
    """Read an address; a path must be absolute. Raises `ConfigError`."""
    try:
        address = parse_listen_address(text)
    except ValueError as error:
        raise ConfigError(f"listen address: {error}") from None
    if isinstance(address, UnixAddress) and not address.path.startswith("/"):
        raise ConfigError(f"listen address: {text!r}: write an absolute path")
    return address


def bind(
    address: Address,
    backlog_connections: int,
    listening: Listening,
    handed: SystemdSockets,
) -> list[socket.socket]:
    """Return listening sockets; a host name or a unit's name can mean several.

    `DeviceBusyError` if somebody else serves there, `ConfigError` if the address
    can not be bound or would let plain text leave this machine unasked.
    """
    if demands_tls(address) and not listening.has_tls:
        raise ConfigError(f"cannot listen on {address}: give [nbd.tls] its files")
    try:
        match address:
            case UnixAddress(path):
                return [_bind_unix(path, backlog_connections, listening)]
            case SystemdAddress(name):
                sockets = handed.take(name)
            case TcpAddress():
                sockets = _bind_tcp(address, backlog_connections)
    except OSError as error:
        message = f"cannot listen on {address}: {error.strerror or error}"
        if error.errno == errno.EADDRINUSE:
            raise DeviceBusyError(f"{message}; is another daemon running?") from None
        raise ConfigError(f"{message}; mend the listen address") from None
    if not (address.is_tls or listening.allow_plaintext):
        _refuse_plaintext(address, sockets)
    return sockets


def bound_address(bound: socket.socket, address: Address) -> str:
    """Return the address a socket is bound to, as `parse_address` reads it."""
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        return str(UnixAddress(name))
    return str(TcpAddress(name[0], name[1], demands_tls(address)))


def _refuse_plaintext(address: Address, sockets: list[socket.socket]) -> None:
    for bound in sockets:
        if bound.family == socket.AF_UNIX:
            continue
        host = bound.getsockname()[0]
        if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            for each in sockets:
                each.close()
            raise ConfigError(
                f"cannot listen on {address}: TCP without TLS lets anybody in "
                f"between read and write volumes, and {host} is not this machine "
                "alone: use tls:, or write allow_plaintext_nbd = true under [nbd]"
            )


def remove_socket_file(path: str, identity: tuple[int, int]) -> None:
    """Remove a socket file on the way out, unless it is another daemon's by now."""
    with contextlib.suppress(OSError):
        if file_identity(path) == identity:
            Path(path).unlink()


def file_identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def prepare_tcp(connection: socket.socket, limits: NbdLimits) -> None:
    """Set what every accepted TCP connection needs.

    Small replies must not wait for each other, and dead peers must be noticed.
    """
    user_timeout_ms = int(limits.user_timeout_seconds * 1000)
    options = (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, limits.keepalive_idle_seconds),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, limits.keepalive_interval_seconds),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, limits.keepalive_probes),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout_ms),
    )
    # The peer may be gone already; then the first read tells.
    with contextlib.suppress(OSError):
        for level, option, value in options:
            connection.setsockopt(level, option, value)


def _bind_unix(
    path: str, backlog_connections: int, listening: Listening
) -> socket.socket:
    _clear_stale(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # On Linux the file gets the socket's own mode less the umask, so that it
        # is never wider than meant; the process-wide umask stays untouched.
        os.fchmod(bound.fileno(), listening.unix_mode & 0o600)
        bound.bind(path)
        # The owner first: the wider mode is meant for the owner and group to be.
        os.chown(path, listening.unix_uid, listening.unix_gid)
        Path(path).chmod(listening.unix_mode)
        bound.listen(backlog_connections)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


def _clear_stale(path: str) -> None:
    """Remove the socket file of a daemon that died; refuse a living one's."""
    match clear_stale(path):
        case Occupied.BY_FILE:
            raise ConfigError(
                f"cannot listen on unix:{path}: the file is not a socket; "
                "remove it or choose another path"
            )
        case Occupied.BY_DAEMON:
            raise DeviceBusyError(
                f"cannot listen on unix:{path}: another daemon serves there; "
                "stop it or choose another path"
            )


def _bind_tcp(address: TcpAddress, backlog_connections: int) -> list[socket.socket]:
    found = socket.getaddrinfo(
        address.host,
        address.port,
        type=socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, target in dict.fromkeys(found):
            bound = socket.socket(family, kind, protocol)
            sockets.append(bound)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind(target)
            bound.listen(backlog_connections)
            bound.setblocking(False)
    except BaseException:
        for bound in sockets:
            bound.close()
        raise
    return sockets
