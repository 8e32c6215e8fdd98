"""Work that goes on for as long as a group is served, whatever goes wrong within it.

An error that nobody foresaw is a bug of ours. It is told, with its traceback, and the
work begins anew after a pause: hosts, other groups and the group's other work are not
to suffer for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from common.ports import Clock

PAUSE_SECONDS_MIN = 1.0
PAUSE_SECONDS_MAX = 60.0
"""Each error in a row doubles the pause, from the one up to the other; work that has
lasted this long without one begins with the shortest again."""


async def kept_up(
    work: Callable[[], Coroutine[Any, Any, None]],
    told: Callable[[Exception], Awaitable[None]],
    clock: Clock,
) -> None:
    """Run `work` until it returns or is cancelled; where it raises, tell and go on."""
    pause = PAUSE_SECONDS_MIN
    while True:
        began = clock.monotonic()
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - unforeseen by its nature
            if clock.monotonic() - began >= PAUSE_SECONDS_MAX:
                pause = PAUSE_SECONDS_MIN
            await told(error)
        else:
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, PAUSE_SECONDS_MAX)
