"""The config files of the demo's two sites: one group of two volumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

GROUP: Final = "bank"
DATA_VOLUME: Final = "data"
LOG_VOLUME: Final = "log"

_PRIMARY: Final = """\
[site]
name = "amsterdam"
state_dir = "{root}/primary"
control_socket = "{root}/primary.sock"

[nbd]
listen = ["unix:{root}/host.sock"]

[[group]]
name = "{group}"
rpo = "{rpo_seconds}s"

[group.link]
remotes = ["127.0.0.1:{port}"]
connections = 2
peer = "dr"
allow_plaintext_replication = true

[group.flashcopy]
directory = "{root}/flashcopy"

[[group.volume]]
name = "{data}"
device = "{root}/data.primary.img"
size = "1GiB"

[[group.volume]]
name = "{log}"
device = "{root}/log.primary.img"
size = "16MiB"
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

[group.journal]
directory = "{root}/journal"

[[group.volume]]
name = "{data}"
device = "{root}/data.remote.img"

[[group.volume]]
name = "{log}"
device = "{root}/log.remote.img"
"""


@dataclass(frozen=True, slots=True)
class PairConfig:
    """Where the two sites keep everything, and how old a point may become."""

    root: Path
    port: int
    rpo_seconds: int

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

    @property
    def data_export(self) -> str:
        return f"{GROUP}/{DATA_VOLUME}"

    @property
    def log_export(self) -> str:
        return f"{GROUP}/{LOG_VOLUME}"

    def write(self) -> None:
        """Write both files."""
        values = {
            "root": self.root,
            "port": self.port,
            "rpo_seconds": self.rpo_seconds,
            "group": GROUP,
            "data": DATA_VOLUME,
            "log": LOG_VOLUME,
        }
        self.primary.write_text(_PRIMARY.format(**values))
        self.remote.write_text(_REMOTE.format(**values))
