"""A small NBD client for tests: pipelined, strict about what the server sends.

    client = await NbdClient.connect("unix:/path", "group/volume")
    await client.write(0, b"data", fua=True)
    answers = await asyncio.gather(*(client.read(o, 512) for o in offsets))
    await client.disconnect()

Each call sends its request at once and returns a future, so that requests can be
in flight together without tasks. A server that breaks the protocol fails every
request with `ServerBrokeProtocolError`; a lost connection with ConnectionError.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from common.addresses import TcpAddress, UnixAddress, parse_listen_address
from common.nbd.protocol import (
    CHUNK,
    CHUNK_ERROR,
    CHUNK_MAGIC,
    CLIENT_FLAGS,
    EXTENDED_CHUNK,
    EXTENDED_CHUNK_MAGIC,
    EXTENDED_EXTENT,
    EXTENDED_REQUEST,
    EXTENDED_REQUEST_MAGIC,
    EXTENDED_STATUS_HEADER,
    EXTENT,
    GREETING,
    GREETING_MAGIC,
    OFFSET_HOLE,
    OPTION_HEADER,
    OPTION_MAGIC,
    OPTION_MAGIC_BYTES,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STATUS_EFFECT,
    UINT16,
    UINT32,
    ChunkFlag,
    ChunkType,
    Command,
    CommandFlag,
    HandshakeFlag,
    Info,
    Option,
    OptionReply,
    TransmissionFlag,
    WireForm,
)
from common.ports import BASE_ALLOCATION

T = TypeVar("T")
Extents = list[tuple[int, int]]

_MAGIC_BYTES = 4


class NbdReplyError(Exception):
    """The server answered a request with an error; `number` is NBD's."""

    def __init__(self, number: int, text: str = "") -> None:
        super().__init__(f"NBD error {number} {text}".rstrip())
        self.number = number
        self.text = text


class OptionRefusedError(Exception):
    """The server answered an option with an error; `kind` is an `OptionReply`."""

    def __init__(self, kind: int, text: str) -> None:
        super().__init__(f"{OptionReply(kind).name} {text}".rstrip())
        self.kind = kind


class ServerBrokeProtocolError(Exception):
    """The server sent what it must not send."""


def check(condition: object, text: str) -> None:
    if not condition:
        raise ServerBrokeProtocolError(text)


@dataclass(slots=True)
class _Request:
    command: int
    offset: int
    length: int
    only_one: bool
    future: asyncio.Future[Any]
    data: bytearray | None = None
    covered: int = 0
    content_chunks: int = 0
    extents: dict[int, Extents] = field(default_factory=dict)
    error: NbdReplyError | None = None
    dont_fragment: bool = False
    context_ids: tuple[int, ...] | None = None


@dataclass(slots=True)
class ExportInfo:
    size_bytes: int = -1
    flags: TransmissionFlag = TransmissionFlag.HAS_FLAGS
    name: str | None = None
    description: str | None = None
    block_sizes: tuple[int, int, int] | None = None
    contexts: dict[str, int] = field(default_factory=dict)


class NbdClient(asyncio.Protocol):
    """One connection, in transmission."""

    def __init__(self) -> None:
        self.info = ExportInfo()
        self.form = WireForm.SIMPLE
        self.hole_bytes = 0
        """How much of what was read came as holes."""
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._wanted: tuple[int, asyncio.Future[bytes]] | None = None
        self._requests: dict[int, _Request] = {}
        self._next_cookie = 1
        self._transmitting = False
        self._error: Exception | None = None
        self.closed = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(
        cls,
        address: str,
        export: str,
        *,
        structured: bool = True,
        extended: bool = False,
        contexts: tuple[str, ...] = (BASE_ALLOCATION,),
        by_export_name: bool = False,
        client_flags: int = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES,
    ) -> NbdClient:
        """Shake hands and start transmission; all but simple replies with contexts."""
        client = await cls.connect_unnegotiated(address, client_flags=client_flags)
        try:
            if extended:
                await client.agree(WireForm.EXTENDED)
            elif structured:
                await client.agree(WireForm.STRUCTURED)
            if client.form > WireForm.SIMPLE and contexts:
                await client.select_contexts(export, list(contexts))
            if by_export_name:
                await client.export_name(export, client_flags)
            else:
                await client.go(export, [Info.NAME, Info.DESCRIPTION, Info.BLOCK_SIZE])
        except BaseException:
            client.abort()
            raise
        client.transmit()
        return client

    @classmethod
    async def connect_unnegotiated(
        cls, address: str, *, client_flags: int = 3
    ) -> NbdClient:
        """Return after the client flags, ready for `option`."""
        loop = asyncio.get_running_loop()
        where = parse_listen_address(address)
        if isinstance(where, TcpAddress):
            _, client = await loop.create_connection(cls, where.host, where.port)
        else:
            assert isinstance(where, UnixAddress)
            _, client = await loop.create_unix_connection(cls, where.path)
        raw = await client.take(GREETING.size)
        magic, option_magic, _ = GREETING.unpack(raw)
        check(magic == GREETING_MAGIC, "greeting")
        check(option_magic == OPTION_MAGIC_BYTES, "greeting")
        client.send(CLIENT_FLAGS.pack(client_flags))
        return client

    # Handshake

    def send(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    async def take(self, count: int) -> bytes:
        """Await exactly `count` bytes of the handshake."""
        assert self._wanted is None
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._wanted = (count, future)
        self._serve_taker()
        if self._error is not None and not future.done():
            self._wanted = None
            raise self._error
        return await future

    async def option(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Send an option; return its replies before the ACK."""
        self.send(OPTION_HEADER.pack(OPTION_MAGIC, option, len(data)) + data)
        found: list[tuple[int, bytes]] = []
        while True:
            header = OPTION_REPLY.unpack(await self.take(OPTION_REPLY.size))
            magic, echoed, kind, length = header
            check(magic == OPTION_REPLY_MAGIC and echoed == option, "option reply")
            payload = await self.take(length)
            if kind >= OptionReply.ERR_UNSUP:
                raise OptionRefusedError(kind, payload.decode())
            if kind == OptionReply.ACK:
                check(length == 0, "an ACK with data")
                return found
            found.append((kind, payload))

    async def agree(self, form: WireForm) -> None:
        """Ask for structured replies or extended headers."""
        await self.option(
            Option.EXTENDED_HEADERS
            if form == WireForm.EXTENDED
            else Option.STRUCTURED_REPLY
        )
        self.form = form

    def transmit(self) -> None:
        """Take what comes from here on as replies to requests."""
        self._transmitting = True

    async def list_exports(self) -> list[tuple[str, str]]:
        found = []
        for kind, payload in await self.option(Option.LIST):
            check(kind == OptionReply.SERVER, "LIST")
            (length,) = UINT32.unpack_from(payload)
            name = payload[4 : 4 + length]
            check(len(name) == length, "LIST name")
            found.append((name.decode(), payload[4 + length :].decode()))
        return found

    async def select_contexts(self, export: str, queries: list[str]) -> None:
        data = counted(export) + UINT32.pack(len(queries))
        data += b"".join(map(counted, queries))
        for kind, payload in await self.option(Option.SET_META_CONTEXT, data):
            check(kind == OptionReply.META_CONTEXT, "SET_META_CONTEXT")
            (context_id,) = UINT32.unpack_from(payload)
            self.info.contexts[payload[4:].decode()] = context_id

    async def go(
        self, export: str, infos: list[int], *, option: Option = Option.GO
    ) -> ExportInfo:
        data = counted(export) + UINT16.pack(len(infos))
        data += b"".join(map(UINT16.pack, infos))
        for kind, payload in await self.option(option, data):
            check(kind == OptionReply.INFO, "GO")
            self._take_info(payload)
        check(self.info.size_bytes >= 0, "no INFO_EXPORT")
        return self.info

    async def export_name(self, export: str, client_flags: int) -> None:
        name = export.encode()
        self.send(
            OPTION_HEADER.pack(OPTION_MAGIC, Option.EXPORT_NAME, len(name)) + name
        )
        padding = 0 if client_flags & HandshakeFlag.NO_ZEROES else 124
        raw = await self.take(10 + padding)
        check(not any(raw[10:]), "zeroes")
        self.info.size_bytes = int.from_bytes(raw[:8], "big")
        self.info.flags = TransmissionFlag(int.from_bytes(raw[8:10], "big"))

    def _take_info(self, payload: bytes) -> None:
        rest = payload[2:]
        match int.from_bytes(payload[:2], "big"):
            case Info.EXPORT:
                check(len(rest) == 10, "INFO_EXPORT")
                self.info.size_bytes = int.from_bytes(rest[:8], "big")
                flags = int.from_bytes(rest[8:], "big")
                self.info.flags = TransmissionFlag(flags)
            case Info.NAME:
                self.info.name = rest.decode()
            case Info.DESCRIPTION:
                self.info.description = rest.decode()
            case Info.BLOCK_SIZE:
                sizes = [UINT32.unpack_from(rest, at)[0] for at in (0, 4, 8)]
                self.info.block_sizes = (sizes[0], sizes[1], sizes[2])

    # Transmission

    def read(
        self, offset: int, length: int, *, dont_fragment: bool = False
    ) -> asyncio.Future[bytes]:
        flags = CommandFlag.DF if dont_fragment else 0
        return self.request(Command.READ, offset, length, flags=flags)

    def write(
        self, offset: int, data: bytes | memoryview, *, fua: bool = False
    ) -> asyncio.Future[None]:
        flags = CommandFlag.FUA if fua else 0
        return self.request(Command.WRITE, offset, len(data), data, flags=flags)

    def flush(self) -> asyncio.Future[None]:
        return self.request(Command.FLUSH, 0, 0)

    def trim(
        self, offset: int, length: int, *, fua: bool = False
    ) -> asyncio.Future[None]:
        flags = CommandFlag.FUA if fua else 0
        return self.request(Command.TRIM, offset, length, flags=flags)

    def write_zeroes(
        self, offset: int, length: int, *, no_hole: bool = False, fua: bool = False
    ) -> asyncio.Future[None]:
        flags = CommandFlag.FUA if fua else CommandFlag(0)
        if no_hole:
            flags |= CommandFlag.NO_HOLE
        return self.request(Command.WRITE_ZEROES, offset, length, flags=flags)

    def cache(self, offset: int, length: int) -> asyncio.Future[None]:
        return self.request(Command.CACHE, offset, length)

    def block_status(
        self, offset: int, length: int, *, only_one: bool = False
    ) -> asyncio.Future[Extents]:
        flags = CommandFlag.REQ_ONE if only_one else 0
        return self.request(Command.BLOCK_STATUS, offset, length, flags=flags)

    def request(
        self,
        command: int,
        offset: int,
        length: int,
        data: bytes | memoryview = b"",
        *,
        flags: int = 0,
    ) -> asyncio.Future[Any]:
        """Send any request, also a wrong one; the future gets its answer."""
        if self.form == WireForm.EXTENDED and command == Command.WRITE:
            flags |= CommandFlag.PAYLOAD_LEN
        return self._request(command, offset, length, data, flags)

    def chosen_status(
        self, offset: int, length: int, context_ids: tuple[int, ...], flags: int = 0
    ) -> asyncio.Future[dict[str, Extents]]:
        """Ask about some of the selected contexts, by a payload."""
        payload = STATUS_EFFECT.pack(length) + b"".join(map(UINT32.pack, context_ids))
        flags |= CommandFlag.PAYLOAD_LEN
        return self._request(
            Command.BLOCK_STATUS, offset, length, payload, flags, context_ids
        )

    def all_status(
        self, offset: int, length: int, flags: int = 0
    ) -> asyncio.Future[dict[str, Extents]]:
        """Ask about all selected contexts; returns the extents of each by name."""
        ids = tuple(self.info.contexts.values())
        return self._request(Command.BLOCK_STATUS, offset, length, b"", flags, ids)

    def _request(
        self,
        command: int,
        offset: int,
        length: int,
        data: bytes | memoryview,
        flags: int,
        context_ids: tuple[int, ...] | None = None,
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._error is not None:
            future.set_exception(self._error)
            return future
        cookie = self._next_cookie
        self._next_cookie += 1
        only_one = bool(flags & CommandFlag.REQ_ONE)
        request = _Request(command, offset, length, only_one, future)
        request.dont_fragment = bool(flags & CommandFlag.DF)
        request.context_ids = context_ids
        self._requests[cookie] = request
        told = len(data) if flags & CommandFlag.PAYLOAD_LEN and data else length
        header = self._header(flags, command, cookie, offset, told)
        assert self._transport is not None
        if len(data):
            self._transport.writelines([header, data])
        else:
            self._transport.write(header)
        return future

    def _header(
        self, flags: int, command: int, cookie: int, offset: int, length: int
    ) -> bytes:
        fields = (flags, command, cookie, offset, length)
        if self.form == WireForm.EXTENDED:
            return EXTENDED_REQUEST.pack(EXTENDED_REQUEST_MAGIC, *fields)
        return REQUEST.pack(REQUEST_MAGIC, *fields)

    async def disconnect(self) -> None:
        """Say goodbye after all requests were answered; wait for the close."""
        pending = [request.future for request in self._requests.values()]
        await asyncio.gather(*pending, return_exceptions=True)
        self.send(self._header(0, Command.DISC, 0, 0, 0))
        await self.closed

    def abort(self) -> None:
        """Drop the connection as a dying host would."""
        assert self._transport is not None
        self._transport.abort()

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._error is None:
            self._fail(error or ConnectionResetError("the server hung up"))
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._transmitting:
            self._serve_taker()
            return
        try:
            self._take_replies()
        except ServerBrokeProtocolError as error:
            self._fail(error)
            self.abort()

    def _serve_taker(self) -> None:
        if self._wanted is not None and len(self._received) >= self._wanted[0]:
            count, future = self._wanted
            self._wanted = None
            taken = bytes(self._received[:count])
            del self._received[:count]
            if not future.done():
                future.set_result(taken)

    def _fail(self, error: Exception) -> None:
        self._error = error
        futures = [request.future for request in self._requests.values()]
        self._requests.clear()
        if self._wanted is not None:
            futures.append(self._wanted[1])
            self._wanted = None
        for future in futures:
            if not future.done():
                future.set_exception(error)
                # A test that gave up on a request does not have to ask for it.
                future.exception()

    def _take_replies(self) -> None:
        received, position = self._received, 0
        while (stop := self._take_reply(received, position)) is not None:
            position = stop
        del received[:position]

    def _take_reply(self, received: bytearray, start: int) -> int | None:
        """Handle one whole reply or chunk; return its end, None if it is not here."""
        available = len(received) - start
        if available < _MAGIC_BYTES:
            return None
        (magic,) = UINT32.unpack_from(received, start)
        if magic == SIMPLE_REPLY_MAGIC:
            return self._take_simple(received, start, available)
        is_extended = self.form == WireForm.EXTENDED
        layout = EXTENDED_CHUNK if is_extended else CHUNK
        expected = EXTENDED_CHUNK_MAGIC if is_extended else CHUNK_MAGIC
        check(magic == expected, f"reply magic {magic:#x}")
        check(self.form > WireForm.SIMPLE, "a structured reply was not agreed")
        if available < layout.size:
            return None
        _, flags, kind, cookie, *offset, length = layout.unpack_from(received, start)
        stop: int = start + layout.size + length
        if len(received) < stop:
            return None
        check(cookie in self._requests, f"cookie {cookie} was not asked for")
        request = self._requests[cookie]
        check(offset in ([], [request.offset]), "a chunk repeats another offset")
        self._take_chunk(
            request, kind, memoryview(received)[start + layout.size : stop].tobytes()
        )
        if flags & ChunkFlag.DONE:
            self._settle(cookie, request)
        else:
            check(kind != ChunkType.NONE, "NONE without DONE")
        return stop

    def _take_simple(
        self, received: bytearray, start: int, available: int
    ) -> int | None:
        check(self.form < WireForm.EXTENDED, "a simple reply in extended form")
        if available < SIMPLE_REPLY.size:
            return None
        _, error, cookie = SIMPLE_REPLY.unpack_from(received, start)
        check(cookie in self._requests, f"cookie {cookie} was not asked for")
        request = self._requests[cookie]
        stop = start + SIMPLE_REPLY.size
        if request.command == Command.READ:
            check(self.form == WireForm.SIMPLE, "a simple reply to a READ")
            if not error:
                stop += request.length
                if len(received) < stop:
                    return None
                request.data = received[stop - request.length : stop]
                request.covered = request.length
        check(not (request.command == Command.BLOCK_STATUS and not error), "status")
        if error:
            request.error = NbdReplyError(error)
        self._settle(cookie, request)
        return stop

    def _take_chunk(self, request: _Request, kind: int, payload: bytes) -> None:
        match kind:
            case ChunkType.NONE:
                check(not payload, "NONE with a payload")
            case ChunkType.OFFSET_DATA:
                check(len(payload) > 8, "OFFSET_DATA without data")
                offset = int.from_bytes(payload[:8], "big")
                self._take_data(request, offset, payload[8:])
            case ChunkType.OFFSET_HOLE:
                check(len(payload) == OFFSET_HOLE.size, "OFFSET_HOLE")
                offset, length = OFFSET_HOLE.unpack(payload)
                check(length and not request.dont_fragment, "a hole")
                self.hole_bytes += length
                self._take_data(request, offset, bytes(length))
            case ChunkType.BLOCK_STATUS | ChunkType.BLOCK_STATUS_EXT:
                check(request.command == Command.BLOCK_STATUS, "status unasked")
                is_extended = kind == ChunkType.BLOCK_STATUS_EXT
                check(is_extended == (self.form == WireForm.EXTENDED), "status type")
                context_id, extents = self._extents(request, payload)
                check(context_id not in request.extents, "two chunks of one context")
                request.extents[context_id] = extents
            case ChunkType.ERROR:
                error, length = CHUNK_ERROR.unpack_from(payload)
                text = payload[CHUNK_ERROR.size :]
                check(error and len(text) == length, "ERROR")
                request.error = NbdReplyError(error, text.decode())
            case _:
                raise ServerBrokeProtocolError(f"chunk type {kind}")

    def _take_data(self, request: _Request, offset: int, data: bytes) -> None:
        check(request.command == Command.READ, "data unasked")
        start = offset - request.offset
        check(start >= 0 and start + len(data) <= request.length, "data outside")
        if request.data is None:
            request.data = bytearray(request.length)
        request.data[start : start + len(data)] = data
        request.covered += len(data)
        request.content_chunks += 1
        check(request.content_chunks == 1 or not request.dont_fragment, "DF")

    def _extents(self, request: _Request, payload: bytes) -> tuple[int, Extents]:
        is_extended = self.form == WireForm.EXTENDED
        layout = EXTENDED_EXTENT if is_extended else EXTENT
        head = EXTENDED_STATUS_HEADER if is_extended else UINT32
        context_id, *count = head.unpack_from(payload)
        check(context_id in self.info.contexts.values(), "unknown context")
        check((len(payload) - head.size) % layout.size == 0, "extents")
        rest = payload[head.size :]
        extents = [(size, flags) for size, flags in layout.iter_unpack(rest)]
        check(count in ([], [len(extents)]), "count of extents")
        check(extents, "no extent")
        check(all(length > 0 for length, _ in extents), "an empty extent")
        if request.only_one:
            check(len(extents) == 1, "REQ_ONE")
            check(extents[0][0] <= request.length, "REQ_ONE past the range")
        told = sum(length for length, _ in extents)
        check(told - extents[-1][0] < request.length, "extents past the range")
        check(request.offset + told <= self.info.size_bytes, "past the end")
        return int(context_id), extents

    def _settle(self, cookie: int, request: _Request) -> None:
        del self._requests[cookie]
        future = request.future
        if future.done():
            return
        if request.error is not None:
            future.set_exception(request.error)
        elif request.command == Command.READ:
            check(request.covered == request.length, "a READ is not covered")
            future.set_result(bytes(request.data or b""))
        elif request.command == Command.BLOCK_STATUS:
            future.set_result(self._status(request))
        else:
            future.set_result(None)

    def _status(self, request: _Request) -> Extents | dict[str, Extents]:
        """Return extents by context, or those of the first if not asked by id."""
        found = request.extents
        wanted = request.context_ids
        check(len(found) > 0, "no extents")
        if wanted is None:
            check(len(found) == len(self.info.contexts), "one chunk for each context")
            return found[min(found)]
        check(set(found) == set(wanted), "one chunk for each context")
        names = {number: name for name, number in self.info.contexts.items()}
        return {names[number]: extents for number, extents in found.items()}


def counted(text: str) -> bytes:
    """Return a string as options carry it: its length, then its UTF-8."""
    raw = text.encode()
    return UINT32.pack(len(raw)) + raw
