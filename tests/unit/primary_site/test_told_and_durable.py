"""What is durable here before the remote hears of it, or hosts rely on it."""

from __future__ import annotations

import asyncio
from typing import Any

from common.replication.cycle_messages import CycleBegin
from common.service.clock import SystemClock
from common.storage.record import DurableRecord
from primary_site.group_state import GroupState, from_record
from primary_site.replicator import Replicator
from tests.support.primary_host_site import TRACK, Site, Stopped, turns


class ListeningSession:
    """A session whose remote answers nothing: it notes what is durable as it hears."""

    epoch = 1
    features = ()
    sent_bytes = 0
    unacknowledged_bytes = 0
    round_trip_seconds = 0.0
    clock_offset_seconds = 0.0
    drain: Any = None
    link_count = 1
    lacking: frozenset[int] = frozenset()

    def __init__(self, site: Site) -> None:
        self._site = site
        self.heard: list[tuple[CycleBegin, GroupState]] = []

    async def send(self, message: object) -> int:
        if isinstance(message, CycleBegin):
            self.heard.append((message, stored(self._site)))
        return 0

    def frame_bytes(self, most: int) -> int:
        return most

    async def committed(self) -> Any:
        await asyncio.Event().wait()


def stored(site: Site) -> GroupState:
    path = str(site.directory / "state/groups/orders/group.record")
    found = DurableRecord(path, site.files).load()
    assert found is not None
    return from_record(found, path)


async def test_the_remote_hears_of_a_cycle_once_its_number_is_durable(
    site: Site,
) -> None:
    """Else a crash would let another cut have the number that the remote knows."""

    async def connect(address: str) -> Any:
        raise AssertionError(address)

    await site.write(0, b"x" * TRACK)
    await site.commit_cut()
    await site.write(0, b"y" * TRACK)
    runner: Any = Replicator(site.group, "amsterdam", connect, SystemClock()).cycles
    await runner._take_cut(None)
    session = ListeningSession(site)
    stopped = Stopped("write", "group.record")
    site.files.rules.append(stopped)
    finishing = asyncio.ensure_future(runner.finish(session))
    async with asyncio.timeout(10):
        while not (stopped.reached.is_set() or session.heard):
            await asyncio.sleep(0.001)
    await turns()
    assert session.heard == [], "told before it is durable"
    stopped.go()
    async with asyncio.timeout(10):
        while not session.heard:
            await asyncio.sleep(0.001)
    ((begun, durable),) = session.heard
    assert begun.cycle_number == 2
    assert (durable.cycle_number, durable.cycle_id) == (2, begun.cycle_id)
    finishing.cancel()
    await asyncio.wait([finishing])
    site.group.abandon_cycle()


async def test_a_destage_is_a_flush_begun_after_the_cut(site: Site) -> None:
    operations: list[str] = []

    def note(operation: str, path: str, _offset: int) -> None:
        if path.endswith("data.img"):
            operations.append(operation)

    site.files.rules.append(note)
    await site.write(0, b"x" * TRACK)
    await site.group.make_cut(None)
    at_the_cut = len(operations)
    await site.group.destage()
    assert "datasync" in operations[at_the_cut:], "nothing was flushed"
    site.group.abandon_cycle()


async def test_that_everything_is_suspected_is_durable_at_once(site: Site) -> None:
    """A cycle may clear bits from then on, and a crash may come after the first."""
    await site.commit_cut()
    await site.group.upkeep.tend()
    await site.group.upkeep.tend()
    assert not stored(site).volumes["data"].full
    await site.group.remote_relation.suspect_everything(1, b"o" * 16, 1, 1)
    found = stored(site)
    assert (found.committed_number, found.committed_cycle_id) == (1, b"o" * 16)
    assert (found.volumes["data"].full, found.volumes["data"].suspect) == (True, True)


async def test_who_this_is_and_that_it_runs_is_durable_before_hosts_write(
    site: Site,
) -> None:
    """A remote binds itself to these identities with the first HELLO."""
    started, state = stored(site), site.group.state
    assert (started.group_id, started.lineage) == (state.group_id, state.lineage)
    assert started.volumes["data"].volume_id == state.volumes["data"].volume_id
    assert not started.clean
    await site.close()
    assert stored(site).clean
    await site.open()
    assert not stored(site).clean
