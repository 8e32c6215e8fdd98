"""Volumes that come to a group and leave it, at the site that sends it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from common.errors import RefusedError
from common.ports import HostCommand, HostRequest
from common.service.clock import SystemClock
from common.service.config_primary import PrimaryGroup
from common.storage.bitmap import Bitmap
from common.storage.geometry import Geometry
from primary_site.group import ConsistencyGroup
from primary_site.group_state import (
    COMPLETING,
    COPYING,
    GroupState,
    VolumeState,
    from_record,
    to_record,
)
from primary_site.joining import (
    PART_BYTES_FIRST,
    PART_BYTES_MAX,
    PART_BYTES_MIN,
    next_part,
    part_bytes,
)
from primary_site.members import (
    GroupMembers,
    why_not_add,
    why_not_remove,
    without,
)
from primary_site.opening import open_group
from primary_site.points_here import NO_POINTS
from primary_site.replicator import Replicator
from primary_site.volume import PrimaryVolume
from tests.support.simulated_files import InlineThreads, SimulatedFiles

STATE = "/state"
TRACK = 4096
SIZES = {"data": 12 * TRACK, "later": 20 * TRACK + 1536}
PART_TRACKS = 8


def config(*names: str) -> PrimaryGroup:
    return PrimaryGroup.model_validate(
        {
            "name": "orders",
            "interval": "1h",
            "hold_max": "5s",
            "link": {
                "remotes": ["dr:7420"],
                "peer": "dr",
                "allow_plaintext_replication": True,
            },
            "flashcopy": {"directory": "/flashcopy"},
            "volume": [
                {
                    "name": name,
                    "device": f"/devices/{name}.img",
                    "size": f"{SIZES[name]}B",
                    "track_size": "4KiB",
                    "region_size": "16KiB",
                }
                for name in names
            ],
        }
    )


BOTH = config("data", "later")


class Sending:
    """A group on a disk that can lose power, and a remote that loses nothing."""

    def __init__(self, files: SimulatedFiles, settings: PrimaryGroup) -> None:
        self.files = files
        opened = open_group(files, STATE, settings, "primary.toml")
        self.threads: Any = InlineThreads()
        clock = SystemClock()
        self.group = ConsistencyGroup(
            settings, opened, files, lambda _: InlineThreads(), self.threads, clock
        )
        self.group.part_bytes = PART_TRACKS * TRACK
        replicator = Replicator(self.group, "amsterdam", self._connect, clock)
        self.members = GroupMembers(replicator, STATE, "primary.toml")
        self.secondary: dict[str, bytearray] = {}

    async def _connect(self, address: str) -> Any:
        raise AssertionError(address)

    def volume(self, name: str) -> PrimaryVolume:
        return next(v for v in self.group.volumes if v.name == name)

    async def write(self, name: str, offset: int, data: bytes) -> None:
        ended: list[HostRequest] = []
        request = HostRequest(HostCommand.WRITE, offset, len(data), data, fua=True)
        self.volume(name).submit([request], ended.extend)
        while not ended:
            await turn()
        assert not request.error

    async def cycle(self) -> None:
        """Cut, and have the remote hold what the cycle sends."""
        group = self.group
        await group.make_cut(None)
        await group.settle_cut()
        for volume in group.volumes:
            changes = volume.changes
            assert changes.pprc is not None
            held = self.secondary.setdefault(volume.name, bytearray(volume.size_bytes))
            for run in changes.pprc.runs():
                offset, length = volume.geometry.byte_range(*run)
                held[offset : offset + length] = volume.device.read(offset, length)
                changes.ack(*run)
        await group.destage()
        await group.complete_cycle(b"r" * 16)

    async def close(self) -> None:
        await self.group.close()
        self.threads.close()


async def turn() -> None:
    import asyncio  # noqa: PLC0415

    await asyncio.sleep(0)


def to_be_sent(volume: PrimaryVolume) -> Bitmap:
    changes = volume.changes
    found = changes.flashcopy.bitmap.union_of(changes.carried)
    return found if changes.held_back is None else found.union_of([changes.held_back])


def check_nothing_is_missed(site: Sending, secondary: dict[str, bytes]) -> None:
    for volume in site.group.volumes:
        held = secondary.get(volume.name, bytes(volume.size_bytes))
        sent = to_be_sent(volume)
        for track in range(volume.geometry.track_count):
            offset, length = volume.geometry.byte_range(track, 1)
            if volume.device.read(offset, length) != held[offset : offset + length]:
                assert sent.next_set(track) == track, f"{volume.name}: {track}"
        saved = site.group.state.volumes[volume.name]
        if saved.joining != COPYING:
            assert volume.changes.held_back is None
        if saved.joining == COPYING and volume.name not in secondary:
            assert sent.count == sent.bit_count, "nothing of it was ever sent"


async def started() -> Sending:
    files = SimulatedFiles()
    for path in ("/devices", STATE):
        files.make_directory(path)
    site = Sending(files, config("data"))
    await site.write("data", 0, b"a" * TRACK)
    await site.cycle()
    await site.group.upkeep.tend()
    return site


Image = tuple[dict[str, bytes], dict[str, bytes], SimulatedFiles]


@pytest.mark.parametrize("is_made", [pytest.param(True, marks=pytest.mark.hunt), False])
async def test_no_crash_forgets_what_a_volume_that_joins_has_to_send(
    is_made: bool,
) -> None:
    site = await started()
    images: list[Image] = []
    rng = random.Random(11)
    flushed: dict[str, bytes] = {}

    def lose_power(*_: str) -> None:
        held = {name: bytes(data) for name, data in site.secondary.items()}
        images.extend(
            (held, dict(flushed), image) for image in site.files.crash_images(rng, 2)
        )

    if is_made:
        device = site.files.open("/devices/later.img", create=True)
        device.truncate(SIZES["later"])
        device.write(0, b"old" * (SIZES["later"] // 3))
        device.datasync()
        device.close()
        site.files.sync_directory("/devices")
    site.files.hook = lose_power
    later = BOTH.volumes[1]
    await site.members._add(BOTH, later, b"n" * 16)
    seen = []
    for number in range(4):
        state = site.group.state.volumes["later"]
        seen.append((state.joining, site.volume("later").changes.held_back is None))
        at = number * 5 * TRACK
        await site.write("later", at, bytes([number + 1]) * TRACK)
        await site.write("data", at // 2, bytes([number + 1]) * 512)
        flushed[f"later@{at}"] = bytes([number + 1]) * TRACK
        await site.cycle()
        assert site.secondary["data"] == site.volume("data").device.read(
            0, SIZES["data"]
        )
        await site.group.upkeep.tend()
    assert seen[0] == (COPYING, False)
    assert seen[1] == ((COPYING, False) if is_made else (None, True))
    assert seen[-1] == (None, True)
    assert site.secondary["later"] == site.volume("later").device.read(
        0, SIZES["later"]
    )
    site.files.hook = None
    shapes = set()
    for held, promised, image in images:
        again = Sending(image, BOTH)
        names = [volume.name for volume in again.group.volumes]
        saved = again.group.state.volumes.get("later")
        shapes.add((len(names), saved and saved.joining))
        assert names == list(again.group.state.volumes)
        if saved is None:
            assert not promised
        check_nothing_is_missed(again, held)
        for place, data in promised.items():
            offset = int(place.partition("@")[2])
            assert again.volume("later").device.read(offset, len(data)) == data
        # Whatever it was, cycles bring it to its end.
        again.secondary = {name: bytearray(data) for name, data in held.items()}
        for _ in range(5):
            await again.cycle()
        for volume in again.group.volumes:
            found = volume.device.read(0, volume.size_bytes)
            assert again.secondary[volume.name] == found
        assert not any(v.joining for v in again.group.state.volumes.values())
        await again.close()
    assert shapes == {(1, None), (2, COPYING), (2, COMPLETING), (2, None)}
    await site.close()


async def test_a_volume_leaves_whatever_a_crash_leaves_of_it() -> None:
    site = await started()
    await site.members._add(BOTH, BOTH.volumes[1], b"n" * 16)
    for _ in range(3):
        await site.cycle()
    await site.group.upkeep.tend()
    await site.write("later", 0, b"l" * TRACK)
    held = {name: bytes(data) for name, data in site.secondary.items()}
    images: list[SimulatedFiles] = []
    rng = random.Random(3)
    site.files.hook = lambda *_: images.extend(site.files.crash_images(rng, 3))
    told = []

    def leaves(name: str) -> None:
        told.append(name in site.group.state.volumes)

    await site.members._remove("later", leaves)
    assert told == [True], "points keep its device before the record is without it"
    site.files.hook = None
    assert [volume.name for volume in site.group.volumes] == ["data"]
    counts = set()
    for image in [*images, site.files.after_kill()]:
        again = Sending(image, BOTH)
        counts.add(len(again.group.volumes))
        check_nothing_is_missed(again, held)
        if len(again.group.volumes) == 1:
            # Another volume of that name finds nothing of the one before.
            await again.members._add(BOTH, BOTH.volumes[1], b"m" * 16)
            later = again.volume("later")
            assert to_be_sent(later).count == later.geometry.track_count
        assert again.volume("later").device.read(0, TRACK) == b"l" * TRACK
        await again.close()
    assert counts == {1, 2}
    await site.close()


async def test_upkeep_leaves_a_volume_alone_that_leaves_just_now() -> None:
    site = await started()
    await site.members._add(BOTH, BOTH.volumes[1], b"n" * 16)
    later = site.volume("later")
    await site.group.change(lambda state: without(state, "later"))
    await site.group.upkeep.tend()  # it is among the group's volumes still
    assert "later" not in site.group.state.volumes
    await site.members._let_go(later)
    site.group.leave(later)
    await site.close()


async def test_what_is_refused_changes_nothing() -> None:
    site = await started()
    before = site.group.state
    with pytest.raises(RefusedError, match="no link"):
        await site.members.add(BOTH, BOTH.volumes[1])
    with pytest.raises(RefusedError, match="no link"):
        await site.members.remove("data", NO_POINTS.leaves)
    with pytest.raises(RefusedError, match="has volume data already"):
        await site.members._add(BOTH, BOTH.volumes[0], b"m" * 16)
    with pytest.raises(RefusedError, match="the only volume"):
        await site.members._remove("data", NO_POINTS.leaves)
    assert site.group.state == before
    await site.cycle()
    await site.close()


STATE_OF_ONE = GroupState(
    "orders",
    b"g" * 16,
    b"l" * 16,
    committed_number=3,
    committed_cycle_id=b"c" * 16,
    volumes={"data": VolumeState(b"d" * 16, TRACK, TRACK, TRACK, full=False)},
)


def test_who_may_come_and_who_may_leave() -> None:
    state = STATE_OF_ONE
    assert not why_not_add(state, "later")
    assert "already" in why_not_add(state, "data")
    assert "no recovery point" in why_not_add(
        replace(state, committed_number=None), "later"
    )
    assert "the only volume" in why_not_remove(state, "data")
    assert "has: data" in why_not_remove(state, "later")
    two = state.with_volume("later", state.volumes["data"])
    assert not why_not_remove(two, "data")
    growing = replace(state.volumes["data"], growing_bytes=2 * TRACK)
    assert "growing" in why_not_remove(two.with_volume("later", growing), "later")


@pytest.mark.parametrize("joining", [None, COPYING, COMPLETING])
def test_a_record_tells_who_is_joining(joining: str | None) -> None:
    volume = replace(STATE_OF_ONE.volumes["data"], joining=joining)
    state = STATE_OF_ONE.with_volume("data", volume)
    record = to_record(state)
    assert record["version"] == (2 if joining is None else 5)
    assert from_record(record, "group.record") == state


class Extents:
    """A device of which only these tracks hold data."""

    def __init__(self, *data: int) -> None:
        self._data = set(data)

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        while length > 0:
            size = min(TRACK - offset % TRACK, length)
            yield size, offset // TRACK not in self._data
            offset, length = offset + size, length - size


@pytest.mark.parametrize(
    ("data", "held", "limit", "expected"),
    [
        (range(10), range(10), 3, range(3)),
        (range(10), range(4, 10), 3, range(4, 7)),
        ((), range(10), 1, range(10)),  # holes cost nothing
        ((0, 5, 9), range(10), 2, range(6)),
        (range(10), range(10), 100, range(10)),
        (range(10), (0, 3, 7, 9), 2, (0, 3)),
    ],
)
def test_a_part_has_so_much_data_and_the_holes_between(
    data: Any, held: Any, limit: int, expected: Any
) -> None:
    geometry = Geometry(9 * TRACK + 512, TRACK, TRACK)
    held_back = Bitmap(10)
    for track in held:
        held_back.set_range(track, 1)
    device: Any = Extents(*data)
    part, rest = next_part(held_back, geometry, device, limit * TRACK)
    assert [t for first, n in part.runs() for t in range(first, first + n)] == list(
        expected
    )
    left = [t for t in held if t not in expected]
    assert (rest is None) == (not left)
    if rest is not None:
        assert [t for f, n in rest.runs() for t in range(f, f + n)] == left


def test_a_part_is_what_the_link_carries_in_a_while() -> None:
    assert part_bytes(0, 0.0) == PART_BYTES_FIRST
    assert part_bytes(100, 10.0) == PART_BYTES_MIN
    assert part_bytes(100 << 20, 10.0) == 50 << 20
    assert part_bytes(1 << 50, 1.0) == PART_BYTES_MAX


async def test_a_group_is_not_handed_over_while_a_volume_joins() -> None:
    site = await started()
    await site.members._add(BOTH, BOTH.volumes[1], b"n" * 16)
    with pytest.raises(RefusedError, match="later is joining"):
        await site.members._replicator.hand_over()
    await site.close()
