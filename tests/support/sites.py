"""Both sites as real daemons: their configs, processes, logs, and their end.

    with Pair(tmp_path, [VolumeSpec("v", 8 << 20)]) as pair:
        await pair.start()
        client = await pair.primary.nbd("g/v")
        cut = await pair.cut()

Whatever happens, leaving the `with` ends every process and prints the logs' ends,
which pytest shows where a test failed.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from common.certificates import TlsFiles
from tests.support.daemon import (
    PATIENCE_SECONDS,
    POLL_SECONDS,
    REPOSITORY,
    Daemon,
    check_log,
    command_path,
    data_ranges,
    free_port,
    read_all,
    run_cli,
    until,
)

__all__ = [
    "PATIENCE_SECONDS",
    "POLL_SECONDS",
    "REPOSITORY",
    "Daemon",
    "Pair",
    "VolumeSpec",
    "check_log",
    "command_path",
    "data_ranges",
    "free_port",
    "read_all",
    "run_cli",
    "tls_table",
    "toml",
    "until",
]

REGION_BYTES_DEFAULT = 4 << 20
OTHERS_INTERVAL = "200ms"
"""How often the second group is cut."""


@dataclass(frozen=True)
class VolumeSpec:
    """One volume of the group; `options` are further lines of its table."""

    name: str
    size_bytes: int
    options: dict[str, object] = field(default_factory=dict)
    region_bytes: int = REGION_BYTES_DEFAULT

    def keys(self) -> dict[str, object]:
        """Return what the primary's config says of it besides name and device."""
        found: dict[str, object] = {"size": f"{self.size_bytes}B", **self.options}
        if self.region_bytes != REGION_BYTES_DEFAULT:
            found["region_size"] = f"{self.region_bytes}B"
        return found


def toml(table: Mapping[str, Any], name: str = "") -> str:
    """Write values, tables and lists of tables as TOML; `name` is the table's own."""
    text, inner = "", ""
    for key, value in table.items():
        path = f"{name}.{key}" if name else key
        if isinstance(value, Mapping):
            inner += f"[{path}]\n" + toml(value, path)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for each in value:
                inner += f"[[{path}]]\n" + toml(each, path)
        else:
            text += f"{key} = {json.dumps(value)}\n"
    return text + inner


def tls_table(files: TlsFiles) -> dict[str, object]:
    """Return a `tls` table of a daemon with these certificates."""
    return {"ca": files.ca, "cert": files.cert, "key": files.key}


class Pair:
    """A primary and a remote of group "g", and everything they need.

    With `others` there is a second group "h" of those volumes, cut by an interval,
    for what happens in one group while the other has trouble.
    """

    def __init__(
        self,
        directory: Path,
        volumes: list[VolumeSpec],
        *,
        others: Sequence[VolumeSpec] = (),
        group: dict[str, object] | None = None,
        link: dict[str, object] | None = None,
        link_port: int | None = None,
        nbd: dict[str, object] | None = None,
        tcp: bool = False,
        tls: TlsFiles | None = None,
        link_tls: tuple[TlsFiles, TlsFiles] | None = None,
        http: bool = False,
    ) -> None:
        """`group` and `link` are further keys and tables of "g"; its trigger is
        `manual` unless given. `link_port`: where its primary connects, if it is not
        to the remote itself. `nbd`: the same of the primary's `[nbd]`; `tcp` and
        `tls` have it serve on ports of the loopback besides its Unix socket.
        `link_tls`: certificates of the primary, "a", and the remote, "b", to replicate
        with; without, in plain text. `http`: both listen at `http_ports`."""
        self.directory = directory
        self.volumes = volumes
        self.others = others
        self.group_options = group if group is not None else {"manual": True}
        self.link_options = link or {}
        self.nbd_options = nbd or {}
        # AF_UNIX takes 107 bytes; pytest's folders may be longer.
        self._sockets = Path(tempfile.mkdtemp(prefix="farshore-"))
        self.primary = Daemon("primary", directory, self._sockets)
        self.remote = Daemon("remote", directory, self._sockets)
        self.replication_port = free_port()
        self.link_port = link_port or self.replication_port
        self.tcp_port = free_port() if tcp else None
        self.tls_port = free_port() if tls else None
        self._tls = tls
        self.link_tls = link_tls
        self.http_ports = (free_port(), free_port()) if http else None
        self.write_configs()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for daemon in self.daemons:
            daemon.reap()
        shutil.rmtree(self._sockets, ignore_errors=True)
        for daemon in self.daemons:
            print(f"--- end of the log of {daemon.role}\n{daemon.tail()}")
        if error is None:
            for daemon in self.daemons:
                check_log(daemon)

    @property
    def daemons(self) -> tuple[Daemon, Daemon]:
        return self.primary, self.remote

    @property
    def exports(self) -> list[str]:
        return [f"g/{volume.name}" for volume in self.volumes]

    def device(self, volume: str) -> Path:
        return self.directory / f"{volume}.img"

    def secondary(self, volume: str) -> Path:
        return self.directory / f"{volume}.remote.img"

    # -- configs -----------------------------------------------------------------------

    def write_configs(self) -> None:
        self.primary.config_path.write_text(self.primary_toml())
        self.remote.config_path.write_text(self.remote_toml())

    def primary_toml(self) -> str:
        groups = [self._sent("g", self.volumes, self.group_options, self.link_port)]
        groups[0]["link"] |= self.link_options
        if self.others:
            often = {"interval": OTHERS_INTERVAL}
            groups.append(self._sent("h", self.others, often, self.replication_port))
        site = self._site(self.primary, "a")
        nbd = self._nbd()
        return toml({"site": site, "nbd": nbd, **self._http(0), "group": groups})

    def remote_toml(self) -> str:
        groups = [self._received("g", self.volumes)]
        if self.others:
            groups.append(self._received("h", self.others))
        config = {
            "site": self._site(self.remote, "b"),
            "nbd": {"listen": [self.remote.nbd_address]},
            "replication": {
                "listen": [f"tcp:127.0.0.1:{self.replication_port}"],
                **self._security(1),
            },
            **self._http(1),
            "group": groups,
        }
        return toml(config)

    @staticmethod
    def _site(daemon: Daemon, name: str) -> dict[str, object]:
        return {
            "name": name,
            "state_dir": str(daemon.state_directory),
            "control_socket": daemon.control_socket,
        }

    def _nbd(self) -> dict[str, object]:
        listen = [self.primary.nbd_address]
        if self.tcp_port is not None:
            listen.append(self.tcp_address)
        table: dict[str, object] = {"listen": listen}
        if self._tls is not None:
            listen.append(f"tls:127.0.0.1:{self.tls_port}")
            table["tls"] = tls_table(self._tls)
        return table | self.nbd_options

    def _http(self, site: int) -> dict[str, object]:
        if self.http_ports is None:
            return {}
        return {"http": {"listen": f"127.0.0.1:{self.http_ports[site]}"}}

    def _security(self, site: int) -> dict[str, object]:
        if self.link_tls is None:
            return {"allow_plaintext_replication": True}
        return {"tls": tls_table(self.link_tls[site])}

    def _sent(
        self,
        name: str,
        volumes: Sequence[VolumeSpec],
        options: Mapping[str, object],
        port: int,
    ) -> dict[str, Any]:
        return {
            "name": name,
            **options,
            "link": {
                "remotes": [f"127.0.0.1:{port}"],
                "peer": "b",
                **self._security(0),
            },
            "volume": [
                {
                    "name": volume.name,
                    "device": str(self.device(volume.name)),
                    **volume.keys(),
                }
                for volume in volumes
            ],
        }

    def _received(self, name: str, volumes: Sequence[VolumeSpec]) -> dict[str, Any]:
        devices = [(volume.name, self.secondary(volume.name)) for volume in volumes]
        return {
            "name": name,
            "peer": "a",
            "volume": [{"name": name, "device": str(path)} for name, path in devices],
        }

    # -- where the primary serves besides its Unix socket -----------------------------

    @property
    def tcp_address(self) -> str:
        return f"tcp:127.0.0.1:{self.tcp_port}"

    def tcp_uri(self, export: str) -> str:
        return f"nbd://127.0.0.1:{self.tcp_port}/{export}"

    # -- both --------------------------------------------------------------------------

    async def start(self) -> None:
        """Start both, and return once they are connected."""
        await self.remote.start()
        await self.primary.start()
        await self.connected()

    async def connected(self) -> None:
        await until(self.is_connected, "the sites are connected")

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

    async def cut(self, *, label: str | None = None) -> dict[str, Any]:
        """`farshore cut --wait`: return once that cut is safe at the remote."""
        answer: dict[str, Any] = await asyncio.to_thread(
            self.primary.call, "cut", group="g", wait=True, label=label
        )
        assert answer["committed"], answer
        return answer

    def cut_now(self) -> None:
        """`cut`, for a test that has no event loop."""
        asyncio.run(self.cut())

    def content(self, volume: str) -> bytes:
        """Return what the primary's device holds, as the kernel shows it."""
        return self.device(volume).read_bytes()

    async def images(
        self, daemon: Daemon, suffix: str = "", *, sparse: bool = False
    ) -> list[bytearray]:
        """Read every volume's export whole."""
        names = [name + suffix for name in self.exports]
        return [await daemon.read_whole(name, sparse=sparse) for name in names]
