"""A sending site that does what a test says, over the real protocol.

sender = await ScriptedSender.open(port, hello)
await sender.begin(1, CYCLE)
await sender.tracks(0, [RunData(0, 1, data)])
committed = await sender.commit()
await sender.close()
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar, cast

from common.replication.credentials import Credentials
from common.replication.cycle_messages import (
    Committed,
    Credit,
    CycleBegin,
    CycleEnd,
    Hashes,
    NeedFull,
    Progress,
    Tracks,
)
from common.replication.lineage import CycleName, ReceiverState, SenderState
from common.replication.link import Link
from common.replication.messages import Message
from common.replication.session_messages import (
    PROTOCOL_VERSION,
    Hello,
    Join,
    Joined,
    VolumeOffer,
    Welcome,
)
from common.replication.stream import Address, connect
from common.replication.tls_stream import secure
from common.replication.tracks import DeltaRun, RunData, encode_records
from common.service.clock import SystemClock

PATIENCE_SECONDS = 30.0

M = TypeVar("M", bound=Message)


def hello_for(
    group: str, volumes: Sequence[tuple[str, int]], site: str = "a", track: int = 4096
) -> Hello:
    """Return a HELLO of volumes (name, size) whose identities follow their names."""
    return Hello(
        PROTOCOL_VERSION,
        PROTOCOL_VERSION,
        site,
        group,
        SenderState(group.encode().ljust(16, b"g"), b"l" * 16),
        tuple(
            VolumeOffer(name, name.encode().ljust(16, b"v"), size, track)
            for name, size in volumes
        ),
    )


def knowing(hello: Hello, receiver: ReceiverState) -> Hello:
    """Return the HELLO of a sender that has recorded all that the receiver has."""
    is_newer = receiver.given != receiver.shown
    return replace(
        hello,
        sender=replace(
            hello.sender,
            epoch=receiver.shown_epoch + is_newer,
            receipt=receiver.given,
            newest=receiver.begun,
            committed=receiver.committed,
            relation_id=receiver.relation_id,
            progress_count=receiver.progress_count,
        ),
    )


async def dial(port: int, credentials: Credentials | None = None) -> Link:
    """Return a link, over TLS if there are credentials."""
    stream = await connect(Address("127.0.0.1", port), PATIENCE_SECONDS)
    if credentials is None:
        return Link(stream, SystemClock())
    async with asyncio.timeout(PATIENCE_SECONDS):
        return Link(await secure(stream, credentials), SystemClock())


class ScriptedSender:
    """One session. Errors of its links are raised by the next thing awaited."""

    def __init__(self, port: int, link: Link, hello: Hello, welcome: Welcome) -> None:
        self.welcome = welcome
        self.hello = hello
        self.epoch = welcome.epoch
        self.links = [link]
        self.durable: set[int] = set()
        self.needed: list[NeedFull] = []
        self.cycle_id = b""
        self._port = port
        self._cycle: CycleBegin | None = None
        self._committed: Committed | None = None
        self._sequence = 0
        self._digest = 0
        self._credit_bytes = 0
        self._answers: list[Message] = []
        self._changed = asyncio.Event()
        self._error: Exception | None = None
        self._readers = [asyncio.create_task(self._read(link))]

    @classmethod
    async def open(
        cls, port: int, hello: Hello, credentials: Credentials | None = None
    ) -> ScriptedSender:
        """Say HELLO and wait for WELCOME; a refusal is a `PeerRefusedError`."""
        link = await dial(port, credentials)
        try:
            await link.send(hello)
            welcome = await link.receive_first()
        except BaseException:
            link.abort()
            raise
        assert isinstance(welcome, Welcome)
        link.epoch = welcome.epoch
        link.start_heartbeat()
        return cls(port, link, hello, welcome)

    def hello_again(self) -> Hello:
        """Return the HELLO of a sender that has recorded all of this session."""
        receiver = self.welcome.receiver
        state = replace(
            self.hello.sender,
            epoch=self.epoch,
            receipt=self.welcome.receipt,
            committed=receiver.committed,
            relation_id=receiver.relation_id,
        )
        if self._cycle is not None:
            name = CycleName(self._cycle.cycle_number, self._cycle.cycle_id)
            state = replace(state, newest=name)
            if self._committed is not None:
                state = replace(
                    state, committed=name, relation_id=self._committed.relation_id
                )
        return replace(self.hello, sender=state)

    async def join(self) -> None:
        """Add a link to the session."""
        link = await dial(self._port)
        await link.send(Join(self.epoch, self.welcome.token))
        assert await link.receive_first() == Joined(self.epoch)
        link.epoch = self.epoch
        link.start_heartbeat()
        self.links.append(link)
        self._readers.append(asyncio.create_task(self._read(link)))

    async def begin(
        self, number: int, cycle_id: bytes, *, label: str | None = None
    ) -> None:
        """Begin a cycle; return once its first credit is there."""
        self.cycle_id = cycle_id
        self._sequence = self._digest = self._credit_bytes = 0
        self.durable.clear()
        self.needed.clear()
        self._cycle = CycleBegin(self.epoch, number, cycle_id, number * 1000, label)
        self._committed = None
        await self.send(self._cycle)
        await self._until(lambda: self._credit_bytes > 0)

    async def tracks(
        self, volume: int, runs: Sequence[RunData | DeltaRun], *, level: int | None = 1
    ) -> int:
        """Send runs in one frame, once there is credit; return its sequence."""
        payload, raw_bytes = encode_records(runs, level)
        return await self._bulk(
            Tracks(
                self.epoch, self.cycle_id, self._sequence, volume, raw_bytes, payload
            ),
            raw_bytes,
        )

    async def hashes(self, volume: int, first: int, hashes: Sequence[bytes]) -> int:
        payload = b"".join(hashes)
        return await self._bulk(
            Hashes(
                self.epoch,
                self.cycle_id,
                self._sequence,
                volume,
                first,
                len(hashes),
                payload,
            ),
            len(payload),
        )

    async def _bulk(self, message: Tracks | Hashes, cost_bytes: int) -> int:
        sequence = self._sequence
        self._sequence += 1
        await self._until(lambda: self._credit_bytes >= cost_bytes)
        self._credit_bytes -= cost_bytes
        link = self.links[sequence % len(self.links)]
        checksum = await link.send(message)
        self._digest ^= checksum
        return sequence

    async def all_durable(self) -> None:
        """Wait until every frame sent has been acknowledged."""
        await self._until(lambda: self.durable == set(range(self._sequence)))

    async def end(self) -> None:
        await self.send(
            CycleEnd(self.epoch, self.cycle_id, self._sequence, self._digest)
        )

    async def commit(self) -> Committed:
        """End the cycle and wait for its recovery point."""
        await self.end()
        return await self.answer(Committed)

    async def send(self, message: Message) -> None:
        await self.links[0].send(message)

    async def answer(self, kind: type[M]) -> M:
        """Wait for a message of this type; return and forget it."""
        await self._until(lambda: any(isinstance(each, kind) for each in self._answers))
        found = next(each for each in self._answers if isinstance(each, kind))
        self._answers.remove(found)
        return found

    async def ended(self) -> Exception:
        """Wait for the session's end; return the error that tells why."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self._error is None:
                await self._next_change()
        return self._error

    async def close(self) -> None:
        for link in self.links:
            link.abort()
        await asyncio.gather(*self._readers)

    async def _until(self, condition: object) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not cast("bool", condition()):  # type: ignore[operator]
                if self._error is not None:
                    raise self._error
                await self._next_change()

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _read(self, link: Link) -> None:
        try:
            while True:
                self._take(await link.receive())
                self._changed.set()
        except Exception as error:  # noqa: BLE001 - raised to whoever waits
            self._error = self._error or error
            self._changed.set()

    def _take(self, message: Message) -> None:
        assert getattr(message, "epoch", self.epoch) == self.epoch
        match message:
            case Credit() if message.cycle_id == self.cycle_id:
                self._credit_bytes += message.credit_bytes
            case Progress() if message.cycle_id == self.cycle_id:
                for first, last in message.sequences:
                    self.durable.update(range(first, last + 1))
            case NeedFull() if message.cycle_id == self.cycle_id:
                assert message.sequence not in self.durable, "PROGRESS came first"
                self.needed.append(message)
            case _:
                if isinstance(message, Committed):
                    self._committed = message
                self._answers.append(message)
