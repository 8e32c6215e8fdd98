"""The frames of one cycle in one session: numbers, digest, who waits for what. Pure.

A frame is on the ledger from the moment it has its number until PROGRESS covers it.
What went down with a link goes again under the same number.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import ProtocolError
from common.replication.cycle_messages import NeedFull, Progress
from common.replication.sequences import covered
from common.storage.flashcopy import Runs
from primary_site.drain_plan import Unit


class FrameLedger:
    """What CYCLE_END tells, and what is not acknowledged yet."""

    def __init__(self) -> None:
        self.count = 0
        """Numbers given; the next frame has this one."""
        self.digest = 0
        """The XOR of all checksums of frames that the remote will have received."""
        self._pending: dict[int, Unit] = {}

    @property
    def is_settled(self) -> bool:
        """Tell whether every frame that has a number is acknowledged."""
        return not self._pending

    def number(self, unit: Unit) -> int:
        """Return the number of a unit that goes now: its own, if it has one."""
        if unit.sequence is None:
            unit.sequence = self.count
            self.count += 1
        self._pending[unit.sequence] = unit
        return unit.sequence

    def note_sent(self, unit: Unit, checksum: int) -> None:
        """Count a frame that has been sent in the digest.

        Never `digest ^= await ...`: that reads the digest before it waits, and what
        other workers sent meanwhile would be lost from it.
        """
        if not unit.is_lost:  # else it goes again, and its checksum then counts
            unit.checksum = checksum
            self.digest ^= checksum

    def acknowledged(self, message: Progress) -> list[Unit]:
        """Take off the units of frames that are durable; raises `ProtocolError`."""
        for _, last in message.sequences:
            if last >= self.count:
                raise ProtocolError(f"PROGRESS of frame {last}, which was never sent")
        return [self._pending.pop(s) for s in covered(self._pending, message.sequences)]

    def wanted_whole(self, message: NeedFull) -> Unit:
        """Return the unit of which some tracks have to come whole, and exclude these.

        Raises `ProtocolError` where the frame did not hold them, or held them whole.
        """
        unit = self._pending.get(message.sequence)
        if unit is None or not unit.based:
            raise ProtocolError(f"NEED_FULL of frame {message.sequence}, sent whole")
        # They may come in several messages, ascending.
        end = sum(unit.excluded[-1]) if unit.excluded else 0
        for start, size in message.runs:
            if start < end or without([(start, size)], unit.based):
                raise ProtocolError("NEED_FULL of tracks that the frame did not hold")
            end = start + size
        unit.excluded = unit.excluded + list(message.runs)
        return unit

    def lost(self, sequences: Sequence[int]) -> list[Unit]:
        """Take off the units of frames that the remote never received.

        It has neither their credit used up nor their checksums in its digest.
        """
        units = [self._pending.pop(sequence) for sequence in sequences]
        for unit in units:
            unit.is_lost = True
            self.digest ^= unit.checksum
        return units


def without(runs: Runs, excluded: Runs) -> Runs:
    """Return `runs` less `excluded`; both ascending and disjoint."""
    left: Runs = []
    for first, count in runs:
        end = first + count
        for start, size in excluded:
            if start < end and start + size > first:
                if start > first:
                    left.append((first, start - first))
                first = start + size
        if first < end:
            left.append((first, end - first))
    return left
