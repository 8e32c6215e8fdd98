"""Where NBD clients may connect: addresses and the sockets bound to them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.errors import ConfigError, DeviceBusyError

UNIX_SOCKET_MODE: Final = 0o660
"""Owner and group: who may connect to a Unix socket may write the volumes."""
KEEPALIVE_IDLE_SECONDS: Final = 30
KEEPALIVE_INTERVAL_SECONDS: Final = 10
KEEPALIVE_PROBES: Final = 6
USER_TIMEOUT_MS: Final = 60_000
"""A peer that vanished is noticed within about a minute and a half instead of
after hours; a connection that merely idles lives on."""


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"


Address = UnixAddress | TcpAddress


def parse_address(text: str) -> Address:
    """Read "unix:/path" or "tcp:host:port"; an IPv6 host stands in brackets."""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest.startswith("/"):
        return UnixAddress(rest)
    if kind == "tcp":
        host, _, port = rest.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if host and port.isascii() and port.isdigit() and int(port) <= 0xFFFF:
            return TcpAddress(host, int(port))
    raise ConfigError(f'listen address "{text}": write "unix:/path" or "tcp:host:port"')


def bind(address: Address, backlog_connections: int) -> list[socket.socket]:
    """Return listening sockets; a host name can mean several.

    `DeviceBusyError` if somebody else serves there, `ConfigError` if the address
    can not be bound.
    """
    try:
        if isinstance(address, UnixAddress):
            return [_bind_unix(address.path, backlog_connections)]
        return _bind_tcp(address, backlog_connections)
    except OSError as error:
        message = f"cannot listen on {address}: {error.strerror or error}"
        if error.errno == errno.EADDRINUSE:
            raise DeviceBusyError(f"{message}; is another daemon running?") from None
        raise ConfigError(f"{message}; mend the listen address") from None


def bound_address(bound: socket.socket) -> str:
    """Return the address a socket is bound to, as `parse_address` reads it."""
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        return str(UnixAddress(name))
    return str(TcpAddress(name[0], name[1]))


def remove_socket_file(path: str, identity: tuple[int, int]) -> None:
    """Remove a socket file on the way out, unless it is another daemon's by now."""
    with contextlib.suppress(OSError):
        if file_identity(path) == identity:
            Path(path).unlink()


def file_identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def prepare_tcp(connection: socket.socket) -> None:
    """Set what every accepted TCP connection needs.

    Small replies must not wait for each other, and dead peers must be noticed.
    """
    options = (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS),
    )
    # The peer may be gone already; then the first read tells.
    with contextlib.suppress(OSError):
        for level, option, value in options:
            connection.setsockopt(level, option, value)


def _bind_unix(path: str, backlog_connections: int) -> socket.socket:
    _clear_stale(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # On Linux the file gets the socket's own mode less the umask, so that it
        # is never wider than meant; the process-wide umask stays untouched.
        os.fchmod(bound.fileno(), UNIX_SOCKET_MODE)
        bound.bind(path)
        Path(path).chmod(UNIX_SOCKET_MODE)
        bound.listen(backlog_connections)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


def _clear_stale(path: str) -> None:
    """Remove the socket file of a daemon that died; refuse a living one's."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(
            f"cannot listen on unix:{path}: the file is not a socket; "
            "remove it or choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
        except BlockingIOError:
            pass  # it lives: its queue of connections is full
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
