"""A PostgreSQL server of its own, run as somebody who is not root.

The package's own programs; its clusters and services are left alone.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from demo.commands import attempt, done
from demo.judgement import UnsoundError
from demo.sites import DemoError

DATABASE: Final = "bank"
SUPERUSER: Final = "postgres"
PACKAGE: Final = "postgresql"
START_SECONDS_MAX: Final = 120.0
POLL_SECONDS: Final = 0.05

SETTINGS: Final = (
    "listen_addresses=",
    "shared_buffers=32MB",
    "max_wal_size=64MB",
    "checkpoint_timeout=30s",
)
"""Small, and with checkpoints while it is watched."""


def account() -> str:
    """Return who a server runs as: it refuses to be run by root."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise DemoError("there is no account that PostgreSQL could run as")


def programs() -> Path:
    """Return the folder of the newest PostgreSQL's programs."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"),
        key=lambda path: float(path.parents[1].name),
    )
    if not found:
        raise DemoError(f"there is no PostgreSQL server here: install {PACKAGE}")
    return found[-1].parent


class Server:
    """A cluster in `directory`; its socket and log are in `place`."""

    def __init__(self, directory: Path, place: Path) -> None:
        self._bin = programs()
        self._user = account()
        self._directory = directory
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None
        if not place.exists():
            place.mkdir()
            os.chown(place, pwd.getpwnam(self._user).pw_uid, -1)

    @property
    def host(self) -> str:
        """Return what clients connect to."""
        return str(self._place)

    @property
    def log_path(self) -> Path:
        return self._place / "log"

    def create(self) -> None:
        """Make the cluster, with checksums on every page, and the database."""
        self._directory.mkdir()
        os.chown(self._directory, pwd.getpwnam(self._user).pw_uid, -1)
        self.run(
            *("initdb", "--data-checksums", "--wal-segsize=4", "--auth=trust"),
            *("--username", SUPERUSER, "--encoding=UTF8", "--locale=C"),
            *("--pgdata", self._directory),
        )
        self.start()
        self.run("createdb", *self._as_client(), DATABASE)

    def start(self) -> float:
        """Start it, whatever stopped it before; return the seconds until it answers."""
        began = time.monotonic()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self._bin / "postgres"),
                    *("-D", str(self._directory)),
                    f"--unix_socket_directories={self._place}",
                    *(f"--{setting}" for setting in SETTINGS),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                group=pwd.getpwnam(self._user).pw_gid,
                extra_groups=[],
                cwd="/",
            )
        while not self._answers():
            if self._process.poll() is not None:
                raise DemoError(f"PostgreSQL did not start: {self.log_tail()}")
            if time.monotonic() > began + START_SECONDS_MAX:
                raise DemoError("PostgreSQL started, and never answered")
            time.sleep(POLL_SECONDS)
        return time.monotonic() - began

    def _answers(self) -> bool:
        words = (
            self._bin / "psql",
            *self._as_client(),
            "-XAtc",
            "select 1",
            "postgres",
        )
        return attempt(*words, user=self._user).returncode == 0

    def _as_client(self) -> tuple[str, ...]:
        return "--host", self.host, "--username", SUPERUSER

    def log_tail(self) -> str:
        return self.log_path.read_text(errors="replace")[-600:]

    def run(self, program: str, *words: object) -> str:
        """Run one of the package's programs; raise DemoError if it fails."""
        return done(self._bin / program, *words, user=self._user)

    def client(self, program: str, *words: object) -> list[str]:
        """Return the words that run a client of this server, in its database."""
        arguments = [self._bin / program, *self._as_client(), *words, DATABASE]
        return [str(word) for word in arguments]

    def ask(self, query: str) -> list[tuple[str, ...]]:
        """Return the rows of a query."""
        said = done(*self.client("psql", "-XAtF|", "-c", query), user=self._user)
        return [tuple(line.split("|")) for line in said.splitlines()]

    def stop(self) -> None:
        """Stop it in good order: its last checkpoint is on the disk."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(START_SECONDS_MAX)
        self._process = None
        if code:
            raise DemoError(f"PostgreSQL stopped with {code}: {self.log_tail()}")

    def kill(self) -> None:
        """End every process of it at once, as when its host loses power."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        try:
            pids = [int(pid) for pid in children.read_text().split()]
        except OSError:
            pids = []
        process.kill()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()

    # -- is it sound? ------------------------------------------------------------------

    def check_indexes(self) -> None:
        """Have amcheck compare every table with its indexes; raise UnsoundError."""
        self._check(
            *("pg_amcheck", *self._as_client(), "--install-missing"),
            *("--heapallindexed", DATABASE),
        )

    def check_pages(self) -> int:
        """Check every page's checksum, of a stopped server; return how many.

        Raises UnsoundError.
        """
        said = self._check("pg_checksums", "--check", "--pgdata", self._directory)
        for line in said.splitlines():
            what, _, count = line.partition(":")
            if what.startswith("Blocks scanned"):
                return int(count)
        raise DemoError(f"pg_checksums said {said!r}")

    def _check(self, program: str, *words: object) -> str:
        """Run a program that fails where something is not sound."""
        try:
            return self.run(program, *words)
        except DemoError as error:
            raise UnsoundError(str(error)) from None
