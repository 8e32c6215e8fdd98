"""The steps of the page on seeding, its commands and config as they are printed."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import textwrap
import tomllib
from pathlib import Path
from typing import Any

from tests.support.sites import Pair, VolumeSpec, run_cli, toml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operating/seeding.md").read_text()
MIB = 1 << 20
SIZE_BYTES = 24 * MIB + 512
PRIMARY_DEVICE = REMOTE_DEVICE = "/var/lib/farshore/data.img"
DISK = "/mnt/disk"


def blocks(language: str) -> list[str]:
    found = re.findall(
        rf"^ *```{language}\n(.*?)^ *```", PAGE, re.DOTALL | re.MULTILINE
    )
    return [textwrap.dedent(block) for block in found]


class PagePair(Pair):
    """A pair whose remote has the page's keys of its volume."""

    def remote_toml(self) -> str:
        text = super().remote_toml()
        (volume,) = parsed("remote")["group"]["volume"]
        assert volume.pop("device") == REMOTE_DEVICE
        own = toml({"name": volume.pop("name"), "device": str(self.secondary("data"))})
        assert own in text
        return text.replace(own, own + toml(volume))


def parsed(site: str) -> Any:
    at_remote, at_primary = map(tomllib.loads, blocks("toml"))
    return at_remote if site == "remote" else at_primary


async def typed(command: str, paths: dict[str, Path]) -> None:
    for printed, own in paths.items():
        assert printed in command
        command = command.replace(printed, str(own))
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


async def write(pair: Pair, offset: int) -> None:
    host = await pair.primary.nbd("g/data")
    await host.write(offset, os.urandom(5000), fua=True)
    await host.disconnect()


async def test_the_page_s_steps_carry_a_copy_and_send_what_differs(
    tmp_path: Path,
) -> None:
    copy_off, bring, verify = blocks("sh")
    disk = tmp_path / "disk"
    disk.mkdir()
    volume = VolumeSpec("data", SIZE_BYTES, {"track_size": "4KiB"})
    link = parsed("primary")["group"]["link"]
    with PagePair(tmp_path, [volume], link=link) as pair:
        content = os.urandom(9 * MIB) + bytes(8 * MIB)
        content += os.urandom(SIZE_BYTES - len(content))
        pair.device("data").write_bytes(content)
        await pair.primary.start()
        await write(pair, 3 * MIB)
        await typed(copy_off, {PRIMARY_DEVICE: pair.device("data"), DISK: disk})
        await write(pair, 12 * MIB)
        await typed(bring, {DISK: disk, REMOTE_DEVICE: pair.secondary("data")})
        assert pair.secondary("data").stat().st_size == SIZE_BYTES
        await pair.remote.start()
        await pair.connected()
        await pair.cut()
        last = pair.group("g")["last_cycle"]
        assert 1 <= last["tracks"] <= 4, "what was written after the copy"
        assert last["bytes_on_wire"] < SIZE_BYTES // 100
        words = verify.replace("orders", "g").split()
        assert words[0] == "farshore"
        socket = pair.primary.control_socket
        done = await asyncio.to_thread(run_cli, *words[1:], "--socket", socket)
        assert done.returncode == 0, done.stderr
        assert pair.secondary("data").read_bytes() == pair.content("data")
