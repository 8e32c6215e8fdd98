"""What a drain makes of the remote's answers, and what it tells the remote."""

from __future__ import annotations

import asyncio
import functools
import operator
import random
import time
from typing import Any

import pytest

from common.errors import ProtocolError
from common.replication.cycle_messages import (
    Credit,
    CycleEnd,
    Hashes,
    NeedFull,
    Progress,
    Tracks,
)
from common.storage.bitmap import Bitmap
from primary_site.compression import Compression
from primary_site.drain import CycleDrain
from tests.support.primary_host_site import SIZE, TRACK, Site
from tests.support.told_session import CREDIT_BYTES, Drained, ToldSession

OTHER = b"o" * 16


async def cut_of_three_runs(site: Site) -> None:
    await site.commit_cut()
    for track in (1, 300, 700):
        await site.write(track * TRACK, bytes([track % 251]) * TRACK)
    await site.group.make_cut(None)
    await site.group.settle_cut()


async def test_answers_about_another_cycle_count_for_nothing(site: Site) -> None:
    """They may come late: of a cycle that was abandoned in the same session."""
    await cut_of_three_runs(site)
    drained = Drained(site)
    await drained.frames(1)
    drained.progress(0, cycle_id=OTHER)
    drained.drain.on_need_full(NeedFull(1, OTHER, 0, 0, ((1, 1),)))
    assert site.volume.changes.acked.count == 0, "acked by an answer to another cycle"
    assert not drained.running.done()
    drained.progress(0)
    async with asyncio.timeout(10):
        await drained.running
    assert site.volume.changes.acked.count == 3
    site.group.abandon_cycle()


async def test_credit_of_another_cycle_lets_nothing_go(site: Site) -> None:
    await cut_of_three_runs(site)
    cut = site.group.cut
    assert cut is not None
    session: Any = ToldSession()
    drain = CycleDrain(site.group, cut, session, Compression("off", time.monotonic))
    running = asyncio.create_task(drain.run())
    drain.on_credit(Credit(1, OTHER, CREDIT_BYTES))
    for _ in range(100):
        await asyncio.sleep(0.001)
    assert session.frames == []
    drain.on_credit(Credit(1, cut.cycle_id, CREDIT_BYTES))
    async with asyncio.timeout(10):
        while not session.frames:
            await asyncio.sleep(0.001)
    drain.on_progress(Progress(1, cut.cycle_id, ((0, 0),), 1))
    async with asyncio.timeout(10):
        await running
    site.group.abandon_cycle()


async def test_tracks_that_the_remote_wants_whole_are_not_acked_with_their_hashes(
    site: Site,
) -> None:
    await site.write(0, b"x" * 4 * TRACK)
    await site.commit_cut()
    changes = site.volume.changes
    suspected = Bitmap(SIZE // TRACK)
    suspected.set_range(0, 4)
    changes.carry(suspected)
    changes.suspect = suspected
    await site.group.make_cut(None)
    await site.group.settle_cut()
    drained = Drained(site)
    await drained.frames(1)
    assert isinstance(drained.session.frames[0], Hashes)
    drained.drain.on_need_full(NeedFull(1, drained.cycle_id, 0, 0, ((1, 2),)))
    drained.progress(0)
    assert list(changes.acked.runs()) == [(0, 1), (3, 1)]
    await drained.frames(2)
    assert isinstance(drained.session.frames[1], Tracks)
    drained.progress(1)
    async with asyncio.timeout(10):
        await drained.running
    assert list(changes.acked.runs()) == [(0, 4)]
    site.group.abandon_cycle()


async def test_the_end_tells_of_every_frame(site: Site) -> None:
    """Workers send at once: no checksum may be lost between them."""
    rng = random.Random(1)
    await site.write(0, rng.randbytes(SIZE))
    await site.group.make_cut(None)
    await site.group.settle_cut()
    drained = Drained(site, holds_first=True)
    await drained.frames(4)
    drained.progress(*range(4))
    async with asyncio.timeout(10):
        await drained.running
    await drained.drain.end()
    end = drained.session.control[-1]
    assert isinstance(end, CycleEnd)
    assert end.frame_count == len(drained.session.frames) == 4
    assert end.digest == functools.reduce(operator.xor, drained.session.checksums)
    site.group.abandon_cycle()


async def test_progress_of_a_frame_never_sent_breaks_the_protocol(site: Site) -> None:
    await cut_of_three_runs(site)
    drained = Drained(site)
    await drained.frames(1)
    with pytest.raises(ProtocolError, match="never sent"):
        drained.progress(1)
    drained.progress(0)
    await drained.running
    site.group.abandon_cycle()


async def test_frames_that_went_down_with_a_link_go_again_under_their_numbers(
    site: Site,
) -> None:
    """With their credit given back, and their checksums counted once."""
    rng = random.Random(2)
    await site.write(0, rng.randbytes(SIZE))
    await site.group.make_cut(None)
    await site.group.settle_cut()
    drained = Drained(site)
    await drained.frames(4)
    first = [frame.sequence for frame in drained.session.frames]
    credit = drained.drain._credit
    cost = sum(drained.session.frames[index].raw_bytes for index in (1, 3))  # type: ignore[union-attr]
    drained.drain.on_frames_lost(drained.cycle_id, drained.cycle_id, [1, 3])
    assert drained.drain._credit == credit + cost
    await drained.frames(6)
    again = [frame.sequence for frame in drained.session.frames[4:]]
    assert sorted(again) == [1, 3]
    assert drained.drain._credit == credit
    drained.progress(*first)
    await drained.ended()
    await drained.drain.end()
    end = drained.session.control[-1]
    assert isinstance(end, CycleEnd)
    assert end.frame_count == 4
    kept = {
        frame.sequence: checksum
        for frame, checksum in zip(
            drained.session.frames, drained.session.checksums, strict=True
        )
    }
    assert end.digest == functools.reduce(operator.xor, kept.values())
    site.group.abandon_cycle()


async def test_a_frame_found_lost_while_it_is_being_sent_counts_once(
    site: Site,
) -> None:
    rng = random.Random(3)
    await site.write(0, rng.randbytes(SIZE))
    await site.group.make_cut(None)
    await site.group.settle_cut()
    drained = Drained(site, holds_first=True)
    async with asyncio.timeout(10):
        while not drained.session.frames:
            await asyncio.sleep(0)
    drained.drain.on_frames_lost(drained.cycle_id, drained.cycle_id, [0])
    await drained.frames(5)
    drained.progress(*range(4))
    await drained.ended()
    await drained.drain.end()
    end = drained.session.control[-1]
    assert isinstance(end, CycleEnd)
    kept = {
        f.sequence: random.Random(f.sequence).getrandbits(64)
        for f in drained.session.frames
    }
    assert end.digest == functools.reduce(operator.xor, kept.values())
    site.group.abandon_cycle()


async def test_a_remote_without_the_cycle_can_t_have_lost_its_frames(
    site: Site,
) -> None:
    await cut_of_three_runs(site)
    drained = Drained(site)
    await drained.frames(1)
    drained.drain.on_frames_lost(OTHER, None, [0])
    with pytest.raises(ProtocolError, match="not open"):
        drained.drain.on_frames_lost(drained.cycle_id, None, [0])
    drained.progress(0)
    await drained.ended()
    site.group.abandon_cycle()
