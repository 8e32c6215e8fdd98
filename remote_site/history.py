"""History of a group: what is to become of its older points, and doing it.

Synchronous; everything may block and runs in threads. `remote_site.retention` decides.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, suppress

from common.errors import StorageError
from common.service.retention_rules import RetentionRule
from common.storage.journal import Journal
from common.storage.journal_merge import JournalMerge
from remote_site.group_disk import GroupDisk
from remote_site.retention import (
    JOURNALS_MAX,
    Candidate,
    Drop,
    Merge,
    Moment,
    Step,
    given_up_for_hosts,
    next_step,
    retained,
)
from remote_site.store_state import Point, StoreState


class RulesOfRetention:
    """A group's `retain`, as the store asks it."""

    def __init__(
        self, rules: Iterable[RetentionRule], now_ns: Callable[[], int]
    ) -> None:
        self._now_ns = now_ns
        self.follow(rules)

    def follow(self, rules: Iterable[RetentionRule]) -> None:
        """Have other rules count from the next commit on, or the next look."""
        self._rules = tuple(rules)
        self._coarse = tuple(rule for rule in self._rules if rule.period_seconds)

    def __call__(self, points: Sequence[Point]) -> set[int]:
        """Return the numbers of the points that stay."""
        return self._retained(self._rules, points)

    def settled(self, points: Sequence[Point]) -> set[int]:
        """Return those that stay for longer than every point does."""
        return self._retained(self._coarse, points)

    def _retained(
        self, rules: tuple[RetentionRule, ...], points: Sequence[Point]
    ) -> set[int]:
        if not rules:
            return {points[-1].number}
        moments = [Moment(point.number, point.cut_ns) for point in points]
        return retained(rules, moments, self._now_ns())


class History:
    """Of one group. One caller at a time, but for what `GroupDisk` guards."""

    def __init__(self, disk: GroupDisk, points_max: int | None = None) -> None:
        self._disk = disk
        self._points_max = points_max
        self._summed: tuple[object, int] = (None, 0)
        self._making_room = threading.Lock()
        self._rotten: set[int] = set()
        """Points that can't be merged: trying again does not mend what is lost."""

    def seal(self) -> None:
        """Put the indexes of finished journals on disk, out of memory.

        Points may be committed meanwhile: what is newer than the newest one of the
        beginning is open, perhaps.
        """
        points = self._disk.points
        newest = points[-1].number if points else 0
        for volume in self._disk.volumes:
            for journal in volume.journals:
                if journal.header.point_number >= newest:
                    continue  # it is open
                if not journal.is_sealed:
                    with volume.leases.held(), suppress(StorageError):
                        journal.seal()  # no room: it stays in memory

    def is_due(self) -> bool:
        """Tell whether there is anything to be done; cheap."""
        return len(self._disk.points) > 1

    @property
    def used_bytes(self) -> int:
        """Bytes of all journals of the group, their indexes not counted."""
        disk = self._disk
        points = disk.points
        if points is not self._summed[0]:
            older = sum(self._bytes_of(point) for point in points[:-1])
            self._summed = (points, older)
        newest = sum(
            journal.size_bytes
            for volume in disk.volumes
            for journal in volume.journals[-1:]
            if journal.header.point_number == points[-1].number
        )
        return self._summed[1] + newest

    def _bytes_of(self, point: Point) -> int:
        return point.journal_bytes or self._disk.point_bytes(point.number)

    def plan(self) -> Step | None:
        """Return what to do next, or None."""
        disk, state = self._disk, self._disk.state
        if state is None or not state.points or state.is_on_its_way_back:
            return None
        step = next_step(
            self._candidates(state),
            limit_bytes=disk.settings.journal_limit_bytes,
            points_max=self._points_max or max(JOURNALS_MAX // len(disk.volumes), 2),
            ends_pins=not disk.settings.has_hard_pins,
        )
        if isinstance(step, Merge) and step.into < state.points[0].number:
            # Only a pin keeps what comes before, the record has nothing to merge into.
            numbers = [point.number for point in state.points]
            step = Drop(numbers[numbers.index(step.victims[-1]) + 1])
        return step

    def _candidates(self, state: StoreState) -> list[Candidate]:
        disk, durable, named = self._disk, state.points, state.kept_numbers
        forks = {fork.number for fork in state.forks}
        kept, stay = disk.retain(durable), disk.settled(durable)
        if state.takeover is not None:
            kept = kept | {state.takeover.fork.cycle.number}
        found: list[Candidate] = []
        # What only a pin keeps, the record knows no more: to be let go of as a whole.
        pinned = [p for p in disk.points if p.number < durable[0].number]
        if pinned:
            size_bytes = sum(map(self._bytes_of, pinned))
            first = pinned[0].number
            found.append(Candidate(first, size_bytes, False, is_pinned=True))
        for point in durable[:-1]:
            is_pinned = point.number in named or disk.is_pinned(point.number)
            found.append(
                Candidate(
                    point.number,
                    self._bytes_of(point),
                    point.number in kept or point.number in self._rotten,
                    is_pinned,
                    is_pinned or point.number in stay,
                    point.number in forks,
                )
            )
        # Not settled: what waits before the newest is not all that comes there.
        newest = durable[-1].number
        found.append(
            Candidate(
                newest,
                disk.point_bytes(newest),
                True,
                newest in named or disk.is_pinned(newest),
                False,
                newest in forks,
            )
        )
        return found

    def drop(self, step: Drop) -> None:
        """Let go of the oldest points."""
        older = [p.number for p in self._disk.points if p.number < step.number]
        self._disk.drop_before(step.number, older if step.ended else ())

    def make_room(self) -> tuple[int, ...] | None:
        """Give up the oldest point, for hosts of a group that was taken over.

        With the last one goes what its journal would have to preserve: hosts need no
        room there any more. Returns what went, None if all that is left has to stay.
        """
        with self._making_room:
            disk, state = self._disk, self._disk.state
            if state is None or not state.points:
                return () if not disk.points else None
            candidates = self._candidates(state)
            ends_pins = not disk.settings.has_hard_pins
            step = given_up_for_hosts(candidates, ends_pins=ends_pins)
            if step is None:
                return None
            went = tuple(p.number for p in disk.points if p.number < step.number)
            disk.drop_before(step.number, went)
            return went

    def merge(self, step: Merge) -> PointMerge | None:
        """Begin a merge; None if its points are not there any more."""
        begun = self._disk.merges.merge_of(step.into, step.victims)
        return None if begun is None else PointMerge(self._disk, step, *begun)

    def refuse(self, step: Merge) -> None:
        """Leave the points of this merge as they are, until the next start."""
        self._rotten.update((step.into, *step.victims))

    def check_room(self) -> None:
        """Raise `StorageError` where the limit is reached and pins may not end for it.

        Before anything is preserved: the newest point stays as it is. It is not stopped
        for the newest point's own journal: nobody can make that smaller.
        """
        disk, settings = self._disk, self._disk.settings
        limit = settings.journal_limit_bytes
        if limit is None or not settings.has_hard_pins or self.used_bytes < limit:
            return
        older = [point.number for point in disk.points[:-1]]
        kept = set() if disk.state is None else disk.state.kept_numbers
        if not older or not all(n in kept or disk.is_pinned(n) for n in older):
            return  # thinning makes room
        raise StorageError(
            f"the journals of group {settings.group!r} have reached "
            f"group.journal.limit ({limit} bytes) and what is left is pinned; release "
            "points, or raise the limit",
            errno=errno.ENOSPC,
            file=settings.journal_directory,
        )

    @property
    def is_over_limit(self) -> bool:
        """Tell whether there is more than the limit allows."""
        limit = self._disk.settings.journal_limit_bytes
        return limit is not None and self.used_bytes >= limit


class PointMerge:
    """One merge of points, a volume after the other, a batch at each step."""

    def __init__(
        self,
        disk: GroupDisk,
        step: Merge,
        relation_id: bytes,
        merges: list[JournalMerge],
    ) -> None:
        self._disk = disk
        self._step = step
        self._relation_id, self._merges = relation_id, merges
        self._done: list[Journal] = []
        self._steps = self._all_steps()

    def _all_steps(self) -> Generator[int]:
        for merge in self._merges:
            yield from merge.steps()
            self._done.append(merge.finish())
            yield 0

    def step(self) -> int | None:
        """Do a piece of it; return the bytes written, None once all is."""
        with ExitStack() as held:
            for volume in self._disk.volumes:
                held.enter_context(volume.leases.held())
            return next(self._steps, None)

    def finish(self) -> bool:
        """Put the merged points in place; False if they may not be merged any more."""
        assert len(self._done) == len(self._merges), "steps were left out"
        done = self._disk.merges.replace_merged(
            self._step.into, self._step.victims, self._relation_id, self._done
        )
        if not done:
            self.abandon()
        return done

    def abandon(self) -> None:
        """Delete what was written.

        Not after a failed flush: which record the disk holds is unknown then, and it
        may be the one that names these journals.
        """
        self._steps.close()
        is_unknown = self._disk.guard.failed is not None
        for journal in self._done:
            journal.close()
        for merge in self._merges:
            merge.close()
            if not is_unknown:
                merge.remove()
