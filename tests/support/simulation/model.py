"""What hosts were promised: the contents that each sector may have, and no others.

A write is *ended* once its reply has come, or its connection is gone. Of the writes to
a sector those count that no other one follows: one follows another if it was submitted
after the other had ended. A write that failed, or was never answered, may be there.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

SECTOR = 512
ZEROES = bytes(SECTOR)

WORDY = 1 << 40
"""Stamps from here on are of hosts that write what stands elsewhere already."""

WORDY_SHARE = 16
"""In one seed of so many all hosts do."""

_HEADER_BYTES = 16
_words = random.Random("words")
WORDS = tuple(
    bytes(_words.choices(b"abcdefghijklmnop", k=SECTOR - _HEADER_BYTES))
    for _ in range(48)
)
"""All but the header of their sectors: of little entropy, and told apart by nothing
that is near. The content of a track is known, in part, from others."""


def is_wordy(seed: int) -> bool:
    return seed % WORDY_SHARE == 7


class HostWrite:
    """One write, trim or zeroing of whole sectors. Times are numbers of events."""

    __slots__ = (
        "count",
        "ended",
        "first",
        "has_failed",
        "is_sure",
        "stamp",
        "submitted",
    )

    def __init__(self, stamp: int, first: int, count: int, submitted: int) -> None:
        self.stamp = stamp
        self.first = first
        self.count = count
        self.submitted = submitted
        self.ended: int | None = None
        self.is_sure = False
        self.has_failed = False
        """The reply was an error: a part of it may be there, cut anywhere."""

    def content(self, sector: int) -> bytes:
        if not self.stamp:
            return ZEROES
        header = self.stamp.to_bytes(8, "big") + sector.to_bytes(8, "big")
        if self.stamp >= WORDY:
            return header + WORDS[(5 * self.stamp + sector) % len(WORDS)]
        return header * 32

    def data(self) -> bytes:
        return b"".join(
            self.content(sector)
            for sector in range(self.first, self.first + self.count)
        )


class _Found(HostWrite):
    """What was there after a power loss, where anything might be."""

    __slots__ = ("found",)

    def __init__(self, sector: int, found: bytes) -> None:
        super().__init__(0, sector, 1, 0)
        self.ended = 0
        self.is_sure = True
        self.found = found

    def content(self, sector: int) -> bytes:
        return self.found


Flush = tuple[object, int, dict[int, list[HostWrite]]]


class VolumeModel:
    """The sectors of one volume."""

    def __init__(self, name: str, size_bytes: int) -> None:
        self.name = name
        self.sectors = size_bytes // SECTOR
        self.zeroings = 0
        self._start = object()
        """Of what was there at a start, in one copy of the machine: in no other."""
        self._events = itertools.count(1)
        empty = HostWrite(0, 0, self.sectors, 0)
        empty.ended, empty.is_sure = 0, True
        self.visible: list[list[HostWrite]] = [[empty] for _ in range(self.sectors)]
        self.durable: list[list[HostWrite]] = [[empty] for _ in range(self.sectors)]
        self._unsettled: dict[int, None] = {}
        self._under_way: dict[HostWrite, None] = {}
        self._unanswered: dict[HostWrite, None] = {}
        """Writes of this start that were under way when their connection was lost."""

    @property
    def size_bytes(self) -> int:
        return self.sectors * SECTOR

    def grow(self, size_bytes: int) -> None:
        """Be larger: what is new reads as zeroes, until a host writes there."""
        was, self.sectors = self.sectors, size_bytes // SECTOR
        assert self.sectors >= was
        empty = HostWrite(0, was, self.sectors - was, 0)
        empty.ended, empty.is_sure = 0, True
        for _ in range(was, self.sectors):
            self.visible.append([empty])
            self.durable.append([empty])

    def submitted(self, stamp: int, first: int, count: int) -> HostWrite:
        write = HostWrite(stamp, first, count, next(self._events))
        self._under_way[write] = None
        self.zeroings += not stamp
        for sector in range(first, first + count):
            self.visible[sector].append(write)
            self.durable[sector].append(write)
            self._unsettled[sector] = None
        return write

    def replied(self, write: HostWrite, *, is_sure: bool, is_durable: bool) -> None:
        """The reply has come; `is_sure`: without an error."""
        write.ended = next(self._events)
        write.is_sure = is_sure
        self._under_way.pop(write, None)
        if not is_sure:
            write.has_failed = True
            return
        for sector in range(write.first, write.first + write.count):
            _outdate(self.visible[sector], write.submitted, keep=write)
            if is_durable:
                _outdate(self.durable[sector], write.submitted, keep=write)

    def refused(self, write: HostWrite) -> None:
        """Nothing of a write was done, ever."""
        self._under_way.pop(write, None)
        for sector in range(write.first, write.first + write.count):
            for writes in (self.visible[sector], self.durable[sector]):
                if write in writes:
                    writes.remove(write)

    def flush_submitted(self) -> Flush:
        """Return what `flushed` needs once all until now is known to be durable."""
        moment = next(self._events)
        replied = {}
        for sector in self._unsettled:
            replied[sector] = [w for w in self.visible[sector] if w.ended is not None]
        return self._start, moment, replied

    def flushed(self, flush: Flush) -> None:
        start, moment, replied = flush
        if start is not self._start:
            return  # what is there was looked at anew since
        for sector, settled in replied.items():
            if not settled:
                continue
            self.durable[sector] = [
                w
                for w in self.durable[sector]
                if w in settled or w.ended is None or w.ended > moment
            ]
            if len(self.durable[sector]) == 1 == len(self.visible[sector]):
                self._unsettled.pop(sector, None)

    def connections_lost(self, *, may_be_torn: bool) -> None:
        """Nobody will be told any more what became of the writes under way.

        `may_be_torn`: one of them may have failed, and be there in part. A daemon that
        stops has lost its connections before its threads have returned: told again at
        its end, this counts for those of then too.
        """
        moment = next(self._events)
        for write in self._under_way:
            write.ended = moment
        self._unanswered.update(self._under_way)
        self._under_way.clear()
        for write in self._unanswered:
            write.has_failed |= may_be_torn

    def copied(self) -> VolumeModel:
        """Return a copy that goes its own way; nobody waits for its writes."""
        copy = VolumeModel(self.name, self.sectors * SECTOR)
        copy.zeroings = self.zeroings
        copy._events = itertools.count(next(self._events))
        copy.visible = [list(writes) for writes in self.visible]
        copy.durable = [list(writes) for writes in self.durable]
        copy._unsettled = dict(self._unsettled)
        copy._under_way = dict(self._under_way)
        copy._unanswered = dict(self._unanswered)
        return copy

    # -- looking -----------------------------------------------------------------------

    def wrong_sectors(self, data: bytes, *, may_be_torn: bool) -> list[int]:
        """Return the sectors of an image of this instant that hold something else.

        `may_be_torn`: a write that was not answered, yet or ever, may have failed, and
        be there in part.
        """
        wrong = []
        for sector, writes in enumerate(self.visible):
            found = data[sector * SECTOR : (sector + 1) * SECTOR]
            for write in writes:
                if write.content(sector) == found or write.has_failed:
                    break
                if may_be_torn and not write.is_sure:
                    break
            else:
                wrong.append(sector)
        return wrong

    def wrong_after_power_loss(self, data: bytes) -> list[int]:
        """Return the sectors of which a flushed write would be lost."""
        wrong = []
        for sector, writes in enumerate(self.durable):
            if len(writes) > 1 or writes[0].has_failed:
                continue  # not flushed since: it may hold anything
            if (
                writes[0].content(sector)
                != data[sector * SECTOR : (sector + 1) * SECTOR]
            ):
                wrong.append(sector)
        return wrong

    def recovered(self, data: bytes, *, lost_power: bool) -> list[int]:
        """Take what a start found for what is there; return the wrong sectors.

        After a power loss a sector that was not flushed may hold anything.
        """
        self._start = object()
        self._unanswered.clear()
        wrong = []
        for sector in range(self.sectors):
            found = data[sector * SECTOR : (sector + 1) * SECTOR]
            allowed = self.durable if lost_power else self.visible
            same = [w for w in allowed[sector] if w.content(sector) == found]
            if not same:
                if not any(w.has_failed for w in allowed[sector]) and (
                    not lost_power or len(allowed[sector]) == 1
                ):
                    wrong.append(sector)
                same = [_Found(sector, found)]
            is_known = len(self.visible[sector]) == 1 and same == self.visible[sector]
            if is_known and (not lost_power or same == self.durable[sector]):
                continue
            self.visible[sector] = list(same)
            if lost_power:
                self.durable[sector] = list(same)
            else:
                # What is there may become durable, whatever else still might.
                known = self.durable[sector]
                known.extend(write for write in same if write not in known)
            self._unsettled[sector] = None
        return wrong


def _outdate(writes: list[HostWrite], moment: int, *, keep: HostWrite) -> None:
    """Drop what had ended when a write was submitted that is there now."""
    writes[:] = [w for w in writes if w is keep or w.ended is None or w.ended > moment]


def summary(sectors: Iterable[int]) -> str:
    found = list(sectors)
    return f"{len(found)} sectors, the first {found[:4]}"
