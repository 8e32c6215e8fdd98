"""NBD URIs of exports, as its own page of the protocol (uri.md) writes them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from common.addresses import TcpAddress, UnixAddress
from common.nbd.addresses import parse_address

_ANY_HOSTS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound


def uris(addresses: Iterable[str], export_name: str) -> list[str]:
    """Return a URI for each address that has one, sockets of this machine first.

    `addresses` as `NbdServer.addresses` has them. A socket that systemd handed over
    has none of its own; of one that listens everywhere the local host is named.
    """
    name = quote(export_name, safe="/@+")
    parsed = [parse_address(text) for text in addresses]
    found = [
        f"nbd+unix:///{name}?socket={quote(address.path)}"
        for address in parsed
        if isinstance(address, UnixAddress)
    ]
    for address in parsed:
        if isinstance(address, TcpAddress):
            host = address.host_and_port
            if address.host in _ANY_HOSTS:
                host = f"localhost:{address.port}"
            found.append(f"nbd{'s' if address.is_tls else ''}://{host}/{name}")
    return found
