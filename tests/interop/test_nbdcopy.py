"""nbdcopy in and out, with every way it has of asking."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.client_commands import attempt, pattern, run, sparse_file
from tests.support.sites import Pair

pytestmark = pytest.mark.needs_package("nbdcopy", "qemu-io")

WAYS = {
    "as it comes": [],
    "one request at a time": ["--requests=1", "--connections=1"],
    "many requests": ["--requests=256", "--connections=1", "--threads=1"],
    "many connections": ["--connections=4", "--threads=4", "--requests=64"],
    "synchronous": ["--synchronous"],
    "small requests": ["--request-size=4096", "--queue-size=65536"],
    "large requests": ["--request-size=33554432", "--requests=2"],
    "without looking for holes": ["--no-extents", "--sparse=0"],
    "with zeroes allocated": ["--allocated"],
    "with small holes": ["--sparse=512"],
}


def fill(sites: Pair, volume: str) -> None:
    """Put 0xff everywhere, so that zeroes that are not written are missed."""
    size = sites.device(volume).stat().st_size
    commands = ["-c", f"write -P 0xff 0 {size}"]
    run("qemu-io", "-f", "raw", *commands, sites.primary.uri(f"g/{volume}"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("volume", ["v", "odd"])
def test_in_and_out_again(sites: Pair, tmp_path: Path, volume: str, way: str) -> None:
    fill(sites, volume)
    content = pattern(sites.device(volume).stat().st_size, seed=len(way))
    source = sparse_file(tmp_path / "source", content)
    uri = sites.primary.uri(f"g/{volume}")
    run("nbdcopy", "--flush", *WAYS[way], source, uri)
    assert sites.content(volume) == content
    copy = tmp_path / "copy"
    run("nbdcopy", *WAYS[way], uri, copy)
    assert copy.read_bytes() == content


def test_over_tcp(sites: Pair, tmp_path: Path) -> None:
    content = pattern(sites.device("v").stat().st_size, seed=77)
    source = sparse_file(tmp_path / "source", content)
    fill(sites, "v")
    run("nbdcopy", "--flush", source, sites.tcp_uri("g/v"))
    assert sites.content("v") == content


def test_zeroes_are_holes_unless_they_are_to_be_allocated(
    sites: Pair, tmp_path: Path
) -> None:
    device = sites.device("v")
    source = sparse_file(tmp_path / "source", bytes(device.stat().st_size))
    uri = sites.primary.uri("g/v")
    run("nbdcopy", "--allocated", source, uri)
    allocated = device.stat().st_blocks * 512
    assert allocated >= device.stat().st_size
    run("nbdcopy", source, uri)
    assert device.stat().st_blocks * 512 < allocated // 10
    assert not any(sites.content("v"))


def test_from_a_recovery_point_back_into_a_volume(sites: Pair, tmp_path: Path) -> None:
    content = pattern(sites.device("v").stat().st_size, seed=5)
    source = sparse_file(tmp_path / "source", content)
    volume, point = sites.primary.uri("g/v"), sites.remote.uri("g/v")
    run("nbdcopy", "--flush", source, volume)
    sites.cut_now()
    fill(sites, "v")
    run("nbdcopy", "--flush", point, volume)
    assert sites.content("v") == content
    refused = attempt("nbdcopy", source, point)
    assert refused.returncode != 0, "a point takes no writes"


def test_the_image_at_the_cut_stays_while_hosts_write(
    sites: Pair, tmp_path: Path
) -> None:
    content = pattern(sites.device("v").stat().st_size, seed=6)
    source = sparse_file(tmp_path / "source", content)
    run("nbdcopy", "--flush", source, sites.primary.uri("g/v"))
    sites.cut_now()
    fill(sites, "v")
    copy = tmp_path / "copy"
    run("nbdcopy", sites.primary.uri("g/v@cut"), copy)
    assert copy.read_bytes() == content
