"""The receiver machine: what a session may do to a group, and when.

Pure: the shell (`remote_site.session`) tells it what arrived, what was applied
and what was flushed; it says what to take, what to answer and when to commit.

    state        begin       frame        end      abandon     complete    stored
    NONE         RECEIVING   -            -        -           .           .
    RECEIVING    RECEIVING   RECEIVING    ENDING   NONE        .           .
    ENDING       .           ENDING       .        NONE        COMMITTING  .
    COMMITTING   .           .            .        COMMITTING  .           NONE

`-`: dropped, it belongs to a cycle that is gone. `.`: the peer broke the protocol.
Messages of another epoch or cycle never reach the table: they are dropped.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import ProtocolError
from common.replication.cycle_messages import (
    COVERED_BYTES_MAX,
    Abandon,
    CycleBegin,
    CycleEnd,
    Hashes,
    Tracks,
)
from common.replication.session_messages import Resize

WINDOW_BYTES = 16 << 20
"""Raw bytes that may be on their way here or not yet durable: bounds memory, and what a
lost link or a restart makes the sender send again; fills a long link."""

AHEAD_MAX = 1 << 16
"""Frames that may overtake a missing one: links differ, but not by this much."""


class CycleState(enum.Enum):
    NONE = "none"
    RECEIVING = "receiving"
    ENDING = "ending"
    COMMITTING = "committing"


class Event(enum.Enum):
    BEGIN = "begin"
    FRAME = "frame"
    END = "end"
    ABANDON = "abandon"
    COMPLETE = "complete"
    STORED = "stored"


TRANSITIONS: dict[CycleState, dict[Event, CycleState]] = {
    CycleState.NONE: {Event.BEGIN: CycleState.RECEIVING},
    CycleState.RECEIVING: {
        Event.BEGIN: CycleState.RECEIVING,
        Event.FRAME: CycleState.RECEIVING,
        Event.END: CycleState.ENDING,
        Event.ABANDON: CycleState.NONE,
    },
    CycleState.ENDING: {
        Event.FRAME: CycleState.ENDING,
        Event.ABANDON: CycleState.NONE,
        Event.COMPLETE: CycleState.COMMITTING,
    },
    CycleState.COMMITTING: {
        # Too late: the point is being made, and it is a good one.
        Event.ABANDON: CycleState.COMMITTING,
        Event.STORED: CycleState.NONE,
    },
}


class Begun(enum.Enum):
    """What became of a CYCLE_BEGIN."""

    OPENED = "opened"
    ALREADY_COMMITTED = "already_committed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class VolumeShape:
    """What frames of a volume are checked against."""

    size_bytes: int
    track_bytes: int

    @property
    def track_count(self) -> int:
        return -(-self.size_bytes // self.track_bytes)


@dataclass(frozen=True, slots=True)
class Applied:
    """Frames that a flush, begun after this was taken, makes durable."""

    cycle_id: bytes
    cycle_number: int
    sequences: tuple[tuple[int, int], ...]
    frame_count: int
    cost_bytes: int


class Sequences:
    """Numbers from 0 that arrive almost in order, each once; memory stays small."""

    def __init__(self) -> None:
        self.count = 0
        self._next = 0
        self._ahead: set[int] = set()

    @property
    def next(self) -> int:
        """The lowest number that has not arrived."""
        return self._next

    def ahead(self) -> tuple[tuple[int, int], ...]:
        """Return the numbers beyond it that have, as [first, last] pairs."""
        return ranges(tuple(self._ahead))

    def add(self, sequence: int) -> None:
        """Take a number in; a second time is a `ProtocolError`."""
        if sequence < self._next or sequence in self._ahead:
            raise ProtocolError(f"frame {sequence} came twice")
        if sequence - self._next > AHEAD_MAX:
            raise ProtocolError(f"frame {sequence} came long before {self._next}")
        self._ahead.add(sequence)
        self.count += 1
        while self._next in self._ahead:  # ends: each turn takes one away
            self._ahead.remove(self._next)
            self._next += 1


class Receiver:
    """One session's view of its group. A new session gets a new one."""

    def __init__(
        self,
        epoch: int,
        volumes: Sequence[VolumeShape],
        committed_number: int | None,
        committed_cycle_id: bytes | None,
    ) -> None:
        assert (committed_number is None) == (committed_cycle_id is None)
        self.epoch = epoch
        self.state = CycleState.NONE
        self.cycle: CycleBegin | None = None
        self.committed_number = committed_number
        self.committed_cycle_id = committed_cycle_id
        self.shapes = list(volumes)
        """In the peer's order; between two cycles one may grow."""
        self._closed = False
        self._begun: CycleBegin | None = None
        """The newest cycle begun in this session."""
        self._reset()

    def _reset(self) -> None:
        self.received = Sequences()
        self.digest = 0
        self.credit_bytes = WINDOW_BYTES
        self.durable_count = 0
        self._applied: list[int] = []
        self._applied_bytes = 0
        self._returned_bytes = 0
        self._end: CycleEnd | None = None

    # -- what the peer says ------------------------------------------------------

    def begin(self, message: CycleBegin) -> Begun:
        """Open a cycle; its frames are taken from now on, their credit is full.

        Answer OPENED with CREDIT once every applier of older cycles has returned,
        ALREADY_COMMITTED with COMMITTED.
        """
        if not self._is_mine(message.epoch):
            return Begun.DROPPED
        if message.cycle_id == self.committed_cycle_id:
            if message.cycle_number != self.committed_number:
                raise ProtocolError(
                    f"cycle {message.cycle_number} has the id of the committed "
                    f"{self.committed_number}"
                )
            return Begun.ALREADY_COMMITTED
        newest = self.committed_number
        if newest is not None and message.cycle_number <= newest:
            raise ProtocolError(
                f"cycle {message.cycle_number} is not newer than the committed {newest}"
            )
        if self._begun is not None and (
            message.cycle_number <= self._begun.cycle_number
            or message.cycle_id == self._begun.cycle_id
        ):
            # Else what is still done for the first would count for the second.
            raise ProtocolError("CYCLE_BEGIN twice for one cycle of a session")
        self._move(Event.BEGIN)
        self._reset()
        self._begun = message
        self.cycle = message
        return Begun.OPENED

    def take(self, message: Tracks | Hashes) -> bool:
        """Tell whether to queue a frame; False: it belongs to what is gone."""
        if not self.is_current(message.epoch, message.cycle_id):
            return False
        self._move(Event.FRAME)
        if message.volume >= len(self.shapes):
            raise ProtocolError(f"frame for volume {message.volume} of none such")
        if isinstance(message, Hashes):
            self._check_hashes(message)
        cost_bytes = credit_cost(message)
        if cost_bytes > self.credit_bytes:
            raise ProtocolError(f"frame {message.sequence} exceeds the credit given")
        self.received.add(message.sequence)
        self.credit_bytes -= cost_bytes
        self.digest ^= message.checksum
        if self._end is not None:
            self._check_end(self._end)
        return True

    def end(self, message: CycleEnd) -> bool:
        """Note that all frames were sent; tell whether it was for this cycle."""
        if not self.is_current(message.epoch, message.cycle_id):
            return False
        self._move(Event.END)
        self._end = message
        self._check_end(message)
        return True

    def abandon(self, message: Abandon) -> bool:
        """Forget the cycle; queued frames of it are not to be applied any more."""
        if not self.is_current(message.epoch, message.cycle_id):
            return False
        self._move(Event.ABANDON)
        if self.state is CycleState.NONE:
            self.cycle = None
            self._reset()
        return True

    def resize(self, message: Resize) -> bool:
        """Tell whether a volume is to grow now; False: it is another session's."""
        if not self._is_mine(message.epoch):
            return False
        if message.volume >= len(self.shapes):
            raise ProtocolError(f"RESIZE of volume {message.volume} of none such")
        if self.state is not CycleState.NONE:
            raise ProtocolError("RESIZE within a cycle: a cut has one size")
        return True

    def resized(self, volume: int, size_bytes: int) -> None:
        """It is durable: frames of the next cycle are checked against the new size."""
        track_bytes = self.shapes[volume].track_bytes
        self.shapes[volume] = VolumeShape(size_bytes, track_bytes)

    # -- what the shell has done ---------------------------------------------------

    def applied(self, message: Tracks | Hashes) -> None:
        """A frame taken earlier is on the secondary volume, not yet durable."""
        if self.is_current(message.epoch, message.cycle_id):
            self._applied.append(message.sequence)
            self._applied_bytes += credit_cost(message)

    def take_credit(self) -> int:
        """Return the bytes of credit to give back now; 0: none.

        That is of frames which are durable. Tell the peer after the PROGRESS that
        names them: then what it has sent and not seen acknowledged never exceeds the
        window, and no more is ever sent again.
        """
        given, self._returned_bytes = self._returned_bytes, 0
        self.credit_bytes += given
        assert self.credit_bytes <= WINDOW_BYTES
        return given

    def take_applied(self) -> Applied | None:
        """Return what a flush begun now will cover; None: nothing is waiting."""
        if self.cycle is None or not self._applied:
            return None
        taken, self._applied = self._applied, []
        cost_bytes, self._applied_bytes = self._applied_bytes, 0
        cycle = self.cycle
        return Applied(
            cycle.cycle_id, cycle.cycle_number, ranges(taken), len(taken), cost_bytes
        )

    def flushed(self, applied: Applied) -> bool:
        """Tell whether what was flushed is to be acknowledged."""
        if not self.is_current(self.epoch, applied.cycle_id):
            return False
        assert self.cycle is not None
        if self.cycle.cycle_number != applied.cycle_number:
            return False
        self.durable_count += applied.frame_count
        self._returned_bytes += applied.cost_bytes
        return True

    @property
    def is_complete(self) -> bool:
        """Tell whether to commit: all frames came, match the digest, are durable."""
        return (
            self.state is CycleState.ENDING
            and self._end is not None
            and self.durable_count == self._end.frame_count
            and self.received.count == self._end.frame_count
            and self.digest == self._end.digest
        )

    def start_commit(self) -> CycleBegin:
        """Return the cycle to commit; from here on nothing stops it."""
        assert self.is_complete
        assert self.cycle is not None
        self._move(Event.COMPLETE)
        return self.cycle

    def committed(self) -> None:
        """The recovery point is durable."""
        assert self.cycle is not None
        self._move(Event.STORED)
        self.committed_number = self.cycle.cycle_number
        self.committed_cycle_id = self.cycle.cycle_id
        self.cycle = None
        self._reset()

    def close(self) -> None:
        """Take nothing more: the session is superseded or over."""
        self._closed = True

    def is_current(self, epoch: int, cycle_id: bytes) -> bool:
        """Tell whether a message is of this session and its present cycle."""
        return (
            self._is_mine(epoch)
            and self.cycle is not None
            and self.cycle.cycle_id == cycle_id
        )

    def _is_mine(self, epoch: int) -> bool:
        return not self._closed and epoch == self.epoch

    def _move(self, event: Event) -> None:
        after = TRANSITIONS[self.state].get(event)
        if after is None:
            raise ProtocolError(f"{event.value} while {self.state.value}")
        self.state = after

    def _check_hashes(self, message: Hashes) -> None:
        shape = self.shapes[message.volume]
        if message.first + message.count > shape.track_count:
            raise ProtocolError("HASHES of tracks beyond the volume's end")
        if message.count * shape.track_bytes > COVERED_BYTES_MAX:
            raise ProtocolError("HASHES: one frame covers too much")

    def _check_end(self, end: CycleEnd) -> None:
        if self.received.count > end.frame_count:
            raise ProtocolError("more frames came than CYCLE_END counts")
        if self.received.count == end.frame_count and (
            self.digest != end.digest or self.received.next != end.frame_count
        ):
            raise ProtocolError("the frames received are not those that were sent")


def credit_cost(message: Tracks | Hashes) -> int:
    """Return the credit a frame uses, in raw bytes."""
    if isinstance(message, Tracks):
        return message.raw_bytes
    return len(message.payload)


def ranges(sequences: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return [first, last] pairs, ascending, that hold exactly these numbers."""
    pairs: list[tuple[int, int]] = []
    for sequence in sorted(sequences):
        if pairs and pairs[-1][1] == sequence - 1:
            pairs[-1] = (pairs[-1][0], sequence)
        else:
            pairs.append((sequence, sequence))
    return tuple(pairs)
