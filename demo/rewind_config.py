"""The config files of `make demo-rewind`: one volume, and a history of its points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

GROUP: Final = "office"
VOLUME: Final = "files"
EXPORT: Final = f"{GROUP}/{VOLUME}"

_PRIMARY: Final = """\
[site]
name = "amsterdam"
state_dir = "{root}/primary"
control_socket = "{root}/primary.sock"

[nbd]
listen = ["unix:{root}/host.sock"]

[[group]]
name = "{group}"
interval = "500ms"

[group.link]
remotes = ["127.0.0.1:{port}"]
peer = "dr"
allow_plaintext_replication = true

[[group.volume]]
name = "{volume}"
device = "{root}/primary.img"
size = "64MiB"
"""

_REMOTE: Final = """\
[site]
name = "dr"
state_dir = "{root}/remote"
control_socket = "{root}/remote.sock"

[replication]
listen = ["tcp:127.0.0.1:{port}"]
allow_plaintext_replication = true

[nbd]
listen = ["unix:{root}/recovery.sock"]

[[group]]
name = "{group}"
peer = "amsterdam"
retain = ["all for 1h"]

[[group.volume]]
name = "{volume}"
device = "{root}/remote.img"
"""


@dataclass(frozen=True, slots=True)
class RewindConfig:
    """Where the two sites keep everything."""

    root: Path
    port: int

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

    def write(self) -> None:
        """Write both files."""
        values = {
            "root": self.root,
            "port": self.port,
            "group": GROUP,
            "volume": VOLUME,
        }
        self.primary.write_text(_PRIMARY.format(**values))
        self.remote.write_text(_REMOTE.format(**values))
