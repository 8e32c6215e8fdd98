"""The config files of a demo's two sites: one group, each site for either role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo.sites import free_port

PRIMARY_SITE: Final = "amsterdam"
REMOTE_SITE: Final = "dr"

_SITE: Final = """\
[site]
name = "{site}"
state_dir = "{root}/{role}"
control_socket = "{root}/{role}.sock"

[nbd]
listen = ["unix:{socket}"]

[replication]
listen = ["tcp:127.0.0.1:{port}"]
allow_plaintext_replication = true

[[group]]
name = "{group}"
{keys}

[group.link]
remotes = ["127.0.0.1:{peer_port}"]
peer = "{peer}"
connections = {connections}
allow_plaintext_replication = true
"""

_VOLUME: Final = """
[[group.volume]]
name = "{name}"
device = "{root}/{name}.{role}.img"
"""


@dataclass(frozen=True, slots=True)
class PairConfig:
    """Where the two sites keep everything, and what they do.

    `volumes`: sizes by name. `sent` and `received`: more keys of the group, a line
    each, at the primary and at the remote. `connections`: of a link.
    """

    root: Path
    group: str
    volumes: Mapping[str, str]
    sent: str
    received: str = ""
    connections: int = 1

    @property
    def primary(self) -> Path:
        return self.root / "primary.toml"

    @property
    def remote(self) -> Path:
        return self.root / "remote.toml"

    @property
    def primary_control(self) -> str:
        return f"{self.root}/primary.sock"

    @property
    def remote_control(self) -> str:
        return f"{self.root}/remote.sock"

    @property
    def host_socket(self) -> str:
        return f"{self.root}/host.sock"

    @property
    def recovery_socket(self) -> str:
        return f"{self.root}/recovery.sock"

    def export(self, volume: str) -> str:
        return f"{self.group}/{volume}"

    def write(self) -> None:
        """Write both files, with ports that are free just now."""
        ports = free_port(), free_port()
        primary = self._site("primary", PRIMARY_SITE, self.host_socket, *ports)
        primary += self._volumes("primary", has_sizes=True)
        remote = self._site("remote", REMOTE_SITE, self.recovery_socket, *ports[::-1])
        remote += self._volumes("remote", has_sizes=False)
        self.primary.write_text(primary)
        self.remote.write_text(remote)

    def _site(
        self, role: str, site: str, socket: str, port: int, peer_port: int
    ) -> str:
        is_primary = role == "primary"
        return _SITE.format(
            site=site,
            role=role,
            root=self.root,
            socket=socket,
            port=port,
            peer_port=peer_port,
            group=self.group,
            keys=self.sent
            if is_primary
            else f'peer = "{PRIMARY_SITE}"\n{self.received}',
            peer=REMOTE_SITE if is_primary else PRIMARY_SITE,
            connections=self.connections,
        )

    def _volumes(self, role: str, *, has_sizes: bool) -> str:
        parts = []
        for name, size in self.volumes.items():
            parts.append(_VOLUME.format(name=name, root=self.root, role=role))
            if has_sizes:
                parts.append(f'size = "{size}"\n')
        return "".join(parts)
