"""How far something has come: a bar with sizes, rate and the time that is left."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from common.cli.display import plain, seconds_text, size_text
from common.errors import FarshoreError

BAR_COLUMNS = 32
LOOK_SECONDS = 0.5


def progress_row(
    what: str, done_bytes: float, total_bytes: float, eta_seconds: float | None
) -> Table:
    """Return a line; rate and time left appear together, once there is a rate."""
    share = done_bytes / total_bytes if total_bytes else 1.0
    row = Table.grid(padding=(0, 1, 0, 0))
    row.add_row(
        plain(what),
        ProgressBar(total=max(total_bytes, 1), completed=done_bytes, width=BAR_COLUMNS),
        plain(f"{share:4.0%}"),
        plain(f"{size_text(done_bytes)} of {size_text(total_bytes)}"),
        plain(_pace(total_bytes - done_bytes, eta_seconds)),
    )
    return row


def _pace(left_bytes: float, eta_seconds: float | None) -> str:
    if eta_seconds is None:
        return ""
    if eta_seconds <= 0:
        return "ETA now"
    return f"{size_text(left_bytes / eta_seconds)}/s, ETA {seconds_text(eta_seconds)}"


class Shrinking:
    """What is left of something, seen again and again; pure, times in seconds.

    Of a drain: its bytes out of sync. More of them than before begin anew.
    """

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None
        self._last = 0.0

    def see(self, left_bytes: float, now: float) -> None:
        if self._began is None or left_bytes > self._last:
            self._began = now, left_bytes
        self._last = left_bytes

    def eta_seconds(self, now: float) -> float | None:
        """Return how long the rest takes; None before anything has got done."""
        if self._began is None:
            return None
        since, total = self._began
        done = total - self._last
        return None if done <= 0 else self._last * (now - since) / done

    def row(self, what: str, now: float) -> Table | None:
        """Return its bar; None before anything has got done."""
        eta = self.eta_seconds(now)
        if self._began is None or eta is None:
            return None
        total = self._began[1]
        return progress_row(what, total - self._last, total, eta)


@contextlib.contextmanager
def shown_meanwhile(
    text: str, look: Callable[[], RenderableType | None]
) -> Iterator[None]:
    """Show `text`, and below it what `look` returns, while the block waits.

    On a terminal only, on stderr. `look` is called in a thread; what it can't find out
    is left out.
    """
    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        yield
        return
    ended = threading.Event()

    def follow(live: Live) -> None:
        while not ended.wait(LOOK_SECONDS):
            with contextlib.suppress(FarshoreError):
                found = look()
                live.update(found if found is not None else plain(text), refresh=True)

    with Live(
        plain(text), console=terminal, auto_refresh=False, transient=True
    ) as live:
        follower = threading.Thread(target=follow, args=(live,), daemon=True)
        follower.start()
        try:
            yield
        finally:
            ended.set()
            follower.join()


def left_of_group(status: dict[str, Any], name: str) -> float | None:
    """Return the bytes out of sync of a group; None where they are not known."""
    for group in status["groups"]:
        if group["name"] == name:
            left: float | None = group.get("out_of_sync_bytes")
            return left
    return None
