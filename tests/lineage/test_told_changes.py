"""A site that gave up its own data receives: both sides' changes go, and no more."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.replication.session_messages import VolumeOffer
from common.storage.bitmap import Bitmap
from remote_site.giving_up import Beginning
from remote_site.store_state import Point
from tests.support.restorable_sites import (
    SIZE,
    TRACK,
    PrimaryMachine,
    RemoteMachine,
    RestorableSites,
    read,
    track_bytes,
    until,
)

OWN = ((5, 3), (200, 40))
FORK = 40


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[RestorableSites]:
    found = RestorableSites(tmp_path)
    yield found
    await found.close()


def overwritten(content: bytes, value: int) -> bytes:
    """Return an image with the tracks of `OWN` changed."""
    image = bytearray(content)
    for first, count in OWN:
        for track in range(first, first + count):
            image[track * TRACK : (track + 1) * TRACK] = track_bytes(track, value)
    return bytes(image)


async def give_up(
    primary: PrimaryMachine, remote: RemoteMachine, content: bytes
) -> None:
    """Have the remote be a site that sent until now, and had changed `OWN`."""
    state = primary.group.state
    volume = state.volumes["v"]
    await remote.stop()
    remote.empty()
    (remote.directory / "v.img").write_bytes(content)
    remote.accept_existing = True
    await remote.start()
    changed = Bitmap(SIZE // TRACK)
    for first, count in OWN:
        changed.set_range(first, count)
    judged = primary.group.judged()
    await remote.store.begin_receiving(
        Beginning(
            group_id=state.group_id,
            lineage=state.lineage,
            peer="a",
            volumes=(offer(volume.volume_id),),
            point=Point(FORK, secrets.token_bytes(16), 1, 1, "fork"),
            is_fork=True,
            own_lineage=b"o" * 16,
            common=judged.committed,
            changed={"v": changed},
        )
    )


def offer(volume_id: bytes) -> VolumeOffer:
    return VolumeOffer("v", volume_id, SIZE, TRACK)


async def fork_content(remote: RemoteMachine) -> bytes:
    volume: Any = remote.store.open_point("v", FORK)
    assert volume is not None
    data = await read(volume, 0, SIZE)
    volume.release()
    return bytes(data)


@pytest.mark.parametrize("interrupted", ["never", "sender", "receiver"])
async def test_what_either_side_changed_is_sent_and_the_fork_stays(
    sites: RestorableSites, interrupted: str
) -> None:
    primary, remote = sites.primary, sites.remote
    await sites.start()
    await primary.write(0, 300, 1)
    await primary.cut()
    own = overwritten(primary.content(), 9)
    await primary.write(202, 10, 2)
    await primary.write(500, 7, 2)
    if interrupted != "never":
        primary.hold_reads(0)
    await give_up(primary, remote, own)
    if interrupted != "never":
        await until(lambda: primary.group.volumes[0].changes.pprc is not None)
        machine = primary if interrupted == "sender" else remote
        await machine.kill()
        primary.release_reads()
        await machine.start()
    number = await primary.cut()

    assert number > FORK
    assert await remote.point() == (number, primary.content())
    assert await fork_content(remote) == own
    last = primary.replicator.cycles.last_cycle
    if interrupted == "never":
        assert last is not None
        assert last.tracks <= 43 + 10 + 7


async def test_with_no_change_at_the_sender_the_point_comes_all_the_same(
    sites: RestorableSites,
) -> None:
    primary, remote = sites.primary, sites.remote
    await sites.start()
    await primary.write(0, 300, 1)
    await primary.cut()
    own = overwritten(primary.content(), 9)
    await give_up(primary, remote, own)

    number = await primary.cut()

    assert number > FORK
    assert await remote.point() == (number, primary.content())
    assert await fork_content(remote) == own
    assert (remote.directory / "v.img").read_bytes() == primary.content()
