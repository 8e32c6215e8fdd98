"""A site that sends, and gives that up: killed at each step, asked amid them."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import RefusedError
from common.nbd.server import NbdServer
from common.ports import File
from common.replication.lineage import CycleName, Fork, ToldFork
from common.service.clock import SystemClock
from common.service.config_primary import PrimaryGroup
from common.service.moments import rfc3339
from common.service.split_brain import ALARM as SPLIT_BRAIN
from common.storage.files import SystemFiles
from common.storage.record import DurableRecord
from primary_site.group_state import GroupState, from_record, to_record
from remote_site.applier import apply_tracks
from remote_site.group import ReceivingGroup
from remote_site.roles import SiteGroups
from remote_site.thinning import POINTS_GIVEN_UP_ALARM
from tests.support.nbd_client import NbdClient
from tests.support.remote_store_group import read, tracks_of

TRACK = 4096
SIZE = 16 * TRACK
COMMON = CycleName(7, b"7" * 16)
HOST = b"h" * TRACK
PATIENCE_SECONDS = 30.0


class WatchedFile:
    """A file that is changed under the disk's lock: a copy is of one moment."""

    def __init__(self, inner: File, disk: WatchedDisk) -> None:
        self._inner = inner
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, offset: int, data: Any) -> None:
        with self._disk.lock:
            self._inner.write(offset, data)

    def datasync(self) -> None:
        with self._disk.lock:
            self._inner.datasync()
            self._disk.step()


class WatchedDisk(SystemFiles):
    """The real disk; `step` is called after each step that is to be durable."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.step: Callable[[], None] = lambda: None

    def open(self, path: str, **options: Any) -> Any:
        with self.lock:
            return WatchedFile(super().open(path, **options), self)

    def rename(self, old: str, new: str) -> None:
        with self.lock:
            super().rename(old, new)
            self.step()

    def remove(self, path: str) -> None:
        with self.lock:
            super().remove(path)
            self.step()

    def sync_directory(self, path: str) -> None:
        with self.lock:
            super().sync_directory(path)
            self.step()


class Machine:
    """The directory of a site whose group was sent, and what lies in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = WatchedDisk()
        self.socket = f"unix:{directory.parent}/nbd.sock"
        directory.mkdir()
        (directory / "fc").mkdir()
        self.device = directory / "v.img"
        self.device.write_bytes(bytes(SIZE))

    @property
    def state_directory(self) -> str:
        return str(self.directory / "state")

    @property
    def config(self) -> PrimaryGroup:
        return PrimaryGroup.model_validate(
            {
                "name": "g",
                "manual": True,
                "link": {
                    "remotes": ["127.0.0.1:1"],
                    "peer": "b",
                    "allow_plaintext_replication": True,
                },
                "flashcopy": {"directory": str(self.directory / "fc")},
                "journal": {"directory": str(self.directory / "journal")},
                "volume": [
                    {
                        "name": "v",
                        "device": str(self.device),
                        "track_size": "4KiB",
                        "region_size": "64KiB",
                    }
                ],
            }
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Site]:
        groups = SiteGroups("a", "a.toml", self.files, SystemClock())
        nbd = NbdServer(groups.exports)
        await groups.check_sent(self.config, self.state_directory)
        await groups.open_sent(self.config, self.state_directory)
        await nbd.listen([self.socket])
        groups.serve(nbd)
        try:
            yield Site(self, groups, nbd)
        finally:
            self.files.step = lambda: None
            await nbd.close()
            await groups.stop()
            await groups.close()

    async def was_sent(self) -> None:
        """Have a common point with the other site, and nothing changed since."""
        async with self.running():
            pass
        record = self._record()
        stored = record.load()
        assert stored is not None
        state = from_record(stored, "")
        volumes = {n: replace(v, full=False) for n, v in state.volumes.items()}
        state = replace(
            state,
            cycle_number=COMMON.number,
            cycle_id=COMMON.cycle_id,
            committed_number=COMMON.number,
            committed_cycle_id=COMMON.cycle_id,
            committed_cut_ns=5,
            current_as_of_ns=5,
            volumes=volumes,
        )
        record.store(to_record(state))

    def _record(self) -> DurableRecord:
        path = f"{self.state_directory}/groups/g/group.record"
        return DurableRecord(path, self.files)

    def recorded(self) -> GroupState:
        stored = self._record().load()
        assert stored is not None
        return from_record(stored, "")

    def digest(self) -> bytes:
        found = hashlib.sha256()
        for path in sorted(self.directory.rglob("*")):
            found.update(str(path).encode())
            if path.is_file():
                found.update(path.read_bytes())
        return found.digest()

    def put_back(self, copy: Path) -> None:
        """Have the directory as it was; a device that is the same is left alone."""
        for path in [p for p in self.directory.rglob("*") if p.is_file()]:
            if not (copy / path.relative_to(self.directory)).exists():
                path.unlink()
        for path in sorted(copy.rglob("*")):
            target = self.directory / path.relative_to(copy)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            elif not target.exists() or target.read_bytes() != path.read_bytes():
                target.write_bytes(path.read_bytes())


class Site:
    """A daemon's groups, while they run."""

    def __init__(self, machine: Machine, groups: SiteGroups, nbd: NbdServer) -> None:
        self.machine = machine
        self.groups = groups
        self.nbd = nbd

    async def host(self) -> NbdClient:
        return await NbdClient.connect(self.machine.socket, "g/v")

    async def is_told(self, *, is_known: bool = True) -> ToldFork:
        """Learn that the other site has taken over."""
        hosted = self.groups.sending.hosted["g"]
        parent = hosted.replicator.group.state.lineage
        told = ToldFork(Fork(b"N" * 16, parent, COMMON, 5, 9), is_known)
        await hosted.ask(lambda: hosted.replicator.switchover.superseded(told))
        return told

    async def ask(self, command: str, **arguments: Any) -> Any:
        return await self.groups.ask(command, {"group": "g", **arguments})

    async def receives(self) -> ReceivingGroup:
        """Wait until the group is received here."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.groups.names != ["g"] or (
                "g" in self.groups.sending.hosted
                or "g" in self.groups._changing
                or "g" not in self.groups.receiving.groups
            ):
                await asyncio.sleep(0.005)
        return self.groups.receiving.groups["g"]

    async def point(self, number: int) -> bytes:
        volume = self.groups.receiving.groups["g"].store.open_point("v", number)
        assert volume is not None
        data = await read(volume, 0, SIZE)
        volume.release()
        return data


async def receive(group: ReceivingGroup, number: int) -> None:
    """Have a point of the other site."""
    store = group.store
    offer = store.volumes[0]
    track = tracks_of(offer, 0, bytes([number]) * TRACK)
    assert not apply_tracks(store.disk.volumes[0], [track])
    await store.commit(
        number=number, cycle_id=bytes([number]) * 16, cut_ns=number, label=None
    )


@pytest.fixture
async def machine(tmp_path: Path) -> Machine:
    found = Machine(tmp_path / "a")
    await found.was_sent()
    return found


async def test_a_kill_at_any_step_of_giving_up_ends_with_the_fork_and_what_differs(
    machine: Machine, tmp_path: Path
) -> None:
    copies: dict[bytes, Path] = {}

    def copy() -> None:
        found = machine.digest()
        if found not in copies:
            copies[found] = tmp_path / f"copy-{len(copies)}"
            shutil.copytree(machine.directory, copies[found])

    async with machine.running() as site:
        host = await site.host()
        await host.write(3 * TRACK, HOST)
        await host.flush()
        await host.disconnect()
        own = machine.device.read_bytes()
        assert own[3 * TRACK : 4 * TRACK] == HOST
        await site.is_told()
        machine.files.step = copy
        told = await site.ask("failback")
        machine.files.step = lambda: None
        assert await site.point(told["fork"]) == own
    found = []
    for each in copies.values():
        machine.put_back(each)
        if not machine.recorded().gives_up:
            continue
        async with machine.running() as site:
            group = await site.receives()
            store = group.store
            assert store.lineage == b"N" * 16
            (fork,) = store.forks
            assert await site.point(fork.number) == own
            assert machine.device.read_bytes() == own
            runs, end = await store.told_changes(0, 0)
            told_tracks = {t for first, n in runs for t in range(first, first + n)}
            committed = store.judged.committed
            assert committed is None or (committed, 3 in told_tracks) == (COMMON, True)
            assert end == SIZE // TRACK
            found.append(committed)
    assert len(found) > 8
    assert found[-1] == COMMON, "closed in good order: nothing need be compared"


async def test_hosts_are_cut_off_before_what_they_read_is_overwritten(
    machine: Machine,
) -> None:
    served: list[int] = []
    async with machine.running() as site:

        def look() -> None:
            if (machine.directory / "journal").exists():
                served.append(site.nbd.connections_by_export().get("g/v", 0))

        host = await site.host()
        await host.read(0, TRACK)
        assert site.nbd.connections_by_export()["g/v"] == 1
        await site.is_told()
        machine.files.step = look
        await site.ask("failback")
        assert served
        assert not any(served)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await host.closed


async def test_what_is_asked_amid_the_change_is_refused(machine: Machine) -> None:
    is_begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        if threading.current_thread() is not threading.main_thread():
            loop.call_soon_threadsafe(is_begun.set)
            assert go_on.wait(PATIENCE_SECONDS)

    async with machine.running() as site:
        await site.is_told()
        asked = asyncio.create_task(site.ask("failback"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "g" not in site.groups._changing:
                await asyncio.sleep(0.001)
        machine.files.step = hold
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await is_begun.wait()
            with pytest.raises(RefusedError, match="is changing its role"):
                await site.ask("takeover", action="do", point=None, force=True)
        finally:
            machine.files.step = lambda: None
            go_on.set()
        await asked


async def test_a_site_that_cannot_receive_gives_nothing_up(machine: Machine) -> None:
    async with machine.running() as site:
        await site.is_told()
        site.groups.can_receive = False
        for command in ("failback", "switchover"):
            with pytest.raises(RefusedError, match=r"\[replication\] with listen"):
                await site.ask(command)
        assert not site.groups.sending.hosted["g"].replicator.group.state.gives_up


async def test_a_fork_is_not_taken_over_and_its_room_is_free_as_it_is_deleted(
    machine: Machine,
) -> None:
    async with machine.running() as site:
        await site.is_told()
        fork = (await site.ask("failback"))["fork"]
        with pytest.raises(RefusedError, match="nothing was received"):
            await site.ask("takeover", action="do", point=None, force=False)
        with pytest.raises(RefusedError, match="nothing was received since fork"):
            await site.ask("forks", action="delete", number=fork)
        group = await site.receives()
        await receive(group, fork + 1)
        group.raise_alarm(POINTS_GIVEN_UP_ALARM, "points are given up for hosts' room")
        await site.ask("forks", action="delete", number=fork)
        (status,) = await site.groups.status()
        assert not status.alarms, "an operator has chosen: its room is on its way"

        def numbers() -> list[int]:
            return [point.number for point in group.store.points]

        async with asyncio.timeout(PATIENCE_SECONDS):
            while numbers() != [fork + 1]:  # and no other commit comes
                await asyncio.sleep(0.005)


async def test_who_was_received_and_sends_again_grows_and_tells_what_is(
    machine: Machine,
) -> None:
    async with machine.running() as site:
        await site.is_told()
        fork = (await site.ask("failback"))["fork"]
        group = await site.receives()
        await receive(group, fork + 1)
        await site.ask("takeover", action="do", point=None, force=True)
        assert (await site.ask("grow", volume="v", size_bytes=2 * SIZE))["size_bytes"]
        # One truth of how current the newest point is, and of which that is.
        state = site.groups.sending.hosted["g"].replicator.group
        later = rfc3339(10**18)
        state.state = replace(state.state, current_as_of_ns=10**18)
        asked = {"keep": None, "release": None}
        (listed, *_) = await site.ask("points", **asked)
        assert (listed["number"], listed["here"]) == (fork + 1, True)
        (status,) = await site.groups.status()
        point = status.recovery_point
        assert point is not None
        assert rfc3339(point.current_as_of_ns) == listed["current_as_of"] == later
        state.state = replace(state.state, committed_number=fork + 9)
        (listed, below, *_) = await site.ask("points", **asked)
        assert (listed["number"], listed["here"]) == (fork + 9, False)
        assert (below["number"], below["here"]) == (fork + 1, True)
        # What the store knows counts beside what the sender says.
        group.raise_alarm(SPLIT_BRAIN, "both serve")
        (status,) = await site.groups.status()
        assert SPLIT_BRAIN in {alarm.name for alarm in status.alarms}
