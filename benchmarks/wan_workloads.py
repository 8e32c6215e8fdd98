"""What changes between two cuts: databases that checkpoint, files that come and go.

A workload is played twice, in the same order with the same seeds: on ext4 in an image
(whose versions all block replicators get), and on btrfs for `btrfs send`.
"""

# ruff: noqa: ARG002 - each gets its folder, whether it needs it again or not

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sysconfig
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

MIB = 1 << 20
BLOCK_BYTES = 4096
POSTGRES = Path("/usr/lib/postgresql")
WORDS = ("quick", "account", "order", "that", "was", "paid", "late", "shipped")


class Workload(Protocol):
    """`prepare` makes what is there at the first cut, `step` what comes until the next.

    `at_work` is around all of it; `folder` is an empty file system of `size_bytes`.
    """

    name: str
    size_bytes: int

    def at_work(self, folder: Path) -> AbstractContextManager[None]: ...

    def prepare(self, folder: Path) -> None: ...

    def step(self, folder: Path, number: int) -> None: ...


class Sqlite:
    """Rows updated at random, in transactions of ten, a checkpoint before each cut."""

    name = "SQLite, updates"
    size_bytes = 256 * MIB
    rows = 200_000
    updates = 6_000

    @contextmanager
    def at_work(self, folder: Path) -> Iterator[None]:
        self._database = sqlite3.connect(folder / "orders.db", isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        try:
            yield
        finally:
            self._database.close()

    def prepare(self, folder: Path) -> None:
        chance = random.Random(1)
        execute = self._database.execute
        execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, cents, state, text)")
        execute("BEGIN")
        for number in range(self.rows):
            text = " ".join(chance.choices(WORDS, k=20))
            values = (number, chance.randrange(10**6), "open", text)
            execute("INSERT INTO orders VALUES (?, ?, ?, ?)", values)
        execute("COMMIT")
        execute("CREATE INDEX by_cents ON orders (cents)")
        execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def step(self, folder: Path, number: int) -> None:
        chance = random.Random(100 + number)
        execute = self._database.execute
        for _ in range(self.updates // 10):
            execute("BEGIN")
            for _ in range(10):
                row = int(self.rows * chance.random() ** 3)  # some are busier
                update = "UPDATE orders SET cents = ?, state = ? WHERE id = ?"
                execute(update, (chance.randrange(10**6), "paid", row))
            execute("COMMIT")
        execute("PRAGMA wal_checkpoint(PASSIVE)")


class Postgres:
    """pgbench's transactions, as many for each cut, and a CHECKPOINT before it."""

    name = "PostgreSQL, pgbench"
    size_bytes = 512 * MIB
    scale = 8
    transactions = 3_000

    def __init__(self) -> None:
        found = sorted(POSTGRES.glob("*/bin/initdb"))
        self._bin = found[-1].parent if found else None

    @property
    def is_here(self) -> bool:
        return self._bin is not None and os.geteuid() == 0

    @contextmanager
    def at_work(self, folder: Path) -> Iterator[None]:
        data = folder / "data"
        data.mkdir()
        shutil.chown(data, "postgres")
        self._socket = folder / "data"
        self._run("initdb", "-D", str(data), "-A", "trust", "--wal-segsize=4")
        settings = {
            "listen_addresses": "''",
            "unix_socket_directories": f"'{data}'",
            "autovacuum": "off",  # it would come at another moment each time
            "max_wal_size": "64MB",
            "checkpoint_timeout": "1h",
        }
        with (data / "postgresql.conf").open("a") as config:
            config.writelines(f"{key} = {value}\n" for key, value in settings.items())
        log = str(data / "log")
        self._run("pg_ctl", "-D", str(data), "-l", log, "-w", "start")
        try:
            yield
        finally:
            self._run("pg_ctl", "-D", str(data), "-w", "-m", "fast", "stop")

    def prepare(self, folder: Path) -> None:
        self._run("pgbench", *self._where(), "-i", "-q", "-s", str(self.scale))
        self._checkpoint()

    def step(self, folder: Path, number: int) -> None:
        how = ["-n", "-t", str(self.transactions), f"--random-seed={number}"]
        self._run("pgbench", *self._where(), *how)
        self._checkpoint()

    def _where(self) -> list[str]:
        return ["-h", str(self._socket), "-U", "postgres", "postgres"]

    def _checkpoint(self) -> None:
        self._run("psql", *self._where(), "-q", "-c", "CHECKPOINT")

    def _run(self, command: str, *arguments: str) -> None:
        assert self._bin is not None
        words = ["runuser", "-u", "postgres", "--", str(self._bin / command)]
        subprocess.run(
            [*words, *arguments],
            check=True,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


class Files:
    """A part of Python's library is unpacked, the part of the step before deleted."""

    name = "files, untar and delete"
    size_bytes = 256 * MIB
    parts = 5

    @contextmanager
    def at_work(self, folder: Path) -> Iterator[None]:
        library = Path(sysconfig.get_paths()["stdlib"])
        found = sorted(
            path
            for path in library.rglob("*.py")
            if "site-packages" not in path.parts and path.is_file()
        )
        self._library = library
        self._parts = [found[part :: self.parts] for part in range(self.parts)]
        yield

    def prepare(self, folder: Path) -> None:
        self._unpack(folder, 0)

    def step(self, folder: Path, number: int) -> None:
        self._unpack(folder, number)
        shutil.rmtree(folder / f"part{number - 1}")

    def _unpack(self, folder: Path, number: int) -> None:
        into = folder / f"part{number}"
        into.mkdir()
        pack = folder / "pack.tar"
        with tarfile.open(pack, "w") as tar:
            for path in self._parts[number % self.parts]:
                tar.add(path, str(path.relative_to(self._library)))
        with tarfile.open(pack) as tar:
            tar.extractall(into, filter="data")
        pack.unlink()


class Noise:
    """Blocks of noise written at random over a file of noise."""

    name = "random writes, incompressible"
    size_bytes = 192 * MIB
    blocks = 16_384
    writes = 3_000

    @contextmanager
    def at_work(self, folder: Path) -> Iterator[None]:
        yield

    def prepare(self, folder: Path) -> None:
        chance = random.Random(7)
        with (folder / "noise").open("wb") as file:
            for _ in range(self.blocks):
                file.write(chance.randbytes(BLOCK_BYTES))

    def step(self, folder: Path, number: int) -> None:
        chance = random.Random(700 + number)
        with (folder / "noise").open("r+b") as file:
            for block in chance.sample(range(self.blocks), self.writes):
                file.seek(block * BLOCK_BYTES)
                file.write(chance.randbytes(BLOCK_BYTES))


def all_workloads() -> list[Workload]:
    return [Sqlite(), Postgres(), Files(), Noise()]
