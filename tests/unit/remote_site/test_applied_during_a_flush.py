"""A flush makes durable what had been written when it began, and nothing else."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from common.replication.stream import Address
from common.replication.tracks import RunData, track_hash
from common.service.clock import SystemClock
from common.service.config_remote import RemoteGroup
from common.storage.threads import WorkerThreads
from remote_site.group import ReceivingGroup
from remote_site.listener import ReplicationListener
from remote_site.store import GroupStore, StoreSettings
from tests.support.primary_host_site import RuledFiles
from tests.support.scripted_sender import PATIENCE_SECONDS, ScriptedSender, hello_for

TRACK = 4096
FLUSHES_MAX = 100
HELLO = hello_for("g", [("v", 64 * TRACK)])


class Device:
    """A rule: counts writes of the device; each flush waits for its turn."""

    def __init__(self) -> None:
        self.writes = 0
        self.flushing = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def __call__(self, operation: str, path: str, offset: int) -> None:
        if not path.endswith("v.img"):
            return
        if operation == "write":
            self.writes += 1
        if operation == "datasync":
            self.flushing.release()
            assert self.go.acquire(timeout=PATIENCE_SECONDS)

    async def begun(self) -> None:
        """Return when one more flush has begun."""
        assert await asyncio.to_thread(self.flushing.acquire, timeout=PATIENCE_SECONDS)


async def test_what_is_applied_while_a_flush_runs_waits_for_the_next(
    tmp_path: Path,
) -> None:
    config = RemoteGroup.model_validate(
        {
            "name": "g",
            "peer": "a",
            "journal": {"directory": str(tmp_path / "journal")},
            "volume": [{"name": "v", "device": str(tmp_path / "v.img")}],
        }
    )
    files, threads, clock = RuledFiles(), WorkerThreads("test", 6), SystemClock()
    store = await GroupStore.open(
        files,
        threads,
        StoreSettings(
            group="g",
            state_directory=str(tmp_path / "state"),
            journal_directory=str(tmp_path / "journal"),
            devices={"v": str(tmp_path / "v.img")},
        ),
    )
    group = ReceivingGroup(config, "b", store, clock)
    listener = ReplicationListener({"g": group}, clock)
    await listener.listen([Address("127.0.0.1", 0)])
    device = Device()
    try:
        sender = await ScriptedSender.open(listener.ports[0], HELLO)
        await sender.begin(1, b"1" * 16)
        files.rules.append(device)
        await sender.tracks(0, [RunData(0, 1, b"a" * TRACK)])
        await device.begun()
        await sender.tracks(0, [RunData(5, 1, b"b" * TRACK)])
        async with asyncio.timeout(PATIENCE_SECONDS):
            while device.writes < 2 or store.in_flight > 1:
                await asyncio.sleep(0.001)
        device.go.release()
        await device.begun()
        # Answered in order: what was acknowledged before it has come by then.
        await sender.hashes(0, 9, [track_hash(b"c" * TRACK)])
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not sender.needed:
                await asyncio.sleep(0.001)
        assert sender.durable == {0}, "acknowledged by a flush that had begun before it"
        device.go.release(FLUSHES_MAX)
        await sender.all_durable()
        await sender.close()
    finally:
        device.go.release(FLUSHES_MAX)
        await listener.stop_accepting()
        await group.end_sessions()
        await listener.close()
        await group.close()
        threads.close()
