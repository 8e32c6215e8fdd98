"""Socket addresses as a config file writes them.

Where a daemon listens:

- "unix:PATH" is a socket file, made and removed by us.
- "tcp:HOST:PORT" is plain text.
- "tls:HOST:PORT" is TCP where every client must start TLS.
- "systemd:NAME" and "systemd+tls:NAME" are sockets that systemd listens on and
  hands over, with that FileDescriptorName (systemd.socket(5), sd_listen_fds(3)).

Where it connects to: "HOST:PORT". An IPv6 host stands in brackets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

UNIX_PATH_BYTES_MAX = 107
"""What `sun_path` of unix(7) holds before its closing zero byte."""

HOST_CHARACTERS_MAX = 253
"""A longer name cannot be resolved (RFC 1035, 2.3.4)."""

_DESCRIPTOR_NAME = re.compile(r"[!-9;-~]{1,255}")
"""systemd.socket(5), FileDescriptorName=: no space, no control character, no colon."""

_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the file system; `path` is absolute once a config is loaded."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host (a name, an IPv4 or an IPv6 address without brackets) and a port."""

    host: str
    port: int
    is_tls: bool = False
    """Where a daemon listens: whether every client must start TLS."""

    @property
    def host_and_port(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{'tls' if self.is_tls else 'tcp'}:{self.host_and_port}"


@dataclass(frozen=True, slots=True)
class SystemdAddress:
    """A socket that systemd hands over under this FileDescriptorName."""

    name: str
    is_tls: bool = False

    def __str__(self) -> str:
        return f"systemd{'+tls' if self.is_tls else ''}:{self.name}"


Address = UnixAddress | TcpAddress | SystemdAddress


def parse_listen_address(value: object) -> Address:
    """Read where a daemon listens; raise ValueError with the form."""
    remedy = 'write "unix:/run/farshore/nbd.sock" or "tcp:127.0.0.1:10809"'
    if isinstance(value, str):
        scheme, _, rest = value.partition(":")
        if scheme == "unix" and rest:
            return UnixAddress(rest)
        if scheme in {"tcp", "tls"}:
            found = _host_and_port(rest, value, remedy, port_min=0)
            return replace(found, is_tls=scheme == "tls")
        if scheme in {"systemd", "systemd+tls"} and _DESCRIPTOR_NAME.fullmatch(rest):
            return SystemdAddress(rest, scheme == "systemd+tls")
    raise ValueError(f"{value!r} is not an address: {remedy}")


def parse_tcp_listen_address(value: object) -> TcpAddress:
    """Read "tcp:HOST:PORT"; raise ValueError with the form."""
    remedy = 'write "tcp:0.0.0.0:7420"'
    if isinstance(value, str) and value.startswith("tcp:"):
        return _host_and_port(value.removeprefix("tcp:"), value, remedy, port_min=0)
    raise ValueError(f"{value!r} is not a TCP address: {remedy}")


def parse_http_listen_address(value: object) -> TcpAddress:
    """Read "HOST:PORT" of the HTTP listener; raise ValueError with the form."""
    remedy = 'write "127.0.0.1:9464", or "[::1]:9464"'
    if isinstance(value, str):
        return _host_and_port(value, value, remedy, port_min=0)
    raise ValueError(f"{value!r} is not a host and port: {remedy}")


def parse_remote_address(value: object) -> TcpAddress:
    """Read "HOST:PORT" of a peer; raise ValueError with the form."""
    remedy = 'write "dr.example.net:7420", or "[2001:db8::7]:7420"'
    if isinstance(value, str):
        return _host_and_port(value, value, remedy, port_min=1)
    raise ValueError(f"{value!r} is not a host and port: {remedy}")


def check_unix_path(path: str) -> str:
    """Return an absolute socket path if the system can bind it."""
    length = len(path.encode())
    if length > UNIX_PATH_BYTES_MAX:
        raise ValueError(
            f"the socket's path {path!r} is {length} bytes long, the system takes "
            f"{UNIX_PATH_BYTES_MAX}: choose a shorter one"
        )
    return path


def _host_and_port(text: str, value: str, remedy: str, *, port_min: int) -> TcpAddress:
    match = _HOST_PORT.fullmatch(text)
    if match is None or len(text) > HOST_CHARACTERS_MAX:
        raise ValueError(f"{value!r} is not a host and port: {remedy}")
    port = int(match[3])
    if not port_min <= port <= 65535:
        raise ValueError(f"{value!r} names no port from 1 to 65535: {remedy}")
    return TcpAddress(match[1] or match[2], port)
