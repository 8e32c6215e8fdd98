"""A takeover in process: the session that it ends, and what stops it on the way."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import PeerRefusedError, RefusedError, StorageError
from common.ports import Buffer, File
from common.replication.features import TAKEOVER
from common.replication.lineage import CycleName, Fork, ToldFork
from common.replication.link import ForkedError
from common.replication.role_messages import HandOver
from common.replication.session_messages import GoodbyeReason
from common.replication.stream import Address
from common.replication.tracks import RunData
from common.service.clock import SystemClock
from common.service.config_remote import RemoteGroup
from common.service.status import GroupState
from common.storage.files import SystemFiles
from common.storage.threads import WorkerThreads
from remote_site.exports import RecoveryExports
from remote_site.group import ReceivingGroup
from remote_site.group_disk import GroupDisk
from remote_site.listener import ReplicationListener
from remote_site.report import group_status
from remote_site.store import GroupStore, StoreSettings
from remote_site.takeover import ALARM, GroupTakeover
from tests.support.scripted_sender import ScriptedSender, hello_for, knowing

TRACK = 4096
SIZE = 16 * TRACK
HELLO = replace(hello_for("g", [("v", SIZE)]), features=(TAKEOVER,))
C1, C2 = b"1" * 16, b"2" * 16


class Disk(SystemFiles):
    """The real disk, on whose devices writes can be made to fail."""

    write_error = 0

    def open(self, path: str, **options: Any) -> File:
        opened = super().open(path, **options)
        return DeviceFile(opened, self) if path.endswith(".img") else opened


class DeviceFile:
    def __init__(self, inner: File, disk: Disk) -> None:
        self._inner = inner
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, offset: int, data: Buffer) -> None:
        if self._disk.write_error:
            raise StorageError("made up", errno=self._disk.write_error, file="v")
        self._inner.write(offset, data)


@dataclass
class Site:
    group: ReceivingGroup
    takeover: GroupTakeover
    port: int
    disk: Disk
    device: Path
    done: list[str] = field(default_factory=list)
    """What was done with the group beyond the store, in order."""

    async def open(self) -> ScriptedSender:
        hello = knowing(HELLO, self.group.store.judged)
        return await ScriptedSender.open(self.port, hello)

    def state(self) -> GroupState:
        return group_status(self.group, SystemClock().now_ns()).state


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Site]:
    device = directory / "v.img"
    config = RemoteGroup.model_validate(
        {
            "name": "g",
            "peer": "a",
            "journal": {"directory": str(directory / "journal")},
            "volume": [{"name": "v", "device": str(device)}],
        }
    )
    settings = StoreSettings(
        group="g",
        state_directory=str(directory / "state"),
        journal_directory=str(directory / "journal"),
        devices={"v": str(device)},
    )
    disk, threads, clock = Disk(), WorkerThreads("test", 4), SystemClock()
    store = await GroupStore.open(disk, threads, settings)
    group = ReceivingGroup(config, "b", store, clock)
    listener = ReplicationListener({"g": group}, clock)
    await listener.listen([Address("127.0.0.1", 0)])
    done: list[str] = []

    def prepare(found: GroupDisk) -> None:
        assert found.state is not None
        assert found.state.takeover is not None
        assert not found.state.takeover.is_done
        done.append("prepared")

    async def begin(found: ReceivingGroup) -> None:
        assert found.store.takeover is not None
        assert found.store.takeover.is_done
        done.append("serving")

    takeover = GroupTakeover(group, prepare, begin, clock)
    if takeover.intent is not None:
        takeover.resume()
    site = Site(group, takeover, listener.ports[0], disk, device, done)
    try:
        yield site
    finally:
        await takeover.stop()
        await listener.stop_accepting()
        await group.end_sessions()
        await listener.close()
        await group.close()
        threads.close()


def run(first: int, byte: bytes) -> RunData:
    return RunData(first, 1, byte * TRACK)


async def committed(sender: ScriptedSender, number: int, cycle: bytes) -> None:
    await sender.begin(number, cycle)
    await sender.tracks(0, [run(0, bytes([number]))])
    await sender.all_durable()
    await sender.commit()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_takeover_ends_the_session_and_tells_the_next_hello_where(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as site:
        sender = await site.open()
        await committed(sender, 1, C1)
        await sender.begin(2, C2)
        await sender.tracks(0, [run(0, b"x"), run(3, b"y")])
        await sender.all_durable()
        with pytest.raises(RefusedError, match="--force"):
            await site.takeover.take_over(None, force=False)
        assert site.state() is GroupState.DRAINING
        told = await site.takeover.take_over(None, force=True)
        assert site.done == ["prepared", "serving"]
        assert told.is_done
        assert await sender.ended() is not None
        assert site.device.read_bytes() == b"\1" * TRACK + bytes(SIZE - TRACK)
        assert site.state() is GroupState.TAKEN_OVER
        fork = site.group.store.takeover
        assert fork is not None
        with pytest.raises(ForkedError) as refused:
            await site.open()
        assert refused.value.reason == GoodbyeReason.SUPERSEDED
        assert refused.value.told == ToldFork(fork.fork, is_known=True)
        assert (fork.fork.cycle.number, fork.fork.cycle.cycle_id) == (1, C1)
        # Hosts find what they may write to, or nothing; points stay.
        exports = RecoveryExports({"g": site.group})
        assert exports.open("g/v") is None
        assert [name for name, _ in exports.names()] == ["g/v@1"]
        again = await site.takeover.take_over(1, force=False)
        assert again == told
        assert site.done == ["prepared", "serving"]
        await sender.close()


async def test_what_stops_a_takeover_is_said_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remote_site.takeover.RETRY_SECONDS", 0.01)
    async with running(tmp_path) as site:
        sender = await site.open()
        await committed(sender, 1, C1)
        await sender.begin(2, C2)
        await sender.tracks(0, [run(0, b"x")])
        await sender.all_durable()
        await sender.close()
        await until(lambda: site.group.session is None)
        site.disk.write_error = errno.ENOSPC
        with pytest.raises(StorageError, match="made up"):
            await site.takeover.take_over(None, force=False)
        assert "made up" in site.group.alarms[ALARM][0]
        assert not site.takeover.is_serving
        with pytest.raises(ForkedError):  # it is decided all the same
            await site.open()
        site.disk.write_error = 0
        told = await site.takeover.take_over(None, force=False)
        assert told.is_done
        assert ALARM not in site.group.alarms
        assert site.device.read_bytes()[:TRACK] == b"\1" * TRACK


async def test_a_takeover_that_was_stopped_goes_on_at_the_next_start(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as site:
        sender = await site.open()
        await committed(sender, 1, C1)
        await sender.begin(2, C2)
        await sender.tracks(0, [run(0, b"x")])
        await sender.all_durable()
        await sender.close()
        await until(lambda: site.group.session is None)
        site.disk.write_error = errno.ENOSPC
        with pytest.raises(StorageError):
            await site.takeover.take_over(None, force=False)
    async with running(tmp_path) as site:
        await until(lambda: site.takeover.is_serving)
        assert site.done == ["prepared", "serving"]
        assert site.device.read_bytes()[:TRACK] == b"\1" * TRACK


async def test_without_a_point_there_is_no_takeover(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        with pytest.raises(RefusedError, match="no recovery point yet"):
            await site.takeover.take_over(None, force=True)
        sender = await site.open()
        with pytest.raises(RefusedError, match="no recovery point yet"):
            site.takeover.plan(None, force=True)
        await committed(sender, 1, C1)
        plan = site.takeover.plan(None, force=True)
        assert (plan.point, plan.has_begun) == (1, False)
        await sender.close()


async def test_a_point_that_is_not_here_is_not_taken_over_and_hosts_go_on(
    tmp_path: Path,
) -> None:
    """This site was put back: else the sender asks for ever, its hosts kept out."""
    async with running(tmp_path) as site:
        sender = await site.open()
        await committed(sender, 1, C1)
        fork = Fork(b"n" * 16, HELLO.sender.lineage, CycleName(2, C2), 2000, 3000)
        await sender.send(HandOver(sender.epoch, fork))
        refused = await sender.ended()
        assert isinstance(refused, PeerRefusedError)
        assert refused.reason == GoodbyeReason.NOT_PERMITTED
        assert "has no point 2" in str(refused)
        assert site.group.store.takeover is None
        await sender.close()
