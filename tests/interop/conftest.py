"""Both sites as real daemons, for the clients of one test file to share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.attached import running
from tests.support.client_commands import MIB
from tests.support.reference_servers import SIZE, reference_command
from tests.support.sites import Pair, VolumeSpec

SIZES = {"v": 16 * MIB, "odd": 3 * MIB + 3 * 512, "fs": 48 * MIB}


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Started and connected; a cut is made on command only.

    Exports: g/v, g/odd (no whole number of tracks), g/fs for a file system.
    """
    volumes = [VolumeSpec(name, size) for name, size in SIZES.items()]
    with Pair(tmp_path_factory.mktemp("sites"), volumes, tcp=True) as pair:
        asyncio.run(pair.start())
        yield pair


@pytest.fixture(scope="module")
def reference_sockets(
    sites: Pair, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Path]]:
    """The sockets of the primary and of both references, by name."""
    file = tmp_path_factory.mktemp("reference") / "image"
    file.write_bytes(bytes(SIZE))
    beside = Path(sites.primary.nbd_socket).parent
    with contextlib.ExitStack() as stack:
        found = {"farshore": Path(sites.primary.nbd_socket)}
        for name in ("qemu-nbd", "nbdkit"):
            found[name] = beside / name
            command = reference_command(name, file, found[name])
            stack.enter_context(running(*command, appears=found[name]))
        yield found
