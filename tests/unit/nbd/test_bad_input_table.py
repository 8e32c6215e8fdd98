"""Bad input, row by row: what the server says, whom it hangs up on, what it harms.

Every row is put to a real server over a real socket, where it applies once in each
form of replies. A request that is refused must leave the volume alone and the
connection in step; a connection that is dropped must leave the server as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from common.nbd.server import NbdLimits
from tests.support import nbd_wire as wire
from tests.support.memory_volume import MemoryVolume
from tests.support.nbd_server import PATIENCE_SECONDS, Serving, serving, until
from tests.support.nbd_wire import SERVED, Form, OptionReply, Replies, Reply

pytestmark = pytest.mark.usefixtures("no_loop_complaints")

MIB = 1 << 20
SIZE = MIB
LAST = 2**64 - 1
CAP, DRAINED = MIB // 4, MIB // 2
SMALL = NbdLimits(payload_bytes_max=CAP, payload_bytes_drained_max=DRAINED)

FORMS = pytest.mark.parametrize("form", SERVED, ids=lambda form: form.value)


class Peer:
    """One raw connection: sends any bytes, takes answers apart strictly."""

    def __init__(
        self, form: Form, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.form = form
        self._reader = reader
        self._writer = writer
        self._asked: dict[int, tuple[int, int, int, int]] = {}
        self._replies = Replies(form, self._asked)
        self.context_ids: dict[str, int] = {}

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    @property
    def is_closing(self) -> bool:
        """Whether the end of the connection was seen, by whoever reads it or not."""
        return self._writer.is_closing()

    async def option_reply(self) -> OptionReply:
        async with asyncio.timeout(PATIENCE_SECONDS):
            header = await self._reader.readexactly(20)
            length = int.from_bytes(header[16:], "big")
            (reply,) = wire.option_replies(
                header + await self._reader.readexactly(length)
            )
        return reply

    async def answer(self, number: int) -> tuple[int, list[OptionReply]]:
        """Return how an option was answered in the end, and what came before."""
        before: list[OptionReply] = []
        while True:
            reply = await self.option_reply()
            assert reply.option == number
            if reply.kind == wire.ACK or reply.kind >= wire.ERR_UNSUP:
                return reply.kind, before
            before.append(reply)

    async def option(self, number: int, data: bytes = b"") -> int:
        self.send(wire.option(number, data))
        kind, _ = await self.answer(number)
        return kind

    async def start(self, export: str, *contexts: str) -> None:
        """Agree on contexts and the export; from here on, requests."""
        if contexts:
            self.send(wire.option(wire.SET_META, wire.queries(export, *contexts)))
            kind, told = await self.answer(wire.SET_META)
            assert kind == wire.ACK
            for reply in told:
                name = reply.data[4:].decode()
                self.context_ids[name] = int.from_bytes(reply.data[:4], "big")
        assert await self.option(wire.GO, wire.infos(export)) == wire.ACK

    def ask(
        self,
        command: int,
        offset: int,
        length: int,
        *,
        flags: int = 0,
        payload: bytes | None = None,
    ) -> int:
        """Send a request; a WRITE has zeroes as its payload if none is given."""
        has_payload = command == wire.WRITE or (
            self.form.is_extended and flags & wire.PAYLOAD_LEN
        )
        if payload is None:
            payload = bytes(length) if has_payload else b""
        if command == wire.WRITE and self.form.is_extended:
            flags |= wire.PAYLOAD_LEN
        cookie = 0x1122334455667700 + len(self._asked)
        self._asked[cookie] = (command, flags, offset, length)
        self.send(
            wire.request(
                self.form,
                command,
                offset,
                length,
                flags=flags,
                cookie=cookie,
                payload=payload,
            )
        )
        return cookie

    async def reply(self, cookie: int) -> Reply:
        """Return the whole answer to a request."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                found = self._replies.found.get(cookie)
                if found is not None and found.is_done:
                    return found
                received = await self._reader.read(MIB)
                assert received, "the server hung up"
                self._replies.feed(received)

    async def error(self, command: int, offset: int, length: int, **how: Any) -> int:
        """Return the error that a request is answered with, 0 if none."""
        return (await self.reply(self.ask(command, offset, length, **how))).error

    async def is_in_step(self) -> None:
        """Check that the next requests are understood and answered."""
        write = self.ask(wire.WRITE, 7, 7, payload=b"in step")
        assert not (await self.reply(write)).error
        read = await self.reply(self.ask(wire.READ, 7, 7))
        assert read.data(7, 7) == b"in step"
        assert self._replies.is_between_replies

    async def hung_up(self) -> bytes:
        """Await the server's end of the stream; return what came before it."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            try:
                return await self._reader.read()
            except ConnectionError:
                # What we sent was never read: it hung up all the same.
                return bytes(self._reader._buffer)  # type: ignore[attr-defined]

    def close(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def connected(served: Serving, form: Form = Form.SIMPLE) -> AsyncIterator[Peer]:
    """Connect and agree on the form of replies."""
    async with raw(served, form) as peer:
        peer.send(wire.CLIENT_FLAGS + form.options)
        if form is not Form.SIMPLE:
            reply = await peer.option_reply()
            assert reply.kind == wire.ACK
        yield peer


@asynccontextmanager
async def raw(served: Serving, form: Form = Form.SIMPLE) -> AsyncIterator[Peer]:
    """Connect and take the greeting."""
    reader, writer = await asyncio.open_unix_connection(served.socket_path)
    assert await reader.readexactly(18) == wire.GREETING
    peer = Peer(form, reader, writer)
    try:
        yield peer
    finally:
        peer.close()


@asynccontextmanager
async def transmitting(
    directory: Path,
    form: Form,
    *contexts: str,
    volume: MemoryVolume | None = None,
    limits: NbdLimits | None = None,
) -> AsyncIterator[tuple[Peer, MemoryVolume]]:
    """Serve one volume to one peer that is past its handshake."""
    volume = volume or MemoryVolume(SIZE)
    volume.keeps_submitted = True
    async with (
        serving(directory, {"g/v": volume}, limits) as served,
        connected(served, form) as peer,
    ):
        await peer.start("g/v", *contexts)
        yield peer, volume


def submitted(volume: MemoryVolume) -> list[int]:
    return [request.command for batch in volume.submitted for request in batch]


def refusals(log_lines: list[Any]) -> list[str]:
    assert {line["event"] for line in log_lines} <= {"nbd_connection_refused"}
    return [line["reason"] for line in log_lines]


class TestHandshake:
    async def drops(
        self,
        directory: Path,
        log_lines: list[Any],
        sent: bytes,
        *,
        form: Form = Form.SIMPLE,
    ) -> None:
        """Send what must cost the connection, and nothing but that."""
        async with serving(directory) as served, raw(served, form) as peer:
            peer.send(sent)
            assert await peer.hung_up() == b""
            async with connected(served) as other:
                await other.start("g/v")
                await other.is_in_step()
        assert len(refusals(log_lines)) == 1

    @pytest.mark.parametrize("flags", [4, 7, 1 << 16, 1 << 31, 0xFFFFFFFF])
    async def test_an_unknown_client_flag(
        self, tmp_path: Path, log_lines: list[Any], flags: int
    ) -> None:
        await self.drops(tmp_path, log_lines, flags.to_bytes(4, "big"))

    @pytest.mark.parametrize(
        "magic", [b"IHAVEOPU", b"NBDMAGIC", bytes(8), b"\x25\x60\x95\x13" * 2]
    )
    async def test_a_bad_option_magic(
        self, tmp_path: Path, log_lines: list[Any], magic: bytes
    ) -> None:
        sent = wire.CLIENT_FLAGS + magic + bytes(8)
        await self.drops(tmp_path, log_lines, sent)

    @pytest.mark.parametrize("length", [(64 << 10) + 1, 1 << 20, 1 << 31, 0xFFFFFFFF])
    @pytest.mark.parametrize("number", [wire.LIST, wire.GO, 77])
    async def test_an_option_that_is_too_long_is_not_waited_for(
        self, tmp_path: Path, log_lines: list[Any], number: int, length: int
    ) -> None:
        sent = wire.CLIENT_FLAGS + wire.option(number, length=length)
        await self.drops(tmp_path, log_lines, sent)

    @FORMS
    @pytest.mark.parametrize("number", [0, 4, 12, 0x49484156, 0xFFFFFFFF])
    @pytest.mark.parametrize("length", [0, 1, 5000, 64 << 10])
    async def test_an_unknown_option_with_data(
        self, tmp_path: Path, form: Form, number: int, length: int
    ) -> None:
        async with serving(tmp_path) as served, connected(served, form) as peer:
            data = b"IHAVEOPT" * (length // 8) + bytes(length % 8)
            assert await peer.option(number, data) == wire.ERR_UNSUP
            await peer.start("g/v")
            await peer.is_in_step()

    @FORMS
    @pytest.mark.parametrize("number", [wire.INFO, wire.GO])
    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(bytes(5), id="shorter than its two counts"),
            pytest.param(wire.text("g/v"), id="no count of infos"),
            pytest.param(wire.text("g/v") + b"\0", id="half a count"),
            pytest.param(wire.text("g/v") + b"\0\1", id="an info less than told"),
            pytest.param(wire.infos("g/v", 3) + b"\0", id="half an info more"),
            pytest.param(wire.infos("g/v") + b"\0\3", id="an info more than told"),
            pytest.param(wire.text("g/v", length=4) + b"\0\0", id="name too long by 1"),
            pytest.param(wire.text("g/v", length=2**32 - 1) + b"\0\0", id="name wraps"),
            pytest.param(wire.text("g/v", length=2**31) + b"\0\0", id="name negative"),
            pytest.param(wire.infos("n" * 4097), id="4097 bytes of name"),
            pytest.param(wire.infos(b"\xff\xfe"), id="no UTF-8"),
            pytest.param(wire.infos(b"\xc3"), id="half a character"),
        ],
    )
    async def test_a_name_too_long_or_a_length_that_does_not_match(
        self, tmp_path: Path, form: Form, number: int, data: bytes
    ) -> None:
        async with serving(tmp_path) as served, connected(served, form) as peer:
            assert await peer.option(number, data) == wire.ERR_INVALID
            await peer.start("g/v")
            await peer.is_in_step()

    @pytest.mark.parametrize("form", [f for f in SERVED if f is not Form.SIMPLE])
    @pytest.mark.parametrize("number", [wire.LIST_META, wire.SET_META])
    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(wire.text("g/v"), id="no count"),
            pytest.param(wire.text("g/v") + bytes(3), id="half a count"),
            pytest.param(wire.text("g/v") + b"\0\0\0\1", id="a query less than told"),
            pytest.param(wire.queries("g/v") + b"\0", id="more than told"),
            pytest.param(wire.queries("g/v", b"\xff"), id="no UTF-8"),
            pytest.param(wire.queries("n" * 4097), id="4097 bytes of name"),
            pytest.param(wire.queries("g/v", "q" * 4097), id="4097 bytes of query"),
            pytest.param(
                wire.text("g/v", length=2**32 - 1) + bytes(4), id="name wraps"
            ),
            pytest.param(
                wire.text("g/v") + b"\0\0\0\1" + wire.text("base:", length=2**32 - 1),
                id="query wraps",
            ),
            pytest.param(wire.text("g/v") + b"\xff" * 4, id="queries without end"),
            pytest.param(wire.queries("g/v", *[""] * 1025), id="1025 queries"),
        ],
    )
    async def test_queries_that_do_not_add_up(
        self, tmp_path: Path, form: Form, number: int, data: bytes
    ) -> None:
        async with serving(tmp_path) as served, connected(served, form) as peer:
            assert await peer.option(number, data) == wire.ERR_INVALID
            await peer.start("g/v", "base:allocation")
            assert list(peer.context_ids) == ["base:allocation"]
            await peer.is_in_step()

    @pytest.mark.parametrize("number", [wire.LIST_META, wire.SET_META])
    async def test_contexts_before_structured_replies(
        self, tmp_path: Path, number: int
    ) -> None:
        async with serving(tmp_path) as served, connected(served) as peer:
            asked = wire.queries("g/v", "base:allocation")
            assert await peer.option(number, asked) == wire.ERR_INVALID
            await peer.start("g/v")
            await peer.is_in_step()

    @FORMS
    @pytest.mark.parametrize(
        ("data", "kind"), [(b"", wire.ERR_POLICY), (b"x", wire.ERR_INVALID)]
    )
    async def test_starttls_where_no_tls_is_configured(
        self, tmp_path: Path, form: Form, data: bytes, kind: int
    ) -> None:
        async with serving(tmp_path) as served, connected(served, form) as peer:
            assert await peer.option(wire.STARTTLS, data) == kind
            await peer.start("g/v")
            await peer.is_in_step()

    @pytest.mark.parametrize(
        "number", [wire.LIST, wire.STRUCTURED_REPLY, wire.EXTENDED_HEADERS]
    )
    async def test_data_where_an_option_has_none(
        self, tmp_path: Path, number: int
    ) -> None:
        async with serving(tmp_path) as served, connected(served) as peer:
            assert await peer.option(number, b"x") == wire.ERR_INVALID
            await peer.start("g/v")
            await peer.is_in_step()

    @pytest.mark.parametrize(
        ("form", "number", "kind"),
        [
            (Form.STRUCTURED, wire.STRUCTURED_REPLY, wire.ERR_INVALID),
            (Form.EXTENDED, wire.EXTENDED_HEADERS, wire.ERR_INVALID),
            (Form.EXTENDED, wire.STRUCTURED_REPLY, wire.ERR_EXT_HEADER_REQD),
        ],
    )
    async def test_a_form_of_replies_twice_or_a_lesser_one(
        self, tmp_path: Path, form: Form, number: int, kind: int
    ) -> None:
        async with serving(tmp_path) as served, connected(served, form) as peer:
            assert await peer.option(number) == kind
            await peer.start("g/v", "base:allocation")
            assert list(peer.context_ids) == ["base:allocation"]
            await peer.is_in_step()

    async def test_the_old_way_after_extended_headers(
        self, tmp_path: Path, log_lines: list[Any]
    ) -> None:
        form = Form.EXTENDED
        async with serving(tmp_path) as served, connected(served, form) as peer:
            peer.send(wire.option(wire.EXPORT_NAME, b"g/v"))
            assert await peer.hung_up() == b""
        assert len(refusals(log_lines)) == 1

    @pytest.mark.parametrize("form", [Form.SIMPLE, Form.STRUCTURED])
    @pytest.mark.parametrize("name", [b"none", b"g/v\0", b"g/", b"\xff", b"n" * 4097])
    async def test_an_export_named_the_old_way_that_there_is_not(
        self, tmp_path: Path, log_lines: list[Any], form: Form, name: bytes
    ) -> None:
        async with serving(tmp_path) as served, connected(served, form) as peer:
            peer.send(wire.option(wire.EXPORT_NAME, name))
            assert await peer.hung_up() == b""
            assert served.exports.all_released()
        assert len(refusals(log_lines)) == 1

    @FORMS
    @pytest.mark.parametrize("name", [b"none", b"g/v\0", b"", b"n" * 4096])
    async def test_an_export_that_there_is_not(
        self, tmp_path: Path, form: Form, name: bytes
    ) -> None:
        async with serving(tmp_path) as served, connected(served, form) as peer:
            for number in (wire.INFO, wire.GO):
                kind = await peer.option(number, wire.infos(name))
                assert kind in {wire.ERR_UNKNOWN, wire.ERR_INVALID}
            await peer.start("g/v")
            await peer.is_in_step()

    @FORMS
    async def test_options_without_end(
        self, tmp_path: Path, log_lines: list[Any], form: Form
    ) -> None:
        async with serving(tmp_path) as served, connected(served, form) as peer:
            peer.send(wire.option(77) * 10_000)
            answered = wire.option_replies(await peer.hung_up())
            assert 16 <= len(answered) <= 32
        assert len(refusals(log_lines)) == 1

    async def test_a_byte_now_and_then_does_not_prolong_a_handshake(
        self, tmp_path: Path, log_lines: list[Any]
    ) -> None:
        limits = NbdLimits(handshake_seconds=0.2)
        async with serving(tmp_path, limits=limits) as served, raw(served) as peer:
            peer.send(wire.CLIENT_FLAGS)
            closed = asyncio.ensure_future(peer.hung_up())
            dripped = iter(wire.option(wire.LIST, bytes(64 << 10)))
            while not (closed.done() or peer.is_closing):
                peer.send(bytes([next(dripped)]))
                await asyncio.sleep(0.001)
            assert await closed == b""
        assert refusals(log_lines) == ["no export chosen within 0.2 seconds"]


def allowed_flags(form: Form, command: int) -> int:
    """Return the flags that a command may carry; FUA is accepted everywhere."""
    flags = wire.FUA
    if command == wire.READ and form is not Form.SIMPLE:
        flags |= wire.DF
    if command == wire.WRITE and form.is_extended:
        flags |= wire.PAYLOAD_LEN
    if command == wire.ZEROES:
        flags |= wire.NO_HOLE
    if command == wire.STATUS:
        flags |= wire.REQ_ONE
    return flags


COMMANDS = [wire.READ, wire.WRITE, wire.FLUSH, wire.TRIM, wire.CACHE, wire.ZEROES]


@FORMS
class TestTransmission:
    @pytest.mark.parametrize(
        "magic",
        [0, 0x12560953, 0x96744668, 0x25609514, 0x67446698, 0x668E33EF, 0x4E42444D],
    )
    async def test_a_bad_request_magic_is_not_answered(
        self, tmp_path: Path, log_lines: list[Any], form: Form, magic: int
    ) -> None:
        async with transmitting(tmp_path, form) as (peer, volume):
            good = wire.write(form, 0, b"data")
            peer.send(magic.to_bytes(4, "big") + good[4:])
            assert await peer.hung_up() == b""
            assert submitted(volume) == []
        assert len(refusals(log_lines)) == 1

    async def test_the_magic_of_the_other_form_is_a_bad_one(
        self, tmp_path: Path, log_lines: list[Any], form: Form
    ) -> None:
        other = Form.SIMPLE if form.is_extended else Form.EXTENDED
        async with transmitting(tmp_path, form) as (peer, volume):
            peer.send(wire.request(other, wire.READ, 0, 4) * 2)
            assert await peer.hung_up() == b""
            assert submitted(volume) == []
        assert len(refusals(log_lines)) == 1

    @pytest.mark.parametrize("command", [8, 9, 0x100, 0xFFFF])
    @pytest.mark.parametrize("flags", [0, wire.FUA])
    async def test_an_unknown_command(
        self, tmp_path: Path, form: Form, command: int, flags: int
    ) -> None:
        async with transmitting(tmp_path, form) as (peer, volume):
            for offset, length in [(0, 0), (0, 4), (SIZE, 4), (LAST, form.length_max)]:
                error = await peer.error(command, offset, length, flags=flags)
                assert error == wire.EINVAL
            assert submitted(volume) == []
            await peer.is_in_step()

    async def test_a_flag_that_a_command_does_not_have(
        self, tmp_path: Path, form: Form
    ) -> None:
        async with transmitting(tmp_path, form, *CONTEXTS[form]) as (peer, volume):
            statuses = [wire.STATUS] if CONTEXTS[form] else []
            for command in COMMANDS + statuses:
                for bit in range(16):
                    flag = 1 << bit
                    if flag & allowed_flags(form, command):
                        continue
                    error = await peer.error(command, 0, 8, flags=flag)
                    assert error == wire.EINVAL, (command, flag)
            assert submitted(volume) == []
            assert not any(volume.content)
            await peer.is_in_step()

    async def test_fua_on_everything(self, tmp_path: Path, form: Form) -> None:
        async with transmitting(tmp_path, form, *CONTEXTS[form]) as (peer, _):
            for command in COMMANDS:
                assert await peer.error(command, 0, 8, flags=wire.FUA) == 0
            read = peer.ask(wire.READ, 3, 8, flags=wire.FUA)
            assert (await peer.reply(read)).data(3, 8) == bytes(8)
            await peer.is_in_step()

    @pytest.mark.parametrize(
        ("offset", "length"), [(SIZE, 1), (SIZE - 1, 2), (0, SIZE + 1), (2**63, 5)]
    )
    async def test_a_range_past_the_end(
        self, tmp_path: Path, form: Form, offset: int, length: int
    ) -> None:
        expected = {
            wire.READ: wire.EINVAL,
            wire.WRITE: wire.ENOSPC,
            wire.TRIM: wire.EINVAL,
            wire.CACHE: wire.EINVAL,
            wire.ZEROES: wire.ENOSPC,
        }
        if CONTEXTS[form]:
            expected[wire.STATUS] = wire.EINVAL
        async with transmitting(tmp_path, form, *CONTEXTS[form]) as (peer, volume):
            for command, error in expected.items():
                assert await peer.error(command, offset, length) == error, command
            assert submitted(volume) == []
            await peer.is_in_step()

    @pytest.mark.parametrize(
        ("offset", "length"), [(LAST, 1), (LAST, 2), (LAST - 1, 2), (LAST - 8, 4096)]
    )
    async def test_an_end_that_wraps(
        self, tmp_path: Path, form: Form, offset: int, length: int
    ) -> None:
        async with transmitting(tmp_path, form, *CONTEXTS[form]) as (peer, volume):
            for command in [*COMMANDS, wire.STATUS]:
                if command == wire.FLUSH:
                    continue
                error = await peer.error(command, offset, length)
                wraps = offset + length > LAST
                no_space = command in {wire.WRITE, wire.ZEROES} and not wraps
                assert error == (wire.ENOSPC if no_space else wire.EINVAL), command
            assert submitted(volume) == []
            await peer.is_in_step()

    async def test_a_length_that_wraps(self, tmp_path: Path, form: Form) -> None:
        async with transmitting(tmp_path, form, *CONTEXTS[form]) as (peer, volume):
            for command in [wire.READ, wire.TRIM, wire.CACHE, wire.STATUS]:
                for length in (form.length_max, form.length_max - 4095):
                    for offset in (1, 4096, SIZE, LAST):
                        error = await peer.error(command, offset, length)
                        assert error == wire.EINVAL, (command, offset, length)
            assert submitted(volume) == []
            await peer.is_in_step()

    async def test_a_read_of_nothing(self, tmp_path: Path, form: Form) -> None:
        async with transmitting(tmp_path, form) as (peer, volume):
            for offset in (0, 5, SIZE):
                reply = await peer.reply(peer.ask(wire.READ, offset, 0))
                assert reply.is_simple == (form is Form.SIMPLE)
                assert (reply.error, reply.runs) == (0, [])
            assert await peer.error(wire.READ, SIZE + 1, 0) == wire.EINVAL
            assert submitted(volume) == []
            await peer.is_in_step()

    async def test_a_write_of_nothing(self, tmp_path: Path, form: Form) -> None:
        async with transmitting(tmp_path, form) as (peer, volume):
            for offset in (0, 5, SIZE):
                assert await peer.error(wire.WRITE, offset, 0) == 0
            assert await peer.error(wire.WRITE, SIZE + 1, 0) == wire.ENOSPC
            assert submitted(volume) == []
            await peer.is_in_step()

    async def test_a_read_of_33_mib_and_one_above_the_limit(
        self, tmp_path: Path, form: Form
    ) -> None:
        volume = MemoryVolume(65 * MIB)
        volume.content[33 * MIB] = 1
        async with transmitting(tmp_path, form, volume=volume) as (peer, _):
            reply = await peer.reply(peer.ask(wire.READ, 1, 33 * MIB))
            assert reply.data(1, 33 * MIB) == bytes(33 * MIB - 1) + b"\1"
            error = wire.EINVAL if form is Form.SIMPLE else wire.EOVERFLOW
            for length in (64 * MIB + 1, 65 * MIB):
                assert await peer.error(wire.READ, 0, length) == error
            await peer.is_in_step()

    async def test_a_write_of_33_mib(self, tmp_path: Path, form: Form) -> None:
        volume = MemoryVolume(34 * MIB)
        data = b"\x25\x60\x95\x13" * (33 * MIB // 4)
        async with transmitting(tmp_path, form, volume=volume) as (peer, _):
            write = peer.ask(wire.WRITE, 5, len(data), payload=data)
            assert (await peer.reply(write)).error == 0
            assert volume.content[5 : 5 + len(data)] == data
            await peer.is_in_step()

    @pytest.mark.parametrize("length", [CAP + 1, DRAINED - 1, DRAINED])
    async def test_a_write_above_the_limit_is_read_away(
        self, tmp_path: Path, form: Form, length: int
    ) -> None:
        data = wire.write(form, 0, b"not a request")
        data *= -(-length // len(data))
        async with transmitting(tmp_path, form, limits=SMALL) as (peer, volume):
            write = peer.ask(wire.WRITE, 0, length, payload=data[:length])
            assert (await peer.reply(write)).error == wire.EINVAL
            assert submitted(volume) == []
            await peer.is_in_step()

    @pytest.mark.parametrize("length", [DRAINED + 1, 2**31, 2**32 - 1, 2**63, LAST])
    @pytest.mark.parametrize("offset", [0, SIZE, LAST])
    async def test_a_write_far_above_the_limit_is_dropped_at_its_header(
        self,
        tmp_path: Path,
        log_lines: list[Any],
        form: Form,
        offset: int,
        length: int,
    ) -> None:
        # Truncated to what fits into this form's length, which is far above it too.
        length = min(length, form.length_max)
        async with transmitting(tmp_path, form, limits=SMALL) as (peer, volume):
            peer.ask(wire.WRITE, offset, length, payload=b"")
            assert await peer.hung_up() == b""
            assert submitted(volume) == []
        assert len(refusals(log_lines)) == 1

    async def test_block_status_without_a_context(
        self, tmp_path: Path, form: Form
    ) -> None:
        async with transmitting(tmp_path, form) as (peer, volume):
            for length in (1, SIZE, 2**32 - 1):
                for flags in (0, wire.REQ_ONE):
                    error = await peer.error(wire.STATUS, 0, length, flags=flags)
                    assert error == wire.EINVAL
            assert submitted(volume) == []
            await peer.is_in_step()

    async def test_block_status_of_almost_four_gigabytes(
        self, tmp_path: Path, form: Form
    ) -> None:
        volume = HugeVolume()
        contexts = CONTEXTS[form]
        async with transmitting(tmp_path, form, *contexts, volume=volume) as (peer, _):
            if not contexts:
                # Simple replies can not tell extents: that is said, however long.
                assert await peer.error(wire.STATUS, 0, 2**32 - 1) == wire.EINVAL
                return
            for length in (2**32 - 1, min(HugeVolume.SIZE, form.length_max)):
                for flags in (0, wire.REQ_ONE):
                    asked = peer.ask(wire.STATUS, 0, length, flags=flags)
                    reply = await peer.reply(asked)
                    assert reply.error == 0
                    (extents,) = reply.extents.values()
                    ((told, kind),) = extents
                    assert kind == 3
                    assert 0 < told <= length
                    assert told % 4096 == 0 or told == length

    async def test_long_requests_without_payload(
        self, tmp_path: Path, form: Form
    ) -> None:
        async with transmitting(tmp_path, form, volume=HugeVolume()) as (peer, volume):
            lengths = [2**32 - 1, min(HugeVolume.SIZE, form.length_max)]
            for command in (wire.TRIM, wire.CACHE, wire.ZEROES):
                for length in lengths:
                    assert await peer.error(command, 0, length) == 0
            ran = [r.length for batch in volume.submitted for r in batch]
            assert ran == lengths * 3

    async def test_block_status_of_nothing(self, tmp_path: Path, form: Form) -> None:
        async with transmitting(tmp_path, form, *CONTEXTS[form]) as (peer, volume):
            assert await peer.error(wire.STATUS, 0, 0) == wire.EINVAL
            assert submitted(volume) == []
            await peer.is_in_step()

    async def test_changes_of_a_read_only_export(
        self, tmp_path: Path, form: Form
    ) -> None:
        volume = MemoryVolume(SIZE, read_only=True)
        async with transmitting(tmp_path, form, volume=volume) as (peer, _):
            for command in (wire.WRITE, wire.TRIM, wire.ZEROES):
                for offset, length in [(0, 8), (0, 0), (SIZE, 8), (LAST, 8)]:
                    error = await peer.error(command, offset, length)
                    assert error == wire.EPERM, (command, offset, length)
            assert submitted(volume) == []
            read = await peer.reply(peer.ask(wire.READ, 0, 4))
            assert read.data(0, 4) == bytes(4)

    async def test_many_wrong_requests_at_once(
        self, tmp_path: Path, form: Form
    ) -> None:
        async with transmitting(tmp_path, form) as (peer, volume):
            cookies = []
            for n in range(500):
                cookies += [
                    peer.ask(wire.WRITE, SIZE, n, flags=0x8000),
                    peer.ask(9 + n, n, n),
                    peer.ask(wire.READ, SIZE, n + 1),
                ]
            for cookie in cookies:
                assert (await peer.reply(cookie)).error == wire.EINVAL
            assert submitted(volume) == []
            await peer.is_in_step()

    async def test_the_end_of_the_stream_in_the_middle_of_a_request(
        self, tmp_path: Path, log_lines: list[Any], form: Form
    ) -> None:
        whole = wire.write(form, 0, b"payload!")
        async with serving(tmp_path) as served:
            served.volume.keeps_submitted = True
            for end in range(len(whole)):
                async with connected(served, form) as peer:
                    await peer.start("g/v")
                    peer.send(whole[:end])
            await until(lambda: served.server.connection_count == 0)
            assert submitted(served.volume) == []
        assert log_lines == []


class TestPayloads:
    """What only extended headers allow to be said, and to be said wrongly."""

    @pytest.mark.parametrize(
        "command", [wire.READ, wire.FLUSH, wire.TRIM, wire.CACHE, wire.ZEROES, 8, 999]
    )
    @pytest.mark.parametrize("length", [1, 64, 4096, CAP])
    async def test_a_payload_that_a_command_does_not_have_is_read_away(
        self, tmp_path: Path, command: int, length: int
    ) -> None:
        form = Form.EXTENDED
        smuggled = wire.write(form, 0, b"!") * (1 + length // 33)
        async with transmitting(tmp_path, form, limits=SMALL) as (peer, volume):
            error = await peer.error(
                command,
                0,
                length,
                flags=wire.PAYLOAD_LEN,
                payload=smuggled[:length],
            )
            assert error == wire.EINVAL
            assert submitted(volume) == []
            await peer.is_in_step()

    @pytest.mark.parametrize("command", [wire.READ, wire.FLUSH, wire.STATUS, 999])
    @pytest.mark.parametrize("length", [CAP + 1, 2**32, LAST])
    async def test_a_payload_above_the_limit_is_not_waited_for(
        self, tmp_path: Path, log_lines: list[Any], command: int, length: int
    ) -> None:
        contexts = ("base:allocation",)
        async with transmitting(tmp_path, Form.EXTENDED, *contexts, limits=SMALL) as (
            peer,
            volume,
        ):
            peer.ask(command, 0, length, flags=wire.PAYLOAD_LEN, payload=b"")
            assert await peer.hung_up() == b""
            assert submitted(volume) == []
        assert len(refusals(log_lines)) == 1

    async def test_a_write_that_does_not_tell_of_its_payload(
        self, tmp_path: Path
    ) -> None:
        form = Form.EXTENDED
        async with transmitting(tmp_path, form) as (peer, volume):
            peer.send(wire.request(form, wire.WRITE, 0, 4, payload=b"data"))
            await until(lambda: volume.content[:4] == b"data")

    @pytest.mark.parametrize(
        "payload",
        [
            pytest.param(b"x", id="one byte"),
            pytest.param(wire.status_payload(8), id="no id"),
            pytest.param(wire.status_payload(8)[:7], id="half a length"),
            pytest.param(wire.status_payload(8, 1)[:11], id="most of an id"),
            pytest.param(wire.status_payload(8, 1) + b"x", id="a byte more"),
            pytest.param(wire.status_payload(8, 1, 1), id="an id twice"),
            pytest.param(wire.status_payload(8, 0), id="id 0"),
            pytest.param(wire.status_payload(8, 77), id="an id not selected"),
            pytest.param(wire.status_payload(8, 1, 77), id="one of two not selected"),
            pytest.param(wire.status_payload(0, 1), id="the status of nothing"),
            pytest.param(wire.status_payload(SIZE + 1, 1), id="past the end"),
            pytest.param(wire.status_payload(LAST, 1), id="an end that wraps"),
            pytest.param(wire.status_payload(8, *range(1000)), id="a thousand ids"),
        ],
    )
    async def test_contexts_that_cannot_be_asked_about(
        self, tmp_path: Path, payload: bytes
    ) -> None:
        form, contexts = Form.EXTENDED, ("base:allocation",)
        async with transmitting(tmp_path, form, *contexts) as (peer, volume):
            assert list(peer.context_ids.values()) == [1]
            for offset in (0, 1, LAST):
                error = await peer.error(
                    wire.STATUS,
                    offset,
                    len(payload),
                    flags=wire.PAYLOAD_LEN,
                    payload=payload,
                )
                assert error == wire.EINVAL
            assert submitted(volume) == []
            await peer.is_in_step()

    async def test_contexts_chosen_where_none_is_selected(self, tmp_path: Path) -> None:
        payload = wire.status_payload(8, 1)
        async with transmitting(tmp_path, Form.EXTENDED) as (peer, volume):
            error = await peer.error(
                wire.STATUS,
                0,
                len(payload),
                flags=wire.PAYLOAD_LEN,
                payload=payload,
            )
            assert error == wire.EINVAL
            assert submitted(volume) == []
            await peer.is_in_step()

    async def test_a_context_chosen_well_is_told_of(self, tmp_path: Path) -> None:
        form, contexts = Form.EXTENDED, ("base:allocation",)
        payload = wire.status_payload(8192, 1)
        async with transmitting(tmp_path, form, *contexts) as (peer, _):
            for flags in (0, wire.REQ_ONE, wire.FUA):
                cookie = peer.ask(
                    wire.STATUS,
                    4096,
                    len(payload),
                    flags=flags | wire.PAYLOAD_LEN,
                    payload=payload,
                )
                reply = await peer.reply(cookie)
                assert (reply.error, reply.extents) == (0, {1: [(8192, 3)]})
            await peer.is_in_step()

    async def test_of_two_contexts_each_may_be_chosen_once(
        self, tmp_path: Path
    ) -> None:
        contexts = ("base:allocation", "x-farshore-test:other")
        volume = MemoryVolume(SIZE)
        volume.contexts = contexts
        async with transmitting(tmp_path, Form.EXTENDED, *contexts, volume=volume) as (
            peer,
            _,
        ):
            one, other = peer.context_ids.values()
            for ids in [(one, one), (other, other), (one, other, one), (one, 77)]:
                payload = wire.status_payload(8, *ids)
                error = await peer.error(
                    wire.STATUS,
                    0,
                    len(payload),
                    flags=wire.PAYLOAD_LEN,
                    payload=payload,
                )
                assert error == wire.EINVAL, ids
            assert submitted(volume) == []
            for ids in [(one,), (other,), (one, other), (other, one)]:
                payload = wire.status_payload(8, *ids)
                cookie = peer.ask(
                    wire.STATUS,
                    0,
                    len(payload),
                    flags=wire.PAYLOAD_LEN,
                    payload=payload,
                )
                assert set((await peer.reply(cookie)).extents) == set(ids)
            await peer.is_in_step()


CONTEXTS: dict[Form, tuple[str, ...]] = {
    Form.SIMPLE: (),
    Form.STRUCTURED: ("base:allocation",),
    Form.EXTENDED: ("base:allocation",),
}


class HugeVolume(MemoryVolume):
    """Five gibibytes of hole; only the length of what is asked matters."""

    SIZE = 5 << 30

    def __init__(self) -> None:
        super().__init__(4096)
        self.size_bytes = self.SIZE

    def _run(self, request: Any) -> None:
        if request.contexts:
            request.data = [[(request.length, 3)] for _ in request.contexts]
