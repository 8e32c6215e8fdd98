"""A region is forgotten only once all that speaks for it is durable."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.support.primary_host_site import TRACK, Site, Stopped, reached

COOLED = re.compile("S+[CA]+(ca|ac)")
"""The device flushed; then pages written; then both bitmap files flushed."""


LETTERS = {
    ("datasync", "data.img"): "S",
    ("write", ".changed"): "C",
    ("write", ".acked"): "A",
    ("datasync", ".changed"): "c",
    ("datasync", ".acked"): "a",
    ("write", ".regions"): "L",
}


class Trail:
    """A rule: a letter for each operation that cooling consists of, in order."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, operation: str, path: str, offset: int) -> None:
        for (wanted, suffix), letter in LETTERS.items():
            if operation == wanted and path.endswith(suffix):
                self.text += letter


@pytest.mark.parametrize("crowded", [False, True])
async def test_a_region_cools_after_the_device_and_both_bitmaps_are_flushed(
    tmp_path: Path, *, crowded: bool
) -> None:
    """`crowded`: it cools because another region needs its place in the log."""
    site = Site(tmp_path)
    await site.open(region_size="8KiB", hot_regions_max=16)
    try:
        await site.commit_cut()
        for region in range(16):
            await site.write(region * 8192, b"x" * TRACK)
        trail = Trail()
        if not crowded:
            await site.group.upkeep.tend()
        site.files.rules.append(trail)
        if crowded:
            await site.write(100 * 8192, b"y" * TRACK)
            assert trail.text.endswith("L")
            assert COOLED.fullmatch(trail.text.removesuffix("L")), trail.text
        else:
            await site.group.upkeep.tend()
            assert not site.volume.heat.table, "nothing cooled"
            assert COOLED.fullmatch(trail.text), trail.text
    finally:
        site.files.rules.clear()
        await site.close()


async def test_a_region_that_is_written_while_it_cools_stays_hot(site: Site) -> None:
    """Its pages are copied from memory before that write, and say nothing of it."""
    await site.commit_cut()
    await site.write(0, b"x" * TRACK)
    await site.group.upkeep.tend()
    stopped = Stopped("datasync", ".changed")
    site.files.rules.append(stopped)
    cooling = asyncio.create_task(site.group.upkeep.tend())
    await reached(stopped)
    assert await site.write(5 * TRACK, b"y" * TRACK) == 0
    stopped.go()
    await cooling
    assert 0 in site.volume.heat.table, "it cooled over a write"
    await site.group.upkeep.tend()
    await site.group.upkeep.tend()
    assert 0 not in site.volume.heat.table
