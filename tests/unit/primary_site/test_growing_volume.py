"""A volume that grows: its bitmaps, its record, and what a crash leaves of both."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from common.errors import DeviceError, RefusedError, StateMismatchError
from common.ports import HostCommand, HostRequest
from common.replication.lineage import CycleName, Fork, ToldFork
from common.service.clock import SystemClock
from common.service.config_primary import PrimaryGroup
from primary_site.group import ConsistencyGroup
from primary_site.growing import find_volume, grow
from primary_site.opening import open_group
from tests.support.primary_host_site import Site, Stopped, reached
from tests.support.simulated_files import InlineThreads, SimulatedFiles

STATE = "/state"
TRACK = 4096
OLD = 20 * TRACK + 1536
NEW = 60 * TRACK + 512

FIRST_NEW = OLD // TRACK


def config(size_bytes: int = OLD) -> PrimaryGroup:
    return PrimaryGroup.model_validate(
        {
            "name": "orders",
            "manual": True,
            "hold_max": "5s",
            "link": {
                "remotes": ["dr:7420"],
                "peer": "dr",
                "allow_plaintext_replication": True,
            },
            "flashcopy": {"directory": "/flashcopy"},
            "volume": [
                {
                    "name": "data",
                    "device": "/devices/data.img",
                    "size": f"{size_bytes}B",
                    "track_size": "4KiB",
                    "region_size": "16KiB",
                }
            ],
        }
    )


class Simulated(Site):
    """As `Site`, but on a disk that can lose power."""

    def __init__(self, files: SimulatedFiles) -> None:
        self.disk = files

    async def start_up(self, size_bytes: int = OLD) -> None:
        self.config = config(size_bytes)
        opened = open_group(self.disk, STATE, self.config, "primary.toml")
        self.state_threads: Any = InlineThreads()
        self.group = ConsistencyGroup(
            self.config,
            opened,
            self.disk,
            lambda _: InlineThreads(),
            self.state_threads,
            SystemClock(),
        )


@asynccontextmanager
async def running(size_bytes: int = OLD) -> AsyncIterator[Simulated]:
    files = SimulatedFiles()
    for path in ("/devices", STATE):
        files.make_directory(path)
    site = Simulated(files)
    await site.start_up(size_bytes)
    yield site
    await site.close()


async def test_what_is_new_is_carried_over_a_crash_at_any_step() -> None:
    async with running() as site:
        await site.write(0, b"a" * TRACK)
        await site.commit_cut()
        await site.group.upkeep.tend()
        await site.write(3 * TRACK, b"b" * 512)
        assert not await site.flush()
        images: list[tuple[str, SimulatedFiles]] = []
        rng, step = random.Random(5), "growing"

        def lose_power(*_: str) -> None:
            images.extend((step, i) for i in site.disk.crash_images(rng, 3))

        site.disk.hook = lose_power
        growth = await grow(site.group, site.volume, NEW)
        step = "grown"
        assert (growth.before_bytes, growth.size_bytes) == (OLD, NEW)
        await site.write(OLD, b"c" * 512)
        await site.write(NEW - 512, b"d" * 512)
        assert not await site.flush()
        step = "flushed"
        await site.group.upkeep.tend()
        await site.group.upkeep.tend()
        lose_power()
        site.disk.hook = None
    sizes = set()
    for step, image in images:
        (volume,) = open_group(image, STATE, config(), "primary.toml").volumes
        size = volume.geometry.size_bytes
        sizes.add(size)
        assert size == NEW or step == "growing"
        assert volume.device.size() == size, "what is served is there"
        assert volume.verdict.carried.test(3), "written and never committed"
        if size == NEW:
            count = volume.geometry.track_count - FIRST_NEW
            assert volume.verdict.carried.count_range(FIRST_NEW, count) == count
        if step == "flushed":
            assert volume.device.read(OLD, 512) == b"c" * 512
            assert volume.device.read(NEW - 512, 512) == b"d" * 512
    assert sizes == {OLD, NEW}
    assert len(images) > 30


async def test_once_a_cycle_has_taken_what_is_new_the_bitmaps_say_all() -> None:
    async with running() as site:
        await site.commit_cut()
        await site.group.upkeep.tend()
        await grow(site.group, site.volume, NEW)
        await site.write(0, b"a" * TRACK)
        await site.commit_cut()
        saved = site.group.state.volumes["data"]
        assert saved.carried_from_bytes == OLD, "not before the pages are saved"
        await site.group.upkeep.tend()
        assert site.group.state.volumes["data"].carried_from_bytes is None
        await site.write(FIRST_NEW * TRACK, b"e" * TRACK)
    (volume,) = open_group(site.disk, STATE, config(), "primary.toml").volumes
    assert list(volume.verdict.carried.runs()) == [(FIRST_NEW, 1)]
    assert volume.verdict.suspect is None, "stopped in good order"


async def test_acked_tracks_stay_acked_but_for_those_written_and_the_longer_one() -> (
    None
):
    async with running() as site:
        for track in range(5):
            await site.write(track * TRACK, b"a" * TRACK)
        await site.write(OLD - 512, b"a" * 512)
        await site.group.make_cut(None)
        await site.group.settle_cut()
        for track in (0, 1, 2, FIRST_NEW):
            site.volume.changes.ack(track, 1)
        await site.write(TRACK, b"b" * TRACK)
        site.group.abandon_cycle()
        await grow(site.group, site.volume, NEW)
        assert list(site.volume.changes.acked.runs()) == [(0, 1), (2, 1)]
        await site.write(2 * TRACK, b"c" * TRACK)
        await site.group.upkeep.tend()
        site.disk.hook = None
        image = site.disk.crash_image(random.Random(1), "lost")
    (volume,) = open_group(image, STATE, config(), "primary.toml").volumes
    # Track 2's region is hot, and so is that of the others.
    assert list(volume.verdict.acked.runs()) in ([], [(0, 1)])
    assert not volume.verdict.acked.test(FIRST_NEW)


async def test_writes_in_flight_are_in_the_next_cut(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.open()
    try:
        await site.write(0, b"a" * TRACK)
        await site.commit_cut()  # a FlashCopy stands: the write preserves first
        stopped = Stopped("write", "data.img")
        site.files.rules.append(stopped)
        writing = asyncio.ensure_future(site.write(8 * TRACK, b"w" * TRACK))
        await reached(stopped)
        before = site.volume.size_bytes
        await grow(site.group, site.volume, before + 512)
        stopped.go()
        assert await writing == 0
        assert site.volume.changes.has_changed()
        await site.group.make_cut(None)
        await site.group.settle_cut()
        pprc = site.volume.changes.pprc
        assert pprc is not None
        assert list(pprc.runs()) == [(8, 1), (before // TRACK, 1)]
        await site.finish_cut()
        assert await site.read(before, 512) == bytes(512)
        assert await site.write(before, b"n" * 512) == 0
    finally:
        await site.close()


@pytest.mark.parametrize(
    ("operation", "number"), [("allocate", errno.ENOSPC), ("truncate", errno.EFBIG)]
)
async def test_where_there_is_no_room_nothing_has_changed(
    operation: str, number: int
) -> None:
    async with running() as site:
        site.disk.inject = lambda what, path: (
            number if what == operation and "flashcopy" not in path else None
        )
        with pytest.raises(RefusedError, match="can't grow"):
            await grow(site.group, site.volume, NEW)
        site.disk.inject = None
        assert site.group.failed is None
        assert site.volume.size_bytes == OLD
        assert await site.write(OLD - 512, b"x" * 512) == 0
        assert site.group.state.volumes["data"].growing_bytes is None
    (volume,) = open_group(site.disk, STATE, config(), "primary.toml").volumes
    assert volume.geometry.size_bytes == volume.device.size() == OLD


async def test_a_start_that_can_t_finish_a_growth_serves_the_old_size() -> None:
    async with running() as site:
        images: list[SimulatedFiles] = []

        def extended(operation: str, path: str) -> None:
            if operation == "datasync" and path.endswith("data.changed"):
                images.append(site.disk.crash_image(random.Random(1), "kept"))

        site.disk.hook = extended
        await grow(site.group, site.volume, NEW)
        site.disk.hook = None
    image = images[0]
    image.inject = lambda what, path: (
        errno.EFBIG if (what, path) == ("truncate", "/devices/data.img") else None
    )
    opened = open_group(image, STATE, config(), "primary.toml")
    assert opened.volumes[0].geometry.size_bytes == OLD
    assert opened.state.volumes["data"].growing_bytes is None


@pytest.mark.parametrize(
    ("size", "says"),
    [(OLD - 512, "can't shrink"), (OLD + 100, "multiple of 512"), (2 << 50, "at most")],
)
async def test_sizes_that_no_volume_can_have_are_refused(size: int, says: str) -> None:
    async with running() as site:
        with pytest.raises(RefusedError, match=says):
            await grow(site.group, site.volume, size)
        with pytest.raises(RefusedError, match="it has: data"):
            find_volume(site.group, "dta")
        assert (await grow(site.group, site.volume, OLD)).size_bytes == OLD


@pytest.mark.parametrize(
    ("size", "is_refused"), [(NEW + 512, True), (OLD, False), (OLD - 512, False)]
)
async def test_a_configured_size_below_the_volumes_is_only_warned_of(
    size: int, is_refused: bool
) -> None:
    async with running() as site:
        await grow(site.group, site.volume, OLD + 512)
        await grow(site.group, site.volume, NEW)
    if is_refused:
        with pytest.raises(DeviceError, match="farshore grow"):
            open_group(site.disk, STATE, config(size), "primary.toml")
    else:
        opened = open_group(site.disk, STATE, config(size), "primary.toml")
        assert opened.volumes[0].geometry.size_bytes == NEW


@pytest.mark.parametrize("size", [OLD, NEW])
@pytest.mark.parametrize("is_longer", [True, False])
async def test_a_device_of_another_time_than_its_state_says_what_to_put_back(
    size: int, is_longer: bool
) -> None:
    async with running() as site:
        before = site.disk.crash_image(random.Random(1), "kept")
        await grow(site.group, site.volume, NEW)
    device = site.disk.open("/devices/data.img")
    device.truncate(OLD)
    stale = before.open("/devices/data.img")
    stale.truncate(NEW)
    files, says = (
        (before, f"cut it to {OLD} bytes") if is_longer else (site.disk, "mend")
    )
    with pytest.raises(StateMismatchError, match=f"{says}.* put both back"):
        open_group(files, STATE, config(size), "primary.toml")


@pytest.mark.parametrize("key", ["handing", "superseded"])
async def test_nothing_grows_once_the_other_site_has_its_size(key: str) -> None:
    fork = Fork(b"N" * 16, b"L" * 16, CycleName(1, b"c" * 16), 1, 2)
    value = fork if key == "handing" else ToldFork(fork, is_known=True)
    async with running() as site:
        await site.group.update(**{key: value})
        with pytest.raises(RefusedError, match="is given up here"):
            await grow(site.group, site.volume, NEW)
        assert site.volume.size_bytes == OLD


async def test_a_read_of_the_new_area_and_a_status_of_all_are_answered() -> None:
    async with running() as site:
        await site.commit_cut()
        await grow(site.group, site.volume, NEW)
        contexts = site.volume.contexts
        request = await site.start(HostCommand.BLOCK_STATUS, 0, NEW, contexts=contexts)
        assert isinstance(request, HostRequest)
        assert not request.error
        told, changed = request.data
        assert sum(size for size, _ in told) == NEW
        assert changed == [(FIRST_NEW * TRACK, 0), (NEW - FIRST_NEW * TRACK, 1)]
        assert await site.read(NEW - 4096, 4096) == bytes(4096)
