"""Connections that outlive a server: given to a service manager, and taken up again."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from common.nbd.access import Access, AccessRule
from common.nbd.connections import HandedOver
from common.nbd.kept_connection import SEALS, KeptConnection, give, take_back
from common.nbd.kept_state import FORMAT_VERSION, BadKeptStateError, KeptState, decode
from common.nbd.limits import RECEIVE_BUFFER_BYTES, NbdLimits
from common.nbd.outcome import Agreed
from common.nbd.protocol import WireForm
from common.nbd.server import NbdSecurity, NbdServer
from common.nbd.systemd_sockets import SystemdSockets
from common.nbd.transmission import Transmission
from common.ports import Complete, HostCommand, HostRequest
from common.service import descriptor_store as descriptor_store_module
from common.service.descriptor_store import SystemdStore, descriptor_store
from common.service.loop_thread import LoopThread
from common.service.runner import make_loop
from tests.support import nbd_wire as wire
from tests.support.daemon import free_port
from tests.support.memory_volume import MemoryExports, MemoryVolume
from tests.support.nbd_client import NbdClient, NbdReplyError
from tests.support.nbd_server import PATIENCE_SECONDS, until
from tests.support.service_manager import ServiceManager

SIZE_BYTES = 4 << 20
MFD_NOEXEC_SEAL = 8
"""Python has no name for it."""
STATE = KeptState(Agreed("g/v", WireForm.SIMPLE), SIZE_BYTES, False, False, b"")


class Service:
    """A server that is stopped and started; each is given what the last one left."""

    def __init__(
        self, folder: Path, manager: ServiceManager, patch: pytest.MonkeyPatch
    ) -> None:
        self.exports = MemoryExports({"g/v": MemoryVolume(SIZE_BYTES)})
        self.manager = manager
        self.security = NbdSecurity()
        self.address = f"unix:{folder / 'nbd.sock'}"
        self.limits = NbdLimits()
        self.server: NbdServer | None = None
        self._patch = patch

    @property
    def volume(self) -> MemoryVolume:
        return self.exports.volumes["g/v"]

    @property
    def connection_count(self) -> int:
        assert self.server is not None
        return self.server.connection_count

    async def start(self, *addresses: str) -> None:
        store = descriptor_store({"NOTIFY_SOCKET": self.manager.address})
        kept = {
            name: [os.dup(each) for each in held]
            for name, held in self.manager.store.items()
        }
        self._patch.setattr(SystemdSockets, "of", lambda _told: SystemdSockets(kept))
        self.server = NbdServer(self.exports, self.limits, self.security, store)
        await self.server.listen(addresses or [self.address])

    async def stop(self, grace_seconds: float = PATIENCE_SECONDS) -> None:
        assert self.server is not None
        server, self.server = self.server, None
        await server.close(grace_seconds=grace_seconds)
        await until(lambda: server.connection_count == 0)
        assert self.exports.all_released()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def client(self, *, structured: bool = True) -> NbdClient:
        return await NbdClient.connect(self.address, "g/v", structured=structured)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path) as manager:
        yield manager
        assert manager.store == {}, "what nobody has any more"


@pytest.fixture
async def service(
    tmp_path: Path, manager: ServiceManager, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Service]:
    service = Service(tmp_path, manager, monkeypatch)
    await service.start()
    yield service
    if service.server is not None:
        await service.stop()
    manager.drop()


@pytest.mark.parametrize("structured", [False, True])
async def test_a_client_goes_on_with_the_next_server(
    service: Service, structured: bool
) -> None:
    client = await service.client(structured=structured)
    for number in range(3):
        block = bytes([number + 1]) * 4096
        await client.write(number * 4096, block)
        await service.restart()
        assert service.manager.store == {}, "it is ours alone again"
        assert await client.read(number * 4096, 4096) == block
    assert service.volume.flush_count == 3, "what was written is durable before"
    await client.disconnect()


async def test_what_is_in_flight_is_answered_before(service: Service) -> None:
    client = await service.client()
    service.volume.held = True
    writes = [client.write(n * 512, b"w" * 512) for n in range(8)]
    await until(lambda: len(service.volume.waiting) == 8)
    stopping = asyncio.create_task(service.stop())
    for _ in range(3):
        await asyncio.sleep(0)
    late = client.read(0, 512)  # stays in the socket
    service.volume.step(8)
    service.volume.held = False
    await asyncio.gather(*writes)
    # The flush may have come while requests were held.
    if service.volume.waiting:
        service.volume.step()
    await stopping
    assert not late.done()
    await service.start()
    assert await late == b"w" * 512
    await client.disconnect()


PAYLOAD = bytes(range(256)) * (2 * RECEIVE_BUFFER_BYTES // 256)
HEADER_BYTES = 28
SUCCESS_BYTES = 16


def asked(command: int, offset: int, length: int, *, cookie: int) -> bytes:
    """Return a request's header."""
    return wire.request(wire.Form.SIMPLE, command, offset, length, cookie=cookie)


def success(cookie: int) -> bytes:
    """Return the reply to what succeeded."""
    return struct.pack(">IIQ", wire.SIMPLE_REPLY_MAGIC, 0, cookie)


async def raw_client(address: str) -> NbdClient:
    """A client that is told what to send, byte by byte; in simple form."""
    client = await NbdClient.connect_unnegotiated(address)
    await client.go("g/v", [])
    return client


def transmissions(service: Service) -> list[Transmission]:
    """Return the open connections."""
    assert service.server is not None
    return [t for each in service.server._hosts for t in each._open]


def received_bytes(service: Service) -> int:
    """Return what the open connections have received in all, and taken or not."""
    return sum(each._stream.received_bytes for each in transmissions(service))


@pytest.mark.parametrize("length", [4096, len(PAYLOAD)], ids=["short", "long"])
async def test_a_request_that_has_come_in_part_is_run_by_the_next(
    service: Service, length: int
) -> None:
    """A long one is read into memory of its own."""
    payload = PAYLOAD[:length]
    request = asked(wire.WRITE, 0, length, cookie=7) + payload
    first = SUCCESS_BYTES // 2
    for cut in (first, HEADER_BYTES, HEADER_BYTES + 1, len(request) // 2):
        service.volume.content[:length] = bytes(length)
        client = await raw_client(service.address)
        client.send(request[:cut])
        await until(lambda cut=cut: received_bytes(service) >= cut)
        await service.restart()
        client.send(request[cut:-1])
        await until(lambda: received_bytes(service) >= len(request) - 1)
        await service.restart()
        assert service.volume.content[:length] == bytes(length)
        client.send(request[-1:])
        reply = await client.take(SUCCESS_BYTES)
        assert reply == success(7)
        assert service.volume.content[:length] == payload
        client.abort()
        await until(lambda: service.connection_count == 0)


async def test_what_was_read_beyond_a_limit_is_run_by_the_next_and_once(
    service: Service,
) -> None:
    service.limits = NbdLimits(requests_in_flight_max=1)
    await service.restart()
    client = await service.client()
    service.volume.held = True
    writes = [client.write(n * 512, bytes([n + 1]) * 512) for n in range(4)]
    await until(lambda: len(service.volume.waiting) == 1)
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(0)
    service.volume.step()
    await writes[0]
    await until(lambda: len(service.volume.waiting) == 1)
    service.volume.step()  # the flush
    await stopping
    service.volume.held = False
    service.volume.keeps_submitted = True
    await service.start()
    await asyncio.gather(*writes)
    run = [each.offset for batch in service.volume.submitted for each in batch]
    assert run == [512, 1024, 1536]
    await client.disconnect()


async def test_replies_that_the_client_has_not_taken_are_sent_before(
    service: Service,
) -> None:
    client = await raw_client(service.address)
    length = SIZE_BYTES
    service.volume.content[:] = os.urandom(length)
    assert client._transport is not None
    client._transport.pause_reading()
    for cookie in range(2):
        client.send(asked(wire.READ, 0, length, cookie=cookie))
    await until(lambda: received_bytes(service) >= 2 * HEADER_BYTES)
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(0.05)
    assert not stopping.done(), "no transport takes as much as this"
    client._transport.resume_reading()
    for cookie in range(2):
        reply = await client.take(SUCCESS_BYTES + length)
        assert reply == success(cookie) + service.volume.content
    await stopping
    await service.start()
    client.send(asked(wire.FLUSH, 0, 0, cookie=9))
    assert await client.take(SUCCESS_BYTES) == success(9)
    client.abort()


async def test_who_is_not_done_in_time_loses_the_connection(service: Service) -> None:
    client = await service.client()
    service.volume.held = True
    write = client.write(0, b"w" * 512)
    await until(lambda: len(service.volume.waiting) == 1)
    stopping = asyncio.create_task(service.stop(grace_seconds=0.01))
    with pytest.raises(ConnectionError):
        await write
    service.volume.step()
    await stopping
    assert service.manager.store == {}


async def test_whose_last_flush_fails_loses_the_connection(service: Service) -> None:
    """The next process would not know of it, and its client take its data for safe."""
    client = await service.client()
    await client.write(0, b"w" * 512)
    service.volume.errno_of[HostCommand.FLUSH] = errno.EIO
    await service.stop()
    await client.closed
    assert service.manager.store == {}


async def test_an_old_write_does_not_land_on_newer_ones_in_the_next_server(
    service: Service,
) -> None:
    """Its client is gone by then, and has sent it again through a newer connection."""
    address = f"tcp:127.0.0.1:{free_port()}"
    await service.stop()
    service.limits = NbdLimits(requests_in_flight_max=1)
    await service.start(address)
    old = await raw_client(address)
    service.volume.held = True
    for cookie, offset in ((1, 512), (2, 0)):
        old.send(asked(wire.WRITE, offset, 512, cookie=cookie) + b"1" * 512)
    await until(lambda: received_bytes(service) == 2 * (HEADER_BYTES + 512))
    new = await raw_client(address)
    await until(lambda: len(transmissions(service)) == 2)
    await until(lambda: not any(t._precedence.doubt for t in transmissions(service)))
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(0)
    service.volume.held = False
    service.volume.step()
    await stopping
    old.abort()
    service.volume.content[:512] = b"2" * 512
    await service.start(address)
    new.send(asked(wire.READ, 0, 512, cookie=3))
    assert await new.take(SUCCESS_BYTES + 512) == success(3) + b"2" * 512
    await until(lambda: service.connection_count == 1)
    assert service.volume.content[:512] == b"2" * 512
    new.abort()


async def test_a_doubt_whether_a_client_is_there_goes_on_in_the_next_server(
    service: Service,
) -> None:
    """The newer connection that it is about has ended before."""
    address = f"tcp:127.0.0.1:{free_port()}"
    await service.stop()
    await service.start(address)
    old, request = await raw_client(address), asked(wire.WRITE, 0, 512, cookie=1)
    old.send(request)
    await until(lambda: received_bytes(service) == HEADER_BYTES)
    new = await raw_client(address)
    new.send(asked(wire.WRITE, 0, 512, cookie=2) + b"2" * 512)
    assert await new.take(SUCCESS_BYTES) == success(2)
    new.abort()
    await until(lambda: service.connection_count == 1)
    await service.stop()
    old.send(b"1" * 512)
    old.abort()
    await service.start(address)
    await until(lambda: service.connection_count == 0)
    assert service.volume.content[:512] == b"2" * 512


async def test_a_volume_that_answers_the_last_flush_and_raises_holds_up_no_stop(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await service.client()
    submit = service.volume.submit

    def raising(requests: list[HostRequest], complete: Complete) -> None:
        submit(requests, complete)
        raise RuntimeError("after all was done")

    monkeypatch.setattr(service.volume, "submit", raising)
    await asyncio.wait_for(service.stop(), PATIENCE_SECONDS / 2)
    service.manager.drop()
    await client.closed


async def test_while_only_our_own_flush_is_under_way_no_reply_is_begun(
    service: Service,
) -> None:
    """To a client who is doubted, as a newer connection arrives in that moment."""
    address = f"tcp:127.0.0.1:{free_port()}"
    await service.stop()
    await service.start(address)
    server = service.server
    assert server is not None
    old = await raw_client(address)
    (hosts,) = server._hosts
    service.volume.held = True
    stopping = asyncio.create_task(service.stop())
    await until(lambda: len(service.volume.waiting) == 1)
    ours, theirs = socket.socketpair()
    volume = service.exports.open("g/v")
    assert volume is not None
    with theirs:
        handed = HandedOver(ours, volume, STATE.agreed, b"", "unix")
        server._handed.add(handed)
        hosts.adopt(handed)
        await until(lambda: len(hosts._open) == 2)
        service.volume.held = False
        await until(lambda: bool(service.volume.waiting))
        service.volume.step(len(service.volume.waiting))
        await stopping
        await service.start(address)
        old.send(asked(wire.FLUSH, 0, 0, cookie=9))
        assert await old.take(SUCCESS_BYTES) == success(9)
        old.abort()


# Who is not gone on with


def shrink(service: Service) -> None:
    service.exports.volumes["g/v"] = MemoryVolume(SIZE_BYTES - 512)


def grow(service: Service) -> None:
    service.exports.volumes["g/v"] = MemoryVolume(SIZE_BYTES + 512)


def remove(service: Service) -> None:
    service.exports.volumes.clear()


def make_read_only(service: Service) -> None:
    service.exports.volumes["g/v"] = MemoryVolume(SIZE_BYTES, read_only=True)


def forget_contexts(service: Service) -> None:
    service.volume.contexts = ()


def rule(access: Access, uid: int) -> Callable[[Service], None]:
    def change(service: Service) -> None:
        rules = (AccessRule(("g/*",), access, uids=frozenset({uid})),)
        service.security = NbdSecurity(rules=rules)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (shrink, "smaller"),
        (remove, "no such export"),
        (make_read_only, "only be read"),
        (forget_contexts, "context"),
        (rule(Access.READ_WRITE, os.getuid() + 1), "no such export"),
        (rule(Access.READ_ONLY, os.getuid()), "only be read"),
    ],
)
async def test_a_client_that_would_not_be_let_in_as_before_is_not_gone_on_with(
    service: Service,
    change: Callable[[Service], None],
    reason: str,
    log_lines: list[dict[str, Any]],
) -> None:
    client = await service.client()
    await service.stop()
    change(service)
    await service.start()
    await client.closed
    (line,) = [e for e in log_lines if e["event"] == "nbd_connection_not_kept"]
    assert reason in line["reason"]
    assert service.connection_count == 0


@pytest.mark.parametrize(
    "change", [grow, rule(Access.READ_WRITE, os.getuid())], ids=["grown", "allowed"]
)
async def test_a_client_that_finds_all_that_it_was_told_goes_on(
    service: Service, change: Callable[[Service], None]
) -> None:
    client = await service.client()
    await service.stop()
    change(service)
    await service.start()
    await client.read(SIZE_BYTES - 512, 512)
    await service.restart()
    with pytest.raises(NbdReplyError):
        await client.read(SIZE_BYTES, 512)
    await client.disconnect()


async def test_one_that_cannot_be_looked_at_keeps_nobody_from_being_served(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await service.client()
    await service.stop()
    with monkeypatch.context() as patch:
        patch.setattr(service.exports, "open", lambda _name: 1 / 0)
        await service.start()
        await client.closed
    client = await service.client()
    await client.flush()
    await client.disconnect()


async def test_who_is_disconnected_while_loops_are_busy_is_not_gone_on_with(
    service: Service,
) -> None:
    """As the hosts of a group that is given up at once, where another's loop hangs."""
    homes = [LoopThread(name, make_loop) for name in "ab"]
    for name, home in zip("ab", homes, strict=True):
        service.exports.volumes[name] = _ElsewhereVolume(home.loop)
    clients = [await NbdClient.connect(service.address, name) for name in "ab"]
    await service.stop()
    may_go_on = threading.Event()
    for home in homes:
        home.loop.call_soon_threadsafe(may_go_on.wait)
    starting = asyncio.create_task(service.start())
    await until(lambda: service.server is not None and service.connection_count == 2)
    assert service.server is not None
    for name in "ab":
        await service.server.disconnect(name, grace_seconds=0.01)
    assert not starting.done()
    may_go_on.set()
    await starting
    for client in clients:
        await asyncio.wait_for(client.closed, PATIENCE_SECONDS)
    await until(lambda: service.connection_count == 0)
    for home in homes:
        assert await home.close(PATIENCE_SECONDS)


class _ElsewhereVolume(MemoryVolume):
    """Lives on another loop than its server."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(SIZE_BYTES)
        self._loop = loop

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop


async def test_more_than_may_connect_are_not_gone_on_with(service: Service) -> None:
    clients = [await service.client() for _ in range(2)]
    await service.stop()
    service.limits = NbdLimits(connections_max=1)
    await service.start()
    await clients[1].closed
    await clients[0].flush()
    await clients[0].disconnect()


async def test_an_address_that_is_listened_on_no_more_serves_nobody(
    service: Service,
) -> None:
    address = f"tcp:127.0.0.1:{free_port()}"
    await service.stop()
    await service.start(address)
    client = await raw_client(address)
    await service.stop()
    await service.start()
    await client.closed


async def test_one_whose_state_cannot_be_written_down_takes_nobody_along(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the others nor the rest of the stop."""
    clients = [await service.client() for _ in range(2)]
    errors = [OSError(errno.ENFILE, "no more")]
    make = os.memfd_create

    def memfd_create(name: str, flags: int) -> int:
        if errors:
            raise errors.pop()
        return make(name, flags)

    monkeypatch.setattr(os, "memfd_create", memfd_create)
    await service.restart()
    await clients[0].closed
    await clients[1].flush()
    await clients[1].disconnect()


async def test_a_manager_that_does_not_let_go_has_all_connections_ended(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptor_store_module, "PATIENCE_SECONDS", 0.01)
    client = await service.client()
    await service.stop()
    service.manager.forgets = False
    await service.start()
    await client.closed
    assert service.manager.store, "it is ended in spite of this copy"


async def test_a_client_that_reads_only_connects_again(service: Service) -> None:
    service.exports.volumes["g/v"] = MemoryVolume(SIZE_BYTES, read_only=True)
    client = await service.client()
    await service.stop()
    await client.closed
    assert service.manager.store == {}


# What comes back is looked at


def hostile() -> Iterator[bytes]:
    good = STATE.encode()
    yield from (good[:length] for length in range(len(good)))
    yield good + b"x"
    fields = msgpack.unpackb(good)
    bad: dict[int, list[Any]] = {
        0: [0, FORMAT_VERSION + 1, True, "1"],
        1: [-1, 1 << 63, None],
        2: [b"g/v", 7, "x" * 5000, "\ud800"],
        3: [3, -1, "simple", True],
        4: [None, [1], [[1]], [[1, 2]], [[-1, "x"]], [[1 << 32, "x"]], [[1, "x"]] * 99],
        5: [-1, 1 << 63, 1.5],
        6: [0, None],
        7: [1, "no"],
        8: ["text", None, [1]],
    }
    for index, values in bad.items():
        for value in values:
            changed = [*fields[:index], value, *fields[index + 1 :]]
            yield msgpack.packb(changed, unicode_errors="surrogatepass")
    yield msgpack.packb([*fields, 1])
    yield msgpack.packb({})


def test_a_state_comes_back_as_it_was_written() -> None:
    agreed = Agreed("g/v", WireForm.EXTENDED, ((1, "base:allocation"), (7, "x:y")))
    for state in (STATE, KeptState(agreed, 512, True, True, b"unread", 3)):
        assert decode(state.encode()) == state


def test_what_was_not_written_so_is_refused() -> None:
    for data in hostile():
        with pytest.raises(BadKeptStateError):
            decode(data)


def memory(data: bytes, *, seals: int = SEALS, flags: int = 0) -> int:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING | flags)
    os.write(descriptor, data)
    if seals:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def pair() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def listening() -> int:
    bound = socket.socket()
    bound.listen()
    return bound.detach()


GOOD = STATE.encode()


@pytest.mark.parametrize(
    "make",
    [
        lambda: [pair()[0]],
        lambda: [memory(GOOD)],
        lambda: [memory(GOOD), memory(GOOD)],
        lambda: [*pair()],
        lambda: [pair()[0], memory(GOOD, seals=0)],
        lambda: [pair()[0], memory(GOOD[:-1])],
        lambda: [listening(), memory(GOOD)],
        lambda: [socket.socket(type=socket.SOCK_DGRAM).detach(), memory(GOOD)],
        lambda: [os.pipe()[0], memory(GOOD)],
        lambda: [pair()[0], os.pipe()[0]],
    ],
)
def test_descriptors_that_make_no_connection_are_closed(
    make: Callable[[], list[int]], manager: ServiceManager
) -> None:
    store = SystemdStore({"NOTIFY_SOCKET": manager.address})
    descriptors = make()
    assert take_back(store, {"nbd-host-0": descriptors}) == []
    for each in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(each)


def test_a_seal_that_the_system_adds_is_no_matter(manager: ServiceManager) -> None:
    """As Linux does with vm.memfd_noexec=1, whether it was asked to or not."""
    store = SystemdStore({"NOTIFY_SOCKET": manager.address})
    try:
        state = memory(GOOD, flags=MFD_NOEXEC_SEAL)
    except OSError:
        pytest.skip("Linux before 6.3 has no such seal")
    ours, theirs = pair()
    (kept,) = take_back(store, {"nbd-host-0": [ours, state]})
    assert kept.state == STATE
    kept.connection.close()
    os.close(theirs)


def test_without_a_manager_nothing_is_taken_back() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        descriptors = [ours.detach(), memory(GOOD)]
        assert take_back(None, {"nbd-host-0": descriptors}) == []
        assert theirs.recv(1) == b""


def test_there_is_no_store_without_a_service_manager() -> None:
    assert descriptor_store({}) is None


def test_what_cannot_be_given_is_ended(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        store = SystemdStore({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
        give(store, [KeptConnection(ours, STATE, "unix")])
        assert theirs.recv(1) == b""
        assert not store.settle()
