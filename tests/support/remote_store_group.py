"""A group on simulated files, and the records a sender would have sent it."""

from __future__ import annotations

import asyncio

from common.ports import HostRequest, HostVolume
from common.replication.cycle_messages import Encoding
from common.replication.lineage import SenderState
from common.replication.session_messages import VolumeOffer
from common.replication.tracks import TrackRecord, run_hash
from remote_site.store import StoreSettings
from tests.support.simulated_files import SimulatedFiles

DATA = VolumeOffer("data", b"d" * 16, 64 * 4096, 4096)
LOG = VolumeOffer("log", b"l" * 16, 10 * 8192 - 1536, 8192)
OFFERS = (DATA, LOG)
SENDER = SenderState(b"g" * 16, b"L" * 16)
BINDING = {
    "group_id": b"g" * 16,
    "lineage": b"L" * 16,
    "peer": "amsterdam",
    "volumes": OFFERS,
}
SETTINGS = StoreSettings(
    group="orders",
    state_directory="/state/orders",
    journal_directory="/journal/orders",
    devices={"data": "/devices/data.img", "log": "/devices/log.img"},
)


def make_files() -> SimulatedFiles:
    files = SimulatedFiles()
    files.make_directory("/devices")
    return files


def tracks_of(offer: VolumeOffer, first: int, data: bytes) -> TrackRecord:
    """Return the record of tracks from `first` that hold `data`."""
    count = -(-len(data) // offer.track_bytes)
    return TrackRecord(first, count, Encoding.RAW, memoryview(data), run_hash(data))


def zero_tracks(first: int, count: int) -> TrackRecord:
    return TrackRecord(first, count, Encoding.ZERO, None, bytes(16))


def filled(offer: VolumeOffer, value: int, tracks: int = 1) -> bytes:
    return bytes([value]) * (tracks * offer.track_bytes)


async def ask(volume: HostVolume, *requests: HostRequest) -> list[HostRequest]:
    """Submit requests and return them when all have completed."""
    finished: list[HostRequest] = []
    ready = asyncio.Event()

    def complete(ended: list[HostRequest]) -> None:
        finished.extend(ended)
        if len(finished) == len(requests):
            ready.set()

    volume.submit(list(requests), complete)
    await ready.wait()
    return list(requests)


async def read(volume: HostVolume, offset: int, length: int) -> bytes:
    (request,) = await ask(volume, HostRequest(0, offset, length))
    assert request.error == 0
    return bytes(request.data)
