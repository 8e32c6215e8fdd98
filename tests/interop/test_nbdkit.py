"""nbdkit between a client and farshore, with filters that disturb and repair."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.attached import running
from tests.support.client_commands import MIB, attempt, pattern, run, sparse_file
from tests.support.sites import Pair, until

pytestmark = pytest.mark.needs_package("nbdkit", "nbdcopy", "qemu-io", "qemu-img")

RAW = ("-f", "raw")


def through(uri: str, *words: str, filters: tuple[str, ...] = ()) -> list[str]:
    """Return the command that serves a URI on, to a client of its own."""
    named = [f"--filter={name}" for name in filters]
    return ["nbdkit", "-U", "-", *named, "nbd", uri, *words]


@contextlib.contextmanager
def proxy(
    socket: Path, uri: str, *words: str, filters: tuple[str, ...]
) -> Iterator[str]:
    """Serve a URI on at a socket until the end of the block; return the new URI."""
    named = [f"--filter={name}" for name in filters]
    command = ("nbdkit", "-f", "-U", socket, *named, "nbd", uri, *words)
    with running(*command, appears=socket):
        yield f"nbd+unix:///?socket={socket}"


@pytest.fixture
def content(sites: Pair, tmp_path: Path) -> bytes:
    """What is in the file `source`, and not yet in the volume g/odd."""
    made = pattern(sites.device("odd").stat().st_size, seed=21)
    sparse_file(tmp_path / "source", made)
    uri = sites.primary.uri("g/odd")
    run("qemu-io", *RAW, "-c", f"write -P 0xff 0 {len(made)}", uri)
    return made


FILTERS = {
    "none": ((), ()),
    "delay": (("delay",), ("rdelay=2ms", "wdelay=2ms")),
    "log": (("log",), ("logfile=/dev/null",)),
    "blocksize": (("blocksize",), ("minblock=512", "maxdata=64k")),
    "no zeroes": (("nozero",), ()),
    "no extents": (("noextents",), ()),
    "emulated FUA": (("fua",), ("fuamode=emulate",)),
    "one at a time": (("noparallel",), ("serialize=requests",)),
    "read ahead": (("readahead",), ()),
    "rate": (("rate",), ("rate=400M",)),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_copy_in_and_out_through_a_filter(
    sites: Pair, tmp_path: Path, content: bytes, name: str
) -> None:
    filters, words = FILTERS[name]
    source, copy = tmp_path / "source", tmp_path / "copy"
    served = through(sites.primary.uri("g/odd"), *words, filters=filters)
    script = f'nbdcopy --flush {source} "$uri" && nbdcopy "$uri" {copy}'
    run(*served, "--run", script)
    assert sites.content("odd") == content
    assert copy.read_bytes() == content


def test_over_a_shared_connection_by_tcp(
    sites: Pair, tmp_path: Path, content: bytes
) -> None:
    served = through(sites.tcp_uri("g/odd"), "shared=true")
    source = tmp_path / "source"
    run(*served, "--run", f'nbdcopy --flush --connections=4 {source} "$uri"')
    assert sites.content("odd") == content


def test_errors_on_the_way_are_met_by_retries(
    sites: Pair, tmp_path: Path, content: bytes
) -> None:
    """Every request fails between, until the copy has met some; it is whole."""
    failing = tmp_path / "failing"
    failing.touch()
    served = through(
        sites.primary.uri("g/odd"),
        *("error-rate=100%", f"error-file={failing}", "retry-request-delay=1"),
        filters=("retry-request", "error"),
    )
    source, copy = tmp_path / "source", tmp_path / "copy"
    script = f'nbdcopy --flush {source} "$uri" && nbdcopy "$uri" {copy}'
    copying = subprocess.Popen([*served, "--run", script], stderr=subprocess.PIPE)
    try:
        assert copying.stderr is not None
        assert any(b"injecting EIO" in line for line in copying.stderr)
        failing.unlink()
        _, said = copying.communicate(timeout=60)
    finally:
        copying.kill()
        copying.wait()
    assert copying.returncode == 0, said
    assert sites.content("odd") == content
    assert copy.read_bytes() == content


def test_without_retries_the_error_reaches_the_client(
    sites: Pair, tmp_path: Path, content: bytes
) -> None:
    served = through(
        sites.primary.uri("g/odd"),
        *("error=ENOSPC", "error-pwrite-rate=100%"),
        filters=("error",),
    )
    failed = attempt(*served, "--run", f'nbdcopy {tmp_path / "source"} "$uri"')
    assert failed.returncode != 0
    assert "No space left" in failed.stderr


def test_a_copy_on_write_layer_leaves_the_point_alone(sites: Pair) -> None:
    uri = sites.primary.uri("g/v")
    run("qemu-io", *RAW, "-c", "write -P 0x31 0 4M", "-c", "flush", uri)
    sites.cut_now()
    point = sites.remote.uri("g/v")
    served = through(point, filters=("cow",))
    commands = '-c "write -P 0x99 1M 64k" -c "read -P 0x99 1M 64k"'
    run(*served, "--run", f'qemu-io -f raw {commands} -c "read -P 0x31 0 1M" "$uri"')
    run("qemu-io", "-r", *RAW, "-c", "read -P 0x31 0 4M", point)


def test_the_retry_filter_carries_a_client_over_a_restart(
    sites: Pair, tmp_path: Path
) -> None:
    """For clients that can't reconnect themselves: one nbdkit beside them."""
    content = pattern(sites.device("v").stat().st_size, seed=31)
    source = sparse_file(tmp_path / "source", content)
    socket = Path(sites.primary.nbd_socket).with_name("retry")
    words = ("retry=60", "retry-delay=1", "retry-exponential=no", "retries=60")
    with proxy(socket, sites.primary.uri("g/v"), *words, filters=("retry",)) as uri:
        run("qemu-io", *RAW, "-c", "write -P 0xff 0 16M", uri)
        before = sites.content("v")
        copying = subprocess.Popen(
            ["nbdcopy", "--flush", "--synchronous", "--request-size=4096", source, uri]
        )
        try:
            asyncio.run(until(lambda: sites.content("v") != before, "it copies"))
            sites.primary.kill()
            assert copying.poll() is None, "the copy is under way"
            asyncio.run(sites.primary.start())
            assert copying.wait(60) == 0
        finally:
            copying.kill()
            copying.wait()
    assert sites.content("v") == content
    assert len(content) == 16 * MIB
