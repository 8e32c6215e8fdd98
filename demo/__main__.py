"""`make demo`: a bank, a disaster, and the bank as the other site has it.

Exit status: 0 if the recovered copy held, 1 if it did not, 2 if the demo could
not be carried through, 130 on Ctrl-C.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live

from common.cli.display import console
from common.errors import FarshoreError
from demo.bank import DATABASE, JOURNAL, Bank
from demo.cycle_table import CycleTable
from demo.nbd_export import NbdExport
from demo.pair_config import PairConfig
from demo.recovery_host import Recovered, recover
from demo.scratch import run_in_scratch
from demo.sites import DemoError, Site
from demo.started_sites import show_logs, start_pair
from demo.verdict import Disaster, Verdict
from demo.volume_vfs import VolumeVfs

RPO_SECONDS: Final = 2
VOLUMES: Final = {"data": "1GiB", "log": "16MiB"}
CYCLES_SHOWN: Final = 8
SHOW_SECONDS_MAX: Final = 25.0
"""A slow machine sees fewer cycles, but at least CYCLES_MIN."""

CYCLES_MIN: Final = 2
STRIKE_SECONDS_MAX: Final = 10.0
NOTICE_SECONDS_MAX: Final = 10.0
WATCH_SECONDS: Final = 0.05
AIM_SECONDS: Final = 0.002
VFS: Final = "farshore-volumes"


def main() -> int:
    """Run the demo in a directory of its own; keep that only if it failed."""
    return run_in_scratch(console(), "farshore-demo-", _has_held)


def _has_held(screen: Console, root: Path) -> bool:
    verdict = _run(screen, root)
    for line in verdict.lines():
        screen.print(line)
    return verdict.held


def _run(screen: Console, root: Path) -> Verdict:
    rpo = f'rpo = "{RPO_SECONDS}s"'
    config = PairConfig(root, "bank", VOLUMES, sent=rpo, connections=2)
    with ExitStack() as cleanup:
        primary, remote = start_pair(cleanup, config)
        try:
            screen.print(
                "Both sites run. A bank keeps its database on "
                f"{config.export('data')}, "
                f"its journal on {config.export('log')},\nthrough NBD; the promise is "
                f"rpo = {RPO_SECONDS} s. Cycle 1 is the first copy: holes are free.\n"
            )
            bank = _open_bank(cleanup, config)
            _watch_cycles(screen, primary, bank)
            cycle = _await_mid_cycle(primary)
            disaster = _strike(primary, bank, cycle)
            screen.print(
                f"\nSIGKILL to the primary, {cycle} being the cycle in its drain. "
                f"The bank had committed {disaster.committed} transactions.\n"
            )
            point = _newest_point(remote)
            recovered = _recover(root, config, remote, point)
        except (DemoError, FarshoreError, OSError):
            show_logs(screen, remote, primary)
            raise
        return Verdict(RPO_SECONDS, disaster, point, recovered)


def _open_bank(cleanup: ExitStack, config: PairConfig) -> Bank:
    """Create the database over NBD and let the bank begin."""
    exports = {
        DATABASE: NbdExport(config.host_socket, config.export("data")),
        JOURNAL: NbdExport(config.host_socket, config.export("log")),
    }
    for export in exports.values():
        cleanup.callback(export.close)
    vfs = VolumeVfs(VFS, exports)
    cleanup.callback(vfs.unregister)
    bank = Bank(VFS)
    cleanup.callback(bank.stop)
    bank.open()
    bank.start()
    return bank


def _watch_cycles(screen: Console, primary: Site, bank: Bank) -> None:
    """Show cycles as they commit, until there were enough."""
    table = CycleTable(screen)
    table.head()
    deadline = time.monotonic() + SHOW_SECONDS_MAX
    with Live(console=screen, auto_refresh=False, transient=True) as live:
        while time.monotonic() < deadline and table.committed < CYCLES_SHOWN:
            table.show(live, primary.group(), len(bank.commits))
            _check_bank(bank)
            time.sleep(WATCH_SECONDS)
    if table.committed < CYCLES_MIN:
        raise DemoError(
            f"only {table.committed} cycles in {SHOW_SECONDS_MAX:g} s: "
            "this machine is too slow for it, or the pair is broken"
        )


def _check_bank(bank: Bank) -> None:
    if bank.failure is not None:
        raise DemoError(
            f"the bank's storage failed before any disaster: {bank.failure}"
        )


def _await_mid_cycle(primary: Site) -> int:
    """Return the number of a cycle that was caught as its drain had just begun."""
    deadline = time.monotonic() + STRIKE_SECONDS_MAX
    seen = primary.group()["cycle_number"]
    while time.monotonic() < deadline:
        group = primary.group()
        if group["state"] == "draining" and group["cycle_number"] != seen:
            return int(group["cycle_number"])
        if group["state"] != "draining":
            seen = group["cycle_number"]
        time.sleep(AIM_SECONDS)
    raise DemoError(f"no cycle was caught in its drain in {STRIKE_SECONDS_MAX:g} s")


def _strike(primary: Site, bank: Bank, cycle: int) -> Disaster:
    """Kill the primary; what the bank knows at that moment is the yardstick."""
    at = time.monotonic()
    primary.kill()
    bank.stop()
    promised = sum(1 for moment in bank.commits if moment <= at - RPO_SECONDS)
    return Disaster(
        cycle=cycle,
        committed=len(bank.commits),
        begun=bank.begun,
        promised=promised,
        commits=tuple(bank.commits),
        moment=at,
    )


def _newest_point(remote: Site) -> int:
    """Wait until the remote has noticed; return the number of its newest point."""
    deadline = time.monotonic() + NOTICE_SECONDS_MAX
    while time.monotonic() < deadline:
        group = remote.group()
        if group["link"]["state"] != "connected":
            point = group["recovery_point"]
            if point is None:
                raise DemoError("the remote has no recovery point")
            return int(point["number"])
        time.sleep(WATCH_SECONDS)
    raise DemoError("the remote does not notice that the primary is dead")


def _recover(root: Path, config: PairConfig, remote: Site, point: int) -> Recovered:
    directory = root / "recovered"
    directory.mkdir()
    recovered = recover(
        config.recovery_socket, config.export("data"), config.export("log"), directory
    )
    if _newest_point(remote) != point:
        raise DemoError("the newest point changed under the recovery host")
    return recovered


if __name__ == "__main__":
    sys.exit(main())
