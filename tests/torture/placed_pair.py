"""Both sites with places of their own: file systems, namespaces, tracers.

A `Pair` whose sites may each have a folder for state and devices, an address, and
words before the daemon's command (nsenter, strace, env).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from common.errors import FarshoreError
from tests.support.sites import (
    Daemon,
    Pair,
    VolumeSpec,
    check_log,
)


@dataclass
class Place:
    """Where a site is. `prefix` comes before the daemon's command at each start."""

    folder: Path | None = None
    address: str = "127.0.0.1"
    prefix: list[str] = field(default_factory=list)


class PlacedDaemon(Daemon):
    """A daemon that is started where its `place` says."""

    place: Place

    def prefix(self) -> list[str]:
        return self.place.prefix

    def answers(self) -> bool:
        """Whether both sockets answer now, of a daemon that may die any moment."""
        try:
            return self.is_running and self._answers()
        except (AssertionError, OSError, EOFError, FarshoreError):
            return False

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None


class PlacedPair(Pair):
    """Silent about logs unless something failed; they are in `directory`."""

    def __init__(
        self,
        directory: Path,
        volumes: list[VolumeSpec],
        *,
        primary: Place | None = None,
        remote: Place | None = None,
        group: dict[str, object] | None = None,
        link: dict[str, object] | None = None,
        link_port: int | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._places = {"primary": primary or Place(), "remote": remote or Place()}
        super().__init__(
            directory, volumes, group=group, link=link, link_port=link_port
        )
        self.link_options.setdefault(
            "remotes", [f"{self._places['remote'].address}:{self.link_port}"]
        )
        self.primary: PlacedDaemon = self._placed("primary")
        self.remote: PlacedDaemon = self._placed("remote")
        self.write_configs()

    def _placed(self, role: str) -> PlacedDaemon:
        daemon = PlacedDaemon(role, self.directory, self._sockets)
        daemon.place = self._places[role]
        if daemon.place.folder is not None:
            daemon.state_directory = daemon.place.folder / "state"
        return daemon

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            super().__exit__(kind, error, traceback)
            return
        for daemon in self.daemons:
            daemon.reap()
        for path in self._sockets.iterdir():
            path.unlink()
        self._sockets.rmdir()
        for daemon in self.daemons:
            check_log(daemon)

    def device(self, volume: str) -> Path:
        folder = self._places["primary"].folder or self.directory
        return folder / f"{volume}.img"

    def secondary(self, volume: str) -> Path:
        folder = self._places["remote"].folder or self.directory
        return folder / f"{volume}.remote.img"

    def remote_toml(self) -> str:
        loopback = f"tcp:127.0.0.1:{self.replication_port}"
        own = f"tcp:{self._places['remote'].address}:{self.replication_port}"
        return super().remote_toml().replace(loopback, own)
