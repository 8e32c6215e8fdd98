"""Fast zeroes are done or refused at once, and clients that are refused go on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.client_commands import MIB, SYSTEM_PYTHON, attempt, run
from tests.support.sites import Pair

pytestmark = pytest.mark.needs_package("nbdsh", "qemu-img", "nbdcopy")

NOT_SUPPORTED = "Operation not supported"


def fast_zero(uri: str, offset: int, length: int) -> str:
    """Return what is said of the error; empty if it was done."""
    script = (
        f"import nbd; h = nbd.NBD(); h.connect_uri({uri!r}); "
        f"h.zero({length}, {offset}, nbd.CMD_FLAG_FAST_ZERO)"
    )
    return attempt(SYSTEM_PYTHON, "-c", script).stderr


def test_a_fast_zero_is_refused_while_old_content_would_be_copied(
    sites: Pair,
) -> None:
    uri = sites.primary.uri("g/v")
    run("qemu-io", "-f", "raw", "-c", "write -P 5 0 2M", uri)
    sites.cut_now()
    assert NOT_SUPPORTED in fast_zero(uri, 0, MIB)
    assert sites.content("v")[: 2 * MIB] == b"\x05" * (2 * MIB)
    run("qemu-io", "-f", "raw", "-c", "write -P 6 0 1M", uri)
    assert fast_zero(uri, 0, MIB) == ""
    assert sites.content("v")[: 2 * MIB] == bytes(MIB) + b"\x05" * MIB


def test_an_image_is_converted_onto_a_volume_whatever_is_refused(
    sites: Pair, tmp_path: Path
) -> None:
    uri = sites.primary.uri("g/v")
    run("qemu-io", "-f", "raw", "-c", "write -P 7 0 16M", uri)
    sites.cut_now()
    source = tmp_path / "source.img"
    with source.open("wb") as file:
        file.truncate(16 * MIB)
        for at in (0, 3 * MIB, 9 * MIB + 4096):
            file.seek(at)
            file.write(random.Random(at).randbytes(MIB))
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, uri)
    assert sites.content("v") == source.read_bytes()
    copy = tmp_path / "copy.img"
    run("nbdcopy", uri, copy)
    assert copy.read_bytes() == source.read_bytes()
    at_cut = tmp_path / "cut.img"
    run("nbdcopy", sites.primary.uri("g/v@cut"), at_cut)
    assert at_cut.read_bytes() == b"\x07" * (16 * MIB)
