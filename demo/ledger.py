"""pgbench's bank, with a ledger of every transaction, and whether a copy keeps it.

Each client numbers its transactions. pgbench logs when each of them was acknowledged,
so what a copy holds can be judged against what the application was told, and when.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo.judgement import UnsoundError
from demo.postgresql import START_SECONDS_MAX, Server
from demo.sites import DemoError

CLIENTS: Final = 4
ENDLESS_SECONDS: Final = 3600

_TABLE: Final = (
    "create table ledger (run int, client int, n int, aid int, delta int, "
    "at timestamptz, primary key (run, client, n))"
)
_SCRIPT: Final = """\
\\set n :n + 1
\\set aid random(1, 100000 * :scale)
\\set bid random(1, 1 * :scale)
\\set tid random(1, 10 * :scale)
\\set delta random(-5000, 5000)
begin;
update pgbench_accounts set abalance = abalance + :delta where aid = :aid;
update pgbench_tellers set tbalance = tbalance + :delta where tid = :tid;
update pgbench_branches set bbalance = bbalance + :delta where bid = :bid;
insert into ledger values
  (:run, :client_id, :n, :aid, :delta, clock_timestamp());
end;
"""
_SUMS: Final = """
select (select sum(abalance) from pgbench_accounts),
       (select sum(tbalance) from pgbench_tellers),
       (select sum(bbalance) from pgbench_branches),
       (select coalesce(sum(delta), 0) from ledger)
"""
_DIGEST: Final = """
select count(*), md5(string_agg(ledger::text, ';' order by run, client, n)) from ledger
"""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A run: by client, when each of its transactions was acknowledged, in order.

    Wall clock, seconds since 1970.
    """

    times: Mapping[int, tuple[float, ...]]

    @property
    def count(self) -> int:
        return sum(map(len, self.times.values()))

    def before(self, moment: float) -> dict[int, int]:
        """Return how many of each client's were acknowledged before a moment."""
        return {
            client: sum(1 for time in times if time < moment)
            for client, times in self.times.items()
        }

    def first_lost(self, held: Mapping[int, int]) -> float | None:
        """Return when the first that is not held was acknowledged; None: all are."""
        lost = [
            times[held.get(client, 0)]
            for client, times in self.times.items()
            if held.get(client, 0) < len(times)
        ]
        return min(lost, default=None)


class Traffic:
    """pgbench at work on a server, a run of its own at each time."""

    def __init__(
        self, server: Server, directory: Path, run: int, scale: int, rate: int
    ) -> None:
        """`rate`: transactions a second at most; `directory` is made."""
        directory.mkdir()
        directory.chmod(0o755)
        script = directory / "script"
        script.write_text(_SCRIPT)
        self._directory = directory
        self._words = server.client(
            *("pgbench", "--no-vacuum", f"--file={script}", f"--scale={scale}"),
            *(f"--client={CLIENTS}", "--define=n=0", f"--define=run={run}"),
            *(f"--rate={rate}", "--log", f"--log-prefix={directory}/times"),
        )
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, seconds: int = ENDLESS_SECONDS) -> None:
        """Work for so long, or until the server is gone."""
        words = [*self._words[:-1], f"--time={seconds}", self._words[-1]]
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def ended(self, *, in_order: bool) -> Acknowledged:
        """Wait until it has ended; return what it was told."""
        assert self._process is not None
        try:
            code = self._process.wait(START_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise DemoError("pgbench does not end") from None
        if in_order and code:
            said = (self._directory / "log").read_text()[-600:]
            raise DemoError(f"pgbench ended with {code}: {said}")
        times: dict[int, list[float]] = {client: [] for client in range(CLIENTS)}
        for log in self._directory.glob("times.*"):
            for line in log.read_text().splitlines():
                client, _, _, _, seconds, micro, *_ = line.split()
                times[int(client)].append(int(seconds) + int(micro) / 1e6)
        return Acknowledged({client: tuple(each) for client, each in times.items()})

    def is_working(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End it, whatever it is at."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def fill(server: Server, scale: int) -> None:
    """Make the bank: 100,000 accounts for each of `scale`."""
    words = server.client("pgbench", "--initialize", "--quiet", f"--scale={scale}")
    server.run(Path(words[0]).name, *words[1:])
    server.ask(_TABLE)


def held(server: Server, run: int) -> dict[int, int]:
    """Return how many of each client's transactions are there, 1 to that number.

    Raises UnsoundError where one is missing among them, or where the balances are not
    what the ledger adds up to.
    """
    sums = server.ask(_SUMS)[0]
    if len(set(sums)) != 1:
        raise UnsoundError(f"balances and ledger do not agree: {', '.join(sums)}")
    rows = server.ask(
        f"select client, count(*), min(n), max(n) from ledger where run = {run} "  # noqa: S608 - a number
        "group by client"
    )
    found: dict[int, int] = {}
    for client, count, first, last in rows:
        if (first, last) != ("1", count):
            raise UnsoundError(
                f"client {client}: {count} transactions, from {first} to {last}"
            )
        found[int(client)] = int(count)
    return found


def digest(server: Server) -> tuple[int, str]:
    """Return how many transactions there are in all, and their digest."""
    ((count, found),) = server.ask(_DIGEST)
    return int(count), found
