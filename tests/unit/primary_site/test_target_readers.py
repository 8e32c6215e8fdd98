"""The file that holds the image of a cut, while a thread reads it and cuts go on."""

from __future__ import annotations

import asyncio

import pytest

from common.replication.tracks import RunData
from primary_site.cut_reader import CutReader, RelationEndedError
from tests.support.primary_host_site import TRACK, Site, Stopped, reached, turns


async def reading(site: Site, stopped: Stopped) -> asyncio.Task[list[RunData]]:
    """Have a thread read the target of a new cut; it stands at the rule."""
    await site.write(0, b"a" * TRACK)
    await site.commit_cut()
    await site.group.make_cut(None)
    await site.write(0, b"b" * TRACK)
    standing = site.volume.preserver.standing()
    assert standing is not None
    site.files.rules.append(stopped)
    task = asyncio.create_task(CutReader(site.volume, standing).read([(0, 1)]))
    await reached(stopped)
    return task


async def test_a_target_is_not_given_to_another_cut_while_a_thread_reads_it(
    site: Site,
) -> None:
    stopped = Stopped("read", ".target")
    read = await reading(site, stopped)
    site.group.abandon_cycle()
    await site.group.make_cut(None)  # on the other target
    site.group.abandon_cycle()
    cutting = asyncio.create_task(site.group.make_cut(None))
    for _ in range(100):
        await asyncio.sleep(0.001)
    await turns()
    assert not cutting.done(), "taken over while a thread reads it"
    stopped.go()
    with pytest.raises(RelationEndedError):
        await read
    async with asyncio.timeout(10):
        await cutting
    site.group.abandon_cycle()


async def test_what_is_read_from_a_target_counts_only_if_its_cut_still_stands(
    site: Site,
) -> None:
    stopped = Stopped("read", ".target")
    read = await reading(site, stopped)
    site.group.abandon_cycle()
    stopped.go()
    with pytest.raises(RelationEndedError):
        await read
