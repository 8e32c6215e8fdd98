"""One link: a byte stream that carries whole messages and proves to be alive.

Both roles use it. A session is one link or several; which messages are right
when is for the roles to say.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from common.errors import (
    ConnectionLostError,
    GarbledLinkError,
    PeerRefusedError,
    ProtocolError,
)
from common.ports import Buffer, ByteStream, Clock
from common.replication.codec import decode, encode_meta
from common.replication.cycle_messages import Hashes, Tracks
from common.replication.frame import (
    PAYLOAD_BYTES_MAX,
    Frame,
    FrameParser,
    encode_summed_frame,
)
from common.replication.lineage import ToldFork
from common.replication.link_life import LinkLife
from common.replication.messages import Message
from common.replication.pacing import TokenBucket
from common.replication.session_messages import Goodbye, Heartbeat

HEARTBEAT_SECONDS = 2.0
SILENCE_SECONDS = 8.0
"""A peer that sent no byte for four heartbeats is gone."""

HANDSHAKE_SECONDS = 10.0
"""From connecting to the first message, whole: no peer may idle unknown."""

GARBLED_LINKS_MAX = 3
"""Links of one session that may end because what came over them was no frame: a bit
may flip on the way. A peer of whom that comes again and again can't be understood."""

LIFE_LOOK_SECONDS = 2.0
"""How much longer than its certificates a link may last."""

READ_BYTES = 1 << 20
GOODBYE_SECONDS = 2.0
"""A goodbye is a courtesy: a peer that does not take it in time goes without."""


class ForkedError(PeerRefusedError):
    """The peer has taken over: `told` says where its line of data left the other."""

    def __init__(self, reason: int, text: str, told: ToldFork) -> None:
        super().__init__(reason, text)
        self.told = told


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """A message as it goes over the wire; `checksum` is its body's."""

    buffers: list[Buffer]
    checksum: int
    size_bytes: int


def encode_message(message: Message) -> EncodedFrame:
    kind, meta = encode_meta(message)
    payload = message.payload if isinstance(message, Tracks | Hashes) else b""
    buffers, checksum = encode_summed_frame(kind, meta, payload)
    size_bytes = sum(memoryview(buffer).nbytes for buffer in buffers)
    return EncodedFrame(buffers, checksum, size_bytes)


def _refused(message: Goodbye) -> PeerRefusedError:
    if message.fork is None:
        return PeerRefusedError(message.reason, message.text)
    return ForkedError(message.reason, message.text, message.fork)


class Link:
    """Messages over a stream. One task receives; any task may send.

    Until `receive_first` has returned, frames with a payload are refused, so that
    an unknown peer can't make this side allocate for it.
    """

    def __init__(
        self, stream: ByteStream, clock: Clock, life: LinkLife | None = None
    ) -> None:
        """`life`: what the link rests on, for one with certificates."""
        self.peer = stream.peer
        self.epoch = 0
        self.number: int | None = None
        """Of this link in its session, where links are told apart."""
        self.bucket: TokenBucket | None = None
        """Pays for all that is sent; who sends bulk asks it first."""
        self.sent_bytes = 0
        self.received_bytes = 0
        self.round_trip_seconds: float | None = None
        self.clock_offset_seconds: float | None = None
        """The peer's wall clock less ours, right to half a round trip."""
        self._stream = stream
        self._clock = clock
        self._parser = FrameParser(payload_bytes_max=0)
        self._frames: deque[Frame] = deque()
        self._bulk = asyncio.Lock()
        self._peer_sent_ns = 0
        self._peer_heard_seconds = 0.0
        self._life = life
        self._over: str | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def send(self, message: Message) -> int:
        """Send, waiting while the peer is slow; return the frame's body checksum.

        TRACKS and HASHES take turns and wait for each other, so at most one of
        them lies between a control message and the wire. Raises
        `ConnectionLostError`.
        """
        frame = encode_message(message)
        if isinstance(message, Tracks | Hashes):
            await self.send_bulk(frame)
        else:
            await self._write(frame)
        return frame.checksum

    async def send_bulk(self, frame: EncodedFrame) -> None:
        """Send TRACKS or HASHES in turn, as `send` does."""
        async with self._bulk:
            await self._write(frame)

    async def _send(self, message: Message) -> None:
        await self._write(encode_message(message))

    async def _write(self, frame: EncodedFrame) -> None:
        self.sent_bytes += frame.size_bytes
        if self.bucket is not None:
            self.bucket.take(frame.size_bytes, self._clock.monotonic())
        await self._stream.write(frame.buffers)

    async def receive(self) -> Message:
        """Return the next message; heartbeats are dealt with here.

        Raises `ConnectionLostError` at the end of the stream or after
        `SILENCE_SECONDS` without a byte, `GarbledLinkError` for what is no frame,
        another `ProtocolError` for a frame that is no message, `PeerRefusedError` for
        a GOODBYE (`ForkedError` if it tells of a fork). After any of them the link is
        of no use.
        """
        while True:  # ends with a message or an error: silence is bounded
            while not self._frames:
                await self._receive_frames()
            message = decode(self._frames.popleft())
            match message:
                case Heartbeat():
                    self._note_heartbeat(message)
                case Goodbye():
                    raise _refused(message)
                case _:
                    return message

    async def receive_first(self) -> Message:
        """Return the message that opens a link, whole within `HANDSHAKE_SECONDS`.

        From here on the peer may send payloads: call it once the peer counts, on
        the side that answers for HELLO or JOIN, on the other for WELCOME, JOINED.
        """
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                message = await self.receive()
        except TimeoutError:
            raise ConnectionLostError(
                f"{self.peer}: no handshake within {HANDSHAKE_SECONDS:g} s"
            ) from None
        self._parser.payload_bytes_max = PAYLOAD_BYTES_MAX
        return message

    def unacknowledged_bytes(self) -> int:
        """Return the bytes sent that the peer's machine has not got yet."""
        return self._stream.unacknowledged_bytes()

    def start_heartbeat(self) -> None:
        """Prove to be alive from now on, until `close` or `abort`.

        Also ends the link, in order, once its life is over: `receive` then says why.
        """
        assert not self._tasks, "started once"
        self._tasks.append(asyncio.create_task(self._beat(), name="heartbeat"))
        if self._life is not None:
            ageing = asyncio.create_task(self._age(self._life), name="link life")
            self._tasks.append(ageing)

    async def close(self, goodbye: Goodbye | None = None) -> None:
        """End the link in order, saying why if asked to. Never raises."""
        self._stop_tasks()
        if self._tasks:
            await asyncio.wait(self._tasks)
        try:
            if goodbye is not None:
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await self._send(goodbye)
            await self._stream.close()
        except (ConnectionLostError, TimeoutError):
            self._stream.abort()

    def abort(self) -> None:
        """Drop the link now."""
        self._stop_tasks()
        self._stream.abort()

    async def _receive_frames(self) -> None:
        try:
            self._frames.extend(self._parser.feed(await self._read()))
        except (ConnectionLostError, ProtocolError) as error:
            if self._over is not None:
                raise ConnectionLostError(
                    f"{self.peer}: this end has ended the link: {self._over}"
                ) from error
            if isinstance(error, ProtocolError):
                raise GarbledLinkError(str(error)) from error
            raise

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                data = await self._stream.read(READ_BYTES)
        except TimeoutError:
            raise ConnectionLostError(
                f"{self.peer}: silent for {SILENCE_SECONDS:g} s"
            ) from None
        if not data:
            raise ConnectionLostError(f"{self.peer}: the peer closed the connection")
        self.received_bytes += len(data)
        return data

    async def _beat(self) -> None:
        try:
            while True:  # ends by cancelling or with the connection
                await self._send(
                    Heartbeat(self.epoch, self._clock.now_ns(), self._echo_ns())
                )
                await asyncio.sleep(HEARTBEAT_SECONDS)
        except ConnectionLostError:
            return  # `receive` meets it too, and has somebody to tell

    async def _age(self, life: LinkLife) -> None:
        # Apart from heartbeats: those wait for a peer that takes its bytes slowly.
        while self._over is None:  # ends with the life, or by cancelling
            await asyncio.sleep(LIFE_LOOK_SECONDS)
            self._over = life.why_over(self._clock.now_ns(), self._clock.monotonic())
        await self._stream.close()

    def _echo_ns(self) -> int:
        if not self._peer_sent_ns:
            return 0
        lain_seconds = self._clock.monotonic() - self._peer_heard_seconds
        return self._peer_sent_ns + int(lain_seconds * 1e9)

    def _note_heartbeat(self, heartbeat: Heartbeat) -> None:
        self._peer_sent_ns = heartbeat.sent_ns
        self._peer_heard_seconds = self._clock.monotonic()
        if heartbeat.echo_ns:
            # Good enough for people: the wall clock may have jumped in between.
            elapsed_ns = self._clock.now_ns() - heartbeat.echo_ns
            self.round_trip_seconds = max(0.0, elapsed_ns / 1e9)
            ahead_ns = heartbeat.sent_ns - self._clock.now_ns()
            self.clock_offset_seconds = ahead_ns / 1e9 + self.round_trip_seconds / 2

    def _stop_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
