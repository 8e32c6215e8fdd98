"""One group of one volume on a real file, with real threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import StorageError
from common.ports import File, HostCommand, HostRequest, Threads
from common.service.clock import SystemClock
from common.service.config_primary import PrimaryGroup
from common.storage.files import SystemFiles
from common.storage.threads import WorkerThreads
from primary_site.group import ConsistencyGroup
from primary_site.opening import open_group
from primary_site.volume import PrimaryVolume

SIZE = 4 << 20
TRACK = 4096

Rule = Callable[[str, str, int], None]
"""(operation, path, offset), in the thread, before the operation; it may raise."""


class RuledFile:
    """A file whose operations a test may fail, or keep waiting."""

    def __init__(self, file: File, rules: list[Rule]) -> None:
        self._file = file
        self._rules = rules
        self.path = file.path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def _ask(self, operation: str, offset: int = 0) -> None:
        for rule in list(self._rules):
            rule(operation, self.path, offset)

    def write(self, offset: int, data: Any) -> None:
        self._ask("write", offset)
        self._file.write(offset, data)

    def read(self, offset: int, length: int) -> bytes:
        self._ask("read", offset)
        return self._file.read(offset, length)

    def truncate(self, size: int) -> None:
        self._ask("truncate", size)
        self._file.truncate(size)

    def datasync(self) -> None:
        self._ask("datasync")
        self._file.datasync()


class RuledFiles(SystemFiles):
    def __init__(self) -> None:
        self.rules: list[Rule] = []

    def open(self, path: str, **options: Any) -> Any:
        return RuledFile(super().open(path, **options), self.rules)


class Stopped:
    """A rule: matching operations wait in their threads until `go`."""

    def __init__(self, operation: str, suffix: str) -> None:
        self._what = operation, suffix
        self._go = threading.Event()
        self.reached = threading.Event()

    def __call__(self, operation: str, path: str, offset: int) -> None:
        if operation == self._what[0] and path.endswith(self._what[1]):
            self.reached.set()
            assert self._go.wait(20), "a test forgot to let a thread go"

    def go(self) -> None:
        self._go.set()


class Failing:
    """A rule: matching operations fail `times` times with `number`."""

    def __init__(self, operation: str, suffix: str, number: int, times: int) -> None:
        self._what = operation, suffix
        self._number = number
        self._left = times
        self.met = 0

    def __call__(self, operation: str, path: str, offset: int) -> None:
        if operation == self._what[0] and path.endswith(self._what[1]) and self._left:
            self._left -= 1
            self.met += 1
            raise StorageError("injected", errno=self._number, file=path)


class Site:
    """The group and its one volume, and what a host does to it."""

    def __init__(
        self,
        directory: Path,
        make_threads: Callable[[str], Threads] = lambda name: WorkerThreads(name, 8),
    ) -> None:
        self.directory = directory
        self.files = RuledFiles()
        self.config: PrimaryGroup | None = None
        self._make_threads = make_threads

    async def open(self, **volume: Any) -> None:
        (self.directory / "fc").mkdir(exist_ok=True)
        hold = volume.pop("hold_max", "5s")
        retries = volume.pop("hold_retries", 0)
        size = volume.pop("size", f"{SIZE}B")
        self.config = PrimaryGroup.model_validate(
            {
                "name": "orders",
                "manual": True,
                "hold_max": hold,
                "hold_retries": retries,
                "link": {
                    "remotes": ["dr:7420"],
                    "peer": "dr",
                    "allow_plaintext_replication": True,
                },
                "flashcopy": {"directory": str(self.directory / "fc")},
                "volume": [
                    {
                        "name": "data",
                        "device": str(self.directory / "data.img"),
                        "size": size,
                        "track_size": "4KiB",
                        **volume,
                    }
                ],
            }
        )
        opened = open_group(
            self.files, str(self.directory / "state"), self.config, "primary.toml"
        )
        self.state_threads = self._make_threads("state")
        self.group = ConsistencyGroup(
            self.config,
            opened,
            self.files,
            self._make_threads,
            self.state_threads,
            SystemClock(),
        )

    @property
    def volume(self) -> PrimaryVolume:
        return self.group.volumes[0]

    def start(self, command: int, offset: int, length: int, **more: Any) -> Any:
        """Submit a request; return the future of its end."""
        ended = asyncio.get_running_loop().create_future()
        request = HostRequest(command, offset, length, **more)
        self.volume.submit([request], lambda done: ended.set_result(done[0]))
        return ended

    async def write(self, offset: int, data: bytes, *, fua: bool = False) -> int:
        request = await self.start(
            HostCommand.WRITE, offset, len(data), data=data, fua=fua
        )
        return int(request.error)

    async def read(self, offset: int, length: int) -> bytes:
        request = await self.start(HostCommand.READ, offset, length)
        assert request.error == 0
        return bytes(request.data)

    async def flush(self) -> int:
        return int((await self.start(HostCommand.FLUSH, 0, 0)).error)

    async def commit_cut(self) -> None:
        """Cut, and play a remote that has it all at once."""
        await self.group.make_cut(None)
        await self.finish_cut()

    async def finish_cut(self) -> None:
        await self.group.settle_cut()
        for volume in self.group.volumes:
            changes = volume.changes
            assert changes.pprc is not None
            for run in changes.pprc.runs():
                changes.ack(*run)
        await self.group.destage()
        await self.group.complete_cycle(b"r" * 16)

    async def close(self) -> None:
        await self.group.close()
        self.state_threads.close()


async def reached(rule: Stopped) -> None:
    """Wait until a thread stands at the rule."""
    assert await asyncio.to_thread(rule.reached.wait, 20)


async def turns(count: int = 50) -> None:
    """Let everything run that could."""
    for _ in range(count):
        await asyncio.sleep(0)
