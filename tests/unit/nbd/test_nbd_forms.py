"""What depends on the form of requests and replies, on real sockets."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from common.nbd.protocol import CommandFlag, NbdError, TransmissionFlag, WireForm
from common.nbd.server import NbdLimits
from common.ports import Complete, HostCommand, HostRequest
from tests.support.memory_volume import MemoryVolume
from tests.support.nbd_client import NbdClient, NbdReplyError
from tests.support.nbd_server import serving, until

MIB = 1 << 20
SIZE = MIB
BITMAP = "qemu:dirty-bitmap:farshore"
CONTEXTS = ("base:allocation", BITMAP, "qemu:dirty-bitmap:other")
CHUNKS = pytest.mark.parametrize("form", [WireForm.STRUCTURED, WireForm.EXTENDED])
FORMS = pytest.mark.parametrize("form", list(WireForm))


class RichVolume(MemoryVolume):
    """Several contexts, reads in runs, and zeroes that are fast but for odd offsets.

    The extents of a context are those of memory, with its number in the flags.
    """

    contexts = CONTEXTS
    fast_zero = True

    def __init__(self, size_bytes: int = SIZE, *, read_only: bool = False) -> None:
        super().__init__(size_bytes, read_only=read_only)
        self.read_runs = 0
        self.raises = False

    def submit(self, requests: list[HostRequest], complete: Complete) -> None:
        if self.raises:
            *done, last = requests
            for request in done:
                self._run(request)
            complete(done)
            self.waiting.append((last, complete))
            raise RuntimeError("a bug in the volume")
        super().submit(requests, complete)

    def _run(self, request: HostRequest) -> None:
        if request.fast and request.offset % 2:
            request.error = errno.ENOTSUP
            return
        super()._run(request)
        if request.command == HostCommand.BLOCK_STATUS:
            request.data = [
                [(length, flags | CONTEXTS.index(name) << 4) for length, flags in told]
                for name, told in zip(request.contexts, request.data, strict=True)
            ]
        elif request.command == HostCommand.READ and request.sparse_ok:
            self._in_runs(request)

    def _in_runs(self, request: HostRequest) -> None:
        self.read_runs += 1
        whole = memoryview(request.data)
        runs: list[tuple[int, memoryview | None]] = []
        at = 0
        stop = request.offset + request.length
        for length, flags in self._extents(request.offset, stop):
            runs.append((length, None if flags else whole[at : at + length]))
            at += length
        request.data = runs


@asynccontextmanager
async def client_of(
    directory: Path,
    form: WireForm,
    volume: MemoryVolume,
    *,
    contexts: tuple[str, ...] = ("base:allocation",),
    limits: NbdLimits | None = None,
) -> AsyncIterator[NbdClient]:
    async with serving(directory, {"g/v": volume}, limits) as served:
        client = await NbdClient.connect(
            served.address,
            "g/v",
            structured=form >= WireForm.STRUCTURED,
            extended=form == WireForm.EXTENDED,
            contexts=contexts,
        )
        yield client
        await client.disconnect()


async def number_of(future: asyncio.Future[Any]) -> int:
    try:
        await future
    except NbdReplyError as error:
        return error.number
    return 0


class TestForms:
    @FORMS
    async def test_every_command_is_answered_in_each(
        self, tmp_path: Path, form: WireForm
    ) -> None:
        volume = MemoryVolume(SIZE)
        async with client_of(tmp_path, form, volume) as client:
            await client.write(1, b"abcdef")
            await client.write(3, b"XY", fua=True)
            await client.trim(2, 1)
            await client.write_zeroes(4, 1, no_hole=True)
            await client.cache(0, SIZE)
            await client.flush()
            assert await client.read(0, 8) == b"\0a\0X\0ef\0"
            assert await client.read(SIZE, 0) == b""
            assert await number_of(client.read(SIZE, 1)) == NbdError.EINVAL
            assert await number_of(client.write(SIZE, b"x")) == NbdError.ENOSPC
            assert await client.read(1, 1) == b"a"

    @FORMS
    async def test_a_flush_with_an_offset_is_tolerated(
        self, tmp_path: Path, form: WireForm
    ) -> None:
        # The client checks that an extended reply repeats the offset.
        async with client_of(tmp_path, form, MemoryVolume(SIZE)) as client:
            await client.request(HostCommand.FLUSH, 2**63, 77)

    @pytest.mark.parametrize("length", [4096, MIB - 1, MIB, MIB + 1, 5 * MIB])
    async def test_extended_payloads_of_any_size_arrive_whole(
        self, tmp_path: Path, length: int
    ) -> None:
        volume = MemoryVolume(8 * MIB)
        data = bytes(range(256)) * (length // 256 + 1)
        async with client_of(tmp_path, WireForm.EXTENDED, volume) as client:
            before, large, after = (
                client.write(0, b"before"),
                client.write(10, data[:length]),
                client.write(10 + length, b"after"),
            )
            await asyncio.gather(before, large, after)
            assert await client.read(10, length) == data[:length]
            assert await client.read(10 + length, 5) == b"after"


class TestFlagsOfAnExport:
    @pytest.mark.parametrize(
        ("form", "contexts", "flags"),
        [
            (WireForm.SIMPLE, (), 0x0D6D),
            (WireForm.STRUCTURED, (), 0x0DED),
            (WireForm.STRUCTURED, CONTEXTS, 0x0DED),
            (WireForm.EXTENDED, (), 0x0DED),
            (WireForm.EXTENDED, CONTEXTS, 0x1DED),
        ],
    )
    async def test_all_is_told_that_can_be_asked(
        self, tmp_path: Path, form: WireForm, contexts: tuple[str, ...], flags: int
    ) -> None:
        volume = RichVolume()
        async with client_of(tmp_path, form, volume, contexts=contexts) as client:
            assert client.info.flags == flags

    async def test_who_may_not_write_is_told_of_no_fast_zeroes(
        self, tmp_path: Path
    ) -> None:
        volume = RichVolume(read_only=True)
        async with client_of(tmp_path, WireForm.STRUCTURED, volume) as client:
            assert client.info.flags == 0x058F
            asked = client.request(
                HostCommand.WRITE_ZEROES, 0, 8, flags=CommandFlag.FAST_ZERO
            )
            assert await number_of(asked) == NbdError.EPERM


class TestHolesOfReads:
    @CHUNKS
    async def test_holes_are_told_instead_of_zeroes(
        self, tmp_path: Path, form: WireForm
    ) -> None:
        volume = RichVolume()
        async with client_of(tmp_path, form, volume) as client:
            await client.write(8192, b"x" * 4096)
            read = await client.read(4000, 16384)
            assert read == bytes(4192) + b"x" * 4096 + bytes(8096)
            assert client.hole_bytes == 16384 - 4096
            assert await client.read(8192, 100) == b"x" * 100
            assert client.hole_bytes == 16384 - 4096

    @FORMS
    async def test_nobody_gets_runs_who_did_not_ask(
        self, tmp_path: Path, form: WireForm
    ) -> None:
        volume = RichVolume()
        async with client_of(tmp_path, form, volume) as client:
            fragmented = form == WireForm.SIMPLE
            read = await client.read(0, 65536, dont_fragment=not fragmented)
            assert read == bytes(65536)
            assert volume.read_runs == 0


class TestFastZeroes:
    @FORMS
    async def test_they_are_fast_or_refused(
        self, tmp_path: Path, form: WireForm
    ) -> None:
        async with client_of(tmp_path, form, RichVolume()) as client:
            assert TransmissionFlag.SEND_FAST_ZERO in client.info.flags
            await client.write(0, b"xxxx")
            fast = CommandFlag.FAST_ZERO
            done = client.request(HostCommand.WRITE_ZEROES, 0, 1, flags=fast)
            not_fast = client.request(HostCommand.WRITE_ZEROES, 1, 1, flags=fast)
            assert await number_of(done) == 0
            assert await number_of(not_fast) == NbdError.ENOTSUP
            await client.write_zeroes(3, 1)
            assert await client.read(0, 4) == b"\0xx\0"

    @FORMS
    async def test_where_none_are_fast_they_are_invalid(
        self, tmp_path: Path, form: WireForm
    ) -> None:
        async with client_of(tmp_path, form, MemoryVolume(SIZE)) as client:
            fast = CommandFlag.FAST_ZERO
            asked = client.request(HostCommand.WRITE_ZEROES, 0, 8, flags=fast)
            assert await number_of(asked) == NbdError.EINVAL


class TestContexts:
    @CHUNKS
    async def test_one_request_asks_about_all_that_are_selected(
        self, tmp_path: Path, form: WireForm
    ) -> None:
        volume = RichVolume()
        chosen = (BITMAP, "base:allocation")
        async with client_of(tmp_path, form, volume, contexts=chosen) as client:
            await client.write(0, b"x" * 4096)
            assert await client.all_status(0, SIZE) == {
                "base:allocation": [(4096, 0), (SIZE - 4096, 3)],
                BITMAP: [(4096, 0x10), (SIZE - 4096, 0x13)],
            }
            one = await client.all_status(0, SIZE, CommandFlag.REQ_ONE)
            assert one == {"base:allocation": [(4096, 0)], BITMAP: [(4096, 0x10)]}

    async def test_a_payload_asks_about_some_of_them(self, tmp_path: Path) -> None:
        form, volume = WireForm.EXTENDED, RichVolume()
        async with client_of(tmp_path, form, volume, contexts=CONTEXTS) as client:
            ids = client.info.contexts
            other, bitmap = ids["qemu:dirty-bitmap:other"], ids[BITMAP]
            whole = {BITMAP: [(SIZE, 0x13)]}
            assert await client.chosen_status(0, SIZE, (bitmap,)) == whole
            assert await client.chosen_status(8192, 4096, (other, bitmap)) == {
                "qemu:dirty-bitmap:other": [(4096, 0x23)],
                BITMAP: [(4096, 0x13)],
            }
            twice = client.chosen_status(0, SIZE, (bitmap, bitmap))
            unknown = client.chosen_status(0, SIZE, (bitmap, 99))
            assert await number_of(twice) == NbdError.EINVAL
            assert await number_of(unknown) == NbdError.EINVAL
            assert await client.read(0, 1) == b"\0"

    @CHUNKS
    async def test_an_error_is_told_once_for_all(
        self, tmp_path: Path, form: WireForm
    ) -> None:
        volume = RichVolume()
        volume.errno_of = {HostCommand.BLOCK_STATUS: errno.EIO}
        async with client_of(tmp_path, form, volume, contexts=CONTEXTS) as client:
            assert await number_of(client.all_status(0, SIZE)) == NbdError.EIO


class TestVolumeThatRaises:
    @FORMS
    async def test_its_requests_fail_and_the_connection_goes_on(
        self, tmp_path: Path, form: WireForm, log_lines: list[Any]
    ) -> None:
        volume = RichVolume()
        async with client_of(tmp_path, form, volume) as client:
            volume.raises = True
            failed = [client.write(n, b"x") for n in range(3)]
            numbers = [await number_of(write) for write in failed]
            assert numbers[-1] == NbdError.EIO
            assert numbers.count(NbdError.EIO) == len(volume.waiting)
            assert set(numbers) <= {0, NbdError.EIO}
            volume.raises = False
            # What it completes after all is answered no second time.
            volume.step(len(volume.waiting))
            await client.write(9, b"y" * 100_000)
            assert await client.read(9, 2) == b"yy"
        assert "nbd_submit_raised" in {line["event"] for line in log_lines}

    async def test_it_wedges_no_connection_however_often(self, tmp_path: Path) -> None:
        limits = NbdLimits(receive_buffers_max=1, requests_in_flight_max=4)
        volume = RichVolume()
        form = WireForm.STRUCTURED
        async with client_of(tmp_path, form, volume, limits=limits) as client:
            volume.raises = True
            for _ in range(6):
                writes = [client.write(0, b"x" * 60_000) for _ in range(8)]
                await asyncio.gather(*map(number_of, writes))
            volume.raises = False
            volume.waiting.clear()
            await client.write(0, b"good")
            assert await client.read(0, 4) == b"good"


class TestMemory:
    async def test_connections_wait_for_what_others_hold(self, tmp_path: Path) -> None:
        limits = NbdLimits(
            daemon_bytes_in_flight_max=4 * MIB, bytes_in_flight_max=64 * MIB
        )
        volume = MemoryVolume(16 * MIB, held=True)
        async with serving(tmp_path, {"g/v": volume}, limits) as served:
            first, second = await served.client(), await served.client()
            large = first.write(0, bytes(3 * MIB))
            await until(lambda: len(volume.waiting) == 1)
            # Read into the receive buffer, and into memory of its own: both wait.
            also = second.write(0, b"x" * (2 * MIB))
            await until(lambda: served.server.budget.waiting_count == 1)
            assert len(volume.waiting) == 1
            volume.step()
            await large
            await until(lambda: len(volume.waiting) == 1)
            volume.step()
            await also
            reads = [first.read(0, 2 * MIB), second.read(0, 2 * MIB)]
            await until(lambda: served.server.budget.waiting_count == 1)
            await until(lambda: len(volume.waiting) == 1)
            volume.step()
            await until(lambda: len(volume.waiting) == 1)
            volume.step()
            assert await asyncio.gather(*reads) == [b"x" * (2 * MIB)] * 2
            # Sent is free: for that nobody has to go.
            await until(lambda: served.server.budget.pool_held_bytes == 0)
            await first.disconnect()
            await second.disconnect()

    @pytest.mark.parametrize("length", [65536, 8 * MIB])
    async def test_what_has_been_sent_is_given_back(
        self, tmp_path: Path, length: int
    ) -> None:
        # The short reply is sent at once, the long one bit by bit.
        limits = NbdLimits(daemon_bytes_in_flight_max=4 * MIB)
        volume = MemoryVolume(16 * MIB)
        async with serving(tmp_path, {"g/v": volume}, limits) as served:
            client = await served.client()
            assert await client.read(0, length) == bytes(length)
            await until(lambda: served.server.budget.pool_held_bytes == 0)
            # Twice as much as there is, one after the other.
            for _ in range(8 * MIB // length):
                await client.read(0, length)
            await client.disconnect()

    async def test_a_goodbye_behind_what_waits_loses_nothing(
        self, tmp_path: Path
    ) -> None:
        limits = NbdLimits(daemon_bytes_in_flight_max=4 * MIB)
        volume = MemoryVolume(16 * MIB, held=True)
        async with serving(tmp_path, {"g/v": volume}, limits) as served:
            first, second = await served.client(), await served.client()
            large = first.write(0, bytes(3 * MIB))
            await until(lambda: len(volume.waiting) == 1)
            waits = second.write(5, b"x" * 900_000)
            ending = asyncio.ensure_future(second.disconnect())
            second.send(second._header(0, 2, 0, 0, 0))
            await until(lambda: served.server.budget.waiting_count == 1)
            volume.step()
            await large
            await until(lambda: len(volume.waiting) == 1)
            volume.step()
            await waits
            await ending
            assert volume.content[5:8] == b"xxx"
            await first.disconnect()


class TestProgress:
    LIMITS = NbdLimits(progress_seconds=0.2, reply_seconds=0.2)

    @FORMS
    async def test_half_a_request_is_not_waited_for(
        self, tmp_path: Path, form: WireForm, log_lines: list[Any]
    ) -> None:
        volume = MemoryVolume(SIZE)
        async with serving(tmp_path, {"g/v": volume}, self.LIMITS) as served:
            client = await NbdClient.connect(
                served.address,
                "g/v",
                structured=form >= WireForm.STRUCTURED,
                extended=form == WireForm.EXTENDED,
            )
            client.send(client._header(0, 1, 1, 0, 500_000) + bytes(1000))
            await client.closed
        assert [line["event"] for line in log_lines] == ["nbd_connection_stuck"]

    async def test_who_takes_no_replies_is_left(
        self, tmp_path: Path, log_lines: list[Any]
    ) -> None:
        volume = MemoryVolume(32 * MIB)
        async with serving(tmp_path, {"g/v": volume}, self.LIMITS) as served:
            client = await served.client()
            assert client._transport is not None
            client._transport.pause_reading()
            for _ in range(3):
                client.read(0, 16 * MIB)
            await until(lambda: served.server.connection_count == 0)
            assert served.server.budget.pool_held_bytes == 0
            client.abort()
        assert [line["event"] for line in log_lines] == ["nbd_connection_stuck"]
