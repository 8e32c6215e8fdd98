"""`make disaster-day`: a PostgreSQL, its site lost, taken over, and given back.

As root: it mounts. Exit status: 0 if everything held, 1 if something did not, 2 if the
day could not be carried through, 130 on Ctrl-C. `--quick`: a small bank, short runs.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from common.cli.display import console, seconds_text, size_text
from common.errors import FarshoreError
from demo.application_host import ApplicationHost
from demo.commands import done
from demo.judgement import (
    SHARE_MAX,
    TRACK_BYTES,
    UnsoundError,
    are_there,
    is_little,
    tracks_apart,
)
from demo.ledger import Acknowledged, Traffic, digest, fill, held
from demo.pair_config import PairConfig
from demo.scratch import run_in_scratch
from demo.sites import DemoError, Site
from demo.started_sites import show_logs, start_pair, start_site

GROUP: Final = "bank"
VOLUME: Final = "data"
RPO_SECONDS: Final = 3
MARGIN_SECONDS: Final = 0.5
"""Between a look at how old the newest point is, and the end."""

WAIT_SECONDS_MAX: Final = 120.0
POLL_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Day:
    """How large, and how long: `seconds` of work at each site, `rate` a second."""

    volume: str
    scale: int
    rate: int
    seconds: int


FULL: Final = Day("1GiB", 10, 200, 10)
QUICK: Final = Day("256MiB", 1, 100, 4)


def main() -> int:
    """Live through the day in a directory of its own; keep that only if it failed."""
    day = QUICK if "--quick" in sys.argv[1:] else FULL
    return run_in_scratch(
        console(), "farshore-day-", lambda screen, root: _run(screen, root, day)
    )


def _run(screen: Console, root: Path, day: Day) -> bool:
    if os.geteuid() != 0:
        raise DemoError("this mounts file systems: run it as root")
    root.chmod(0o711)  # PostgreSQL, which is somebody else, has to get through
    config = PairConfig(
        root, GROUP, {VOLUME: day.volume}, sent=f'rpo = "{RPO_SECONDS}s"'
    )
    with ExitStack() as cleanup:
        primary, remote = start_pair(cleanup, config)
        story = _Story(screen, root, day, config, cleanup, primary, remote)
        try:
            return story.told()
        except (DemoError, FarshoreError, OSError):
            show_logs(screen, story.remote, story.primary)
            raise


class _Story:
    """The day, an hour after the other; each raises DemoError where it ends."""

    def __init__(
        self,
        screen: Console,
        root: Path,
        day: Day,
        config: PairConfig,
        cleanup: ExitStack,
        primary: Site,
        remote: Site,
    ) -> None:
        self.primary = primary
        self.remote = remote
        self._screen = screen
        self._root = root
        self._day = day
        self._config = config
        self._cleanup = cleanup
        self._runs = 0
        self._mounts: list[Path] = []
        self._has_held = True

    def told(self) -> bool:
        """Return whether everything held."""
        try:
            self._tell()
        except UnsoundError as error:
            self._check(f"the copy is sound: {error}", is_so=False)
        self._screen.print(
            "\nHELD: nothing that was promised is lost, and everything is where it was."
            if self._has_held
            else "\nNOT HELD: see above."
        )
        return self._has_held

    def _tell(self) -> None:
        at_primary = self._host(self._config.host_socket)
        self._say("The primary", f"serves {GROUP}/{VOLUME}; rpo = {RPO_SECONDS} s.")
        self._open_bank(at_primary)
        acknowledged, killed = self._disaster(at_primary)
        at_remote = self._take_over(acknowledged, killed)
        self._work(at_remote)
        self._return()
        self._fail_back()
        at_home = self._switch_back(at_remote)
        self._work(at_home)
        self._compare(at_home)

    # -- the hours ---------------------------------------------------------------------

    def _open_bank(self, host: ApplicationHost) -> None:
        host.attach(is_new=True)
        host.server.create()
        fill(host.server, self._day.scale)
        self._until("the first copy", lambda: self._age(self.primary) < math.inf)
        count = self._day.scale * 100_000
        self._say("A host", f"has ext4 and PostgreSQL there: {count:,} accounts.")

    def _disaster(self, host: ApplicationHost) -> tuple[Acknowledged, float]:
        """Kill the primary and its host in the middle of work; return what they knew.

        While the copy is as young as the site says it will be: a machine that is too
        slow for that shows nothing.
        """
        traffic = self._traffic(host)
        traffic.begin()
        time.sleep(self._day.seconds)
        self._until(
            "a recovery point within the RPO",
            lambda: self._age(self.primary) < RPO_SECONDS - MARGIN_SECONDS,
        )
        killed = time.time()
        self.primary.kill()
        host.lose()
        acknowledged = traffic.ended(in_order=False)
        self._say(
            "SIGKILL",
            f"to the primary and all of its host's processes; {acknowledged.count} "
            "transactions were acknowledged.",
        )
        return acknowledged, killed

    def _take_over(self, acknowledged: Acknowledged, killed: float) -> ApplicationHost:
        self._until(
            "the loss to be noticed",
            lambda: self.remote.group()["link"]["state"] != "connected",
        )
        point = self.remote.group()["recovery_point"]
        as_of = datetime.fromisoformat(point["current_as_of"]).timestamp()
        began = time.monotonic()
        taken = self._farshore(self.remote, "takeover", GROUP, "--yes")
        took = time.monotonic() - began
        host = self._host(self._config.recovery_socket)
        host.attach()
        recovered = host.server.start()
        self._say(
            "Takeover",
            f"from point {taken['point']} in {seconds_text(took)}; PostgreSQL answers "
            f"{seconds_text(time.monotonic() - began)} after the word was given, "
            f"{seconds_text(recovered)} of it its own recovery.",
        )
        self._judge(host, acknowledged, killed, as_of)
        return host

    def _judge(
        self,
        host: ApplicationHost,
        acknowledged: Acknowledged,
        killed: float,
        as_of: float,
    ) -> None:
        """Hold what the copy has against what was acknowledged, and when."""
        found = held(host.server, run=1)
        host.server.check_indexes()
        lost = acknowledged.first_lost(found)
        self._check("balances, ledger and indexes agree", is_so=True)
        for what, moment in (
            ("everything acknowledged before the cut is there", as_of),
            (f"and all but the last {RPO_SECONDS} s", killed - RPO_SECONDS),
        ):
            promised = acknowledged.before(moment)
            self._check(
                f"{what} ({sum(promised.values())} transactions)",
                is_so=are_there(found, promised),
            )
        if lost is None:
            self._say("Lost", "is nothing.")
        else:
            missing = acknowledged.count - sum(found.values())
            age = seconds_text(killed - lost)
            self._say("Lost", f"are the last {age}: {missing} transactions.")

    def _work(self, host: ApplicationHost) -> None:
        """Let hosts go on for a while."""
        traffic = self._traffic(host)
        traffic.begin(self._day.seconds)
        acknowledged = traffic.ended(in_order=True)
        found = held(host.server, self._runs)
        self._check(
            f"run on: {acknowledged.count} transactions more",
            is_so=found == acknowledged.before(time.time()),
        )

    def _return(self) -> None:
        """Start the old primary: it finds itself superseded."""
        config = self._config
        self.primary = start_site(
            self._cleanup, "primary", config.primary, config.primary_control
        )
        self._until(
            "the old primary to be told",
            lambda: self.primary.group()["state"] == "superseded",
        )
        self._say("The old primary", "returns, is superseded, and takes no write.")

    def _fail_back(self) -> None:
        """Bring the old primary what differs; the remote serves on."""
        done("sync", "--file-system", self._mounts[-1])
        apart = self._tracks_apart()
        before = self._sent(self.remote)
        began = time.monotonic()
        told = self._farshore(self.primary, "failback", GROUP, "--yes")
        self._until(
            "a point of the remote at the old primary",
            lambda: self._newest(self.primary) > told["fork"],
        )
        self._until("its sender to know", lambda: self._sent(self.remote) > before)
        moved = self._sent(self.remote) - before
        self._say(
            "Failback",
            f"in {seconds_text(time.monotonic() - began)}: {apart} tracks differed, "
            f"{size_text(apart * TRACK_BYTES)}; {size_text(moved)} were moved. "
            f"Fork {told['fork']} keeps what the old primary alone had.",
        )
        self._check(
            f"at most {SHARE_MAX:g} times what differed was moved",
            is_so=is_little(moved, apart),
        )

    def _switch_back(self, at_remote: ApplicationHost) -> ApplicationHost:
        """Return the roles, and start PostgreSQL where it was at first."""
        before = digest(at_remote.server)
        at_remote.end()
        began = time.monotonic()
        self._farshore(self.remote, "switchover", GROUP, "--yes")
        took = seconds_text(time.monotonic() - began)
        self._until(
            "the primary to serve",
            lambda: self.primary.group()["role"] == "sending",
        )
        host = self._host(self._config.host_socket)
        host.attach()
        host.server.start()
        self._say("Switchover", f"in {took}; PostgreSQL runs at the primary again.")
        self._check(
            f"all {before[0]} transactions came back with it",
            is_so=digest(host.server) == before,
        )
        return host

    def _compare(self, host: ApplicationHost) -> None:
        """Stop, and hold one site's device against the other's."""
        held(host.server, self._runs)
        host.server.stop()
        pages = host.server.check_pages()
        host.end()
        self._until(
            "a link", lambda: self.primary.group()["link"]["state"] == "connected"
        )
        self._farshore(self.primary, "cut", GROUP, "--wait")
        self._check(f"the checksums of {pages} pages are right", is_so=True)
        self._check("both sites' devices are equal", is_so=self._tracks_apart() == 0)

    # -- what they need ----------------------------------------------------------------

    def _host(self, socket_path: str) -> ApplicationHost:
        uri = f"nbd+unix:///{GROUP}/{VOLUME}?socket={socket_path}"
        place = self._root / f"host-{len(self._mounts)}"
        host = ApplicationHost(place, uri)
        self._mounts.append(host.mount)
        self._cleanup.callback(host.lose)
        return host

    def _traffic(self, host: ApplicationHost) -> Traffic:
        self._runs += 1
        place = self._root / f"run-{self._runs}"
        day = self._day
        traffic = Traffic(host.server, place, self._runs, day.scale, day.rate)
        self._cleanup.callback(traffic.kill)
        return traffic

    def _farshore(self, site: Site, *words: str) -> dict[str, Any]:
        """Run the command at a site, as an operator does."""
        program = Path(sys.executable).with_name("farshore")
        said = done(program, *words, "--json", "--socket", site.control_socket)
        found: dict[str, Any] = json.loads(said)
        return found

    def _tracks_apart(self) -> int:
        primary, remote = (
            self._root / f"{VOLUME}.{role}.img" for role in ("primary", "remote")
        )
        return tracks_apart(primary, remote)

    @staticmethod
    def _sent(site: Site) -> int:
        """Return the bytes that all cycles of a site have brought on the wire."""
        cycles = site.events("cycle_committed")  # of those that it received, too
        return sum(cycle.get("bytes_on_wire", 0) for cycle in cycles)

    @staticmethod
    def _age(site: Site) -> float:
        """Return the seconds since which its newest point is not current any more."""
        age: float | None = site.group()["recovery_point_age_seconds"]
        return math.inf if age is None else age

    @staticmethod
    def _newest(site: Site) -> int:
        point = site.group()["recovery_point"]
        return int(point["number"]) if point else 0

    @staticmethod
    def _until(what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while not holds():
            if time.monotonic() > deadline:
                raise DemoError(f"waited {WAIT_SECONDS_MAX:g} s for {what}")
            time.sleep(POLL_SECONDS)

    def _say(self, who: str, what: str) -> None:
        self._screen.print(f"[bold]{who}[/] {what}", soft_wrap=True, highlight=False)

    def _check(self, what: str, *, is_so: bool) -> None:
        self._has_held = self._has_held and is_so
        mark = "[green]yes[/]" if is_so else "[bold red]NO[/] "
        self._screen.print(f"  {mark} {what}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
