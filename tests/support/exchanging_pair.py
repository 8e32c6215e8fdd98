"""A pair whose sites can exchange their roles: each config has what the other has."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tomllib
from typing import Any

from tests.support.daemon import Daemon, free_port, run_cli, until
from tests.support.sites import Pair, toml


class ExchangingPair(Pair):
    """The remote sends to the primary's port once it has taken over."""

    back_port = 0

    def write_configs(self) -> None:
        self.back_port = self.back_port or free_port()  # also when written again
        super().write_configs()

    def primary_toml(self) -> str:
        config = tomllib.loads(super().primary_toml())
        listen = [f"tcp:127.0.0.1:{self.back_port}"]
        config["replication"] = {"listen": listen, **self._security(0)}
        return toml(config)

    def remote_toml(self) -> str:
        config = tomllib.loads(super().remote_toml())
        for group in config["group"]:
            group["link"] = {
                "remotes": [f"127.0.0.1:{self.back_port}"],
                "peer": "a",
                **self._security(1),
            }
        return toml(config)

    async def command(
        self, daemon: Daemon, *words: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the `farshore` command at one site."""
        arguments = (*words, "--socket", daemon.control_socket)
        return await asyncio.to_thread(run_cli, *arguments)

    async def done(self, daemon: Daemon, *words: str) -> dict[str, Any]:
        """Run one that has to succeed, unasked; return what it prints."""
        found = await self.command(daemon, *words, "--yes", "--json")
        assert found.returncode == 0, found.stderr
        result: dict[str, Any] = json.loads(found.stdout)
        return result

    async def reached(self, daemon: Daemon, what: str, **expected: object) -> None:
        """Wait until a site's group says so."""

        def holds() -> bool:
            found = daemon.group()
            return all(found[key] == value for key, value in expected.items())

        await until(holds, what)

    async def received(self, daemon: Daemon, number: int) -> int:
        """Wait until a receiving site has a newer point than this; return it."""

        def newest() -> int:
            point = daemon.group()["recovery_point"]
            return int(point["number"]) if point else 0

        await until(lambda: newest() > number, f"a point after {number}")
        return newest()
