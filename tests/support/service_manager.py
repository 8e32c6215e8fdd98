"""A service manager as small as it can be: what systemd does of sd_notify(3),
sd_listen_fds(3) and its store for descriptors, for one service."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

DATAGRAM_BYTES = 4096
DESCRIPTORS_MAX = 16
FIRST = 3
AS_MANAGED = f"""
import os, sys
given = [os.dup(int(word)) for word in sys.argv[2].split()]
given = [os.dup2(each, 1000 + at) for at, each in enumerate(given)]
for at, each in enumerate(given):
    os.dup2(each, {FIRST} + at)
os.closerange({FIRST} + len(given), 2000)
os.environ.update(NOTIFY_SOCKET=sys.argv[1])
if given:
    os.environ.update(
        LISTEN_PID=str(os.getpid()),
        LISTEN_FDS=str(len(given)),
        LISTEN_FDNAMES=sys.argv[3],
    )
os.execvp(sys.argv[4], sys.argv[4:])
"""


class ServiceManager:
    """Holds what a service gives it; `store` maps names to copies of descriptors.

    Datagrams are handled one by one in their order by a thread of its own, as systemd
    handles them whatever the service is about.
    """

    def __init__(self, directory: Path) -> None:
        self.address = str(directory / "notify")
        self.store: dict[str, list[int]] = {}
        self.told: list[str] = []
        """Every datagram, in order."""
        self.forgets = True
        """Or it leaves unread what it is told to forget, and all that follows."""
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._channel.bind(self.address)
        self._end, self._ending = os.pipe()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._ending)
        self._thread.join()
        self.drop()
        os.close(self._end)
        self._channel.close()

    def drop(self) -> None:
        """Close all that is kept, as for a service that is stopped for good."""
        for name in list(self.store):
            self._forget(name)

    def words(self) -> tuple[list[str], list[int]]:
        """Return what a command of the service is to be preceded by, and inherits."""
        names = [(name, each) for name, held in self.store.items() for each in held]
        numbers = [each for _, each in names]
        told = ":".join(name for name, _ in names)
        given = " ".join(map(str, numbers))
        return ["python3", "-c", AS_MANAGED, self.address, given, told], numbers

    def _serve(self) -> None:
        while True:
            found, _, _ = select.select([self._channel, self._end], [], [])
            if self._end in found:
                return
            message, descriptors, _, _ = socket.recv_fds(
                self._channel, DATAGRAM_BYTES, DESCRIPTORS_MAX
            )
            lines = message.decode().split("\n")
            self.told.append(message.decode())
            name = next(
                (line[7:] for line in lines if line.startswith("FDNAME=")), "stored"
            )
            if "FDSTORE=1" in lines:
                self.store.setdefault(name, []).extend(descriptors)
                continue
            if "FDSTOREREMOVE=1" in lines:
                if not self.forgets:
                    select.select([self._end], [], [])
                    return
                self._forget(name)
            for each in descriptors:
                os.close(each)

    def _forget(self, name: str) -> None:
        for each in self.store.pop(name, []):
            with contextlib.suppress(OSError):
                os.close(each)
