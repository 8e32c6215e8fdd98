"""Two sites whose machines and state directories can be copied, lost and put back.

The product's own code at both sites over loopback, on real files, with one volume. A
copy is taken of a site while it runs: it is what a snapshot of that machine holds.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.ports import HostCommand, HostRequest
from common.replication.lineage import Verdict, judge
from common.replication.link import Link
from common.replication.stream import Address, connect
from common.service.clock import SystemClock
from common.service.config_primary import PrimaryGroup
from common.service.config_remote import RemoteGroup
from common.storage.files import SystemFiles
from common.storage.threads import WorkerThreads
from primary_site.group import ConsistencyGroup
from primary_site.opening import open_group
from primary_site.replicator import Replicator
from remote_site.group import ReceivingGroup
from remote_site.listener import ReplicationListener
from remote_site.store import GroupStore, StoreSettings
from tests.support.primary_host_site import RuledFiles
from tests.support.remote_store_group import read

TRACK = 4096
TRACKS = 1024
SIZE = TRACKS * TRACK
FRAME_TRACKS = 256
"""Tracks of one frame of the drain."""

PATIENCE_SECONDS = 30.0


async def until(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


class Restorable:
    """What both sites have: a directory that is the whole machine."""

    def __init__(self, directory: Path, copies: Path) -> None:
        self.directory = directory
        self._copies = copies
        self._count = 0
        directory.mkdir(parents=True)

    def copied(self) -> Path:
        """Copy the machine as it is now."""
        self._count += 1
        copy = self._copies / f"{self.directory.name}-{self._count}"
        shutil.copytree(self.directory, copy)
        return copy

    def put_back(self, copy: Path, part: str = "") -> None:
        """Replace the machine, or a part of it, by a copy; its daemon is down.

        Files stay the ones they are, as on a disk that is put back as a whole.
        """
        path = self.directory / part
        for file in [each for each in path.rglob("*") if not each.is_dir()]:
            if not (copy / part / file.relative_to(path)).exists():
                file.unlink()
        shutil.copytree(copy / part, path, dirs_exist_ok=True)

    async def start_from(self, copy: Path, part: str = "") -> None:
        """Have the machine, or a part of it, be what a copy has; go on from there."""
        await self.stop()
        self.put_back(copy, part)
        await self.start()

    async def start(self) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError


class PrimaryMachine(Restorable):
    """The sending site; `held_from` is where reading for the drain waits."""

    def __init__(self, directory: Path, copies: Path, remote: RemoteMachine) -> None:
        super().__init__(directory, copies)
        for name in ("fc", "state"):
            (directory / name).mkdir()
        self.group: ConsistencyGroup
        self.replicator: Replicator
        self.files = RuledFiles()
        self.is_running = False
        self.observe: Callable[[], None] = lambda: None
        self._remote = remote
        self._released = threading.Event()
        self._released.set()
        self._running: asyncio.Task[None]
        self._threads: WorkerThreads

    async def start(self) -> None:
        config = PrimaryGroup.model_validate(
            {
                "name": "g",
                "manual": True,
                "resume_timeout": "60s",
                "link": {
                    "remotes": ["b:7420"],
                    "peer": "b",
                    "allow_plaintext_replication": True,
                },
                "flashcopy": {"directory": str(self.directory / "fc")},
                "volume": [
                    {
                        "name": "v",
                        "device": str(self.directory / "v.img"),
                        "size": f"{SIZE}B",
                        "track_size": "4KiB",
                        "region_size": "64KiB",
                    }
                ],
            }
        )
        opened = open_group(
            self.files, str(self.directory / "state"), config, "primary.toml"
        )
        self._threads = WorkerThreads("state", 2)
        self.group = ConsistencyGroup(
            config,
            opened,
            self.files,
            lambda name: WorkerThreads(name, 8),
            self._threads,
            SystemClock(),
        )
        self.replicator = Replicator(self.group, "a", self._connect, SystemClock())
        self.observe()
        self._running = asyncio.create_task(self.replicator.run())
        self.is_running = True

    async def _connect(self, _address: str) -> Link:
        port = self._remote.port
        return Link(
            await connect(Address("127.0.0.1", port), PATIENCE_SECONDS), SystemClock()
        )

    async def stop(self) -> None:
        """Stop in good order."""
        self.is_running = False
        self.replicator.stop()
        self._running.cancel()
        await asyncio.wait([self._running])
        self.release_reads()
        await self.group.close()
        self._threads.close()

    async def kill(self) -> None:
        """What a kill leaves is on the disk; what ends after it is taken back."""
        copy = self.copied()
        await self.stop()
        self.put_back(copy)

    # -- hosts -------------------------------------------------------------------------

    async def write(self, first: int, count: int, value: int) -> None:
        """Write tracks, each with bytes that tell its number and `value` apart."""
        for start in range(first, first + count, FRAME_TRACKS):
            tracks = range(start, min(start + FRAME_TRACKS, first + count))
            data = b"".join(track_bytes(track, value) for track in tracks)
            await self._submit(HostCommand.WRITE, start * TRACK, data)

    async def _submit(self, command: int, offset: int, data: bytes) -> None:
        ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        request = HostRequest(command, offset, len(data), data=data)
        self.group.volumes[0].submit([request], lambda done: ended.set_result(done[0]))
        assert (await ended).error == 0

    def content(self) -> bytes:
        return (self.directory / "v.img").read_bytes()

    # -- cycles ------------------------------------------------------------------------

    @property
    def acked(self) -> int:
        return self.group.volumes[0].changes.acked.count

    async def connected(self) -> None:
        await until(lambda: self.replicator.session is not None)

    async def refused(self) -> str:
        """Wait until the remote has refused; return what operators are told."""
        await until(lambda: self.replicator.link_state == "refused")
        assert self.replicator.session is None
        return next(
            alarm.message
            for alarm in self.replicator.alarms.all()
            if alarm.name == "refused"
        )

    async def cut(self) -> int:
        """Cut, wait until it is safe, return its number."""
        await self.connected()
        return await self.ended(await self.replicator.request_cut(None))

    async def ended(self, ticket: Any) -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            number: int = await ticket.safe
        return number

    async def cut_and_hold(self, held_from: int) -> Any:
        """Cut, with nothing read for the drain from track `held_from` on.

        Returns the ticket once all before it has been acknowledged, or, with 0, once
        the remote has begun the cycle.
        """
        self.hold_reads(held_from)
        await self.connected()
        number = self.group.state.cycle_number + 1
        ticket = await self.replicator.request_cut(None)
        await until(
            lambda: (
                (begun := self._remote.store.judged.begun) and begun.number == number
            )
        )
        pprc = self.group.volumes[0].changes.pprc
        assert pprc is not None
        expected = pprc.count_range(0, held_from) if held_from else 0
        await until(lambda: self.acked == expected)
        return ticket

    def hold_reads(self, held_from: int) -> None:
        if self._released.is_set():
            self._released = threading.Event()
        released = self._released

        def rule(operation: str, path: str, offset: int) -> None:
            is_held = operation == "read" and path.endswith("v.img")
            if is_held and offset >= held_from * TRACK:
                assert released.wait(PATIENCE_SECONDS), "a test forgot the drain"

        self.files.rules.append(rule)

    def release_reads(self) -> None:
        self._released.set()
        self.files.rules.clear()


class RemoteMachine(Restorable):
    """The receiving site."""

    def __init__(self, directory: Path, copies: Path) -> None:
        super().__init__(directory, copies)
        self.store: GroupStore
        self.group: ReceivingGroup
        self.port = 0
        self.is_running = False
        self.accept_existing = False
        self.observe: Callable[[], None] = lambda: None
        self._listener: ReplicationListener
        self._threads: WorkerThreads

    async def start(self) -> None:
        config = RemoteGroup.model_validate(
            {
                "name": "g",
                "peer": "a",
                "journal": {"directory": str(self.directory / "journal")},
                "volume": [{"name": "v", "device": str(self.directory / "v.img")}],
            }
        )
        settings = StoreSettings(
            group="g",
            state_directory=str(self.directory / "state"),
            journal_directory=str(self.directory / "journal"),
            devices={each.name: each.device for each in config.volumes},
            accept_existing=frozenset(["v"] if self.accept_existing else []),
        )
        self._threads = WorkerThreads("remote", 6)
        self.store = await GroupStore.open(SystemFiles(), self._threads, settings)
        self.observe()
        self.group = ReceivingGroup(config, "b", self.store, SystemClock())
        self._listener = ReplicationListener({"g": self.group}, SystemClock())
        await self._listener.listen([Address("127.0.0.1", 0)])
        self.port = self._listener.ports[0]
        self.is_running = True

    async def stop(self) -> None:
        """End as a crash does for the other side: without a goodbye."""
        self.is_running = False
        for link in self.group.session.links if self.group.session else []:
            link.abort()
        await self._listener.stop_accepting()
        await self.group.end_sessions()
        await self._listener.close()
        await self.group.close()
        self._threads.close()

    async def kill(self) -> None:
        copy = self.copied()
        await self.stop()
        self.put_back(copy)

    def empty(self) -> None:
        """Put an empty machine in its place."""
        shutil.rmtree(self.directory)
        self.directory.mkdir()

    async def point(self) -> tuple[int, bytes]:
        """Return the newest point's number, and what it reads as."""
        volume: Any = self.store.open_point("v")
        assert volume is not None
        data = await read(volume, 0, SIZE)
        volume.release()
        return self.store.points[-1].number, data

    def on_disk(self) -> dict[str, bytes]:
        """Return every file, to see whether anything has changed."""
        return {
            str(path): path.read_bytes()
            for path in sorted(self.directory.rglob("*"))
            if path.is_file()
        }


class RestorableSites:
    """Both machines; `verdicts` are what they had to say whenever one had started."""

    def __init__(self, directory: Path) -> None:
        copies = directory / "copies"
        copies.mkdir()
        self.remote = RemoteMachine(directory / "b", copies)
        self.primary = PrimaryMachine(directory / "a", copies, self.remote)
        self.verdicts: list[Verdict] = []
        self.primary.observe = self.remote.observe = self._observe

    async def start(self) -> None:
        await self.remote.start()
        await self.primary.start()

    def _observe(self) -> None:
        if hasattr(self.primary, "group") and hasattr(self.remote, "store"):
            sender, receiver = self.primary.group.judged(), self.remote.store.judged
            self.verdicts.append(judge(sender, receiver))

    async def close(self) -> None:
        if self.primary.is_running:
            await self.primary.stop()
        if self.remote.is_running:
            await self.remote.stop()


def track_bytes(track: int, value: int) -> bytes:
    return (track.to_bytes(4, "little") + bytes([value])).ljust(8, b"\xaa") * (
        TRACK // 8
    )
