"""While a command waits for a drain: how far that has come, on a terminal."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from rich.console import Group, RenderableType

from common.cli.daemon_options import connect
from common.cli.display import plain
from common.cli.progress_view import Shrinking, left_of_group, shown_meanwhile


def drain_shown(
    group: str, text: str, sockets: tuple[str | None, str | None]
) -> AbstractContextManager[None]:
    """Show `text` and a bar of the group's bytes that are left, while a block waits."""
    left = Shrinking()

    def look() -> RenderableType | None:
        now = time.monotonic()
        with connect(*sockets) as client:
            found = left_of_group(client.call("status"), group)
        if found is not None:
            left.see(found, now)
        row = left.row(group, now)
        return None if row is None else Group(plain(text), row)

    return shown_meanwhile(text, look)
