"""Several clients of one export, in any order of events, against a model.

Real sockets and the real server, but one loop and a volume that runs a request
when it is told to, so that each step is the same each time. The model is a plain
array of bytes. What must hold: every answer is what the model says at the moment
the request ran; each cookie is answered once; bounds are kept; nothing of a dead
connection runs after a newer one's; everything is released once.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import socket
import struct
import tempfile
import termios
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from common.nbd.server import NbdLimits, NbdServer
from common.ports import HostRequest
from tests.support import nbd_wire as wire
from tests.support.memory_volume import MemoryExports, MemoryVolume
from tests.support.nbd_wire import SERVED, Form, Replies

SIZE = 24 << 10
PAYLOAD_MAX = 8 << 10
CONNECTIONS = 4
PIPE_BYTES = 4 << 10
QUIET_TURNS = 8
"""Turns of the loop in which nothing moves before all is taken to have settled."""


@dataclass(frozen=True)
class Asked:
    """One request as it was sent."""

    command: int
    flags: int
    offset: int
    length: int
    fill: int
    form: Form

    @property
    def payload(self) -> bytes:
        if self.command != wire.WRITE:
            return b""
        return bytes((self.fill + n) % 251 for n in range(self.length))

    def error(self) -> int:
        """Return what is wrong with it, 0 if it is to run or has nothing to do."""
        flags = wire.FUA
        if self.command == wire.READ and self.form is not Form.SIMPLE:
            flags |= wire.DF
        if self.command == wire.ZEROES:
            flags |= wire.NO_HOLE
        if self.command == wire.STATUS:
            flags |= wire.REQ_ONE
        if self.command > wire.STATUS or self.flags & ~flags:
            return wire.EINVAL
        if self.command == wire.FLUSH:
            return 0
        if self.command == wire.STATUS and (
            self.form is Form.SIMPLE or not self.length
        ):
            return wire.EINVAL
        if self.offset + self.length > SIZE:
            is_full = self.command in {wire.WRITE, wire.ZEROES}
            wraps = self.offset + self.length >= 2**64
            return wire.ENOSPC if is_full and not wraps else wire.EINVAL
        too_long = self.length > PAYLOAD_MAX and self.command <= wire.WRITE
        if too_long and self.command == wire.READ and self.form is not Form.SIMPLE:
            return wire.EOVERFLOW
        return wire.EINVAL if too_long else 0

    def runs(self) -> bool:
        """Tell whether the volume gets to see it."""
        return not self.error() and (self.length > 0 or self.command == wire.FLUSH)

    def sent(self, cookie: int) -> bytes:
        flags = self.flags
        if self.form.is_extended and self.command == wire.WRITE:
            flags |= wire.PAYLOAD_LEN
        return wire.request(
            self.form,
            self.command,
            self.offset,
            self.length,
            flags=flags,
            cookie=cookie,
            payload=self.payload,
        )


class Volume(MemoryVolume):
    """Runs what it is told to run, and tells what it ran."""

    def __init__(self) -> None:
        super().__init__(SIZE, held=True)
        self.fault = 0
        self.durable_changes = 0

    def release(self) -> None:
        # Others may have it open, and requests in flight.
        self.released_count += 1
        assert self.released_count <= self.opened_count

    def _run(self, request: HostRequest) -> None:
        self.errno_of = {request.command: self.fault} if self.fault else {}
        super()._run(request)
        if request.command in CHANGES and not request.error:
            self.durable_changes += request.fua


def cookie_of(request: HostRequest) -> int:
    """Return the client's cookie, which a BLOCK_STATUS has among other things."""
    cookie: Any = request.cookie
    return int(cookie if isinstance(cookie, int) else cookie[0])


@dataclass
class Client:
    """One connection, seen from the client; nothing here waits."""

    number: int
    form: Form
    socket: socket.socket
    after: set[int]
    """Ended connections of which something still ran when this one came."""
    pending: bytearray = field(default_factory=bytearray)
    asked: dict[int, Asked] = field(default_factory=dict)
    expected: dict[int, int | bytes] = field(default_factory=dict)
    wire_asked: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)
    answered: int = 0
    handshaken: bool = False
    is_reading: bool = True
    is_leaving: bool = False
    has_hung_up: bool = False
    """Its end of the stream shows that it sends nothing more; DISC may be unread."""
    is_gone: bool = False
    _shaken: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.replies = Replies(self.form, self.wire_asked)
        contexts = () if self.form is Form.SIMPLE else ("base:allocation",)
        self.pending += wire.handshake(self.form, "g/v", *contexts)

    def ask(self, asked: Asked) -> bytes:
        cookie = self.number << 32 | len(self.asked)
        self.asked[cookie] = asked
        self.wire_asked[cookie] = (
            asked.command,
            asked.flags,
            asked.offset,
            asked.length,
        )
        if not asked.runs():
            self.expected[cookie] = asked.error()
        return asked.sent(cookie)

    def push(self) -> bool:
        """Send what the socket takes; tell whether anything went."""
        if not self.pending or self.is_gone:
            return False
        try:
            count = self.socket.send(self.pending)
        except BlockingIOError:
            return False
        except ConnectionError:
            assert self.is_leaving
            self.pending.clear()
            return True
        del self.pending[:count]
        return bool(count)

    def pull(self) -> bool:
        """Take what the server said; tell whether it said anything."""
        if not self.is_reading or self.is_gone:
            return False
        try:
            received = self.socket.recv(1 << 16)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            received = b""
        if not received:
            assert self.is_leaving, "the server hung up on a good client"
            assert not self._shaken
            self.close()
        elif self.handshaken:
            self._check(received)
        else:
            self._shake(received)
        return True

    def unread_bytes(self) -> int:
        """Return how much of what was sent the server has not read."""
        if self.is_gone:
            return 0
        raw = fcntl.ioctl(self.socket, termios.TIOCOUTQ, bytes(4))
        return int(struct.unpack("i", raw)[0])

    def close(self) -> None:
        self.is_gone = self.is_leaving = True
        self.socket.close()

    def _shake(self, received: bytes) -> None:
        self._shaken += received
        data, at = bytes(self._shaken), len(wire.GREETING)
        while len(data) >= at + 20:
            number, kind, length = struct.unpack_from(">III", data, at + 8)
            at += 20 + length
            assert kind < wire.ERR_UNSUP, (number, kind)
            if (number, kind) == (wire.GO, wire.ACK):
                self.handshaken = True
                self._shaken.clear()
                self._check(data[at:])
                return

    def _check(self, received: bytes) -> None:
        for cookie in self.replies.feed(received):
            reply = self.replies.found[cookie]
            assert cookie in self.expected, "answered before it ran"
            expected = self.expected.pop(cookie)
            self.answered += 1
            asked = self.asked[cookie]
            if isinstance(expected, int):
                assert reply.error == expected, asked
                assert not reply.runs
            else:
                assert reply.error == 0
                assert reply.data(asked.offset, asked.length) == expected
            if asked.command == wire.STATUS and not reply.error:
                ((first, _), *_) = next(iter(reply.extents.values()))
                assert 0 < first <= asked.length


REAL_COMMANDS = [command for command in range(wire.STATUS + 1) if command != wire.DISC]
CHANGES = {wire.WRITE, wire.TRIM, wire.ZEROES}
sizes = st.one_of(
    st.integers(0, 700), st.sampled_from([4096, PAYLOAD_MAX, PAYLOAD_MAX + 1])
)
places = st.one_of(
    st.integers(0, SIZE - 1), st.sampled_from([0, SIZE, SIZE - 4096, 2**64 - 1])
)
said = st.tuples(
    st.sampled_from([*REAL_COMMANDS, wire.READ, wire.WRITE, wire.WRITE, 9]),
    st.sampled_from([0, 0, 0, wire.FUA, wire.NO_HOLE, wire.DF, wire.REQ_ONE, 1 << 15]),
    places,
    sizes,
    st.integers(0, 250),
)


class NbdMachine(RuleBasedStateMachine):
    """One server, one export, up to four clients at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory(prefix="nbd")
        self.volume = Volume()
        self.exports = MemoryExports({"g/v": self.volume})
        self.clients: list[Client] = []
        self.by_number: dict[int, Client] = {}
        self.content = bytearray(SIZE)
        self.flushes = self.fuas = 0

    @initialize(
        requests=st.integers(1, 6),
        in_flight=st.sampled_from([1, 5000, 20_000, 1 << 20]),
        all_in_flight=st.sampled_from([1, 5000, 20_000, 1 << 20]),
        queued=st.sampled_from([1, 5000, 1 << 20]),
    )
    def start(
        self, requests: int, in_flight: int, all_in_flight: int, queued: int
    ) -> None:
        self.limits = NbdLimits(
            requests_in_flight_max=requests,
            bytes_in_flight_max=in_flight,
            daemon_bytes_in_flight_max=all_in_flight,
            payload_bytes_max=PAYLOAD_MAX,
            payload_bytes_drained_max=SIZE,
            receive_buffers_max=1,
            write_buffer_bytes_max=queued,
        )
        self.server = NbdServer(self.exports, self.limits)
        path = str(Path(self.directory.name) / "s")
        self.path = path
        self.loop.run_until_complete(self.server.listen([f"unix:{path}"]))

    @precondition(lambda self: len(self.alive()) < CONNECTIONS)
    @rule(form=st.sampled_from(SERVED), hasty=st.lists(said, max_size=2))
    def connect(self, form: Form, hasty: list[tuple[int, ...]]) -> None:
        connection = socket.socket(socket.AF_UNIX)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIPE_BYTES)
        connection.connect(self.path)
        connection.setblocking(False)
        running = {cookie_of(r) >> 32 for r, _ in self.volume.waiting}
        number = len(self.by_number) + 1
        after = {n for n in running if self.by_number[n].has_hung_up}
        client = Client(number, form, connection, after)
        self.by_number[number] = client
        self.clients.append(client)
        for one in hasty:
            client.pending += client.ask(asked_by(client, one))
        self.settle()
        assert client.handshaken

    @precondition(lambda self: self.talking())
    @rule(data=st.data(), wanted=st.lists(said, min_size=1, max_size=6))
    def send(self, data: st.DataObject, wanted: list[tuple[int, ...]]) -> None:
        client = data.draw(st.sampled_from(self.talking()))
        for one in wanted:
            client.pending += client.ask(asked_by(client, one))
        # The network cuts here: the first part is dealt with before the rest comes.
        kept = data.draw(st.integers(0, len(client.pending)))
        rest = client.pending[kept:]
        del client.pending[kept:]
        self.settle()
        client.pending += rest
        self.settle()

    @precondition(lambda self: self.volume.waiting)
    @rule(data=st.data(), fault=st.sampled_from([0, 0, 0, errno.EIO, errno.EDQUOT]))
    def run_one(self, data: st.DataObject, fault: int) -> None:
        waiting = self.volume.waiting
        index = data.draw(st.integers(0, len(waiting) - 1))
        waiting.insert(0, waiting.pop(index))
        self.step(fault)
        self.settle()

    @precondition(lambda self: self.volume.waiting)
    @rule()
    def run_all_that_wait(self) -> None:
        for _ in range(len(self.volume.waiting)):
            self.step(0)
        self.settle()

    @precondition(lambda self: self.talking())
    @rule(data=st.data())
    def stop_or_go_on_reading(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.talking()))
        client.is_reading = not client.is_reading
        self.settle()

    @precondition(lambda self: self.talking())
    @rule(data=st.data(), how=st.sampled_from(["abort", "disc", "half"]))
    def leave(self, data: st.DataObject, how: str) -> None:
        client = data.draw(st.sampled_from(self.talking()))
        client.is_leaving = client.is_reading = True
        if how == "disc":
            client.pending += wire.request(client.form, wire.DISC, 0, 0)
        elif how == "half":
            client.has_hung_up = True
            client.socket.shutdown(socket.SHUT_WR)
            client.pending.clear()
        else:
            client.has_hung_up = True
            client.close()
        self.settle()

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert self.volume.content == self.content
        assert self.volume.flush_count == self.flushes

    @invariant()
    def bounds_are_kept(self) -> None:
        if not self.by_number:
            return
        total = 0
        for number, held in self.in_flight().items():
            assert len(held) <= self.limits.requests_in_flight_max, number
            sized = [r.length for r in held if r.command <= wire.WRITE]
            total += sum(sized)
            is_alone = len(sized) == 1
            assert sum(sized) <= self.limits.bytes_in_flight_max or is_alone

    @invariant()
    def nothing_runs_along_with_what_a_dead_connection_left(self) -> None:
        running = self.in_flight()
        assert len(running) <= self.volume.opened_count - self.volume.released_count
        for number in running:
            assert not self.by_number[number].after & running.keys()

    def teardown(self) -> None:
        try:
            if hasattr(self, "server"):
                self.finish()
        finally:
            for client in self.clients:
                client.socket.close()
            if hasattr(self, "server"):
                self.loop.run_until_complete(self.tear_down())
            self.loop.close()
            self.directory.cleanup()

    async def tear_down(self) -> None:
        """Let go of everything, whatever state a failure left."""
        self.volume.held = False
        while self.volume.waiting:
            self.volume.step()
        await self.server.close(grace_seconds=0)
        for _ in range(QUIET_TURNS):
            await asyncio.sleep(0)

    def finish(self) -> None:
        """Let all that was sent run; say goodbye; nothing may be left over."""
        for client in self.alive():
            client.is_reading = True
        self.settle()
        while self.volume.waiting:
            self.run_all_that_wait()
        for client in self.talking():
            assert not client.expected
            assert client.answered == len(client.asked)
            client.is_leaving = True
            client.pending += wire.request(client.form, wire.DISC, 0, 0)
        self.settle()
        while self.volume.waiting:
            self.run_all_that_wait()
        assert all(client.is_gone for client in self.clients)
        assert self.volume.opened_count == len(self.by_number)
        assert self.exports.all_released()
        assert self.server.connection_count == 0
        assert self.server.budget.pool_held_bytes == 0
        assert self.server.budget.waiting_count == 0
        self.holds_what_the_model_holds()
        assert self.volume.durable_changes == self.fuas

    # What the rules are made of

    def alive(self) -> list[Client]:
        return [client for client in self.clients if not client.is_gone]

    def talking(self) -> list[Client]:
        return [client for client in self.clients if not client.is_leaving]

    def in_flight(self) -> dict[int, list[HostRequest]]:
        found: dict[int, list[HostRequest]] = {}
        for request, _ in self.volume.waiting:
            found.setdefault(cookie_of(request) >> 32, []).append(request)
        return found

    def step(self, fault: int) -> None:
        """Run the first request that waits, in the model and in the volume."""
        request, _ = self.volume.waiting[0]
        cookie = cookie_of(request)
        client = self.by_number[cookie >> 32]
        asked = client.asked[cookie]
        assert asked.runs()
        assert cookie not in client.expected, "it ran twice"
        client.expected[cookie] = self.answer(asked, fault)
        self.volume.fault = fault
        self.loop.run_until_complete(self.step_on_loop())

    async def step_on_loop(self) -> None:
        self.volume.step()

    def answer(self, asked: Asked, fault: int) -> int | bytes:
        """Do to the model what was asked; return what is to be answered."""
        if fault:
            return {errno.EIO: wire.EIO, errno.EDQUOT: wire.ENOSPC}[fault]
        stop = asked.offset + asked.length
        if asked.command in CHANGES:
            self.fuas += asked.flags & wire.FUA
        match asked.command:
            case wire.READ:
                return bytes(self.content[asked.offset : stop])
            case wire.WRITE:
                self.content[asked.offset : stop] = asked.payload
            case wire.TRIM | wire.ZEROES:
                self.content[asked.offset : stop] = bytes(asked.length)
            case wire.FLUSH:
                self.flushes += 1
        return 0

    def settle(self) -> None:
        self.loop.run_until_complete(self.settled())

    async def settled(self) -> None:
        """Turn the loop until nothing moves any more."""
        quiet, before = 0, None
        while quiet < QUIET_TURNS:
            moved = [client.push() | client.pull() for client in self.alive()]
            await asyncio.sleep(0)
            now = (
                [client.unread_bytes() for client in self.alive()],
                len(self.volume.waiting),
                self.server.connection_count,
            )
            quiet = 0 if any(moved) or now != before else quiet + 1
            before = now


def asked_by(client: Client, one: tuple[int, ...]) -> Asked:
    command, flags, offset, length, fill = one
    return Asked(command, flags, offset, length, fill, client.form)


NbdMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestSeveralClients = NbdMachine.TestCase
