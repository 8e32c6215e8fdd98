"""QEMU's block layer as a host: qemu-io, qemu-img, qemu-nbd."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import IO

import pytest

from tests.support.client_commands import MIB, attempt, pattern, run, sparse_file
from tests.support.sites import Daemon, Pair, until

pytestmark = pytest.mark.needs_package("qemu-io", "qemu-img", "qemu-nbd")

RAW = ("-f", "raw")
RECONNECT_SECONDS = 60


def qemu_io(uri: str, *commands: str, options: tuple[str, ...] = ()) -> str:
    words = [word for command in commands for word in ("-c", command)]
    said = run("qemu-io", *options, *RAW, *words, uri)
    assert "failed" not in said.lower(), said
    return said


def blockdev(daemon: Daemon, export: str, **more: object) -> str:
    """Return the options that name an export to qemu, with the raw driver above."""
    options = {
        "server.type": "unix",
        "server.path": daemon.nbd_socket,
        "export": export,
        **more,
    }
    named = ",".join(f"file.{key}={value}" for key, value in options.items())
    return f"driver=raw,file.driver=nbd,{named}"


class TestQemuIo:
    COMMANDS = (
        "write -P 0x11 0 64k",
        "write -f -P 0x22 1000 3000",
        "aio_write -P 0x33 128k 1M",
        "aio_flush",
        "write -z 8k 5000",
        "write -zu 200k 64k",
        "discard 512k 64k",
        "writev -P 0x44 2M 512 1024 4096",
        "flush",
    )
    READS = (
        "read -P 0x11 0 1000",
        "read -P 0x22 1000 3000",
        "read -P 0 8k 5000",
        "read -P 0x33 128k 72k",
        "read -P 0 200k 64k",
        "read -P 0 512k 64k",
        "readv -P 0x44 2M 512 1024 4096",
    )

    def test_it_reads_back_what_it_writes(self, sites: Pair) -> None:
        qemu_io(sites.primary.uri("g/v"), *self.COMMANDS, *self.READS)

    def test_the_point_has_the_same_and_takes_no_writes(self, sites: Pair) -> None:
        qemu_io(sites.tcp_uri("g/v"), *self.COMMANDS)
        sites.cut_now()
        qemu_io(sites.primary.uri("g/v"), "write -P 9 0 4M")
        point = sites.remote.uri("g/v")
        qemu_io(point, *self.READS, options=("-r",))
        refused = attempt("qemu-io", *RAW, "-c", "write 0 4k", point)
        assert refused.returncode != 0

    @pytest.mark.parametrize("cache", ["writeback", "none", "writethrough"])
    def test_every_cache_mode(self, sites: Pair, cache: str) -> None:
        options = ("-t", cache)
        uri = sites.primary.uri("g/odd")
        qemu_io(uri, "write -P 0x66 4k 12k", "read -P 0x66 4k 12k", options=options)
        assert sites.content("odd")[4096:16384] == b"\x66" * 12288


class TestQemuImg:
    @pytest.mark.parametrize("volume", ["v", "odd"])
    @pytest.mark.parametrize("form", ["raw", "qcow2"])
    def test_it_converts_both_ways_and_compares(
        self, sites: Pair, tmp_path: Path, volume: str, form: str
    ) -> None:
        content = pattern(sites.device(volume).stat().st_size, seed=len(form))
        source = sparse_file(tmp_path / "source", content)
        uri = sites.primary.uri(f"g/{volume}")
        size = len(content)
        qemu_io(uri, f"write -P 0xff 0 {size}")
        convert = ("qemu-img", "convert", "-n", "-W", "-m", "8", *RAW, "-O", "raw")
        run(*convert, source, uri)
        assert sites.content(volume) == content
        image = tmp_path / "image"
        run("qemu-img", "convert", *RAW, "-O", form, uri, image)
        compare = ("qemu-img", "compare", *RAW, "-F", form, uri, image)
        assert "identical" in run(*compare)
        qemu_io(uri, "write -P 0xee 4k 512")
        assert "mismatch" in run(*compare, codes=(1,))

    def test_a_target_that_is_known_to_be_zero(
        self, sites: Pair, tmp_path: Path
    ) -> None:
        uri = sites.primary.uri("g/v")
        content = pattern(sites.device("v").stat().st_size, seed=9)
        source = sparse_file(tmp_path / "source", content)
        qemu_io(uri, f"write -zu 0 {len(content)}")
        zero = ("-n", "--target-is-zero")
        run("qemu-img", "convert", *zero, *RAW, "-O", "raw", source, uri)
        assert sites.content("v") == content

    @pytest.mark.parametrize("site", ["primary", "remote"])
    def test_it_maps_holes(self, sites: Pair, site: str) -> None:
        qemu_io(
            sites.primary.uri("g/v"), "write -zu 0 16M", "write -P 1 1M 1M", "flush"
        )
        sites.cut_now()
        daemon: Daemon = getattr(sites, site)
        uri = daemon.uri("g/v")
        extents = json.loads(run("qemu-img", "map", "--output=json", *RAW, uri))
        found = [(e["start"], e["length"], e["data"], e["zero"]) for e in extents]
        assert found == [
            (0, MIB, False, True),
            (MIB, MIB, True, False),
            (2 * MIB, 14 * MIB, False, True),
        ]

    def test_an_overlay_on_a_point(self, sites: Pair, tmp_path: Path) -> None:
        """How a virtual machine tries a recovery point without changing it."""
        qemu_io(sites.primary.uri("g/v"), "write -P 0x5a 3M 1M", "flush")
        sites.cut_now()
        overlay, point = tmp_path / "overlay", sites.remote.uri("g/v")
        backing = ("-b", point, "-F", "raw")
        run("qemu-img", "create", "-q", "-f", "qcow2", *backing, overlay)
        commands = [
            "write -P 0x77 3M 4k",
            "read -P 0x77 3M 4k",
            "read -P 0x5a 3080k 4k",
        ]
        words = [word for command in commands for word in ("-c", command)]
        assert "failed" not in run("qemu-io", *words, overlay)
        qemu_io(point, "read -P 0x5a 3M 1M", options=("-r",))


def test_qemu_nbd_lists_all_exports(sites: Pair) -> None:
    said = run("qemu-nbd", "--list", "-k", sites.primary.nbd_socket)
    for name in ("g/v", "g/odd", "g/fs"):
        assert f"export: '{name}'" in said
    assert "base:allocation" in said
    assert f"size:  {16 * MIB}" in said


class Console:
    """A qemu-io that is told one command after the other."""

    def __init__(self, options: str) -> None:
        self._process = subprocess.Popen(
            ["qemu-io", "--image-opts", options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )

    def tell(self, command: str) -> None:
        _pipe(self._process.stdin).write(f"{command}\n")

    def said_until(self, ending: str) -> str:
        """Return what it says up to a line with `ending`."""
        said = ""
        for line in _pipe(self._process.stdout):
            said += line
            if ending in line:
                return said
        raise AssertionError(f"qemu-io never said {ending!r}: {said}")

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_with_reconnect_delay_a_restart_of_the_primary_is_only_a_pause(
    sites: Pair, how: str
) -> None:
    more = {"reconnect-delay": RECONNECT_SECONDS}
    console = Console(blockdev(sites.primary, "g/v", **more))
    try:
        console.tell("write -P 0x21 0 1M")
        console.said_until("ops;")
        if how == "kill":
            sites.primary.kill()
        else:
            asyncio.run(sites.primary.stop())
        console.tell("write -P 0x43 512k 1M")
        asyncio.run(_restart(sites))
        assert "wrote 1048576/1048576" in console.said_until("ops;")
        console.tell("read -P 0x43 512k 1M")
        said = console.said_until("ops;")
        assert "Pattern verification failed" not in said
        console.tell("flush")
        console.tell("quit")
    finally:
        console.end()
    assert sites.content("v")[: 1536 << 10] == b"\x21" * (512 << 10) + b"\x43" * MIB


async def _restart(sites: Pair) -> None:
    await sites.primary.start()
    await until(sites.is_connected, "the sites are connected")
