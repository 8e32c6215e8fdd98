"""Which tracks a difference may be taken of, and how long what it needs is kept."""

from __future__ import annotations

import asyncio
import errno
import random
from pathlib import Path

import pytest

from common.errors import ProtocolError
from common.replication.cycle_messages import Encoding, NeedFull, Tracks
from common.replication.delta import apply_difference
from common.replication.tracks import TrackRecord, decode_records, run_hash
from tests.support.primary_host_site import (
    SIZE,
    TRACK,
    Failing,
    Site,
    Stopped,
    reached,
    turns,
)
from tests.support.told_session import Drained

NOISE = random.Random(5).randbytes(8 * TRACK)


def touched(data: bytes, place: int = 7) -> bytes:
    found = bytearray(data)
    found[place] ^= 0xFF
    return bytes(found)


async def point_then(site: Site, *tracks: int) -> None:
    """Commit a point of noise, and change a byte of each track after it."""
    await site.write(0, NOISE)
    await site.commit_cut()
    for track in tracks:
        old = NOISE[track * TRACK : (track + 1) * TRACK]
        await site.write(track * TRACK, touched(old))


async def cut(site: Site) -> None:
    await site.group.make_cut(None)
    await site.group.settle_cut()


def records_of(frame: object) -> list[TrackRecord]:
    assert isinstance(frame, Tracks)
    return decode_records(frame.payload, frame.raw_bytes, SIZE, TRACK, delta=True)


async def sent(site: Site) -> tuple[Drained, list[TrackRecord]]:
    """Begin to drain the cut; return the records of its first frame."""
    drained = Drained(site, delta=True)
    await drained.frames(1)
    return drained, records_of(drained.session.frames[0])


async def encodings(site: Site) -> set[Encoding]:
    """Drain the cut whole; return how its tracks travelled."""
    drained, records = await sent(site)
    drained.progress(0)
    await drained.ended()
    return {record.encoding for record in records}


async def test_what_was_overwritten_since_a_committed_cut_goes_as_a_difference(
    site: Site,
) -> None:
    await point_then(site, 1, 2, 5)
    await cut(site)
    await site.write(2 * TRACK, bytes(TRACK))  # of the next cycle
    drained, records = await sent(site)
    assert [(r.first, r.count, r.encoding) for r in records] == [
        (1, 2, Encoding.XOR),
        (5, 1, Encoding.XOR),
    ]
    for record in records:
        start, end = record.first * TRACK, (record.first + record.count) * TRACK
        base = NOISE[start:end]
        assert record.base_hash == run_hash(base)
        assert record.data is not None
        found = apply_difference(base, record.data)
        assert record.result_hash == run_hash(found)
        assert found[7] == base[7] ^ 0xFF
    drained.progress(0)
    await drained.ended()
    assert site.volume.changes.acked.count == 3
    assert drained.drain.tracks_differenced == 3
    site.group.abandon_cycle()


async def test_a_track_that_is_again_what_it_was_goes_as_its_hash(site: Site) -> None:
    await point_then(site, 3)
    await site.write(3 * TRACK, NOISE[3 * TRACK : 4 * TRACK])
    await cut(site)
    drained, records = await sent(site)
    (record,) = records
    assert (record.first, record.encoding, record.data) == (3, Encoding.XOR, None)
    drained.progress(0)
    await drained.ended()
    assert site.volume.changes.acked.count == 1
    site.group.abandon_cycle()


async def test_a_track_that_only_joins_the_cycle_has_no_base(site: Site) -> None:
    """It was not overwritten since the cut before: the target says nothing of it."""
    await point_then(site, 1)
    carried = site.volume.changes.flashcopy.bitmap.copy()
    carried.set_range(2, 2)
    site.volume.changes.carry(carried)
    await cut(site)
    drained, records = await sent(site)
    assert [(r.first, r.count, r.encoding) for r in records] == [
        (1, 1, Encoding.XOR),
        (2, 2, Encoding.RAW),
    ]
    drained.progress(0)
    await drained.ended()
    site.group.abandon_cycle()


async def test_without_the_feature_everything_goes_whole(site: Site) -> None:
    await point_then(site, 1)
    await cut(site)
    drained = Drained(site)
    await drained.frames(1)
    assert [r.encoding for r in records_of(drained.session.frames[0])] == [Encoding.RAW]
    drained.progress(0)
    await drained.ended()
    site.group.abandon_cycle()


async def test_an_abandoned_cycle_is_nobodys_base(site: Site) -> None:
    await point_then(site, 1)
    await cut(site)
    assert site.volume.preserver.base() is not None
    site.group.abandon_cycle()
    assert site.volume.preserver.base() is None
    await site.write(TRACK, NOISE[:TRACK])
    await cut(site)
    assert await encodings(site) == {Encoding.RAW}
    await site.group.complete_cycle(b"r" * 16)
    await site.write(TRACK, touched(NOISE[:TRACK]))
    await cut(site)
    assert await encodings(site) == {Encoding.XOR}, "the one after it is"
    site.group.abandon_cycle()


async def test_a_cut_whose_cycle_never_ended_is_nobodys_base(site: Site) -> None:
    """Its relation stands still: nothing withdrew it."""
    await point_then(site, 1)
    await cut(site)
    for volume in site.group.volumes:
        volume.changes.abandon()
    site.group.cut = None
    await site.write(TRACK, touched(NOISE[:TRACK], 9))
    await cut(site)
    assert site.volume.preserver.base() is None
    site.group.abandon_cycle()


async def test_a_relation_that_failed_is_nobodys_base(site: Site) -> None:
    await point_then(site)
    site.files.rules.append(Failing("write", ".target", errno.ENOSPC, 1))
    await site.write(TRACK, touched(NOISE[:TRACK]))
    await cut(site)
    assert await encodings(site) == {Encoding.RAW}
    site.group.abandon_cycle()


async def test_a_remote_of_another_relation_holds_no_base(site: Site) -> None:
    await point_then(site, 1)
    await cut(site)
    await site.group.remote_relation.adopt(b"s" * 16)
    assert await encodings(site) == {Encoding.RAW}
    site.group.abandon_cycle()


async def test_a_remote_that_changed_between_two_cuts_holds_no_base(
    site: Site,
) -> None:
    await point_then(site, 1)
    await site.group.remote_relation.adopt(b"s" * 16)
    await cut(site)
    assert await encodings(site) == {Encoding.RAW}
    site.group.abandon_cycle()


async def test_a_remote_that_lost_points_holds_no_base(site: Site) -> None:
    await point_then(site, 1)
    await site.group.remote_relation.suspect_everything(None, b"", None, None)
    await cut(site)
    assert site.volume.preserver.base() is None
    site.group.abandon_cycle()


async def test_after_a_restart_there_is_no_base(site: Site, tmp_path: Path) -> None:
    await point_then(site, 1)
    await site.close()
    await site.open()
    await cut(site)
    assert await encodings(site) == {Encoding.RAW}
    site.group.abandon_cycle()


async def test_a_base_is_kept_while_its_cycle_goes_on_and_no_longer(
    site: Site,
) -> None:
    await point_then(site, 1)
    await cut(site)
    assert site.volume.preserver.base() is not None
    await site.finish_cut()
    assert site.volume.preserver.base() is None
    await cut(site)
    site.group.abandon_cycle()


async def test_a_base_is_not_given_to_another_cut_while_a_thread_reads_it(
    site: Site,
) -> None:
    await point_then(site, 1)
    await cut(site)
    stopped = Stopped("read", ".target")
    site.files.rules.append(stopped)
    drained = Drained(site, delta=True)
    await reached(stopped)
    drained.running.cancel()  # the link is lost: its thread goes on
    await asyncio.wait([drained.running])
    site.group.abandon_cycle()
    cutting = asyncio.create_task(site.group.make_cut(None))
    for _ in range(100):
        await asyncio.sleep(0.001)
    await turns()
    assert not cutting.done(), "taken over while a thread reads it"
    stopped.go()
    async with asyncio.timeout(10):
        await cutting
    site.group.abandon_cycle()


async def test_hosts_write_on_while_a_base_is_read(site: Site) -> None:
    await point_then(site, 1)
    await cut(site)
    stopped = Stopped("read", ".target")
    site.files.rules.append(stopped)
    drained = Drained(site, delta=True)
    await reached(stopped)
    async with asyncio.timeout(10):
        assert await site.write(TRACK, NOISE[:TRACK], fua=True) == 0
    stopped.go()
    await drained.frames(1)
    drained.progress(0)
    await drained.ended()
    site.group.abandon_cycle()


async def test_a_base_that_cannot_be_read_costs_bytes_only(site: Site) -> None:
    await point_then(site, 1, 5)
    await cut(site)
    site.files.rules.append(Failing("read", ".target", errno.EIO, 1))
    assert await encodings(site) == {Encoding.RAW}
    base = site.volume.preserver.base()
    assert base is not None
    assert not base.stands, "it is not asked again"
    site.group.abandon_cycle()


async def test_what_the_remote_holds_otherwise_comes_whole(site: Site) -> None:
    await point_then(site, 1, 2, 5)
    await cut(site)
    drained, _ = await sent(site)
    drained.drain.on_need_full(NeedFull(1, drained.cycle_id, 0, 0, ((1, 2),)))
    drained.progress(0)
    acked = site.volume.changes.acked
    assert list(acked.runs()) == [(5, 1)], "what was refused is not acked"
    await drained.frames(2)
    (whole,) = records_of(drained.session.frames[1])
    assert (whole.first, whole.count, whole.encoding) == (1, 2, Encoding.RAW)
    assert whole.data is not None
    assert whole.data[:TRACK] == touched(NOISE[TRACK : 2 * TRACK])
    with pytest.raises(ProtocolError, match="sent whole"):
        drained.drain.on_need_full(NeedFull(1, drained.cycle_id, 1, 0, ((1, 2),)))
    drained.progress(1)
    await drained.ended()
    assert list(acked.runs()) == [(1, 2), (5, 1)]
    assert drained.drain.tracks_refused == 2
    site.group.abandon_cycle()


@pytest.mark.parametrize("runs", [((3, 1),), ((1, 3),), ((5, 1), (1, 1)), ((6, 1),)])
async def test_only_differences_can_be_refused(
    site: Site, runs: tuple[tuple[int, int], ...]
) -> None:
    """Track 6 goes in the same frame, but as it is."""
    await point_then(site, 1, 2, 5)
    await site.write(6 * TRACK, NOISE[:TRACK])
    await cut(site)
    drained, records = await sent(site)
    assert records[-1].encoding == Encoding.RAW
    with pytest.raises(ProtocolError, match="did not hold"):
        drained.drain.on_need_full(NeedFull(1, drained.cycle_id, 0, 0, runs))
    drained.progress(0)
    await drained.ended()
    site.group.abandon_cycle()


async def test_where_nothing_is_alike_few_tracks_are_looked_at(site: Site) -> None:
    chance = random.Random(8)
    await site.write(0, chance.randbytes(SIZE))
    await site.commit_cut()
    for track in range(0, 512, 2):
        await site.write(track * TRACK, chance.randbytes(TRACK))
    await cut(site)
    reads = []

    def note(operation: str, path: str, offset: int) -> None:
        if (operation, path.endswith(".target")) == ("read", True):
            reads.append(offset)

    site.files.rules.append(note)
    assert await encodings(site) == {Encoding.RAW}
    assert 0 < len(reads) <= 32
    site.group.abandon_cycle()


async def test_where_much_is_alike_every_track_is_looked_at(site: Site) -> None:
    content = random.Random(8).randbytes(SIZE)
    await site.write(0, content)
    await site.commit_cut()
    tracks = range(0, 512, 2)
    for track in tracks:
        await site.write(track * TRACK, touched(content[track * TRACK :][:TRACK]))
    await cut(site)
    drained, records = await sent(site)
    assert {record.encoding for record in records} == {Encoding.XOR}
    drained.progress(0)
    await drained.ended()
    assert drained.drain.tracks_differenced == len(tracks)
    site.group.abandon_cycle()


async def test_few_differences_among_many_tracks_go_whole_where_that_is_less(
    site: Site,
) -> None:
    """Their hashes cost more than they are: alone they go as differences."""
    page = b"a line of text, as in many others; " * 117 + b"!"
    await site.write(0, page * 512)
    await site.commit_cut()

    async def records(*changed: int) -> set[Encoding]:
        for track in changed:
            await site.write(track * TRACK, touched(page, 99))
        await cut(site)
        drained = Drained(site, delta=True, compression=3)
        await drained.frames(1)
        found = records_of(drained.session.frames[0])
        drained.progress(0)
        await drained.ended()
        site.group.abandon_cycle()
        return {each.encoding for each in found}

    assert await records(1, 3) == {Encoding.XOR}
    await site.write(0, page)
    await site.commit_cut()
    await site.write(512 * TRACK, page * 100)  # nothing is held there
    assert await records(1, 3) == {Encoding.RAW}
