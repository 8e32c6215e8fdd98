"""The receiving shell in process: real sockets, files and store; slow on request."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConnectionLostError, PeerRefusedError, StorageError
from common.ports import Buffer, File
from common.replication.codec import encode_meta
from common.replication.cycle_messages import (
    Abandon,
    Committed,
    CurrentAsOf,
    CycleBegin,
    CycleEnd,
    Tracks,
)
from common.replication.delta import apply_difference
from common.replication.features import LINKS
from common.replication.frame import encode_frame
from common.replication.lineage import CycleName
from common.replication.link import GARBLED_LINKS_MAX, Link
from common.replication.link_messages import (
    LinkNumber,
)
from common.replication.session_messages import GoodbyeReason, Join, Joined
from common.replication.stream import Address, SocketStream, connect
from common.replication.tracks import (
    DeltaRun,
    RunData,
    encode_records,
    run_hash,
    track_hash,
)
from common.service.clock import SystemClock
from common.service.config_remote import RemoteGroup
from common.service.status import GroupState, LinkState
from common.storage.files import SystemFiles
from common.storage.threads import WorkerThreads
from remote_site.group import ReceivingGroup
from remote_site.listener import ReplicationListener
from remote_site.report import group_status, points
from remote_site.store import GroupStore, StoreSettings
from remote_site.unknown_connections import UNKNOWN_CONNECTIONS_MAX
from tests.support.scripted_sender import (
    PATIENCE_SECONDS,
    ScriptedSender,
    dial,
    hello_for,
    knowing,
)

TRACK = 4096
SIZE = 64 * TRACK
C1, C2, C3 = b"1" * 16, b"2" * 16, b"3" * 16
HELLO = hello_for("g", [("v", SIZE), ("w", 5 * TRACK + 512)])


@dataclass
class Disk(SystemFiles):
    """The real disk, whose devices can be made to stall or to fail."""

    go: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)
    write_error: int = 0
    flush_error: int = 0

    def __post_init__(self) -> None:
        self.go.set()

    def open(self, path: str, **options: Any) -> File:
        opened = super().open(path, **options)
        if path.endswith(".img"):
            return DeviceFile(opened, self)
        return opened


class DeviceFile:
    """A file of the disk: asks it before each write and flush."""

    def __init__(self, inner: File, disk: Disk) -> None:
        self._inner = inner
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, offset: int, data: Buffer) -> None:
        if not self._disk.go.is_set():
            self._disk.stalled.set()
            assert self._disk.go.wait(PATIENCE_SECONDS)
        if self._disk.write_error:
            raise StorageError("made up", errno=self._disk.write_error, file="v")
        self._inner.write(offset, data)

    def datasync(self) -> None:
        if self._disk.flush_error:
            raise StorageError("made up", errno=self._disk.flush_error, file="v")
        self._inner.datasync()


@dataclass
class Site:
    group: ReceivingGroup
    store: GroupStore
    disk: Disk
    listener: ReplicationListener
    device: Path

    @property
    def port(self) -> int:
        return self.listener.ports[0]

    async def open(self, **changes: Any) -> ScriptedSender:
        hello = replace(knowing(HELLO, self.store.judged), **changes)
        return await ScriptedSender.open(self.port, hello)

    def status(self) -> Any:
        return group_status(self.group, SystemClock().now_ns())


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Site]:
    device = directory / "v.img"
    config = RemoteGroup.model_validate(
        {
            "name": "g",
            "peer": "a",
            "journal": {"directory": str(directory / "journal")},
            "volume": [
                {"name": "v", "device": str(device)},
                {"name": "w", "device": str(directory / "w.img")},
            ],
        }
    )
    settings = StoreSettings(
        group="g",
        state_directory=str(directory / "state"),
        journal_directory=str(directory / "journal"),
        devices={each.name: each.device for each in config.volumes},
    )
    disk = Disk()
    threads = WorkerThreads("test", 6)
    store = await GroupStore.open(disk, threads, settings)
    clock = SystemClock()
    group = ReceivingGroup(config, "b", store, clock)
    listener = ReplicationListener({"g": group}, clock)
    await listener.listen([Address("127.0.0.1", 0)])
    try:
        yield Site(group, store, disk, listener, device)
    finally:
        disk.go.set()
        await listener.stop_accepting()
        await group.end_sessions()
        await listener.close()
        await group.close()
        threads.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running(tmp_path) as found:
        yield found


def run(first: int, byte: bytes, count: int = 1) -> RunData:
    return RunData(first, count, byte * TRACK * count)


async def end_of(stream: SocketStream) -> None:
    """Return once the peer has closed the connection, one way or the other."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        with contextlib.suppress(ConnectionLostError):
            while await stream.read(1000):
                pass


async def refused_join(site: Site, epoch: int, token: bytes) -> None:
    link = await dial(site.port)
    await link.send(Join(epoch, token))
    with pytest.raises(PeerRefusedError) as refused:
        await link.receive_first()
    assert refused.value.reason == GoodbyeReason.SUPERSEDED_SESSION
    link.abort()


async def first_point(sender: ScriptedSender, cycle_id: bytes = C1) -> Committed:
    await sender.begin(1, cycle_id)
    await sender.tracks(0, [run(0, b"a", 3)])
    await sender.all_durable()
    return await sender.commit()


async def test_a_cycle_of_two_volumes_becomes_a_recovery_point(site: Site) -> None:
    sender = await site.open()
    await sender.begin(1, C1, label="first")
    await sender.tracks(0, [run(0, b"a"), RunData(1, 7, None), run(9, b"b", 2)])
    await sender.tracks(1, [RunData(4, 2, b"w" * (TRACK + 512))])
    await sender.all_durable()
    committed = await sender.commit()
    assert (committed.cycle_number, committed.cycle_id) == (1, C1)
    assert committed.relation_id == site.store.relation_id
    data = site.device.read_bytes()
    assert data[: 2 * TRACK] == b"a" * TRACK + bytes(TRACK)
    assert data[9 * TRACK : 12 * TRACK] == b"b" * 2 * TRACK + bytes(TRACK)
    assert (site.device.parent / "w.img").read_bytes()[4 * TRACK :] == b"w" * 4608
    status = site.status()
    assert status.recovery_point.number == 1
    assert status.recovery_point.label == "first"
    assert status.state is GroupState.IDLE
    assert status.link.state is LinkState.CONNECTED
    assert [point.number for point in points(site.group)] == [1]
    await sender.close()


async def test_volumes_are_told_apart_by_name_whatever_their_order(site: Site) -> None:
    sender = await site.open()
    await first_point(sender)
    await sender.close()
    sender = await site.open(volumes=HELLO.volumes[::-1])
    await sender.begin(2, C2)
    await sender.tracks(1, [run(60, b"v")])
    await sender.tracks(0, [RunData(5, 1, b"w" * 512)])
    await sender.all_durable()
    await sender.commit()
    assert site.device.read_bytes()[60 * TRACK : 61 * TRACK] == b"v" * TRACK
    assert (site.device.parent / "w.img").read_bytes()[5 * TRACK :] == b"w" * 512
    await sender.begin(3, C3)
    await sender.hashes(1, 60, [track_hash(b"v" * TRACK)])
    await sender.hashes(0, 5, [track_hash(b"w" * 512)])
    await sender.all_durable()
    assert sender.needed == []
    await sender.close()


async def test_many_links_carry_one_cycle(site: Site) -> None:
    sender = await site.open()
    await sender.join()
    await sender.join()
    await sender.begin(1, C1)
    for track in range(60):
        await sender.tracks(0, [run(track, bytes([track + 1]))])
    await sender.all_durable()
    await sender.commit()
    data = site.device.read_bytes()
    for track in range(60):
        assert data[track * TRACK] == track + 1
    assert len(site.status().link.peers) == 3
    await sender.close()


async def test_hashes_ask_for_exactly_the_tracks_that_differ(site: Site) -> None:
    sender = await site.open()
    await first_point(sender)
    await sender.begin(2, C2)
    same, other = track_hash(b"a" * TRACK), track_hash(b"x" * TRACK)
    sequence = await sender.hashes(0, 0, [same, other, same, other, other])
    await sender.all_durable()
    (needed,) = sender.needed
    assert (needed.sequence, needed.volume) == (sequence, 0)
    assert needed.runs == ((1, 1), (3, 2))
    await sender.close()


async def test_a_new_session_learns_what_was_committed(site: Site) -> None:
    sender = await site.open()
    assert sender.welcome.receiver.committed is None
    committed = await first_point(sender)
    again = await site.open()
    assert again.epoch == sender.epoch + 1
    assert again.welcome.token != sender.welcome.token
    assert again.welcome.receiver.committed == CycleName(1, C1)
    assert again.welcome.committed_cut_ns == committed.cut_ns
    assert again.welcome.receiver.relation_id == committed.relation_id
    await again.send(CycleBegin(again.epoch, 1, C1, 1000, None))
    assert await again.answer(Committed) == replace(committed, epoch=again.epoch)
    await again.close()
    await sender.close()


async def test_a_new_session_ends_the_old_one_and_says_so(site: Site) -> None:
    old = await site.open()
    new = await site.open()
    error = await old.ended()
    assert isinstance(error, PeerRefusedError)
    assert error.reason == GoodbyeReason.SUPERSEDED_SESSION
    await first_point(new)
    await new.close()
    await old.close()


async def test_the_new_epoch_waits_for_the_threads_of_the_old(site: Site) -> None:
    old = await site.open()
    await old.begin(1, C1)
    site.disk.go.clear()
    await old.tracks(0, [run(0, b"g")])
    assert await asyncio.to_thread(site.disk.stalled.wait, PATIENCE_SECONDS)
    opening = asyncio.create_task(site.open())
    assert isinstance(await old.ended(), PeerRefusedError)
    for _ in range(10):  # whole round trips, in which a hasty daemon would go on
        await refused_join(site, old.epoch, b"x" * 16)
    assert site.store.in_flight == 1
    assert site.store.epoch == old.epoch, "the next epoch came before the threads"
    assert not opening.done()
    site.disk.go.set()
    new = await opening
    assert new.epoch == old.epoch + 1
    assert site.store.in_flight == 0
    await new.close()
    await old.close()


async def test_frames_that_still_queue_when_a_session_ends_are_not_applied(
    site: Site,
) -> None:
    old = await site.open()
    await old.begin(1, C1)
    site.disk.go.clear()
    await old.tracks(0, [run(0, b"g")])
    assert await asyncio.to_thread(site.disk.stalled.wait, PATIENCE_SECONDS)
    await old.tracks(0, [run(5, b"g")])
    session = site.group.session
    assert session is not None
    while session.receiver.received.count < 2:  # it queues, behind the first
        await asyncio.sleep(0.001)
    opening = asyncio.create_task(site.open())
    await old.ended()
    site.disk.go.set()
    new = await opening
    await first_point(new)
    assert site.device.read_bytes()[5 * TRACK : 6 * TRACK] == bytes(TRACK)
    await new.close()
    await old.close()


async def test_a_begin_waits_for_the_threads_of_the_cycle_before(site: Site) -> None:
    sender = await site.open()
    await sender.begin(1, C1)
    site.disk.go.clear()
    await sender.tracks(0, [run(0, b"g")])
    assert await asyncio.to_thread(site.disk.stalled.wait, PATIENCE_SECONDS)
    await sender.tracks(0, [run(5, b"g")])
    await sender.send(Abandon(sender.epoch, C1))
    beginning = asyncio.create_task(sender.begin(2, C2))
    while site.group.session.receiver.cycle is None or (  # type: ignore[union-attr]
        site.group.session.receiver.cycle.cycle_id != C2  # type: ignore[union-attr]
    ):
        await asyncio.sleep(0.001)
    for _ in range(10):  # whole round trips, in which a hasty daemon would go on
        await refused_join(site, sender.epoch, b"x" * 16)
    assert site.store.in_flight == 1
    assert not beginning.done()
    site.disk.go.set()
    await beginning
    assert site.store.in_flight == 0
    assert site.device.read_bytes()[5 * TRACK : 6 * TRACK] == bytes(TRACK)
    await sender.close()


async def test_nothing_is_acknowledged_before_it_is_flushed(site: Site) -> None:
    sender = await site.open()
    await sender.begin(1, C1)
    site.disk.flush_error = errno.EIO
    await sender.tracks(0, [run(0, b"a")])
    error = await sender.ended()
    assert isinstance(error, PeerRefusedError)
    assert error.reason == GoodbyeReason.STORAGE_FAILED
    assert sender.durable == set()
    await sender.close()
    site.disk.flush_error = 0
    with pytest.raises(PeerRefusedError, match="restart the remote daemon") as refused:
        await site.open()
    assert refused.value.reason == GoodbyeReason.STORAGE_FAILED
    assert site.status().state is GroupState.FAILED
    assert site.status().alarms[0].name == "storage_failed"


async def test_no_room_ends_the_session_keeps_the_point_and_is_tried_again(
    site: Site,
) -> None:
    sender = await site.open()
    await first_point(sender)
    await sender.begin(2, C2)
    site.disk.write_error = errno.ENOSPC
    await sender.tracks(0, [run(1, b"n")])
    error = await sender.ended()
    assert isinstance(error, PeerRefusedError)
    assert error.reason == GoodbyeReason.OUT_OF_SPACE
    await sender.close()
    while site.group.session is not None:
        await asyncio.sleep(0.001)
    assert [alarm.name for alarm in site.status().alarms] == ["out_of_space"]
    assert site.status().recovery_point.number == 1
    site.disk.write_error = 0
    again = await site.open()
    assert again.welcome.receiver.committed == CycleName(1, C1)
    await again.begin(2, C2)
    await again.tracks(0, [run(1, b"n")])
    await again.all_durable()
    await again.commit()
    assert site.status().alarms == ()
    assert site.device.read_bytes()[TRACK : 2 * TRACK] == b"n" * TRACK
    await again.close()


async def test_the_time_up_to_which_a_point_is_current_goes_forward(
    site: Site,
) -> None:
    sender = await site.open()
    await first_point(sender)
    message = CurrentAsOf(sender.epoch, 1, 5_000_000)
    await sender.send(message)
    assert await sender.answer(CurrentAsOf) == message
    assert site.store.points[-1].current_as_of_ns == 5_000_000
    await sender.send(replace(message, number=2))
    error = await sender.ended()
    assert isinstance(error, PeerRefusedError)
    assert error.reason == GoodbyeReason.PROTOCOL
    await sender.close()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"site": "elsewhere"}, GoodbyeReason.WRONG_PEER),
        ({"group": "h"}, GoodbyeReason.UNKNOWN_GROUP),
        ({"volumes": HELLO.volumes[:1]}, GoodbyeReason.VOLUME_MISMATCH),
        ({"version_min": 3, "version_max": 3}, GoodbyeReason.VERSION),
    ],
)
async def test_a_refused_hello_changes_nothing(
    site: Site, changes: dict[str, Any], reason: GoodbyeReason
) -> None:
    def on_disk() -> dict[str, bytes]:
        return {
            str(path): path.read_bytes()
            for path in site.device.parent.rglob("*")
            if path.is_file()
        }

    before = on_disk()
    with pytest.raises(PeerRefusedError) as refused:
        await site.open(**changes)
    assert refused.value.reason == reason
    assert on_disk() == before
    sender = await site.open()
    bound = on_disk()
    with pytest.raises(PeerRefusedError):
        await site.open(**changes)
    assert on_disk() == bound
    await first_point(sender)
    await sender.close()


async def test_a_device_of_another_size_is_refused_with_both_sizes(site: Site) -> None:
    site.device.write_bytes(b"precious" * 512)
    with pytest.raises(PeerRefusedError, match=str(SIZE)) as refused:
        await site.open()
    assert refused.value.reason == GoodbyeReason.SIZE_MISMATCH
    assert "4096" in str(refused.value)
    assert site.device.read_bytes() == b"precious" * 512
    assert not (site.device.parent / "w.img").exists()
    assert site.status().link.state is LinkState.REFUSED
    assert site.store.group_id is None
    # Of a sender of before: a site that has sent itself meanwhile says nothing of it.
    assert [alarm.name for alarm in site.status().alarms] == ["peer_refused"]
    site.group.forget_refusal()
    assert site.status().alarms == ()
    assert site.status().link.state is LinkState.DOWN


async def test_a_peer_that_breaks_the_protocol_loses_its_session_only(
    site: Site,
) -> None:
    sender = await site.open()
    await first_point(sender)
    await sender.begin(2, C2)
    payload, raw_bytes = encode_records([run(64, b"x")], None)
    await sender.send(Tracks(sender.epoch, C2, 0, 0, raw_bytes, payload))
    error = await sender.ended()
    assert isinstance(error, PeerRefusedError)
    assert error.reason == GoodbyeReason.PROTOCOL
    await sender.close()
    again = await site.open()
    assert again.welcome.receiver.committed == CycleName(1, C1)
    await again.close()


async def garbled_link(site: Site, sender: ScriptedSender, number: int) -> None:
    """Join with one more link, send over it what is no frame, see it closed."""
    stream = await connect(Address("127.0.0.1", site.port), PATIENCE_SECONDS)
    link = Link(stream, SystemClock())
    await link.send(Join(sender.epoch, sender.welcome.token))
    assert await link.receive_first() == Joined(sender.epoch)
    await link.send(LinkNumber(sender.epoch, number))
    await stream.write([b"this is no frame of replication"])
    await end_of(stream)


async def test_bytes_that_are_no_frame_cost_the_link_they_came_over(site: Site) -> None:
    sender = await site.open(features=(LINKS,))
    for number in range(1, GARBLED_LINKS_MAX + 1):
        await garbled_link(site, sender, number)
    await first_point(sender)
    assert site.status().recovery_point.number == 1
    await garbled_link(site, sender, GARBLED_LINKS_MAX + 1)
    error = await sender.ended()
    assert isinstance(error, PeerRefusedError)
    assert error.reason == GoodbyeReason.PROTOCOL
    assert "not a farshore replication frame" in str(error)
    await sender.close()


async def test_a_wrong_digest_commits_nothing(site: Site) -> None:
    sender = await site.open()
    await sender.begin(1, C1)
    await sender.tracks(0, [run(0, b"a")])
    await sender.all_durable()
    await sender.send(CycleEnd(sender.epoch, C1, 1, 12345))
    assert isinstance(await sender.ended(), PeerRefusedError)
    assert site.store.points == []
    await sender.close()


async def test_a_link_joins_by_token_only(site: Site) -> None:
    sender = await site.open()
    for epoch, token in (
        (sender.epoch, b"x" * 16),
        (sender.epoch + 1, sender.welcome.token),
    ):
        await refused_join(site, epoch, token)
    await first_point(sender)
    await sender.close()


class Recorder:
    """A stream that keeps what is written to it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.written = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def write(self, buffers: Sequence[Buffer]) -> None:
        self.written += b"".join(bytes(each) for each in buffers)
        await self._stream.write(buffers)


async def recorded_session(site: Site) -> bytes:
    """Make two points in one session; return all that was said in it."""
    hello = knowing(HELLO, site.store.judged)
    sender = await ScriptedSender.open(site.port, hello)
    recorder = Recorder(sender.links[0]._stream)
    stream: Any = recorder
    sender.links[0]._stream = stream
    await first_point(sender)
    await sender.begin(2, C2)
    await sender.tracks(0, [run(0, b"b", 5)])
    await sender.all_durable()
    await sender.commit()
    await sender.close()
    return b"".join(encode_frame(*encode_meta(hello), b"")) + recorder.written


@pytest.mark.parametrize("meanwhile", ["nothing", "another session"])
async def test_a_session_that_was_recorded_and_is_played_again_changes_nothing(
    site: Site, meanwhile: str
) -> None:
    """Its HELLO may be let in; nothing behind it is of the session that then begins."""
    recorded = await recorded_session(site)
    if meanwhile != "nothing":
        sender = await site.open()
        await sender.begin(3, C3)
        await sender.tracks(0, [run(0, b"c", 2)])
        await sender.all_durable()
        await sender.commit()
        await sender.close()
    before = site.device.read_bytes(), points(site.group)
    stream = await connect(Address("127.0.0.1", site.port), PATIENCE_SECONDS)
    await stream.write([recorded])
    await stream.close()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while site.listener._tasks:
            await asyncio.sleep(0.01)
    assert (site.device.read_bytes(), points(site.group)) == before
    again = await site.open()
    assert again.welcome.receiver.committed == site.store.judged.committed
    await again.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"".join(encode_frame(*encode_meta(CycleEnd(1, C1, 0, 0)), b"")),
        b"".join(encode_frame(99, b"\x90", b"")),
        b"".join(encode_frame(1, b"\x90", b"")),
    ],
)
async def test_garbage_is_closed_and_harms_nobody(site: Site, garbage: bytes) -> None:
    sender = await site.open()
    stream = await connect(Address("127.0.0.1", site.port), PATIENCE_SECONDS)
    await stream.write([garbage])
    await end_of(stream)
    await first_point(sender)
    await sender.close()


async def test_silent_connections_are_bounded(site: Site) -> None:
    """The oldest goes when one too many comes, and whoever speaks gets in."""
    address = Address("127.0.0.1", site.port)
    sender = await site.open()
    silent = [
        await connect(address, PATIENCE_SECONDS)
        for _ in range(UNKNOWN_CONNECTIONS_MAX + 1)
    ]
    await end_of(silent[0])
    assert not any(stream._ended for stream in silent[1:])
    await first_point(sender)
    again = await site.open()
    await end_of(silent[1])
    for stream in silent:
        stream.abort()
    await again.close()
    await sender.close()


def to_b(first: int, base: bytes = b"a") -> DeltaRun:
    """Return the difference that makes a track of `base` one of b"b"."""
    held, result = base * TRACK, b"b" * TRACK
    difference = apply_difference(held, result)
    return DeltaRun(first, 1, difference, run_hash(held), run_hash(result))


async def test_differences_are_applied_or_their_tracks_asked_for(site: Site) -> None:
    sender = await site.open(features=("delta", "unheard-of"))
    assert sender.welcome.features == ("delta",)
    await first_point(sender)
    await sender.begin(2, C2)
    await sender.tracks(0, [to_b(0)])
    refused = await sender.tracks(0, [to_b(1, b"x"), to_b(2), to_b(40)])
    await sender.all_durable()
    (needed,) = sender.needed
    assert (needed.sequence, needed.volume) == (refused, 0)
    assert needed.runs == ((1, 1), (40, 1))
    await sender.tracks(0, [run(1, b"b"), run(40, b"b")])
    await sender.all_durable()
    await sender.commit()
    image = site.device.read_bytes()
    assert image[: 3 * TRACK] == b"b" * 3 * TRACK
    assert image[40 * TRACK : 41 * TRACK] == b"b" * TRACK
    await sender.close()


@pytest.mark.parametrize("features", [(), ("unheard-of",)])
async def test_a_difference_that_was_not_agreed_upon_ends_the_session(
    site: Site, features: tuple[str, ...]
) -> None:
    sender = await site.open(features=features)
    assert sender.welcome.features == ()
    await first_point(sender)
    await sender.begin(2, C2)
    await sender.tracks(0, [to_b(0)])
    error = await sender.ended()
    assert isinstance(error, PeerRefusedError)
    assert error.reason == GoodbyeReason.PROTOCOL
    assert site.device.read_bytes()[:TRACK] == b"a" * TRACK
    await sender.close()


async def test_a_difference_that_lies_ends_the_session_unwritten(site: Site) -> None:
    sender = await site.open(features=("delta",))
    await first_point(sender)
    await sender.begin(2, C2)
    honest = to_b(0)
    await sender.tracks(0, [replace(honest, result_hash=b"x" * 16)])
    error = await sender.ended()
    assert isinstance(error, PeerRefusedError)
    assert error.reason == GoodbyeReason.PROTOCOL
    assert site.device.read_bytes()[:TRACK] == b"a" * TRACK
    await sender.close()
