"""What a peer that has been let in may say, in any order: the machines of a session.

Each target reads its input as steps of four bytes. Whatever the peer says, the machine
takes it, drops it, or raises `ProtocolError`, which ends the session and the input.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

from common.errors import ConnectionLostError, ProtocolError
from common.replication.control import ControlChannel
from common.replication.cycle_messages import (
    HASH_BYTES,
    Abandon,
    CycleBegin,
    CycleEnd,
    Hashes,
    Tracks,
)
from common.replication.link_messages import (
    LinksClosed,
)
from common.replication.session_messages import Noted, Resize
from primary_site.session_links import SessionLinks
from remote_site.receiver import (
    WINDOW_BYTES,
    Applied,
    Begun,
    Receiver,
    VolumeShape,
    credit_cost,
)

EPOCH = 3
COMMITTED_NUMBER, COMMITTED = 5, b"z" * 16
SHAPES = (VolumeShape(1 << 20, 4096), VolumeShape(5 * 4096 + 512, 4096))
FRAME_BYTES_UNIT = 64 << 10
STEP_BYTES = 4


def steps(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    for at in range(0, len(data) - STEP_BYTES + 1, STEP_BYTES):
        step, a, b, c = data[at : at + STEP_BYTES]
        yield step, a, b, c


class Receiving:
    """The receiver's machine, its shell's work, and what is true of the cycle."""

    def __init__(self) -> None:
        self.machine = Receiver(EPOCH, SHAPES, COMMITTED_NUMBER, COMMITTED)
        self.begun = 0
        self.number = COMMITTED_NUMBER
        self.queued: list[Tracks | Hashes] = []
        self.flushing: Applied | None = None
        self._forget()

    def _forget(self) -> None:
        self.checksums: dict[int, int] = {}
        self.applied: set[int] = set()
        self.durable: set[int] = set()

    @property
    def cycle_id(self) -> bytes:
        return self.begun.to_bytes(16, "big")

    def begin(self, a: int, b: int, c: int) -> None:
        if b % 8 == 0:
            cycle_id = COMMITTED
        elif b % 8 == 1 and c < 2:
            self.begun = max(self.begun - c, 0)
            cycle_id = self.cycle_id
        else:
            self.begun += 1
            cycle_id = self.cycle_id
        number = self.number + a % 4 - 1
        epoch = EPOCH + (b % 8 == 7)
        message = CycleBegin(epoch, number, cycle_id, 0, None)
        match self.machine.begin(message):
            case Begun.OPENED:
                assert number > COMMITTED_NUMBER
                self.number = number
                self._forget()
                self.queued.clear()  # no credit is given before they are through
            case Begun.ALREADY_COMMITTED:
                assert cycle_id == self.machine.committed_cycle_id
            case Begun.DROPPED:
                assert epoch != EPOCH or self.is_closed

    @property
    def is_closed(self) -> bool:
        return self.machine._closed

    def frame(self, a: int, b: int, c: int) -> None:
        epoch = EPOCH + (b & 0x40 > 0)
        cycle_id = b"o" * 16 if b & 0x80 else self.cycle_id
        checksum = hash((a, b, c)) & 0xFFFF
        volume = b % 3
        message: Tracks | Hashes
        if b & 0x20:
            payload = bytes(HASH_BYTES * (c % 8))
            message = Hashes(
                epoch, cycle_id, a, volume, c, c % 8, payload, checksum=checksum
            )
        else:
            raw_bytes = c * FRAME_BYTES_UNIT
            message = Tracks(epoch, cycle_id, a, volume, raw_bytes, checksum=checksum)
        before = self.machine.credit_bytes
        if not self.machine.take(message):
            return
        assert (epoch, volume < len(SHAPES)) == (EPOCH, True)
        assert a not in self.checksums, "a frame came twice"
        assert self.machine.credit_bytes == before - credit_cost(message)
        self.checksums[a] = checksum
        self.queued.append(message)

    def end(self, a: int, b: int, c: int) -> None:
        digest = functools.reduce(operator.xor, self.checksums.values(), 0)
        count = len(self.checksums) + a % 3 - (a % 16 == 0)
        if b % 4 == 0:
            digest ^= c
        self.machine.end(
            CycleEnd(EPOCH + (b == 255), self.cycle_id, max(count, 0), digest)
        )

    def abandon(self, a: int, _b: int, _c: int) -> None:
        cycle_id = b"o" * 16 if a % 4 == 0 else self.cycle_id
        if self.machine.abandon(Abandon(EPOCH, cycle_id)):
            self._forget()

    def resize(self, a: int, b: int, c: int) -> None:
        if self.machine.resize(Resize(EPOCH, a % 3, 1 << 20, 2 << 20)):
            self.machine.resized(a % 3, (b << 8 | c | 1) * 512)

    def apply(self, a: int, _b: int, _c: int) -> None:
        if not self.queued:
            return
        message = self.queued.pop(a % len(self.queued))
        self.machine.applied(message)
        if self.machine.is_current(message.epoch, message.cycle_id):
            self.applied.add(message.sequence)

    def flush(self, a: int, _b: int, _c: int) -> None:
        """Begin one, or end the one that has begun."""
        if self.flushing is None:
            self.flushing = self.machine.take_applied()
            return
        flushed, self.flushing = self.flushing, None
        if not self.machine.flushed(flushed):
            return
        for first, last in flushed.sequences:
            self.durable.update(range(first, last + 1))
        assert self.durable <= self.applied
        if a % 2:
            self.machine.take_credit()

    def commit(self, _a: int, _b: int, _c: int) -> None:
        if self.machine.is_complete:
            assert self.machine.start_commit().cycle_number == self.number
            self.machine.committed()
            self._forget()

    def close(self, a: int, _b: int, _c: int) -> None:
        if a == 0:
            self.machine.close()

    def check(self) -> None:
        machine = self.machine
        assert 0 <= machine.credit_bytes <= WINDOW_BYTES
        if machine.is_complete:
            digest = functools.reduce(operator.xor, self.checksums.values(), 0)
            assert self.durable == set(self.checksums) == set(range(len(self.durable)))
            assert machine.digest == digest


def receiver(data: bytes) -> None:
    """A sender says anything; a point comes of whole, durable cycles alone."""
    site = Receiving()
    choices: list[Callable[[int, int, int], None]] = [
        site.begin,
        site.frame,
        site.frame,
        site.frame,
        site.apply,
        site.apply,
        site.flush,
        site.flush,
        site.end,
        site.commit,
        site.abandon,
        site.resize,
        site.close,
    ]
    for step, a, b, c in steps(data):
        try:
            choices[step % len(choices)](a, b, c)
        except ProtocolError:
            return
        site.check()


class Lane:
    """A link that is only told apart from others."""

    peer = "b"
    sent_bytes = 0

    def __init__(self) -> None:
        self.number: int | None = None


class Settling:
    """The sender's links, of which some are lost, and a remote that says anything."""

    LINKS = 3
    CYCLE = b"c" * 16

    def __init__(self) -> None:
        lanes: Any = [Lane() for _ in range(self.LINKS)]

        class Paces:
            def pace(self, _: object) -> None: ...

        class Answer:
            epoch = EPOCH

        fake: Any = Paces()
        welcome: Any = Answer()
        self.links = SessionLinks(
            welcome, lanes, [], fake, fake, group="g", outlives=True
        )
        self.links._cycle_id = self.CYCLE
        self.sequence = 0
        self.durable: set[int] = set()
        self.placed: dict[int, int] = {}

    def send(self, a: int, _b: int, _c: int) -> None:
        alive = [n for n in range(self.LINKS) if n not in self.links._unresolved]
        if not alive:
            return
        self.placed[self.sequence] = alive[a % len(alive)]
        self.links._placed[self.sequence] = alive[a % len(alive)]
        self.sequence += 1

    def lose(self, a: int, _b: int, _c: int) -> None:
        if a % self.LINKS not in self.links._unresolved:
            self.links._unresolved.append(a % self.LINKS)
            self.links._turn += 1
            if a % self.LINKS == 0:
                self.links._is_moving = True
                self.links.control.hold()

    def told_durable(self, a: int, b: int, c: int) -> None:
        pairs = [(a, b), (b, a), (0, c << 50)][: c % 4]
        cycle_id = b"o" * 16 if c & 0x80 else self.CYCLE
        self.links.durable(cycle_id, pairs)
        if cycle_id == self.CYCLE:
            for first, last in pairs:
                self.durable |= {n for n in self.placed if first <= n <= last}

    def closed(self, a: int, b: int, c: int) -> None:
        turn = self.links._turn + (a % 8 == 7)
        cycle_id = (self.CYCLE, self.CYCLE, b"o" * 16, None)[a >> 6]
        ahead = ((b + 1, b + c % 4), (c, 1 << 60))[: c % 3]
        gone = set(self.links._unresolved)
        answer = LinksClosed(EPOCH, turn, c if a & 8 else 0, cycle_id, b, ahead)
        _, lost = self.links.closed(answer)
        assert lost == sorted(set(lost))
        assert not self.durable & set(lost), "durable, and sent again"
        for number in lost:
            assert self.placed.pop(number) in gone, "its link lives"
            if cycle_id == self.CYCLE:
                assert number >= b, "it has arrived, and is sent again"

    def post(self, a: int, _b: int, _c: int) -> None:
        self.links.control.post(Noted(EPOCH, bytes([a]) * 16))

    def pump(self, _a: int, _b: int, _c: int) -> None:
        self.links.control._due()

    def acknowledge(self, a: int, _b: int, _c: int) -> None:
        control: ControlChannel = self.links.control
        control.acknowledged(a % 64)
        assert control._first <= control._next <= control._first + len(control._kept)


def links(data: bytes) -> None:
    """A remote answers LINKS_LOST as it likes: nothing durable goes again."""
    site = Settling()
    choices: list[Callable[[int, int, int], None]] = [
        site.send,
        site.send,
        site.send,
        site.lose,
        site.told_durable,
        site.closed,
        site.post,
        site.pump,
        site.acknowledge,
    ]
    for step, a, b, c in steps(data):
        try:
            choices[step % len(choices)](a, b, c)
        except (ProtocolError, ConnectionLostError):
            return


def receiver_seeds() -> Iterator[bytes]:
    """Yield whole cycles, cycles cut short, and their parts in another order."""
    begin, end = bytes([0, 2, 2, 0]), bytes([8, 0 + 3, 1, 0])
    frames = [bytes([1, number, 0, 1]) for number in range(3)]
    hashes = bytes([2, 3, 0x20, 3])
    applied = bytes([4, 0, 0, 0]) * 4
    flushed = bytes([6, 1, 0, 0]) * 2
    commit = bytes([9, 0, 0, 0])
    whole = b"".join([begin, *frames, hashes, applied, flushed, end, commit])
    yield whole
    yield whole + whole
    yield b"".join([begin, *frames[::-1], end, applied, hashes, flushed, commit])
    yield b"".join([begin, frames[0], bytes([10, 1, 0, 0]), whole])
    yield b"".join([begin, *frames, begin, applied, flushed, end])
    yield b"".join([bytes([11, 0, 1, 1]), whole, bytes([12, 0, 0, 0]), whole])
    yield begin + frames[0] + applied + flushed + frames[0]


def links_seeds() -> Iterator[bytes]:
    sends = b"".join(bytes([0, link, 0, 0]) for link in (0, 1, 2, 0, 1, 2))
    post, pump = bytes([6, 5, 0, 0]), bytes([7, 0, 0, 0])
    lose, closed = bytes([3, 0, 0, 0]), bytes([5, 0, 2, 1])
    durable = bytes([4, 0, 1, 1])
    yield sends + lose + closed
    yield sends + durable + lose + closed + sends + lose + closed
    yield post + pump + post + pump + lose + bytes([5, 8, 0, 1]) + pump
    yield sends + lose + bytes([3, 1, 0, 0]) + bytes([5, 7, 2, 1]) + closed
    yield sends + bytes([4, 0, 255, 3]) + lose + bytes([5, 0x80, 1, 2])
    yield post + pump + bytes([8, 1, 0, 0]) + bytes([8, 9, 0, 0])
