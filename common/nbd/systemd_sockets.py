"""Sockets that systemd listens on and hands to the daemon (sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket
from typing import Final

from common.errors import ConfigError

FIRST_DESCRIPTOR: Final = 3


def take_systemd_socket(name: str) -> socket.socket:
    """Return the listening stream socket with this FileDescriptorName.

    It is a descriptor of its own, not inherited by what the daemon starts; systemd
    keeps the socket and its file, which are therefore never removed by us. Raises
    `ConfigError` that names the unit's setting to mend.
    """
    wanted = [fd for fd, given in _descriptors() if given == name]
    if len(wanted) != 1:
        known = ", ".join(sorted({given for _, given in _descriptors()})) or "none"
        raise ConfigError(
            f"cannot listen on systemd:{name}: {len(wanted)} sockets of that name "
            f"were handed over (there are: {known}); start the daemon by a socket "
            f"unit with one address and FileDescriptorName={name}"
        )
    os.set_inheritable(wanted[0], False)
    try:
        found = socket.socket(fileno=os.dup(wanted[0]))
    except OSError:
        raise _not_listening(name) from None
    is_stream = found.type == socket.SOCK_STREAM
    is_known = found.family in {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6}
    if not (
        is_stream
        and is_known
        and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        found.close()
        raise _not_listening(name)
    found.setblocking(False)
    return found


def _not_listening(name: str) -> ConfigError:
    return ConfigError(
        f"cannot listen on systemd:{name}: what was handed over is not a listening "
        "stream socket: use ListenStream= and Accept=no in the socket unit"
    )


def _descriptors() -> list[tuple[int, str]]:
    """Return (descriptor, name) of what was handed to this very process."""
    environment = os.environ
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environment.get("LISTEN_FDS", "")
    if not count.isascii() or not count.isdigit():
        return []
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    return [
        (FIRST_DESCRIPTOR + index, names[index] if index < len(names) else "unknown")
        for index in range(int(count))
    ]
