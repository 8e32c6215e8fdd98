"""Sockets that systemd listens on and hands to the daemon (sd_listen_fds(3))."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping
from typing import Final, Self

from common.errors import ConfigError

FIRST_DESCRIPTOR: Final = 3
VARIABLES: Final = ("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES")


class SystemdSockets:
    """What was handed to this process and is still to be taken, by name.

    systemd keeps a descriptor of its own of each, and the file of a Unix socket: we
    remove neither, so that clients can wait in the queue while the daemon is away.
    """

    def __init__(self, descriptors: dict[str, list[int]]) -> None:
        self._descriptors = descriptors

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Self:
        """Take what the environment tells of out of it.

        Processes that we start inherit neither the variables nor the sockets.
        """
        pid, _, count, names = (environment.pop(name, "") for name in VARIABLES)
        descriptors: dict[str, list[int]] = {}
        if pid == str(os.getpid()) and count.isascii() and count.isdigit():
            given = names.split(":")
            for index in range(int(count)):
                name = given[index] if index < len(given) else "unknown"
                descriptor = FIRST_DESCRIPTOR + index
                # One that is not open is refused when it is asked for.
                with contextlib.suppress(OSError):
                    os.set_inheritable(descriptor, False)
                descriptors.setdefault(name, []).append(descriptor)
        return cls(descriptors)

    @property
    def names(self) -> list[str]:
        """The names that nobody has taken."""
        return sorted(self._descriptors)

    def take_kept(self, prefix: str) -> dict[str, list[int]]:
        """Return what is named so, none to listen on; it is the caller's to close."""
        names = [name for name in self._descriptors if name.startswith(prefix)]
        return {name: self._descriptors.pop(name) for name in names}

    def take(self, name: str) -> list[socket.socket]:
        """Return the listening stream sockets with this FileDescriptorName.

        They are the very descriptors that were handed over, and the caller's to
        close. Raises `ConfigError` that names the unit's setting to mend.
        """
        descriptors = self._descriptors.pop(name, None)
        if descriptors is None:
            known = ", ".join(self.names) or "none"
            raise ConfigError(
                f"cannot listen on systemd:{name}: no socket of that name was handed "
                f"over (there are: {known}); start the daemon by a socket unit with "
                f"FileDescriptorName={name}"
            )
        with contextlib.ExitStack() as closing:
            taken = [closing.enter_context(_listening(name, d)) for d in descriptors]
            closing.pop_all()
            return taken


def _listening(name: str, descriptor: int) -> socket.socket:
    error = ConfigError(
        f"cannot listen on systemd:{name}: what was handed over is not a listening "
        "stream socket: use ListenStream= and Accept=no in the socket unit"
    )
    try:
        found = socket.socket(fileno=descriptor)
    except OSError:
        raise error from None
    if not (
        found.type == socket.SOCK_STREAM
        and found.family in {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6}
        and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        found.close()
        raise error
    found.setblocking(False)
    return found
