"""Two sites in network namespaces, joined by a cable of a rate and a round trip.

The cable is `TunLink`: IP packets of up to 1500 bytes, one after the other at the rate,
half a round trip on their way, and a queue in front of it as in a router, which drops
what finds no room. So TCP's own windows, its losses and its slow start are all there.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.sites import VolumeSpec
from tests.torture.namespaces import Namespace, TunLink, two_namespaces
from tests.torture.placed_pair import Place, PlacedPair

ADDRESSES = "10.71.3.1", "10.71.3.2"
PLAIN_PORT = 9000
PLAIN_TCP = Path(__file__).resolve().parent / "plain_tcp.py"


@dataclass
class LongLink:
    cable: TunLink
    primary: Namespace
    remote: Namespace

    def pair(
        self,
        directory: Path,
        volumes: list[VolumeSpec],
        link: dict[str, object],
        group: dict[str, object] | None = None,
    ) -> PlacedPair:
        """Return sites that replicate over the cable; they are to be started."""
        return PlacedPair(
            directory,
            volumes,
            primary=Place(prefix=self.primary.prefix, address=ADDRESSES[0]),
            remote=Place(prefix=self.remote.prefix, address=ADDRESSES[1]),
            group=group,
            link=link,
        )

    def plain_tcp_seconds(self, count: int) -> float:
        """Return what one TCP connection takes for so many bytes and an answer."""
        words = [sys.executable, str(PLAIN_TCP)]
        where = [ADDRESSES[1], str(PLAIN_PORT)]
        with subprocess.Popen(
            [*self.remote.prefix, *words, "serve", *where], stdout=subprocess.PIPE
        ) as server:
            assert server.stdout is not None
            try:
                server.stdout.readline()
                found = self.primary.run(*words, "send", *where, count)
            finally:
                server.kill()
        return float(found)


@contextlib.contextmanager
def long_link(megabits: float, round_trip_seconds: float) -> Iterator[LongLink]:
    with two_namespaces() as (primary, remote):
        cable = TunLink(primary, remote, ADDRESSES, round_trip_seconds / 2)
        cable.bytes_per_second = megabits * 1e6 / 8
        try:
            yield LongLink(cable, primary, remote)
        finally:
            cable.close()
