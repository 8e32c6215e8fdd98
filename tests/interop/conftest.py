"""Both sites as real daemons, for the clients of one test file to share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.client_commands import MIB
from tests.support.sites import VolumeSpec
from tests.support.tcp_pair import TcpPair

SIZES = {"v": 16 * MIB, "odd": 3 * MIB + 3 * 512, "fs": 48 * MIB}


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TcpPair]:
    """Started and connected; a cut is made on command only.

    Exports: g/v, g/odd (no whole number of tracks), g/fs for a file system.
    """
    volumes = [VolumeSpec(name, size) for name, size in SIZES.items()]
    with TcpPair(tmp_path_factory.mktemp("sites"), volumes) as pair:
        asyncio.run(pair.start())
        yield pair
