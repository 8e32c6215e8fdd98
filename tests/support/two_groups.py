"""Both sites with two consistency groups: "g", as in `Pair`, and "h" beside it.

For what happens in one group while the other has trouble. The primary serves NBD on
a Unix socket and on TCP.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.sites import Pair, VolumeSpec, free_port, toml


class TwoGroups(Pair):
    """A `Pair` whose daemons have a second group "h", cut by an interval.

    `nbd`: further lines of the primary's `[nbd]` table, and tables below it.
    """

    def __init__(
        self,
        directory: Path,
        volumes: list[VolumeSpec],
        others: list[VolumeSpec],
        *,
        interval: str = "200ms",
        nbd: str = "",
        **options: Any,
    ) -> None:
        self.others = others
        self.interval = interval
        self.tcp_port = free_port()
        self._nbd = nbd
        super().__init__(directory, volumes, **options)

    def primary_toml(self) -> str:
        text = super().primary_toml()
        unix = toml({"listen": [self.primary.nbd_address]})
        both = toml({"listen": [self.primary.nbd_address, self.tcp_address]})
        text = text.replace(unix, both + self._nbd, 1)
        text += "[[group]]\n" + toml({"name": "h", "interval": self.interval})
        link = {
            "remotes": [f"127.0.0.1:{self.replication_port}"],
            "peer": "b",
            "allow_plaintext_replication": True,
        }
        text += "[group.link]\n" + toml(link)
        for volume in self.others:
            table: dict[str, object] = {
                "name": volume.name,
                "device": str(self.device(volume.name)),
                "size": f"{volume.size_bytes}B",
                **volume.options,
            }
            text += "[[group.volume]]\n" + toml(table)
        return text

    def remote_toml(self) -> str:
        text = super().remote_toml()
        text += "[[group]]\n" + toml({"name": "h", "peer": "a"})
        for volume in self.others:
            device = str(self.secondary(volume.name))
            text += "[[group.volume]]\n" + toml({"name": volume.name, "device": device})
        return text

    @property
    def tcp_address(self) -> str:
        """Where the primary serves NBD besides its Unix socket."""
        return f"tcp:127.0.0.1:{self.tcp_port}"

    def is_connected(self) -> bool:
        groups = self.primary.call("status")["groups"]
        return all(group["link"]["state"] == "connected" for group in groups)

    def group(self, name: str) -> dict[str, Any]:
        """Return what the primary says of one of its groups."""
        found = {g["name"]: g for g in self.primary.call("status")["groups"]}
        return dict(found[name])

    def committed(self, name: str) -> int:
        """Return the number of a group's newest recovery point; 0: none yet."""
        point = self.group(name)["recovery_point"]
        return int(point["number"]) if point else 0
