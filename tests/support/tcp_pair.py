"""A pair of sites whose primary serves TCP as well, for hosts that need it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.support.sites import Pair, VolumeSpec, free_port


class TcpPair(Pair):
    """A `Pair` whose volumes can be reached at `tcp_port` of the loopback too."""

    def __init__(
        self, directory: Path, volumes: list[VolumeSpec], **options: Any
    ) -> None:
        self.tcp_port = free_port()
        super().__init__(directory, volumes, **options)

    def primary_toml(self) -> str:
        also = f'listen = ["tcp:127.0.0.1:{self.tcp_port}", '
        return super().primary_toml().replace("listen = [", also, 1)

    def tcp_uri(self, export: str) -> str:
        return f"nbd://127.0.0.1:{self.tcp_port}/{export}"

    def cut_now(self) -> None:
        """`cut`, for a test that has no event loop."""
        asyncio.run(self.cut())

    def content(self, volume: str) -> bytes:
        """Return what the primary's device holds, as the kernel shows it."""
        return self.device(volume).read_bytes()
