"""The durable state of a running group, and its agreement with the remote."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from common.errors import ConnectionLostError, PeerRefusedError, StorageError
from common.replication.lineage import CycleName, ReceiverState
from common.replication.session_messages import Welcome
from common.service.clock import SystemClock
from common.storage.record import DurableRecord
from primary_site.group_state import GroupState, from_record
from primary_site.replicator import Replicator
from tests.support.primary_host_site import (
    SIZE,
    TRACK,
    Failing,
    Site,
    Stopped,
    reached,
)


def stored(site: Site) -> GroupState:
    path = str(site.directory / "state/groups/orders/group.record")
    record = DurableRecord(path, site.files).load()
    assert record is not None
    return from_record(record, path)


def welcome(number: int | None, cycle_id: bytes | None, relation: bytes) -> Welcome:
    committed = cycle_id and CycleName(number or 0, cycle_id)
    receiver = ReceiverState(
        given=b"s" * 16, committed=committed or None, relation_id=relation
    )
    return Welcome(2, "dr", 1, b"t" * 16, b"s" * 16, receiver, number, number, 1)


def cycles(site: Site) -> Any:
    async def connect(address: str) -> Any:
        raise AssertionError(address)

    return Replicator(site.group, "amsterdam", connect, SystemClock()).cycles


async def test_changes_of_the_state_at_once_do_not_undo_one_another(
    site: Site,
) -> None:
    stopped = Stopped("write", "group.record")
    site.files.rules.append(stopped)
    first = asyncio.ensure_future(site.group.update(cycle_number=7, cycle_id=b"7" * 16))
    await reached(stopped)
    second = asyncio.ensure_future(site.group.update(suspended=True))
    await asyncio.sleep(0)
    stopped.go()
    await first
    await second
    for state in (site.group.state, stored(site)):
        assert (state.cycle_number, state.suspended) == (7, True)


async def test_a_cancelled_store_ends_before_the_next_one_begins(site: Site) -> None:
    stopped = Stopped("write", "group.record")
    site.files.rules.append(stopped)
    first = asyncio.ensure_future(site.group.update(cycle_number=7))
    await reached(stopped)
    first.cancel()
    second = asyncio.ensure_future(site.group.update(suspended=True))
    await asyncio.sleep(0)
    assert not first.done(), "its thread still writes"
    stopped.go()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    for state in (site.group.state, stored(site)):
        assert (state.cycle_number, state.suspended) == (7, True)


async def test_a_record_that_fails_under_a_command_fails_the_group(site: Site) -> None:
    """Found by the simulation: nobody was told until a cycle tried to store, too."""
    site.files.rules.append(Failing("datasync", "group.record", errno.EIO, 1))
    with pytest.raises(StorageError):
        await site.group.update(suspended=True)
    assert site.group.failed is not None
    assert await site.write(0, b"w" * TRACK) == 0, "hosts are served on"


async def test_the_number_of_an_abandoned_cut_is_spent(site: Site) -> None:
    first = await site.group.make_cut(None)
    site.group.abandon_cycle()
    second = await site.group.make_cut(None)
    assert second.number == first.number + 1
    assert second.cycle_id != first.cycle_id


async def test_a_commit_whose_answer_was_lost_completes_the_cycle(site: Site) -> None:
    await site.write(0, b"a" * TRACK)
    cut = await site.group.make_cut(None)
    await site.group.settle_cut()
    changes = site.volume.changes
    changes.ack(0, SIZE // TRACK)
    await cycles(site).reconcile(welcome(cut.number, cut.cycle_id, b"n" * 16))
    assert site.group.cut is None
    assert stored(site).committed_number == cut.number
    assert stored(site).relation_id == b"n" * 16
    assert not site.group.has_changed()
    assert changes.acked.count == 0


async def test_another_relation_of_the_remote_forgets_what_it_acknowledged(
    site: Site,
) -> None:
    await site.commit_cut()
    state = site.group.state
    await site.write(0, b"a" * TRACK)
    await site.group.make_cut(None)
    await site.group.settle_cut()
    site.volume.changes.ack(0, 1)
    number, cycle_id = state.committed_number, state.committed_cycle_id
    await cycles(site).reconcile(welcome(number, cycle_id, state.relation_id))
    assert site.volume.changes.acked.count == 1
    await cycles(site).reconcile(welcome(number, cycle_id, b"z" * 16))
    assert site.volume.changes.acked.count == 0
    assert site.group.cut is not None, "the cut stands; only its acks are void"


async def test_a_point_the_remote_lost_is_suspected_once_not_at_each_session(
    site: Site,
) -> None:
    await site.commit_cut()
    first = site.group.state
    await site.commit_cut()
    await site.write(0, b"a" * TRACK)
    older = welcome(1, first.committed_cycle_id, b"q" * 16)
    await cycles(site).reconcile(older)
    changes = site.volume.changes
    assert sum(b.count for b in changes.carried) == SIZE // TRACK
    assert changes.suspect is not None
    assert stored(site).volumes["data"].suspect
    await site.group.make_cut(None)
    await site.group.settle_cut()
    changes.ack(0, 100)
    await cycles(site).reconcile(older)
    assert site.group.cut is not None
    assert changes.acked.count == 100


async def test_a_remote_that_knows_a_later_cycle_is_refused(site: Site) -> None:
    await site.commit_cut()
    with pytest.raises(PeerRefusedError, match="older copy"):
        await cycles(site).reconcile(welcome(9, b"x" * 16, b"r" * 16))


async def test_a_stop_is_not_lost_to_a_link_that_breaks_at_the_same_moment(
    site: Site,
) -> None:
    connecting = asyncio.Event()

    async def connect(_address: str) -> Any:
        connecting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionLostError("broken while stopping") from None

    stopping = Replicator(site.group, "amsterdam", connect, SystemClock())
    running = asyncio.ensure_future(stopping.run())
    await connecting.wait()
    stopping.stop()
    running.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait([running])


class RecordingSession:
    """A session whose remote has nothing to ask for: it only notes what it is told."""

    epoch = 1
    features = ()
    sent_bytes = 0
    unacknowledged_bytes = 0
    round_trip_seconds = 0.0
    clock_offset_seconds = 0.0
    drain: Any = None
    link_count = 1
    lacking: frozenset[int] = frozenset()

    def __init__(self) -> None:
        self.sent: list[str] = []

    def frame_bytes(self, most: int) -> int:
        return most

    async def send(self, message: object) -> int:
        self.sent.append(type(message).__name__)
        return 0

    async def committed(self) -> Any:
        await asyncio.Event().wait()


async def test_the_remote_may_commit_only_what_is_destaged(site: Site) -> None:
    await site.write(0, b"x" * TRACK)
    await site.commit_cut()
    stopped = Stopped("datasync", "data.img")
    site.files.rules.append(stopped)
    runner, session = cycles(site), RecordingSession()
    await runner._take_cut(None)
    finishing = asyncio.ensure_future(runner.finish(session))
    await reached(stopped)
    for _ in range(200):
        await asyncio.sleep(0.001)
    assert session.sent == ["CycleBegin"]
    stopped.go()
    async with asyncio.timeout(10):
        while session.sent != ["CycleBegin", "CycleEnd"]:
            await asyncio.sleep(0.001)
    finishing.cancel()
    await asyncio.wait([finishing])
    site.group.abandon_cycle()
