"""`make run`: both sites of config/ on this machine, with their state under run/.

The two sample configs are used as they are, but for places and addresses; what
was written on the volumes is there again the next time.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Final, Never

from rich.console import Console, Group, RenderableType
from rich.live import Live

from common.cli.display import console, plain
from common.cli.status_view import status_view
from common.errors import FarshoreError
from demo.sites import SOCKET_PATH_BYTES_MAX, DemoError, Site
from demo.started_sites import start_site

REPOSITORY: Final = Path(__file__).resolve().parent.parent
REFRESH_SECONDS: Final = 0.5
LONGEST_SOCKET_NAME: Final = "recovery.sock"


def main() -> int:
    """Run until Ctrl-C; return the exit status."""
    screen = console()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        _run(screen, REPOSITORY / "run")
    except KeyboardInterrupt:
        screen.print("Both sites have stopped; their state stays in run/.")
        return 0
    except (DemoError, FarshoreError, OSError) as error:
        screen.print(f"make run: {error}", markup=False, soft_wrap=True)
        return 2
    return 0


def _terminated(number: int, frame: FrameType | None) -> Never:
    del number, frame
    raise KeyboardInterrupt


def local_config(text: str, role: str, root: Path) -> str:
    """Return a sample config whose paths lie under `root`, on this machine alone.

    Replication between two processes of one machine needs no certificates. Each site
    keeps its data in a folder of its own: both samples name the same
    device, each on its own machine.
    """
    for place, instead in (
        ("/var/lib/farshore", str(root / role)),
        ("/run/farshore", str(root)),
        ("dr.example.net:", "127.0.0.1:"),
        ("tcp:0.0.0.0:", "tcp:127.0.0.1:"),
    ):
        text = text.replace(place, instead)
    return re.sub(r"(?m)^tls = .*$", "allow_plaintext_replication = true", text)


def _run(screen: Console, root: Path) -> None:
    if len(os.fsencode(root / LONGEST_SOCKET_NAME)) > SOCKET_PATH_BYTES_MAX:
        raise DemoError(f"{root} is too deep for Unix sockets: move the repository")
    root.mkdir(exist_ok=True)
    with ExitStack() as cleanup:
        sites = [_start(cleanup, role, root) for role in ("remote", "primary")]
        screen.print(_how_to_attach(root), markup=False, soft_wrap=True)
        with Live(console=screen, auto_refresh=False) as live:
            while True:
                live.update(_view(sites), refresh=True)
                time.sleep(REFRESH_SECONDS)


def _start(cleanup: ExitStack, role: str, root: Path) -> Site:
    sample = (REPOSITORY / "config" / f"{role}.toml").read_text()
    (root / role).mkdir(exist_ok=True)
    config = root / f"{role}.toml"
    config.write_text(local_config(sample, role, root))
    return start_site(cleanup, role, config, str(root / f"{role}.sock"))


def _view(sites: list[Site]) -> RenderableType:
    views: list[RenderableType] = []
    for site in sites:
        try:
            views += [status_view(site.status()), plain("")]
        except FarshoreError as error:
            views += [plain(f"{site.command}: {error}", "bold red"), plain("")]
    return Group(*views)


def _how_to_attach(root: Path) -> str:
    return (
        f"write to   nbd+unix:///orders/data?socket={root}/nbd.sock\n"
        f"read from  nbd+unix:///orders/data?socket={root}/recovery.sock\n"
        f"ask        .venv/bin/farshore points orders --socket {root}/remote.sock\n"
        "Ctrl-C stops both.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
