"""What applying tracks reads, preserves and writes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from common.ports import File
from common.replication.session_messages import VolumeOffer
from common.storage.files import SystemFiles
from common.storage.journal_format import BATCH_RAW_BYTES_MAX, ZERO_TRACKS_MAX
from remote_site.applier import apply_tracks
from remote_site.group_disk import GroupDisk, StoreSettings
from remote_site.recovery_point import PointImage
from tests.support.remote_store_group import (
    BINDING,
    DATA,
    LOG,
    SETTINGS,
    filled,
    make_files,
    tracks_of,
    zero_tracks,
)
from tests.support.simulated_files import SimulatedFiles


def bound(files: SimulatedFiles) -> GroupDisk:
    disk = GroupDisk(files, SETTINGS)
    disk.open()
    disk.bind(**BINDING)
    return disk


def test_before_the_first_point_nothing_is_preserved() -> None:
    files = make_files()
    disk = bound(files)
    files.counts.clear()
    apply_tracks(disk.volumes[0], [tracks_of(DATA, 0, filled(DATA, 1, 8))])
    assert "read" not in files.counts
    assert "datasync" not in files.counts


def test_a_track_is_preserved_once_a_relation() -> None:
    files = make_files()
    disk = bound(files)
    disk.commit_point(1, b"1" * 16, 1, None)
    journal = disk.volumes[0].journals[-1]
    for value in range(1, 4):
        apply_tracks(disk.volumes[0], [tracks_of(DATA, 0, filled(DATA, value, 4))])
    apply_tracks(disk.volumes[0], [tracks_of(DATA, 2, filled(DATA, 9, 4))])
    assert [entry[:2] for entry in journal.find(0, 64)] == [(0, 4), (4, 2)]
    assert PointImage(disk.volumes[0], 1).read(0, 64 * 4096) == bytes(64 * 4096)


def test_the_journal_is_durable_before_the_device_changes() -> None:
    files = make_files()
    disk = bound(files)
    apply_tracks(disk.volumes[0], [tracks_of(DATA, 0, filled(DATA, 1, 4))])
    disk.commit_point(1, b"1" * 16, 1, None)
    seen: list[tuple[str, str]] = []
    files.hook = lambda operation, path: seen.append((operation, path))
    apply_tracks(disk.volumes[0], [tracks_of(DATA, 1, filled(DATA, 2, 2))])
    journal = "/journal/orders/data@1.journal"
    assert seen == [
        ("write", journal),
        ("datasync", journal),
        ("write", "/devices/data.img"),
    ]


def test_holes_are_preserved_unread_and_zeroes_leave_holes_alone() -> None:
    files = make_files()
    offer = VolumeOffer("wide", b"w" * 16, 300 * 4096, 4096)
    settings = StoreSettings("g", "/state/g", "/journal/g", {"wide": "/devices/w.img"})
    disk = GroupDisk(files, settings)
    disk.open()
    disk.bind(b"g" * 16, b"L" * 16, "p", (offer,))
    volume = disk.volumes[0]
    apply_tracks(volume, [tracks_of(offer, 100, filled(offer, 1, 2))])
    disk.commit_point(1, b"1" * 16, 1, None)
    device = CountingDevice(volume.device)
    volume.device = device  # type: ignore[assignment]
    files.counts.clear()
    apply_tracks(volume, [zero_tracks(0, 300)])
    assert device.read_bytes == 2 * 4096
    assert files.counts["write_zeroes"] == 1
    entries = [entry[:2] for entry in volume.journals[-1].find(0, 300)]
    assert entries == [(0, 100), (100, 2), (102, 198)]
    assert volume.device.extents(0, offer.size_bytes) == [(offer.size_bytes, True)]


def test_the_last_track_is_cut_at_the_size_of_the_volume() -> None:
    disk = bound(make_files())
    volume = disk.volumes[1]
    tail = b"t" * (8192 - 1536)
    apply_tracks(volume, [tracks_of(LOG, 9, tail)])
    disk.commit_point(1, b"1" * 16, 1, None)
    apply_tracks(volume, [zero_tracks(8, 2)])
    assert PointImage(volume, 1).read(9 * 8192, len(tail)) == tail
    assert volume.device.read(9 * 8192, len(tail)) == bytes(len(tail))


def test_frames_that_overlap_preserve_each_track_once_and_the_last_wins() -> None:
    disk = bound(make_files())
    volume = disk.volumes[0]
    disk.commit_point(1, b"1" * 16, 1, None)
    apply_tracks(
        volume,
        [
            tracks_of(DATA, 4, filled(DATA, 1, 4)),
            tracks_of(DATA, 6, filled(DATA, 2, 4)),
            zero_tracks(5, 2),
        ],
    )
    expected = filled(DATA, 1) + bytes(2 * 4096) + filled(DATA, 2, 3)
    assert volume.device.read(4 * 4096, 6 * 4096) == expected
    assert PointImage(volume, 1).read(0, 64 * 4096) == bytes(64 * 4096)


class CountingDevice:
    """Counts what is asked of a device."""

    def __init__(self, inner: File) -> None:
        self._inner = inner
        self.calls = 0
        self.read_bytes = 0

    def __getattr__(self, name: str) -> object:
        self.calls += 1
        if name == "read":
            return self._read
        return getattr(self._inner, name)

    def _read(self, offset: int, length: int) -> bytes:
        self.read_bytes += length
        return self._inner.read(offset, length)


def test_zeroes_over_millions_of_tracks_cost_nothing_a_track(tmp_path: Path) -> None:
    size = 1 << 40
    offer = VolumeOffer("big", b"b" * 16, size, 4096)
    settings = StoreSettings(
        "g", str(tmp_path / "s"), str(tmp_path / "j"), {"big": str(tmp_path / "b.img")}
    )
    disk = GroupDisk(SystemFiles(), settings)
    disk.open()
    disk.bind(b"g" * 16, b"L" * 16, "p", (offer,))
    volume = disk.volumes[0]
    apply_tracks(volume, [tracks_of(offer, 1 << 27, b"x" * 4096)])
    disk.commit_point(1, b"1" * 16, 1, None)
    device = CountingDevice(volume.device)
    volume.device = device  # type: ignore[assignment]
    apply_tracks(volume, [zero_tracks(0, 1 << 28)])
    assert device.read_bytes <= 64 * 4096
    assert device.calls < 100
    entries = volume.journals[-1].find(0, 1 << 28)
    assert len(entries) <= (1 << 28) // ZERO_TRACKS_MAX + 4
    assert PointImage(volume, 1).read(1 << 39, 4096) == b"x" * 4096
    disk.close()


def test_more_than_a_batch_is_preserved_in_several(tmp_path: Path) -> None:
    size = BATCH_RAW_BYTES_MAX + (1 << 20)
    offer = VolumeOffer("big", b"b" * 16, size, 4096)
    settings = StoreSettings(
        "g", str(tmp_path / "s"), str(tmp_path / "j"), {"big": str(tmp_path / "b.img")}
    )
    disk = GroupDisk(SystemFiles(), settings)
    disk.open()
    disk.bind(b"g" * 16, b"L" * 16, "p", (offer,))
    volume = disk.volumes[0]
    old = b"".join(bytes([i % 251]) * 4096 for i in range(size // 4096))
    apply_tracks(volume, [tracks_of(offer, 0, old)])
    disk.commit_point(1, b"1" * 16, 1, None)
    apply_tracks(volume, [zero_tracks(0, size // 4096)])
    assert PointImage(volume, 1).read(0, size) == old
    disk.close()
    disk = GroupDisk(SystemFiles(), settings)
    disk.open()
    assert PointImage(disk.volumes[0], 1).read(0, size) == old
    disk.close()


def test_a_write_during_a_flush_needs_another_flush() -> None:
    files = make_files()
    disk = bound(files)
    volume = disk.volumes[0]
    record = tracks_of(DATA, 0, filled(DATA, 1))

    def write_meanwhile(operation: str, path: str) -> None:
        if operation == "datasync" and path.endswith("data.img"):
            files.hook = None
            apply_tracks(volume, [record])

    apply_tracks(volume, [record])
    files.hook = write_meanwhile
    disk.flush()
    assert volume.is_unsynced
    disk.flush()
    assert not volume.is_unsynced


@pytest.mark.parametrize("operation", ["write", "write_zeroes"])
def test_a_flush_that_meets_a_write_not_begun_leaves_it_to_the_next(
    operation: str,
) -> None:
    files = make_files()
    disk = bound(files)
    apply_tracks(disk.volumes[0], [tracks_of(DATA, 0, filled(DATA, 1, 4))])
    path = SETTINGS.devices[DATA.name]

    def flush_before(asked: str, at: str) -> int | None:
        if asked == operation and at == path:
            files.inject = None
            disk.flush()
        return None

    files.inject = flush_before
    record = zero_tracks(0, 4)
    if operation == "write":
        record = tracks_of(DATA, 0, filled(DATA, 2, 4))
    apply_tracks(disk.volumes[0], [record])
    assert files.inject is None
    assert files.unflushed_sectors(path)
    disk.flush()
    assert not files.unflushed_sectors(path)


def test_a_second_flush_waits_for_the_first_that_covers_its_writes() -> None:
    disk = bound(make_files())
    volume = disk.volumes[0]
    apply_tracks(volume, [tracks_of(DATA, 0, filled(DATA, 1))])
    order: list[str] = []
    begun, may_end = threading.Event(), threading.Event()

    class SlowDevice:
        def __init__(self, inner: File) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> object:
            return getattr(self._inner, name)

        def datasync(self) -> None:
            begun.set()
            assert may_end.wait(60)
            order.append("synced")

    volume.device = SlowDevice(volume.device)  # type: ignore[assignment]

    def flush_again() -> None:
        disk.flush()
        order.append("second flush returned")

    first = threading.Thread(target=disk.flush)
    first.start()
    assert begun.wait(60)
    second = threading.Thread(target=flush_again)
    second.start()
    second.join(0.1)  # a chance to return too early
    may_end.set()
    first.join()
    second.join()
    assert order == ["synced", "second flush returned"]


def test_only_a_track_without_a_byte_of_data_is_a_hole() -> None:
    files = make_files()
    volume = bound(files).volumes[1]
    half = 4096  # of a track of 8 KiB
    for at in (8192 + half, 4 * 8192, 7 * 8192 + half):
        volume.device.write(at, b"x")
    assert list(volume.track_extents(0, 10)) == [
        (0, 1, True),
        (1, 1, False),
        (2, 2, True),
        (4, 1, False),
        (5, 2, True),
        (7, 1, False),
        (8, 2, True),  # the last one is cut at the size of the volume
    ]
    volume.device.write(9 * 8192, b"x")
    assert list(volume.track_extents(8, 2)) == [(8, 1, True), (9, 1, False)]
