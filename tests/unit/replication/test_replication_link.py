"""Links over real sockets on this machine, on asyncio's loop and on uvloop's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest
import uvloop

from common.errors import (
    ConfigError,
    ConnectionLostError,
    DeviceBusyError,
    PeerRefusedError,
    ProtocolError,
)
from common.ports import Buffer
from common.replication.codec import encode_meta
from common.replication.cycle_messages import CycleEnd, Tracks
from common.replication.frame import encode_frame
from common.replication.link import Link
from common.replication.session_messages import (
    GoodbyeReason,
    Heartbeat,
    Join,
    Joined,
    goodbye,
)
from common.replication.stream import (
    READ_HIGH_BYTES,
    Address,
    SocketStream,
    connect,
    serve,
)
from common.service.clock import SystemClock

CYCLE = b"c" * 16
LOOPS = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@dataclass
class Ends:
    near: SocketStream
    far: SocketStream


def on_loop(name: str, test: Callable[[Ends], Awaitable[None]]) -> None:
    async def main() -> None:
        accepted: asyncio.Future[SocketStream] = (
            asyncio.get_running_loop().create_future()
        )
        server = await serve(Address("127.0.0.1", 0), accepted.set_result)
        near = await connect(Address("127.0.0.1", server.port), 10.0)
        ends = Ends(near, await accepted)
        try:
            async with asyncio.timeout(60):
                await test(ends)
        finally:
            ends.near.abort()
            ends.far.abort()
            await server.close()
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=LOOPS[name]) as runner:
        runner.run(main())


both_loops = pytest.mark.parametrize("loop", LOOPS)


def links(ends: Ends) -> tuple[Link, Link]:
    return Link(ends.near, SystemClock()), Link(ends.far, SystemClock())


async def opened(ends: Ends) -> tuple[Link, Link]:
    near, far = links(ends)
    await near.send(Join(1, b"t" * 16))
    assert await far.receive_first() == Join(1, b"t" * 16)
    await far.send(Joined(1))
    assert await near.receive_first() == Joined(1)
    return near, far


@both_loops
def test_messages_arrive_whole_and_in_order(loop: str) -> None:
    async def test(ends: Ends) -> None:
        near, far = await opened(ends)
        payload = bytes(range(256)) * 4096

        async def send() -> int:
            digest = 0
            for sequence in range(20):
                digest ^= await near.send(Tracks(1, CYCLE, sequence, 0, 100, payload))
            return digest

        sending = asyncio.create_task(send())
        received = 0
        for sequence in range(20):
            message = await far.receive()
            assert isinstance(message, Tracks)
            assert message.sequence == sequence
            assert message.payload == payload
            received ^= message.checksum
        assert received == await sending
        assert far.received_bytes == near.sent_bytes

    on_loop(loop, test)


@both_loops
def test_control_overtakes_bulk_that_waits_for_a_slow_peer(loop: str) -> None:
    async def test(ends: Ends) -> None:
        near, far = await opened(ends)
        payload = bytes(4 << 20)
        bulk = [
            asyncio.create_task(near.send(Tracks(1, CYCLE, n, 0, 1, payload)))
            for n in range(8)
        ]
        await asyncio.sleep(0)
        control = asyncio.create_task(near.send(CycleEnd(1, CYCLE, 8, 0)))
        before = 0
        while not isinstance(await far.receive(), CycleEnd):
            before += 1
        # The frame that has its turn, and no other, may lie before it.
        assert before == 1
        for _ in range(7):
            assert isinstance(await far.receive(), Tracks)
        await asyncio.gather(control, *bulk)

    on_loop(loop, test)


@both_loops
def test_a_reader_that_does_not_read_is_not_buffered_for(loop: str) -> None:
    async def test(ends: Ends) -> None:
        near, far = await opened(ends)
        payload = bytes(4 << 20)

        async def flood() -> None:
            for sequence in range(100):
                await near.send(Tracks(1, CYCLE, sequence, 0, 1, payload))

        flooding = asyncio.create_task(flood())
        held = -1
        while held != ends.far._buffered_bytes or held <= READ_HIGH_BYTES:
            held = ends.far._buffered_bytes
            for _ in range(50):
                await asyncio.sleep(0.001)
        assert held <= 2 * READ_HIGH_BYTES
        assert not flooding.done()
        far.abort()
        with pytest.raises(ConnectionLostError):
            await flooding

    on_loop(loop, test)


@both_loops
def test_a_goodbye_reaches_the_peer_with_its_reason(loop: str) -> None:
    async def test(ends: Ends) -> None:
        near, far = await opened(ends)
        closing = asyncio.create_task(
            near.close(goodbye(GoodbyeReason.OUT_OF_SPACE, "no room"))
        )
        with pytest.raises(PeerRefusedError, match="no room") as caught:
            await far.receive()
        assert caught.value.reason == GoodbyeReason.OUT_OF_SPACE
        far.abort()
        await closing
        with pytest.raises(ConnectionLostError):
            await near.send(Joined(1))

    on_loop(loop, test)


@both_loops
def test_the_end_of_the_stream_is_an_error(loop: str) -> None:
    async def test(ends: Ends) -> None:
        _, far = await opened(ends)
        ends.near.abort()
        with pytest.raises(ConnectionLostError):
            await far.receive()

    on_loop(loop, test)


def test_heartbeats_keep_a_link_alive_and_measure_it() -> None:
    async def test(ends: Ends) -> None:
        near, far = await opened(ends)
        near.start_heartbeat()
        far.start_heartbeat()
        waiting = [asyncio.create_task(link.receive()) for link in (near, far)]
        while near.round_trip_seconds is None:
            await asyncio.sleep(0.01)
        assert near.round_trip_seconds < 30
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await near.close()
        await far.close()

    on_loop("asyncio", test)


def test_an_unknown_peer_may_send_no_payload() -> None:
    async def test(ends: Ends) -> None:
        near, far = links(ends)
        await near.send(Tracks(1, CYCLE, 0, 0, 1, b"payload"))
        with pytest.raises(ProtocolError, match="limit of 0"):
            await far.receive_first()

    on_loop("asyncio", test)


class ScriptedStream:
    """A stream whose reads come from a list and whose clock is the test's loop."""

    peer = "scripted"

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks
        self.aborted = False

    async def read(self, limit_bytes: int) -> bytes:
        if not self.chunks:
            await asyncio.Event().wait()
        return self.chunks.pop(0)

    async def write(self, buffers: Sequence[Buffer]) -> None: ...

    def unacknowledged_bytes(self) -> int:
        return 0

    async def close(self) -> None: ...

    def abort(self) -> None:
        self.aborted = True


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose time jumps to the next timer: hours pass in no time."""

    def __init__(self) -> None:
        super().__init__()
        self.jumped_seconds = 0.0

    def time(self) -> float:
        return super().time() + getattr(self, "jumped_seconds", 0.0)

    def _run_once(self) -> None:
        timers = self._scheduled  # type: ignore[attr-defined]
        if not self._ready and timers:  # type: ignore[attr-defined]
            self.jumped_seconds += max(0.0, timers[0].when() - self.time())
        super()._run_once()  # type: ignore[misc]


def in_jumping_time(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main())


def test_silence_ends_a_link() -> None:
    async def test() -> None:
        link = Link(ScriptedStream([]), SystemClock())
        began = asyncio.get_running_loop().time()
        with pytest.raises(ConnectionLostError, match="silent for 8 s"):
            await link.receive()
        assert asyncio.get_running_loop().time() - began >= 8

    in_jumping_time(test)


def test_a_handshake_that_dribbles_in_is_cut_off() -> None:
    async def test() -> None:
        kind, meta = encode_meta(Join(1, b"t" * 16))
        whole = b"".join(encode_frame(kind, meta, b""))

        class Dribbling(ScriptedStream):
            async def read(self, limit_bytes: int) -> bytes:
                await asyncio.sleep(2)
                return await super().read(limit_bytes)

        link = Link(Dribbling([bytes([byte]) for byte in whole]), SystemClock())
        with pytest.raises(ConnectionLostError, match="no handshake within 10 s"):
            await link.receive_first()

    in_jumping_time(test)


def test_heartbeats_are_not_handed_out() -> None:
    async def test() -> None:
        def frame(message: Heartbeat | Joined) -> bytes:
            kind, meta = encode_meta(message)
            return b"".join(encode_frame(kind, meta, b""))

        chunk = frame(Heartbeat(1, 5, 0)) + frame(Heartbeat(1, 6, 0)) + frame(Joined(1))
        link = Link(ScriptedStream([chunk]), SystemClock())
        assert await link.receive() == Joined(1)

    in_jumping_time(test)


async def test_nobody_listening_is_said_with_the_address() -> None:
    server = await serve(Address("127.0.0.1", 0), lambda stream: stream.abort())
    port = server.port
    await server.close()
    with pytest.raises(ConnectionLostError, match=rf"127\.0\.0\.1:{port}: "):
        await connect(Address("127.0.0.1", port), 10.0)


async def test_a_port_in_use_is_refused_with_the_key() -> None:
    server = await serve(Address("127.0.0.1", 0), lambda stream: stream.abort())
    with pytest.raises(DeviceBusyError, match=r"replication\.listen"):
        await serve(Address("127.0.0.1", server.port), lambda stream: stream.abort())
    await server.close()


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("dr.example:7420", "dr.example", 7420),
        ("tcp:0.0.0.0:0", "0.0.0.0", 0),
        ("[2001:db8::7]:1", "2001:db8::7", 1),
    ],
)
def test_addresses_are_read(text: str, host: str, port: int) -> None:
    address = Address.parse(text)
    assert address == Address(host, port)
    assert str(address) == text.removeprefix("tcp:")


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "h:x", "::1:5", "h:99999"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Address.parse(text)
