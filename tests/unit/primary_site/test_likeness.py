"""What a frame is like elsewhere: found, sent, and given up where it does not help."""

from __future__ import annotations

import random

import pytest

from common.replication.cycle_messages import NeedFull, Tracks
from common.replication.referenced import (
    PIECE_BYTES,
    Decoded,
    Pieces,
    decode_payload,
)
from primary_site.likeness import CYCLES_LEFT_OUT_MAX, FRAMES_IN_VAIN, Habit
from tests.support.primary_host_site import SIZE, TRACK, Site
from tests.support.told_session import Drained

PAGE = 8192
PAGES = 64
CHANCE = random.Random(6)
TEXT = b" ".join(CHANCE.randbytes(9).hex().encode() for _ in range(PAGES * PAGE // 18))
TABLE = TEXT[: PAGES * PAGE]
LOG_AT = 2 << 20
"""Where the log begins, far behind the table."""


class Database:
    """Pages of text, changed in place, of which a log gets whole copies."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.held = bytes(SIZE)
        self.content = bytearray(SIZE)

    async def write(self, offset: int, data: bytes) -> None:
        self.content[offset : offset + len(data)] = data
        assert await self.site.write(offset, data) == 0

    async def load(self) -> None:
        await self.write(0, TABLE)
        await self.commit()

    async def commit(self) -> None:
        await self.site.commit_cut()
        self.held = bytes(self.content)

    async def change(self, *pages: int) -> None:
        """Change the second half of each page, and log the page at an odd place."""
        log = b"begin"
        for page in pages:
            at = page * PAGE + 5000
            await self.write(at - at % TRACK, b"".join(self._changed(at)))
            log += bytes(self.content[page * PAGE : (page + 1) * PAGE]) + b"commit"
        log += bytes(-len(log) % TRACK)
        await self.write(LOG_AT, log)

    def _changed(self, at: int) -> tuple[bytes, bytes, bytes]:
        start = at - at % TRACK
        return (
            bytes(self.content[start:at]),
            b"changed!",
            bytes(self.content[at + 8 : start + TRACK]),
        )

    def read(self, pieces: Pieces) -> bytes:
        return b"".join(
            self.held[first * PIECE_BYTES : (first + count) * PIECE_BYTES]
            for first, count in pieces
        )

    def decoded(self, frame: object) -> Decoded:
        assert isinstance(frame, Tracks)
        return decode_payload(
            frame.payload, frame.raw_bytes, SIZE, TRACK, delta=True, held=self.read
        )

    def check(self, frame: object) -> None:
        """What the remote makes of the frame's tracks is what the host wrote."""
        for record in self.decoded(frame).records:
            start = record.first * TRACK
            end = start + record.count * TRACK
            if record.base_hash == bytes(16):
                assert record.data == self.content[start:end]


async def cut(site: Site) -> None:
    await site.group.make_cut(None)
    await site.group.settle_cut()


async def drained(site: Site, habit: Habit | None) -> tuple[Drained, Tracks]:
    """Drain the cut, which fits one frame; return it."""
    found = Drained(site, delta=True, compression=3, habit=habit)
    await found.frames(1)
    (frame,) = found.session.frames
    assert isinstance(frame, Tracks)
    return found, frame


async def ended(site: Site, found: Drained) -> None:
    found.progress(0)
    await found.ended()
    site.group.abandon_cycle()


@pytest.fixture
async def database(site: Site) -> Database:
    database = Database(site)
    await database.load()
    return database


async def test_pages_in_a_log_go_as_references_to_what_they_were(
    site: Site, database: Database
) -> None:
    """Half of each page has not changed: it is beside what has."""
    await database.change(*range(3, 40))
    await cut(site)
    found, frame = await drained(site, Habit())
    assert bytes(frame.payload[:1]) == b"\3"
    assert len(frame.payload) < 37 * 300
    database.check(frame)
    await ended(site, found)


async def test_what_hosts_write_meanwhile_is_in_no_reference(
    site: Site, database: Database
) -> None:
    await database.change(*range(3, 40))
    await cut(site)
    before = bytes(database.content)
    for page in range(3, 40):
        await database.write(page * PAGE, b"later" * 400)
    database.content[:] = before
    found, frame = await drained(site, Habit())
    assert bytes(frame.payload[:1]) == b"\3"
    assert database.decoded(frame).refused == []
    database.check(frame)
    await ended(site, found)


async def test_without_the_feature_nothing_refers_to_anything(
    site: Site, database: Database
) -> None:
    await database.change(*range(3, 40))
    await cut(site)
    found, frame = await drained(site, None)
    assert bytes(frame.payload[:1]) == b"\2"
    await ended(site, found)


async def test_what_the_remote_holds_otherwise_comes_whole_and_alone(
    site: Site, database: Database
) -> None:
    await database.change(*range(3, 40))
    await cut(site)
    found, frame = await drained(site, Habit())
    database.held = database.held[::-1]
    refused = database.decoded(frame).refused
    assert sum(count for _, count in refused) == 37 + 75
    found.drain.on_need_full(NeedFull(1, found.cycle_id, 0, 0, tuple(refused)))
    found.progress(0)
    await found.frames(2)
    again = found.session.frames[1]
    assert isinstance(again, Tracks)
    assert bytes(again.payload[:1]) == b"\2"
    database.check(again)
    found.progress(1)
    await found.ended()
    assert site.volume.changes.acked.count == 37 + 75
    site.group.abandon_cycle()


async def test_noise_is_not_looked_for(site: Site, database: Database) -> None:
    await database.change(1)
    await database.write(LOG_AT + (1 << 20), CHANCE.randbytes(60 * TRACK))
    await cut(site)
    reads: list[int] = []

    def note(operation: str, path: str, offset: int) -> None:
        if (operation, path.endswith("data.img")) == ("read", True):
            reads.append(offset)

    site.files.rules.append(note)
    found, _ = await drained(site, Habit())
    assert TRACK * 2 not in reads, "the page's other half is beside it"
    await ended(site, found)


async def test_where_nothing_is_like_anything_it_is_given_up(
    site: Site, database: Database
) -> None:
    habit = Habit()
    await database.change(1)
    for at in range(FRAMES_IN_VAIN):
        text = b" ".join(CHANCE.randbytes(9).hex().encode() for _ in range(4000))
        await database.write(LOG_AT + (at << 18), text[: 17 * TRACK])
    await cut(site)
    found, frame = await drained(site, habit)
    assert bytes(frame.payload[:1]) == b"\2"
    assert habit.begin(), "one frame in vain is not yet a habit"
    await ended(site, found)


def test_cycles_are_left_out_longer_and_longer_until_one_was_worth_it() -> None:
    habit = Habit()
    for left_out in (1, 2, 4, 8, 16, 32, 32):
        assert habit.begin()
        habit.found_nothing()
        for _ in range(left_out):
            assert not habit.begin()
    assert left_out == CYCLES_LEFT_OUT_MAX
    assert habit.begin()
    habit.found()
    assert habit.begin()
    habit.found_nothing()
    assert not habit.begin()
    assert habit.begin()
