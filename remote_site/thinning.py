"""The thinning of a group's history: a task that follows the commits.

All of it happens in threads, a short piece at a time with a longer pause after it, and
takes no lock that an apply needs; a commit waits for one write of the record at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from common.errors import CorruptStateError, FarshoreError
from common.ports import Clock
from remote_site.history import PointMerge
from remote_site.retention import Drop, Merge
from remote_site.store import GroupStore

PINS_ENDED = "pins_ended"
POINTS_GIVEN_UP_ALARM = "points_given_up"
"""Of a group that was taken over: see `remote_site.room_for_hosts`."""

JOURNAL_LIMIT = "journal_limit"
THINNING_FAILED = "thinning_failed"

LOOK_SECONDS = 2.0
"""Where there is a limit: a long cycle reaches it between two commits."""

PAUSE_SHARE = 2.0
"""Rests so many times as long as a piece has taken: others have the disk first."""

PAUSE_SECONDS_MAX = 1.0


class Thinning:
    """Owned by the event loop; `start` it once, `close` it before the store."""

    def __init__(
        self,
        name: str,
        store: GroupStore,
        clock: Clock,
        raise_alarm: Callable[[str, str], None],
        clear_alarm: Callable[[str], None],
    ) -> None:
        self._name = name
        self._store = store
        self._history = store.history
        self._clock = clock
        self._raise_alarm = raise_alarm
        self._clear_alarm = clear_alarm
        self._log = structlog.get_logger().bind(group=name)
        self._woken = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self, *, has_limit: bool) -> None:
        """Begin to follow commits; with a limit, look at it between them, too."""
        self._task = asyncio.create_task(self._run(has_limit=has_limit))
        self._woken.set()

    def wake(self) -> None:
        """Look at what has become due: a point more, a pin less."""
        self._woken.set()

    def operator_chose(self) -> None:
        """An operator has seen which points are kept, and chosen."""
        self._clear_alarm(PINS_ENDED)
        self._clear_alarm(POINTS_GIVEN_UP_ALARM)
        self.wake()

    async def close(self) -> None:
        """End after the piece under way; what was begun is begun anew another time."""
        self._closing = True
        self._woken.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self, *, has_limit: bool) -> None:
        while not self._closing:
            await self._rest(LOOK_SECONDS if has_limit else None)
            self._woken.clear()
            if self._closing or self._store.failed is not None:
                continue
            try:
                await self._catch_up()
            except FarshoreError as error:
                # Said once by whoever needs that disk; tried again after a commit.
                self._log.warning("thinning_failed", reason=str(error))
            except Exception:  # noqa: BLE001 - thinning ends, replication goes on
                self._log.exception("thinning_failed")
                return

    async def _rest(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _catch_up(self) -> None:
        history, run = self._history, self._store.run_reader
        if not history.is_due() and not history.is_over_limit:
            self._clear_alarm(JOURNAL_LIMIT)
            return
        await run(history.seal)
        while not self._closing:  # ends: each turn leaves fewer points, or refuses one
            step = await run(history.plan)
            if isinstance(step, Drop):
                await self._drop(step)
            elif isinstance(step, Merge):
                if not await self._merge(step):
                    break
            else:
                break
        self._tell_limit()

    def _tell_limit(self) -> None:
        if self._history.is_over_limit:
            self._raise_alarm(
                JOURNAL_LIMIT,
                f"the journals of {self._name} have reached group.journal.limit and no "
                "point may go for it; release points (farshore points "
                f"{self._name} --release N) or raise the limit",
            )
        else:
            self._clear_alarm(JOURNAL_LIMIT)

    async def _drop(self, step: Drop) -> None:
        await self._store.run_reader(partial(self._history.drop, step))
        if step.ended:
            numbers = ", ".join(map(str, step.ended))
            self._log.warning("pins_ended", points=list(step.ended))
            self._raise_alarm(
                PINS_ENDED,
                f"pinned points of {self._name} went ({numbers}): the journals had "
                "reached 90 % of group.journal.limit",
            )

    async def _merge(self, step: Merge) -> bool:
        """Carry a merge out; False if it has to wait for another time."""
        run = self._store.run_reader
        merge = await run(partial(self._history.merge, step))
        if merge is None:
            return False  # a commit has taken them meanwhile
        began = self._clock.monotonic()
        try:
            if await self._carried_out(merge) and await run(merge.finish):
                self._log.info(
                    "points_merged",
                    into=step.into,
                    count=len(step.victims),
                    seconds=round(self._clock.monotonic() - began, 3),
                )
                return True
        except CorruptStateError as error:
            self._history.refuse(step)
            self._raise_alarm(THINNING_FAILED, str(error))
            await run(merge.abandon)
            return True
        except BaseException:
            await run(merge.abandon)
            raise
        return False

    async def _carried_out(self, merge: PointMerge) -> bool:
        """Do all steps but the last; False if the daemon stops meanwhile."""
        run = self._store.run_reader
        while not self._closing:  # ends: each turn is a batch further
            began = self._clock.monotonic()
            if await run(merge.step) is None:
                return True
            took = self._clock.monotonic() - began
            await asyncio.sleep(min(PAUSE_SHARE * took, PAUSE_SECONDS_MAX))
        await run(merge.abandon)
        return False
