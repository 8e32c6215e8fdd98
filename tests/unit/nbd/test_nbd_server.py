"""The NBD server on real sockets: what clients get, and what bad ones can not do."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, DeviceBusyError
from common.nbd.protocol import Command, CommandFlag, Info, NbdError, Option, WireForm
from common.nbd.server import NbdLimits, NbdServer
from tests.support.memory_volume import MemoryExports, MemoryVolume
from tests.support.nbd_client import (
    NbdClient,
    NbdReplyError,
    OptionRefusedError,
)
from tests.support.nbd_server import Serving, serving, until

pytestmark = pytest.mark.usefixtures("no_loop_complaints")

SIZE = 1 << 20
MIB = 1 << 20


async def number_of(future: asyncio.Future[Any]) -> int:
    """Return the NBD error number that a request is answered with; 0 if none."""
    try:
        await future
    except NbdReplyError as error:
        return error.number
    return 0


def refusals(log_lines: list[Any]) -> list[str]:
    assert {line["event"] for line in log_lines} <= {"nbd_connection_refused"}
    return [line["reason"] for line in log_lines]


class TestCommands:
    @pytest.mark.parametrize("structured", [False, True])
    async def test_each_command_does_its_work(
        self, tmp_path: Path, structured: bool
    ) -> None:
        async with serving(tmp_path) as served:
            client = await served.client(structured=structured)
            assert client.info.size_bytes == SIZE
            assert client.info.name == "g/v"
            assert client.info.description == "memory"
            assert client.info.block_sizes == (1, 4096, 32 * MIB)
            await client.write(1, b"abcdef")
            await client.write(3, b"XY", fua=True)
            assert await client.read(0, 8) == b"\0abXYef\0"
            assert await client.read(0, 8) == await client.read(0, 8)
            await client.trim(2, 1)
            await client.write_zeroes(4, 1, no_hole=True, fua=True)
            assert await client.read(0, 8) == b"\0a\0X\0ef\0"
            await client.cache(0, SIZE)
            await client.flush()
            assert served.volume.flush_count == 1
            assert served.volume.fua_count == 2
            await client.disconnect()

    async def test_a_client_that_names_its_export_the_old_way_is_served(
        self, tmp_path: Path
    ) -> None:
        async with serving(tmp_path) as served:
            client = await NbdClient.connect(
                served.address,
                "g/v",
                structured=False,
                by_export_name=True,
                client_flags=1,
            )
            await client.write(SIZE - 3, b"end")
            assert await client.read(SIZE - 3, 3) == b"end"
            await client.disconnect()

    async def test_block_status_tells_holes_and_data(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as served:
            client = await served.client()
            await client.write(8192, b"x" * 8192)
            whole = [(8192, 3), (8192, 0), (SIZE - 16384, 3)]
            assert await client.block_status(0, SIZE) == whole
            one = await client.block_status(10_000, 100_000, only_one=True)
            assert one == [(6384, 0)]
            assert await client.read(8190, 6, dont_fragment=True) == b"\0\0xxxx"
            await client.write_zeroes(8192, 4096)
            await client.write_zeroes(65536, 4096, no_hole=True)
            found = await client.block_status(0, 128 << 10)
            expected = [(12288, 3), (4096, 0), (49152, 3), (4096, 0), (61440, 3)]
            assert found == expected
            await client.disconnect()

    async def test_many_requests_in_flight_are_all_answered(
        self, tmp_path: Path
    ) -> None:
        async with serving(tmp_path) as served:
            client = await served.client()
            blocks = [bytes([n % 251]) * 700 for n in range(1000)]
            await asyncio.gather(
                *(client.write(n * 1000 + n % 7, b) for n, b in enumerate(blocks))
            )
            found = await asyncio.gather(
                *(client.read(n * 1000 + n % 7, 700) for n in range(1000))
            )
            assert found == blocks
            await client.disconnect()

    async def test_answers_may_come_in_any_order(self, tmp_path: Path) -> None:
        volume = MemoryVolume(SIZE, held=True)
        async with serving(tmp_path, {"g/v": volume}) as served:
            client = await served.client()
            writes = [client.write(n * 512, bytes([n]) * 512) for n in range(9)]
            await until(lambda: len(volume.waiting) == 9)
            volume.step(last=True)
            await writes[8]
            assert not any(write.done() for write in writes[:8])
            volume.step(8, last=True)
            await asyncio.gather(*writes)
            await client.disconnect()

    @pytest.mark.parametrize("length", [1 << 18, MIB, MIB + 1, 33 * MIB, 64 * MIB])
    async def test_large_payloads_arrive_whole(
        self, tmp_path: Path, length: int
    ) -> None:
        volumes = {"g/v": MemoryVolume(80 * MIB)}
        async with serving(tmp_path, volumes) as served:
            client = await served.client()
            data = os.urandom(4096) * (length // 4096) + b"x" * (length % 4096)
            small = client.write(0, b"before")
            large = client.write(10, data, fua=True)
            after = client.write(10 + length, b"after")
            await asyncio.gather(small, large, after)
            assert served.volume.fua_count == 1
            assert await client.read(0, 6) == b"before"
            assert await client.read(10, length) == data
            assert await client.read(10 + length, 5) == b"after"
            await client.disconnect()

    async def test_a_flush_on_one_connection_follows_writes_of_another(
        self, tmp_path: Path
    ) -> None:
        async with serving(tmp_path) as served:
            first, second = await served.client(), await served.client()
            await first.write(0, b"one")
            await second.flush()
            assert await second.read(0, 3) == b"one"
            assert served.volume.flush_count == 1
            await first.disconnect()
            await second.disconnect()


STRUCTURED_AND_SIMPLE = pytest.mark.parametrize("structured", [False, True])


class TestRefusedRequests:
    @STRUCTURED_AND_SIMPLE
    @pytest.mark.parametrize(
        ("command", "offset", "length", "flags", "error"),
        [
            (Command.READ, SIZE, 1, 0, NbdError.EINVAL),
            (Command.READ, SIZE - 1, 2, 0, NbdError.EINVAL),
            (Command.READ, 2**64 - 1, 2, 0, NbdError.EINVAL),
            (Command.TRIM, SIZE - 1, 2, 0, NbdError.EINVAL),
            (Command.CACHE, SIZE - 1, 2, 0, NbdError.EINVAL),
            (Command.WRITE_ZEROES, SIZE - 1, 2, 0, NbdError.ENOSPC),
            (Command.WRITE_ZEROES, 2**64 - 1, 2, 0, NbdError.EINVAL),
            (Command.BLOCK_STATUS, 0, 0, 0, NbdError.EINVAL),
            (Command.BLOCK_STATUS, SIZE - 1, 2, 0, NbdError.EINVAL),
            (Command.RESIZE, SIZE, 0, 0, NbdError.EINVAL),
            (9, 0, 0, 0, NbdError.EINVAL),
            (0xFFFF, 0, 5, 0xFFFF, NbdError.EINVAL),
            (Command.READ, 0, 1, CommandFlag.REQ_ONE, NbdError.EINVAL),
            (Command.READ, 0, 1, 0x8000, NbdError.EINVAL),
            (Command.FLUSH, 0, 0, CommandFlag.NO_HOLE, NbdError.EINVAL),
            (Command.TRIM, 0, 1, CommandFlag.NO_HOLE, NbdError.EINVAL),
            (Command.CACHE, 0, 1, CommandFlag.DF, NbdError.EINVAL),
            (Command.WRITE_ZEROES, 0, 1, CommandFlag.FAST_ZERO, NbdError.EINVAL),
            (Command.BLOCK_STATUS, 0, 1, CommandFlag.PAYLOAD_LEN, NbdError.EINVAL),
        ],
    )
    async def test_a_wrong_request_is_answered_and_the_next_one_served(
        self,
        tmp_path: Path,
        structured: bool,
        command: int,
        offset: int,
        length: int,
        flags: int,
        error: NbdError,
    ) -> None:
        async with serving(tmp_path) as served:
            client = await served.client(structured=structured)
            wrong = client.request(command, offset, length, flags=flags)
            right = client.read(0, 4)
            assert await number_of(wrong) == error
            assert await right == bytes(4)
            await client.disconnect()

    @STRUCTURED_AND_SIMPLE
    @pytest.mark.parametrize("length", [1, 100_000, MIB, 3 * MIB])
    async def test_the_payload_of_a_refused_write_is_read_away(
        self, tmp_path: Path, structured: bool, length: int
    ) -> None:
        async with serving(tmp_path) as served:
            client = await served.client(structured=structured)
            past = client.write(SIZE, b"\x25\x60\x95\x13" * length)
            flagged = client.request(
                Command.WRITE, 0, 4, b"data", flags=CommandFlag.NO_HOLE
            )
            wraps = client.write(2**64 - 2, b"data")
            right = client.write(0, b"good")
            assert await number_of(past) == NbdError.ENOSPC
            assert await number_of(flagged) == NbdError.EINVAL
            assert await number_of(wraps) == NbdError.EINVAL
            await right
            assert await client.read(0, 4) == b"good"
            await client.disconnect()

    @STRUCTURED_AND_SIMPLE
    async def test_nothing_is_done_for_requests_of_no_length(
        self, tmp_path: Path, structured: bool
    ) -> None:
        async with serving(tmp_path) as served:
            served.volume.keeps_submitted = True
            client = await served.client(structured=structured)
            assert await client.read(5, 0) == b""
            assert await client.read(SIZE, 0) == b""
            await client.write(5, b"")
            await client.trim(5, 0)
            await client.write_zeroes(5, 0)
            await client.cache(5, 0)
            assert await number_of(client.read(SIZE + 1, 0)) == NbdError.EINVAL
            assert served.volume.submitted == []
            await client.disconnect()

    async def test_fua_is_accepted_on_every_command(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as served:
            client = await served.client()
            fua = CommandFlag.FUA
            requests = [
                client.request(command, 0, length, flags=fua)
                for command, length in [
                    (Command.READ, 4),
                    (Command.FLUSH, 0),
                    (Command.TRIM, 4),
                    (Command.CACHE, 4),
                    (Command.WRITE_ZEROES, 4),
                    (Command.BLOCK_STATUS, 4),
                ]
            ]
            assert [await number_of(request) for request in requests] == [0] * 6
            await client.disconnect()

    async def test_a_flush_with_a_range_is_tolerated(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as served:
            client = await served.client()
            await client.request(Command.FLUSH, 2**63, 2**32 - 1)
            assert served.volume.flush_count == 1
            await client.disconnect()

    @STRUCTURED_AND_SIMPLE
    async def test_without_a_context_there_is_no_block_status(
        self, tmp_path: Path, structured: bool
    ) -> None:
        async with serving(tmp_path) as served:
            client = await NbdClient.connect_unnegotiated(served.address)
            if structured:
                await client.agree(WireForm.STRUCTURED)
            await client.go("g/v", [Info.NAME])
            client.transmit()
            status = client.block_status(0, 10)
            assert await number_of(status) == NbdError.EINVAL
            await client.disconnect()

    async def test_df_needs_structured_replies(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as served:
            client = await served.client(structured=False)
            read = client.read(0, 4, dont_fragment=True)
            assert await number_of(read) == NbdError.EINVAL
            await client.disconnect()

    async def test_a_read_only_export_refuses_changes(self, tmp_path: Path) -> None:
        volumes = {"g/v": MemoryVolume(SIZE, read_only=True)}
        async with serving(tmp_path, volumes) as served:
            client = await served.client()
            requests = [
                client.write(0, b"data"),
                client.write(SIZE, b""),
                client.trim(0, 4),
                client.write_zeroes(0, 4),
            ]
            numbers = [await number_of(request) for request in requests]
            assert numbers == [NbdError.EPERM] * 4
            await client.flush()
            assert await client.read(0, 4) == bytes(4)
            assert await client.block_status(0, SIZE) == [(SIZE, 3)]
            await client.disconnect()

    @pytest.mark.parametrize(
        ("structured", "error"), [(False, NbdError.EINVAL), (True, NbdError.EOVERFLOW)]
    )
    async def test_reads_above_the_limit_are_told_so(
        self, tmp_path: Path, structured: bool, error: NbdError
    ) -> None:
        limits = NbdLimits(payload_bytes_max=MIB // 2)
        async with serving(tmp_path, limits=limits) as served:
            client = await served.client(structured=structured)
            assert len(await client.read(0, MIB // 2)) == MIB // 2
            assert await number_of(client.read(0, MIB // 2 + 1)) == error
            await client.disconnect()

    async def test_writes_above_the_limit_are_drained_up_to_twice_it(
        self, tmp_path: Path, log_lines: list[Any]
    ) -> None:
        limits = NbdLimits(
            payload_bytes_max=MIB // 4, payload_bytes_drained_max=MIB // 2
        )
        async with serving(tmp_path, limits=limits) as served:
            client = await served.client()
            too_long = client.write(0, b"x" * (MIB // 2))
            assert await number_of(too_long) == NbdError.EINVAL
            assert await client.read(0, 4) == bytes(4)
            assert log_lines == []
            absurd = client.write(0, b"x" * (MIB // 2 + 1))
            with pytest.raises(ConnectionError):
                await absurd
            await client.closed
        assert refusals(log_lines) == [f"a WRITE of {MIB // 2 + 1} bytes"]

    @STRUCTURED_AND_SIMPLE
    @pytest.mark.parametrize(
        ("number", "error"),
        [
            (errno.EIO, NbdError.EIO),
            (errno.EDQUOT, NbdError.ENOSPC),
            (errno.EROFS, NbdError.EPERM),
            (errno.ESHUTDOWN, NbdError.EIO),
            (errno.EOPNOTSUPP, NbdError.EINVAL),
        ],
    )
    async def test_errors_of_the_volume_reach_the_client(
        self, tmp_path: Path, structured: bool, number: int, error: NbdError
    ) -> None:
        async with serving(tmp_path) as served:
            client = await served.client(structured=structured)
            served.volume.errno_of = dict.fromkeys(range(8), number)
            requests: list[asyncio.Future[Any]] = [
                client.read(0, 4),
                client.write(0, b"data"),
                client.flush(),
            ]
            if structured:
                requests.append(client.block_status(0, 4))
            numbers = [await number_of(request) for request in requests]
            assert numbers == [error] * len(requests)
            served.volume.errno_of = {}
            assert await client.read(0, 4) == bytes(4)
            await client.disconnect()


class TestLimitsInFlight:
    async def test_no_more_requests_are_taken_than_may_be_in_flight(
        self, tmp_path: Path
    ) -> None:
        volume = MemoryVolume(SIZE, held=True)
        limits = NbdLimits(requests_in_flight_max=4)
        async with serving(tmp_path, {"g/v": volume}, limits) as served:
            client = await served.client()
            requests = [client.write(n, bytes([n])) for n in range(50)]
            requests += [client.flush() for _ in range(5)]
            for _ in range(55):
                await until(lambda: bool(volume.waiting))
                assert len(volume.waiting) <= 4
                volume.step()
            await asyncio.gather(*requests)
            assert volume.content[:50] == bytes(range(50))
            await client.disconnect()

    async def test_no_more_bytes_are_taken_than_may_be_in_flight(
        self, tmp_path: Path
    ) -> None:
        volume = MemoryVolume(SIZE, held=True)
        limits = NbdLimits(bytes_in_flight_max=10_000)
        async with serving(tmp_path, {"g/v": volume}, limits) as served:
            client = await served.client()
            reads = [client.read(0, 3000) for _ in range(20)]
            alone = client.read(0, 500_000)
            last = client.write(0, b"x" * 500_000)
            for _ in range(22):
                await until(lambda: bool(volume.waiting))
                held = [request.length for request, _ in volume.waiting]
                assert sum(held) <= 10_000 or len(held) == 1
                volume.step()
            await asyncio.gather(*reads, alone, last)
            # What has completed is no longer counted: three fit again, not four.
            reads = [client.read(0, 3000) for _ in range(4)]
            await until(lambda: len(volume.waiting) == 3)
            volume.step(3)
            await until(lambda: len(volume.waiting) == 1)
            volume.step()
            await asyncio.gather(*reads)
            await client.disconnect()

    async def test_payloads_stay_untouched_until_their_writes_complete(
        self, tmp_path: Path
    ) -> None:
        volume = MemoryVolume(64 * MIB, held=True)
        limits = NbdLimits(receive_buffers_max=2)
        async with serving(tmp_path, {"g/v": volume}, limits) as served:
            client = await served.client()
            payloads = [bytes([n]) * (300_000 + n) for n in range(40)]
            offsets = [n * MIB for n in range(40)]
            writes = [
                client.write(offset, payload)
                for offset, payload in zip(offsets, payloads, strict=True)
            ]
            for count in range(40):
                await until(lambda: bool(volume.waiting))
                # Leave the oldest for the end: it keeps its buffer meanwhile.
                volume.step(last=count < 39)
            await asyncio.gather(*writes)
            for offset, payload in zip(offsets, payloads, strict=True):
                assert volume.content[offset : offset + len(payload)] == payload
            await client.disconnect()

    async def test_small_writes_that_pin_all_buffers_only_wait(
        self, tmp_path: Path
    ) -> None:
        volume = MemoryVolume(SIZE, held=True)
        limits = NbdLimits(receive_buffers_max=1)
        async with serving(tmp_path, {"g/v": volume}, limits) as served:
            client = await served.client()
            writes = [client.write(n * 100, b"y" * 30_000) for n in range(100)]
            for _ in range(100):
                await until(lambda: bool(volume.waiting))
                volume.step()
            await asyncio.gather(*writes)
            await client.disconnect()

    async def test_a_client_that_does_not_read_replies_is_not_read_either(
        self, tmp_path: Path
    ) -> None:
        limits = NbdLimits(write_buffer_bytes_max=1 << 16)
        async with serving(tmp_path, limits=limits) as served:
            served.volume.keeps_submitted = True
            client = await served.client()
            assert client._transport is not None
            client._transport.pause_reading()
            reads = [client.read(0, MIB) for _ in range(100)]
            # The server has stopped once nothing moves through 50 loop turns.
            seen, quiet = -1, 0
            while quiet < 50:
                await asyncio.sleep(0)
                now = sum(map(len, served.volume.submitted))
                quiet = quiet + 1 if now == seen and now else 0
                seen = now
            # Up to a batch may be taken before the transport says stop.
            assert seen < 100
            client._transport.resume_reading()
            assert {len(data) for data in await asyncio.gather(*reads)} == {MIB}
            await client.disconnect()


class TestBadClients:
    async def raw(
        self, served: Serving
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(served.socket_path)

    @pytest.mark.parametrize(
        "garbage",
        [
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
            bytes(range(256)),
            b"\x00\x00\x00\x03" + b"garbage" * 100,
        ],
    )
    async def test_garbage_costs_its_connection_and_one_line(
        self, tmp_path: Path, garbage: bytes, log_lines: list[Any]
    ) -> None:
        async with serving(tmp_path) as served:
            healthy = await served.client()
            reader, writer = await self.raw(served)
            writer.write(garbage)
            assert await reader.read() == b"NBDMAGICIHAVEOPT\x00\x03"
            writer.close()
            assert await healthy.read(0, 4) == bytes(4)
            await healthy.disconnect()
        assert len(refusals(log_lines)) == 1

    async def test_garbage_instead_of_a_request_costs_its_connection_and_one_line(
        self, tmp_path: Path, log_lines: list[Any]
    ) -> None:
        async with serving(tmp_path) as served:
            client = await served.client()
            before = client.write(0, b"before")
            client.send(b"garbage that is longer than one header of a request")
            after = client.write(0, b"after!")
            await before
            with pytest.raises(ConnectionError):
                await after
            assert served.volume.content[:6] == b"before"
        assert refusals(log_lines) == ["a request without its magic number"]

    async def test_a_write_of_four_gigabytes_is_refused_at_its_header(
        self, tmp_path: Path, log_lines: list[Any]
    ) -> None:
        async with serving(tmp_path) as served:
            client = await served.client()
            client.request(Command.WRITE, 0, 0xFFFFFFFF)
            await client.closed
        assert refusals(log_lines) == ["a WRITE of 4294967295 bytes"]

    async def test_a_handshake_that_takes_too_long_is_ended(
        self, tmp_path: Path, log_lines: list[Any]
    ) -> None:
        limits = NbdLimits(handshake_seconds=0.05)
        async with serving(tmp_path, limits=limits) as served:
            reader, writer = await self.raw(served)
            writer.write(b"\x00\x00\x00\x03IHAVE")
            assert await reader.read() == b"NBDMAGICIHAVEOPT\x00\x03"
            writer.close()
            assert served.server.connection_count == 0
        assert refusals(log_lines) == ["no export chosen within 0.05 seconds"]

    async def test_an_established_connection_may_idle(self, tmp_path: Path) -> None:
        limits = NbdLimits(handshake_seconds=0.05)
        async with serving(tmp_path, limits=limits) as served:
            client = await served.client()
            reader, writer = await self.raw(served)
            await reader.read()  # until its deadline ends the other one
            writer.close()
            assert await client.read(0, 4) == bytes(4)
            await client.disconnect()

    async def test_connections_over_the_limit_are_closed_at_once(
        self, tmp_path: Path, log_lines: list[Any]
    ) -> None:
        limits = NbdLimits(connections_max=2)
        async with serving(tmp_path, limits=limits) as served:
            first, second = await served.client(), await served.client()
            reader, writer = await self.raw(served)
            assert await reader.read() == b""
            writer.close()
            await first.disconnect()
            await until(lambda: served.server.connection_count == 1)
            third = await served.client()
            await third.disconnect()
            await second.disconnect()
        assert refusals(log_lines) == ["2 connections are open already"]

    async def test_a_client_that_leaves_politely_leaves_no_line(
        self, tmp_path: Path, log_lines: list[Any]
    ) -> None:
        async with serving(tmp_path) as served:
            client = await NbdClient.connect_unnegotiated(served.address)
            assert await client.list_exports() == [("g/v", "memory")]
            await client.option(Option.ABORT)
            await client.closed
            reader, writer = await self.raw(served)
            await reader.readexactly(18)
            writer.close()
            await until(lambda: served.server.connection_count == 0)
        assert log_lines == []

    async def test_asking_about_exports_releases_them(self, tmp_path: Path) -> None:
        volumes = {"a": MemoryVolume(SIZE), "b": MemoryVolume(7)}
        async with serving(tmp_path, volumes) as served:
            client = await NbdClient.connect_unnegotiated(served.address)
            for name, size in [("a", SIZE), ("b", 7), ("a", SIZE)]:
                info = await client.go(name, [], option=Option.INFO)
                assert info.size_bytes == size
            with pytest.raises(OptionRefusedError):
                await client.go("c", [], option=Option.INFO)
            assert served.exports.all_released()
            assert volumes["a"].opened_count == 2
            client.abort()

    async def test_a_client_that_only_asks_and_hangs_up_holds_nothing(
        self, tmp_path: Path
    ) -> None:
        async with serving(tmp_path) as served:
            client = await NbdClient.connect_unnegotiated(served.address)
            await client.go("g/v", [], option=Option.INFO)
            assert not served.exports.all_released()
            client.abort()
            await until(lambda: served.server.connection_count == 0)
            assert served.exports.all_released()


class TestEndings:
    async def test_a_dead_connection_holds_its_volume_until_its_last_request_ends(
        self, tmp_path: Path
    ) -> None:
        volume = MemoryVolume(SIZE, held=True)
        limits = NbdLimits(requests_in_flight_max=3)
        async with serving(tmp_path, {"g/v": volume}, limits) as served:
            client = await served.client()
            for n in range(10):
                client.write(n, b"w")
            await until(lambda: len(volume.waiting) == 3)
            client.abort()
            # Requests that were left unread hide the hang-up until a reply fails.
            while volume.released_count == 0:
                if volume.waiting:
                    volume.step()
                await asyncio.sleep(0)
            await until(lambda: served.server.connection_count == 0)

    async def test_requests_run_to_their_end_after_the_connection_is_lost(
        self, tmp_path: Path
    ) -> None:
        volume = MemoryVolume(SIZE, held=True)
        async with serving(tmp_path, {"g/v": volume}) as served:
            client = await served.client()
            client.write(0, b"kept")
            client.read(0, 4)
            await until(lambda: len(volume.waiting) == 2)
            client.abort()
            await client.closed
            volume.step(2)
            await until(lambda: served.server.connection_count == 0)
            assert volume.released_count == 1
            assert volume.content[:4] == b"kept"

    @pytest.mark.parametrize("in_flight_max", [2, 128])
    async def test_no_write_of_a_dead_connection_lands_on_those_of_a_new_one(
        self, tmp_path: Path, in_flight_max: int
    ) -> None:
        volume = MemoryVolume(SIZE, held=True)
        limits = NbdLimits(requests_in_flight_max=in_flight_max)
        async with serving(tmp_path, {"g/v": volume}, limits) as served:
            dying = await served.client()
            for n in range(10):
                dying.write(n, b"old")
            started = min(10, in_flight_max)
            await until(lambda: len(volume.waiting) == started)
            # At the limit the server does not read, so that it is not told.
            dying.abort()
            await dying.closed
            client = await served.client()
            writes = [client.write(n, b"new") for n in range(12)]
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(volume.waiting) == started
            while not all(write.done() for write in writes):
                if volume.waiting:
                    volume.step()
                await asyncio.sleep(0)
            assert volume.released_count == 1
            assert volume.content[:14] == b"n" * 11 + b"new"
            await client.disconnect()

    async def test_a_write_sent_along_with_the_handshake_waits_too(
        self, tmp_path: Path
    ) -> None:
        volume = MemoryVolume(SIZE, held=True)
        async with serving(tmp_path, {"g/v": volume}) as served:
            dying = await served.client()
            dying.write(0, b"old")
            await until(lambda: len(volume.waiting) == 1)
            dying.abort()
            await dying.closed
            hasty = await NbdClient.connect_unnegotiated(served.address)
            hasty.send(
                b"IHAVEOPT"
                + struct.pack(">III3sH", Option.GO, 9, 3, b"g/v", 0)
                + struct.pack(">IHHQQI3s", 0x25609513, 0, 1, 7, 0, 3, b"new")
            )
            await until(lambda: volume.opened_count == 2)
            assert [request.data for request, _ in volume.waiting] == [b"old"]
            volume.step()
            await until(lambda: volume.content[:3] == b"old" and bool(volume.waiting))
            volume.step()
            assert volume.content[:3] == b"new"
            hasty.abort()

    async def test_disc_waits_for_what_is_in_flight(self, tmp_path: Path) -> None:
        volume = MemoryVolume(SIZE, held=True)
        async with serving(tmp_path, {"g/v": volume}) as served:
            client = await served.client()
            write = client.write(0, b"last words")
            client.request(Command.DISC, 77, 99, flags=0xFFFF)
            client.write(0, b"not served")
            await until(lambda: len(volume.waiting) == 1)
            volume.step()
            await write
            await client.closed
            assert volume.content[:10] == b"last words"

    async def test_a_client_that_closes_its_half_still_gets_its_answers(
        self, tmp_path: Path
    ) -> None:
        volume = MemoryVolume(SIZE, held=True)
        async with serving(tmp_path, {"g/v": volume}) as served:
            client = await served.client()
            read = client.read(0, 4)
            await until(lambda: len(volume.waiting) == 1)
            assert client._transport is not None
            client._transport.write_eof()
            volume.step()
            assert await read == bytes(4)
            await client.closed

    async def test_closing_answers_what_is_in_flight_and_drops_the_rest(
        self, tmp_path: Path
    ) -> None:
        volume = MemoryVolume(SIZE, held=True)
        limits = NbdLimits(requests_in_flight_max=2)
        async with serving(tmp_path, {"g/v": volume}, limits) as served:
            client = await served.client()
            writes = [client.write(n, b"w") for n in range(5)]
            await until(lambda: len(volume.waiting) == 2)
            closing = asyncio.ensure_future(served.server.close())
            await asyncio.sleep(0)
            assert not closing.done()
            volume.step(2)
            await closing
            await asyncio.gather(*writes[:2])
            for write in writes[2:]:
                with pytest.raises(ConnectionError):
                    await write
            assert volume.content[:5] == b"ww\0\0\0"
            assert volume.released_count == 1

    async def test_closing_does_not_wait_longer_than_its_grace(
        self, tmp_path: Path
    ) -> None:
        volume = MemoryVolume(SIZE, held=True)
        async with serving(tmp_path, {"g/v": volume}) as served:
            client = await served.client()
            write = client.write(0, b"slow")
            await until(lambda: len(volume.waiting) == 1)
            await served.server.close(grace_seconds=0.01)
            with pytest.raises(ConnectionError):
                await write
            assert volume.released_count == 0
            volume.step()
            await until(lambda: volume.released_count == 1)
            assert volume.content[:4] == b"slow"

    async def test_closing_ends_handshakes(self, tmp_path: Path) -> None:
        limits = NbdLimits(handshake_seconds=3600)
        async with serving(tmp_path, limits=limits) as served:
            client = await NbdClient.connect_unnegotiated(served.address)
            await served.server.close()
            await until(client.closed.done)
            assert not Path(served.socket_path).exists()


class TestAddresses:
    async def test_tcp_clients_are_served_on_the_port_that_was_bound(self) -> None:
        exports = MemoryExports({"g/v": MemoryVolume(SIZE)})
        server = NbdServer(exports)
        await server.listen(["tcp:127.0.0.1:0"])
        (address,) = server.addresses
        assert address.startswith("tcp:127.0.0.1:")
        assert not address.endswith(":0")
        client = await NbdClient.connect(address, "g/v")
        await client.write(0, b"over TCP")
        assert await client.read(0, 8) == b"over TCP"
        await client.disconnect()
        await server.close()
        assert exports.all_released()

    async def test_small_replies_do_not_wait_and_dead_peers_are_noticed(self) -> None:
        server = NbdServer(MemoryExports({"g/v": MemoryVolume(SIZE)}))
        await server.listen(["tcp:127.0.0.1:0"])
        client = await NbdClient.connect(server.addresses[0], "g/v")
        await client.flush()  # by then it has moved to the volume's loop
        (hosts,) = server._hosts
        (transmission,) = hosts._open
        accepted = transmission._transport.get_extra_info("socket")
        tcp = socket.IPPROTO_TCP
        assert accepted.getsockopt(tcp, socket.TCP_NODELAY)
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert accepted.getsockopt(tcp, socket.TCP_KEEPIDLE) == 30
        assert accepted.getsockopt(tcp, socket.TCP_USER_TIMEOUT) == 60_000
        await client.disconnect()
        await server.close()

    async def test_only_owner_and_group_may_connect(self, tmp_path: Path) -> None:
        before = os.umask(0o077)
        try:
            async with serving(tmp_path) as served:
                mode = os.stat(served.socket_path).st_mode
        finally:
            os.umask(before)
        assert stat.S_IMODE(mode) == 0o660

    async def test_the_socket_of_a_dead_daemon_is_replaced(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "nbd.sock"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        async with serving(tmp_path) as served:
            client = await served.client()
            await client.disconnect()
        assert not path.exists()

    async def test_the_socket_of_a_living_daemon_is_left_alone(
        self, tmp_path: Path
    ) -> None:
        async with serving(tmp_path) as served:
            other = NbdServer(MemoryExports({}))
            with pytest.raises(DeviceBusyError, match=served.socket_path):
                await other.listen([served.address])
            await other.close()
            client = await served.client()
            await client.disconnect()

    async def test_a_file_that_is_no_socket_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "precious"
        path.write_text("data")
        server = NbdServer(MemoryExports({}))
        with pytest.raises(ConfigError, match="precious"):
            await server.listen([f"unix:{path}"])
        assert path.read_text() == "data"

    async def test_a_port_in_use_is_named(self) -> None:
        server, other = NbdServer(MemoryExports({})), NbdServer(MemoryExports({}))
        await server.listen(["tcp:127.0.0.1:0"])
        with pytest.raises(DeviceBusyError, match=server.addresses[0]):
            await other.listen(server.addresses)
        await server.close()
        await other.close()

    @pytest.mark.parametrize(
        "text",
        ["", "unix:", "unix:relative", "tcp:host", "tcp::1", "tcp:h:99999", "x:/y"],
    )
    async def test_an_address_that_says_nothing_is_refused(self, text: str) -> None:
        server = NbdServer(MemoryExports({}))
        with pytest.raises(ConfigError, match="listen address"):
            await server.listen([text])

    async def test_a_host_that_does_not_exist_is_refused(self) -> None:
        server = NbdServer(MemoryExports({}))
        with pytest.raises(ConfigError, match="mend"):
            await server.listen(["tcp:203.0.113.1:0"])


async def test_requests_split_anywhere_are_understood(tmp_path: Path) -> None:
    request = struct.pack(">IHHQQI", 0x25609513, 0, 1, 7, 5, 3) + b"abc"
    async with serving(tmp_path) as served:
        for cut in range(1, len(request)):
            client = await served.client()
            client.send(request[:cut])
            assert client._transport is not None
            await asyncio.sleep(0)
            client._transmitting = False
            client.send(request[cut:])
            reply = await client.take(16)
            assert reply == struct.pack(">IIQ", 0x67446698, 0, 7)
            client.abort()
        assert served.volume.content[5:8] == b"abc"
