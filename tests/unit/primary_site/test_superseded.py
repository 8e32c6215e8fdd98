"""An old primary that learns that its remote has taken over."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import RefusedError, StateMismatchError
from common.ports import HostCommand, HostRequest
from common.replication.lineage import CycleName, Fork, ToldFork
from common.replication.link import Link
from common.replication.session_messages import GoodbyeReason, goodbye
from common.replication.stream import Address, SocketStream, StreamServer, serve
from common.service.clock import SystemClock
from primary_site.group_state import GroupState, from_record, to_record
from primary_site.report import group_state
from tests.support.restorable_sites import PrimaryMachine, until

FORK = Fork(b"n" * 16, b"p" * 16, CycleName(7, b"c" * 16), 1_000, 2_000)


class OneThatTookOver:
    """Answers every HELLO with a goodbye that tells of a fork."""

    def __init__(self) -> None:
        self.reason = GoodbyeReason.SUPERSEDED
        self.parent: bytes | None = None
        """Of the fork that is told; None: the lineage of the HELLO."""
        self.hellos = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: StreamServer

    async def start(self) -> None:
        self._server = await serve(Address("127.0.0.1", 0), self._accept)

    @property
    def port(self) -> int:
        return self._server.port

    def _accept(self, stream: SocketStream) -> None:
        task = asyncio.create_task(self._answer(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, stream: SocketStream) -> None:
        link = Link(stream, SystemClock())
        hello: Any = await link.receive_first()
        self.hellos += 1
        fork = Fork(
            FORK.lineage,
            self.parent or hello.sender.lineage,
            FORK.cycle,
            FORK.cut_ns,
            FORK.at_ns,
        )
        await link.close(goodbye(self.reason, "taken over", ToldFork(fork, True)))

    async def close(self) -> None:
        await self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def remote() -> AsyncIterator[OneThatTookOver]:
    found = OneThatTookOver()
    await found.start()
    yield found
    await found.close()


@pytest.fixture
async def primary(
    tmp_path: Path, remote: OneThatTookOver
) -> AsyncIterator[PrimaryMachine]:
    copies = tmp_path / "copies"
    copies.mkdir()
    peer: Any = remote
    found = PrimaryMachine(tmp_path / "a", copies, peer)
    await found.start()
    yield found
    if found.is_running:
        await found.stop()


async def request(primary: PrimaryMachine, command: int) -> HostRequest:
    ended: asyncio.Future[HostRequest] = asyncio.get_running_loop().create_future()
    data = b"x" * 4096 if command == HostCommand.WRITE else None
    asked = HostRequest(command, 0, 4096, data=data)
    primary.group.volumes[0].submit([asked], lambda done: ended.set_result(done[0]))
    return await ended


def is_superseded(primary: PrimaryMachine) -> bool:
    return any(a.name == "superseded" for a in primary.replicator.alarms.all())


async def test_a_superseded_primary_refuses_writes_and_serves_reads(
    primary: PrimaryMachine,
) -> None:
    await until(lambda: is_superseded(primary))

    for command in (HostCommand.WRITE, HostCommand.TRIM, HostCommand.WRITE_ZEROES):
        assert (await request(primary, command)).error == errno.EPERM
    assert (await request(primary, HostCommand.READ)).error == 0
    assert (await request(primary, HostCommand.FLUSH)).error == 0
    assert group_state(primary.replicator) == "superseded"
    with pytest.raises(RefusedError, match="from point 7"):
        await primary.replicator.request_cut(None)


async def test_it_stays_superseded_and_asks_nobody_after_a_kill(
    primary: PrimaryMachine, remote: OneThatTookOver
) -> None:
    await until(lambda: is_superseded(primary))
    before = remote.hellos
    await primary.kill()
    await primary.start()
    await until(lambda: is_superseded(primary))

    assert (await request(primary, HostCommand.WRITE)).error == errno.EPERM
    assert remote.hellos == before


async def test_a_fork_of_another_lineage_supersedes_nobody(
    primary: PrimaryMachine, remote: OneThatTookOver
) -> None:
    await primary.stop()
    remote.parent = b"z" * 16
    state = primary.directory / "state"
    assert state.exists()
    (state / "groups/g/group.record").unlink()
    for name in ("v.changed", "v.acked", "v.regions"):
        (state / "groups/g" / name).unlink()
    await primary.start()

    await until(
        lambda: any(a.name == "split_brain" for a in primary.replicator.alarms.all())
    )
    assert primary.group.state.superseded is None
    assert (await request(primary, HostCommand.WRITE)).error == 0


async def test_writes_under_way_are_waited_for(primary: PrimaryMachine) -> None:
    await until(lambda: is_superseded(primary))
    volume = primary.group.volumes[0]
    volume.allow_writes()
    assert (await request(primary, HostCommand.WRITE)).error == 0
    volume.refuse_writes()
    async with asyncio.timeout(10):
        await volume.writes_ended()


def test_the_record_of_a_superseded_group_is_refused_by_earlier_releases() -> None:
    state = GroupState("g", b"g" * 16, b"p" * 16)
    told = GroupState("g", b"g" * 16, b"p" * 16, superseded=ToldFork(FORK, False))

    assert to_record(state)["version"] == 2
    assert to_record(told)["version"] == 4
    assert from_record(to_record(told), "path") == told
    with pytest.raises(StateMismatchError, match="version 6"):
        from_record({**to_record(told), "version": 6}, "path")
