"""Old writes of clients whose end cannot be seen, and clients that only seem gone."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import select
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.nbd import replies
from common.nbd.addresses import Listening
from common.nbd.limits import NbdLimits
from common.nbd.liveness import (
    LOOK_SECONDS_MIN,
    Ask,
    Life,
    Told,
    ask_socket,
    has_hung_up,
    unacknowledged_bytes,
)
from common.nbd.outcome import Agreed
from common.nbd.protocol import OFFSET_DATA, Command, NbdError, WireForm
from common.nbd.server import NbdSecurity, NbdServer
from common.nbd.transmission import Transmission
from common.ports import HostCommand
from tests.support.certificates import Certificates
from tests.support.hostile_clients import Ending, StoppingClient, end_client, request
from tests.support.memory_volume import MemoryExports, MemoryVolume
from tests.support.nbd_client import NbdClient, NbdReplyError
from tests.support.nbd_server import until
from tests.support.tls_client import connect_tls

pytestmark = pytest.mark.usefixtures("no_loop_complaints")

KIB = 1 << 10
MIB = 1 << 20
DEPTH = 4
OLD = b"old!" * (16 * KIB)
"""One write of a client that dies; many of them fill every buffer on the way."""


@dataclass
class Serving:
    server: NbdServer
    volume: MemoryVolume
    folder: Path

    def address(self, kind: str) -> str:
        return next(a for a in self.server.addresses if a.startswith(kind))

    async def client(self, kind: str = "tcp", form: str = "structured") -> NbdClient:
        if kind == "tls":
            return await connect_tls(self.address("tls"), self.folder, "g/v")
        return await NbdClient.connect(
            self.address(kind),
            "g/v",
            structured=form == "structured",
            extended=form == "extended",
        )

    async def raw_client(self) -> StoppingClient:
        client = StoppingClient(self.address("tcp"))
        await asyncio.to_thread(client.go, "g/v")
        return client

    def old_writes(self) -> int:
        """How many of the dying client's were ever submitted."""
        return sum(
            r.command == HostCommand.WRITE and r.length == len(OLD)
            for batch in self.volume.submitted
            for r in batch
        )

    async def turns(self) -> None:
        """Give the server time for what it should not do."""
        other = await NbdClient.connect(self.address("unix"), "g/other")
        for _ in range(100):
            await other.read(0, 1)
        await other.disconnect()


@contextlib.asynccontextmanager
async def serving(
    tmp_path: Path, limits: NbdLimits | None = None
) -> AsyncIterator[Serving]:
    certificates = Certificates(tmp_path)
    security = NbdSecurity(Listening(has_tls=True), certificates.server())
    volume = MemoryVolume(8 * MIB, held=True)
    volume.keeps_submitted = True
    exports = MemoryExports({"g/v": volume, "g/other": MemoryVolume(MIB)})
    limits = limits or NbdLimits(requests_in_flight_max=DEPTH)
    server = NbdServer(exports, limits, security)
    await server.listen(
        ["tcp:127.0.0.1:0", "tls:127.0.0.1:0", f"unix:{tmp_path / 'nbd.sock'}"]
    )
    try:
        yield Serving(server, volume, certificates.client("host.test"))
    finally:
        volume.held = False
        volume.step(len(volume.waiting))
        await server.close(grace_seconds=1.0)
    await until(lambda: server.connection_count == 0)
    assert exports.all_released()


def fill(client: StoppingClient) -> None:
    """Send whole old writes until not even the system takes any more."""
    client.socket.setblocking(False)
    wire = b"".join(request(Command.WRITE, 0, len(OLD), OLD) for _ in range(16))
    with contextlib.suppress(BlockingIOError):
        while True:
            sent = client.socket.send(wire)
            wire = wire[sent:] + wire[:sent]


async def finish(served: Serving, *futures: asyncio.Future[None]) -> None:
    """Step the volume, the newest request first, until all is answered."""
    while not all(future.done() for future in futures):
        if served.volume.waiting:
            served.volume.step(last=True)
        await asyncio.sleep(0)
    for future in futures:
        await future


def server_side(served: Serving) -> socket.socket:
    """The server's socket of its only connection to the volume."""
    transport = open_connection(served)._transport
    found: socket.socket = transport.get_extra_info("socket")
    return found


def is_readable(connection: socket.socket) -> bool:
    return bool(select.select([connection.fileno()], [], [], 0)[0])


def open_connection(served: Serving) -> Transmission:
    (hosts,) = served.server._hosts
    (transmission,) = hosts._open
    return transmission


class TestHiddenEnds:
    async def test_unread_writes_of_a_dead_client_never_run_after_newer_ones(
        self, tmp_path: Path
    ) -> None:
        async with serving(tmp_path) as served:
            dying = await served.raw_client()
            fill(dying)
            await until(lambda: len(served.volume.waiting) == DEPTH)
            fill(dying)
            dying.socket.close()
            assert not has_hung_up(server_side(served)), "nothing is hidden"
            new = await served.client()
            writes = [new.write(n * 4096, b"new") for n in range(20)]
            await served.turns()
            assert len(served.volume.waiting) == DEPTH, "it did not wait"
            await finish(served, *writes)
            await until(lambda: served.volume.released_count >= 1)
            assert served.old_writes() == DEPTH
            for n in range(16):
                assert served.volume.content[n * 4096 :][:3] == b"new"
            new.abort()

    async def test_writes_that_wait_for_memory_are_dropped_when_it_comes(
        self, tmp_path: Path
    ) -> None:
        """Nothing is in flight, so that nobody waits and no reply is on the way."""
        limits = NbdLimits(daemon_bytes_in_flight_max=MIB, connections_max=64)
        async with serving(tmp_path, limits) as served:
            hog = await served.client("unix")
            hogged = [hog.write(4 * MIB, bytes(MIB)) for _ in range(2)]
            await until(lambda: len(served.volume.waiting) == 1)
            dying = await served.raw_client()
            fill(dying)
            await until(lambda: served.server.budget.waiting_count == 2)
            fill(dying)
            dying.socket.close()
            new = await served.client()
            write = new.write(0, b"new")
            await until(lambda: len(served.volume.waiting) == 2)
            await finish(served, write, *hogged)
            await until(lambda: served.volume.released_count == 1)
            assert served.old_writes() == 0
            assert served.volume.content[:3] == b"new"
            new.abort()
            hog.abort()

    async def test_a_dead_client_is_known_though_many_came_before_it_died(
        self, tmp_path: Path
    ) -> None:
        """What may be sent of one reply ahead is used up by then."""
        async with serving(tmp_path) as served:
            dying = await served.raw_client()
            fill(dying)
            await until(lambda: len(served.volume.waiting) == DEPTH)
            others = []
            for n in range(6):
                others.append(await served.client())
                if n < 4:  # the proof lets it go before the old ones end
                    read = others[-1].read(4096, 1)
                    await until(lambda: len(served.volume.waiting) == DEPTH + 1)
                    served.volume.step(last=True)
                    await read
            assert await asyncio.to_thread(dying.take, 4) == replies.start(
                WireForm.STRUCTURED
            )
            fill(dying)
            dying.socket.close()
            new = await served.client()
            write = new.write(0, b"new")
            await served.turns()
            assert len(served.volume.waiting) == DEPTH, "it did not wait"
            await finish(served, write)
            await until(lambda: served.volume.released_count >= 1)
            assert served.old_writes() == DEPTH
            assert served.volume.content[:3] == b"new"
            for other in [*others, new]:
                other.abort()

    async def test_a_dead_client_behind_tls_is_known_too(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as served:
            dying = await served.client("tls")
            left = [dying.write(0, OLD) for _ in range(600)]
            (relay,) = served.server._relays
            await until(lambda: len(served.volume.waiting) == DEPTH)
            await until(lambda: not relay._encrypted.is_reading())
            end_client(dying, Ending.CLOSE)
            new = await served.client("tls")
            write = new.write(0, b"new")
            await served.turns()
            assert len(served.volume.waiting) == DEPTH, "it did not wait"
            await finish(served, write)
            await until(lambda: served.volume.released_count >= 1)
            assert served.old_writes() == DEPTH
            assert served.volume.content[:3] == b"new"
            new.abort()
            await asyncio.gather(*left, return_exceptions=True)

    @pytest.mark.parametrize("kind", ["unix", "tcp"])
    async def test_one_that_said_goodbye_unread_is_answered_and_not_reset(
        self, tmp_path: Path, kind: str
    ) -> None:
        """What lies unread when a socket is closed turns its end into an error."""
        async with serving(tmp_path) as served:
            leaving = StoppingClient(served.address(kind))
            await asyncio.to_thread(leaving.go, "g/v")
            for _ in range(DEPTH):
                leaving.send(request(Command.READ, 0, 1))
            await until(lambda: len(served.volume.waiting) == DEPTH)
            for _ in range(DEPTH):
                leaving.send(request(Command.READ, 0, 1))
            leaving.send(request(Command.DISC, 0, 0))
            await until(lambda: is_readable(server_side(served)))
            leaving.socket.shutdown(socket.SHUT_WR)
            await until(lambda: has_hung_up(server_side(served)))
            new = await served.client(kind)
            (hosts,) = served.server._hosts
            await until(lambda: len(hosts._open) == 2)
            served.volume.held = False
            served.volume.step(DEPTH)
            replies_bytes = DEPTH * (OFFSET_DATA.size + 1)
            await asyncio.to_thread(leaving.take, replies_bytes)
            assert await asyncio.to_thread(leaving.socket.recv, 1) == b""
            leaving.socket.close()
            await new.disconnect()


class TestLivingClients:
    @pytest.mark.parametrize("form", ["simple", "structured", "extended"])
    @pytest.mark.parametrize("kind", ["unix", "tcp", "tls"])
    async def test_one_that_attaches_once_more_goes_on_with_all_it_has(
        self, tmp_path: Path, kind: str, form: str
    ) -> None:
        async with serving(tmp_path) as served:
            served.volume.errno_of[HostCommand.CACHE] = errno.EIO
            first = await served.client(kind, form)
            writes = [first.write(n, b"first") for n in range(4 * DEPTH)]
            wrong = [first.cache(0, 512) for _ in range(2 * DEPTH)]
            reads = [first.read(1 << 20, 5) for _ in range(4 * DEPTH)]
            await until(lambda: len(served.volume.waiting) == DEPTH)
            transmission = open_connection(served)
            second = await served.client(kind, form)
            if kind == "unix":
                assert transmission._precedence.doubt is None, (
                    "its life is known at once"
                )
            write = second.write(1 << 22, b"second")
            # Its client lives, so that nothing of it needs to end first.
            if kind != "unix":
                await until(lambda: len(served.volume.waiting) == DEPTH + 1)
            third = await served.client(kind, form)
            flush = third.flush()
            await finish(served, write, flush, *writes)
            served.volume.held = False
            served.volume.step(len(served.volume.waiting))
            for read in reads:
                assert await read == bytes(5)
            for refused in wrong:
                with pytest.raises(NbdReplyError) as told:
                    await refused
                assert told.value.number == NbdError.EIO
            for client in (first, second, third):
                await client.write(0, b"on it goes")
                await client.disconnect()

    @pytest.mark.parametrize("form", ["simple", "structured", "extended"])
    @pytest.mark.parametrize("command", ["write", "cache", "read"])
    async def test_an_idle_one_proves_itself_with_its_next_request(
        self, tmp_path: Path, form: str, command: str
    ) -> None:
        async with serving(tmp_path) as served:
            served.volume.held = False
            served.volume.errno_of[HostCommand.CACHE] = errno.EIO
            first = await served.client("tcp", form)
            second = await served.client("tcp", form)
            for client in (second, first, first):
                if command == "write":
                    await client.write(0, bytes(2 * MIB))
                elif command == "read":
                    assert await client.read(0, 2) == bytes(2)
                else:
                    with pytest.raises(NbdReplyError):
                        await client.cache(0, 512)
            await first.disconnect()
            await second.disconnect()

    async def test_many_that_come_at_once_keep_none_out(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as served:
            served.volume.held = False
            first = await served.client()

            async def attach(number: int) -> None:
                client = await served.client()
                for turn in range(20):
                    await client.write(number * 4096 + turn, b"x")
                await client.disconnect()

            coming = asyncio.gather(*(attach(number) for number in range(16)))
            while not coming.done():
                await asyncio.gather(*(first.write(n, b"f") for n in range(3 * DEPTH)))
            await coming
            await first.disconnect()


@pytest.mark.needs_package("nbdcopy", "qemu-img")
class TestOtherPeoplesClients:
    """They get the beginning of a reply ahead of its rest, again and again."""

    async def attach_while(
        self, served: Serving, process: asyncio.subprocess.Process
    ) -> int:
        done = asyncio.ensure_future(process.communicate())
        count = 0
        while not done.done():
            # Done after a first request, so that it was doubted itself.
            client = await served.client()
            await client.flush()
            await client.disconnect()
            count += 1
        output, _ = await done
        assert process.returncode == 0, output
        return count

    async def test_nbdcopy_goes_on_however_many_attach(self, tmp_path: Path) -> None:
        content = random.Random(1).randbytes(8 * MIB)
        (tmp_path / "in").write_bytes(content)
        async with serving(tmp_path) as served:
            served.volume.held = False
            uri = served.address("tcp").replace("tcp:", "nbd://") + "/g/v"
            for source, target in (("in", uri), (uri, "out")):
                process = await asyncio.create_subprocess_exec(
                    *("nbdcopy", "--connections=4", "--requests=64"),
                    *("--request-size=4096", source, target),
                    cwd=tmp_path,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                )
                assert await self.attach_while(served, process) > 5
            assert served.volume.content == content
            assert (tmp_path / "out").read_bytes() == content

    async def test_qemu_goes_on_however_many_attach(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as served:
            served.volume.held = False
            uri = served.address("tcp").replace("tcp:", "nbd://") + "/g/v"
            process = await asyncio.create_subprocess_exec(
                *("qemu-img", "bench", "-w", "-f", "raw", "-d", "16", "-c", "1000"),
                *("-s", "4096", "--pattern=170", "--flush-interval=1000", uri),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            assert await self.attach_while(served, process) > 5
            assert served.volume.content[: 1000 * 4096] == b"\xaa" * (1000 * 4096)


class TestOneThatNeverReads:
    async def test_it_keeps_no_other_out_and_goes_on_when_it_reads(
        self, tmp_path: Path
    ) -> None:
        limits = NbdLimits(requests_in_flight_max=DEPTH, write_buffer_bytes_max=MIB)
        async with serving(tmp_path, limits) as served:
            served.volume.held = False
            never = await served.client()
            assert never._transport is not None
            never._transport.pause_reading()
            reads = [never.read(0, MIB) for _ in range(40)]
            await until(lambda: bool(served.volume.submitted))
            (hosts,) = served.server._hosts
            (stuck,) = hosts._open
            await until(stuck._must_wait)
            new = await served.client()
            # Done before the other has taken anything.
            await new.write(0, b"new")
            assert stuck._must_wait()
            count = len(served.volume.submitted)
            await served.turns()
            assert len(served.volume.submitted) == count
            never._transport.resume_reading()
            for read in reads:
                assert len(await read) == MIB
            await never.disconnect()
            await new.disconnect()


class Connected:
    """Transmissions on socket pairs, asked about their clients as a test likes."""

    def __init__(self, volume: MemoryVolume, limits: NbdLimits) -> None:
        self.volume = volume
        self.limits = limits
        self.closed: list[Transmission] = []

    async def add(self, ask: Ask) -> tuple[Transmission, socket.socket]:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        transport.pause_reading()
        self.volume.opened_count += 1
        transmission = Transmission(
            transport,
            self.volume,
            Agreed("g/v", WireForm.SIMPLE, ()),
            self.limits,
            self.closed.append,
            peer="test",
            ask=ask,
        )
        transport.set_protocol(transmission)
        transmission.start(b"")
        return transmission, theirs


async def leave(connected: Connected, *ends: Transmission | socket.socket) -> None:
    for end in ends:
        if isinstance(end, Transmission):
            end.abort()
        else:
            end.close()
    await until(lambda: len(connected.closed) == len(ends) // 2)


async def test_whoever_waits_for_requests_in_flight_waits_for_them_only() -> None:
    """Not for the proof: a client that never reads gives none."""
    volume = MemoryVolume(MIB, held=True)
    connected = Connected(volume, NbdLimits())

    def ask(_connection: socket.socket, told: Told) -> None:
        told(Life.UNKNOWN)

    doubtful, client = await connected.add(ask)
    newer, other = await connected.add(ask_socket)
    client.sendall(request(Command.WRITE, 0, 3, b"old"))
    await until(lambda: len(volume.waiting) == 1)
    doubtful.give_way_to(newer)
    other.sendall(request(Command.WRITE, 0, 3, b"new"))
    client.sendall(request(Command.WRITE, 0, 3, b"old"))
    await asyncio.sleep(0)
    assert [r.data for r, _ in volume.waiting] == [b"old"]
    volume.step()
    await until(lambda: len(volume.waiting) == 1)
    volume.step()
    assert volume.content[:3] == b"new"
    await leave(connected, doubtful, newer, client, other)


async def test_what_is_not_sent_yet_proves_nothing() -> None:
    volume = MemoryVolume(MIB)
    connected = Connected(volume, NbdLimits())
    asked: list[Told] = []

    def ask(_connection: socket.socket, told: Told) -> None:
        asked.append(told)
        told(Life.PROVED)

    doubtful, client = await connected.add(ask)
    newer, other = await connected.add(ask_socket)
    client.sendall(request(Command.READ, 0, MIB))
    await until(lambda: doubtful._sending.is_unsent)
    doubtful.give_way_to(newer)
    client.sendall(request(Command.WRITE, 0, 3, b"old"))
    doubt = doubtful._precedence.doubt
    assert doubt is not None
    await until(lambda: doubt._seconds > 4 * LOOK_SECONDS_MIN)
    assert not asked
    assert volume.content[:3] == bytes(3)
    await asyncio.to_thread(client.recv, MIB + 17, socket.MSG_WAITALL)
    await until(lambda: volume.content[:3] == b"old")
    assert len(asked) == 1
    await leave(connected, doubtful, newer, client, other)


async def test_what_comes_with_its_disc_is_run_and_answered() -> None:
    volume = MemoryVolume(MIB)
    connected = Connected(volume, NbdLimits())
    leaving, client = await connected.add(lambda _, told: told(Life.PROVED))
    newer, other = await connected.add(ask_socket)
    leaving.give_way_to(newer)
    client.sendall(
        request(Command.WRITE, 0, 10, b"last words") + request(Command.DISC, 0, 0)
    )
    await until(lambda: connected.closed == [leaving])
    assert volume.content[:10] == b"last words"
    assert client.recv(100) == replies.success(WireForm.SIMPLE, 1, 0)
    connected.closed.clear()
    await leave(connected, newer, client)
    other.close()


async def test_a_relay_tells_what_the_client_itself_took(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.client("tls")
        (relay,) = served.server._relays
        await until(lambda: any(h._open for h in served.server._hosts))
        pair = server_side(served)
        told: list[Life] = []

        async def ask() -> Life:
            count = len(told)
            relay.ask(pair, told.append)
            await until(lambda: len(told) > count)
            return told[-1]

        while await ask() is not Life.PROVED:
            pass
        os.write(pair.fileno(), b"x")
        relay.ask(pair, told.append)
        assert told[-1] is Life.UNKNOWN, "it lies in the pair"
        assert client._transport is not None
        client._transport.pause_reading()
        while not relay._plain.get_write_buffer_size():
            os.write(pair.fileno(), bytes(64 * KIB))
            await until(lambda: unacknowledged_bytes(pair) == 0)
        assert await ask() is Life.UNKNOWN
        client.abort()


def test_a_socket_tells_what_its_other_end_took_and_whether_it_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    told: list[Life] = []
    with client, ours:
        ours.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += ours.send(bytes(MIB))
        ask_socket(ours, told.append)
        assert told == [Life.UNKNOWN]
        while sent:
            sent -= len(client.recv(MIB))
        while told[-1] is Life.UNKNOWN:
            ask_socket(ours, told.append)
        assert told[-1] is Life.PROVED
        client.close()
        while told[-1] is Life.PROVED:
            ask_socket(ours, told.append)
        assert told[-1] is Life.GONE


async def test_one_that_does_not_prove_itself_is_aborted_in_the_end() -> None:
    volume = MemoryVolume(MIB)
    connected = Connected(volume, NbdLimits(reply_seconds=0.1))

    def ask(_connection: socket.socket, told: Told) -> None:
        told(Life.UNKNOWN)

    doubtful, client = await connected.add(ask)
    newer, other = await connected.add(ask_socket)
    doubtful.give_way_to(newer)
    client.sendall(request(Command.WRITE, 0, 3, b"old"))
    await until(lambda: connected.closed == [doubtful])
    assert volume.content[:3] == bytes(3)
    assert client.recv(100) == replies.start(WireForm.SIMPLE)[:1]
    newer.abort()
    await until(lambda: len(connected.closed) == 2)
    client.close()
    other.close()


async def test_a_proof_from_before_the_newest_connection_does_not_do() -> None:
    volume = MemoryVolume(MIB)
    connected = Connected(volume, NbdLimits())
    asked: list[Told] = []

    def ask(_connection: socket.socket, told: Told) -> None:
        asked.append(told)

    doubtful, client = await connected.add(ask)
    newer, other = await connected.add(ask_socket)
    doubtful.give_way_to(newer)
    client.sendall(request(Command.WRITE, 0, 3, b"old"))
    await until(lambda: len(asked) == 1)
    doubtful.give_way_to(newer)
    asked.pop()(Life.PROVED)
    await until(lambda: len(asked) == 1)
    assert volume.content[:3] == bytes(3)
    assert client.recv(100) == replies.start(WireForm.SIMPLE)[:2]
    asked.pop()(Life.PROVED)
    await until(lambda: volume.content[:3] == b"old")
    assert client.recv(100) == replies.success(WireForm.SIMPLE, 1, 0)[2:]
    for transmission in (doubtful, newer):
        transmission.abort()
    await until(lambda: len(connected.closed) == 2)
    client.close()
    other.close()
