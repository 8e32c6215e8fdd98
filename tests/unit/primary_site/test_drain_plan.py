"""Every track that is to be sent is planned exactly once."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ports import HostCommand
from common.storage.bitmap import Bitmap
from primary_site.cut_reader import CutReader
from primary_site.drain_plan import FRAME_BYTES, FRAME_RUNS_MAX, Gatherer, Unit, plan
from primary_site.frame_ledger import without
from tests.support.primary_host_site import SIZE, TRACK, Site

TRACKS = SIZE // TRACK


async def planned(site: Site) -> list[Unit]:
    standing = site.volume.preserver.standing()
    assert standing is not None
    return [unit async for unit in plan([CutReader(site.volume, standing)])]


def tracks_of(units: list[Unit]) -> list[int]:
    return [
        track
        for unit in units
        for first, count in unit.runs
        for track in range(first, first + count)
    ]


@pytest.mark.parametrize("seed", range(6))
async def test_what_is_pprc_and_not_acked_is_planned_once(
    site: Site, seed: int
) -> None:
    rng = random.Random(seed)
    changes = site.volume.changes
    await site.commit_cut()
    for _ in range(60):
        first = rng.randrange(TRACKS)
        await site.write(first * TRACK, rng.randbytes(rng.choice((10, TRACK))))
    if seed % 2:
        changes.suspect = Bitmap(TRACKS)
        changes.suspect.set_range(100, 500)
    await site.group.make_cut(None)
    await site.group.settle_cut()
    assert changes.pprc is not None
    for first, count in list(changes.pprc.runs())[::3]:
        changes.ack(first, count)
    wanted = [t for t in range(TRACKS) if changes.pprc.test(t)]
    wanted = [t for t in wanted if not changes.acked.test(t)]
    units = await planned(site)
    assert sorted(tracks_of(units)) == wanted
    for unit in units:
        assert len(unit.runs) <= FRAME_RUNS_MAX
        assert (
            sum(count for _, count in unit.runs) * TRACK <= FRAME_BYTES or unit.hashed
        )
        for track in tracks_of([unit]):
            is_suspect = changes.suspect is not None and changes.suspect.test(track)
            assert unit.hashed == is_suspect


async def test_holes_at_the_cut_cost_no_reading_and_those_made_since_do(
    site: Site,
) -> None:
    await site.write(0, b"a" * 600 * TRACK)
    await site.group.make_cut(None)
    await site.group.settle_cut()
    assert (await site.start(HostCommand.TRIM, 0, 300 * TRACK)).error == 0
    units = await planned(site)
    assert sorted(tracks_of(units)) == list(range(TRACKS))
    holes = set(tracks_of([u for u in units if u.zero]))
    assert holes
    assert min(holes) >= 600, "a hole of after the cut was taken for one of before"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 700)), max_size=30))
def test_gathered_runs_are_those_that_were_added(steps: list[tuple[int, int]]) -> None:
    gathered = Gatherer(0, TRACK)
    units: list[Unit] = []
    expected: list[int] = []
    at = 0
    for gap, count in steps:
        at += gap
        units += gathered.add(at, count)
        expected += range(at, at + count)
        at += count
    units += gathered.rest()
    assert tracks_of(units) == expected
    assert all(sum(c for _, c in u.runs) * TRACK <= FRAME_BYTES for u in units)
    assert list(gathered.rest()) == []


@given(st.data())
def test_runs_without_others_are_the_difference(data: st.DataObject) -> None:
    def runs(tracks: set[int]) -> list[tuple[int, int]]:
        bitmap = Bitmap(60)
        for track in tracks:
            bitmap.set(track)
        return list(bitmap.runs())

    tracks = st.sets(st.integers(0, 59))
    mine, excluded = data.draw(tracks), data.draw(tracks)
    assert without(runs(mine), runs(excluded)) == runs(mine - excluded)
