"""A demo's daemons: started until its end, and their logs shown if it fails."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from demo.pair_config import PairConfig
from demo.sites import DemoError, Site


def start_site(cleanup: ExitStack, role: str, config: Path, control: str) -> Site:
    """Start the "primary" or the "remote"; return once it answers."""
    site = Site(f"farshore-{role}", config, control)
    cleanup.callback(site.stop)
    try:
        site.wait_ready()
    except DemoError as error:
        raise DemoError("\n".join([str(error), *site.log_tail()])) from None
    return site


def start_pair(cleanup: ExitStack, config: PairConfig) -> tuple[Site, Site]:
    """Write both configs and start both sites: (primary, remote)."""
    config.write()
    remote = start_site(cleanup, "remote", config.remote, config.remote_control)
    primary = start_site(cleanup, "primary", config.primary, config.primary_control)
    return primary, remote


def show_logs(screen: Console, *sites: Site) -> None:
    """Print what the daemons said last."""
    for site in sites:
        screen.print(f"--- the end of {site.command}'s log", markup=False)
        for line in site.log_tail():
            screen.print(line, markup=False, soft_wrap=True)
