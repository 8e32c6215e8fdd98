"""Reading a point while the secondary volume changes under it."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from typing import Any

import pytest

from common.ports import BASE_ALLOCATION, HostCommand, HostRequest
from remote_site.applier import apply_tracks
from remote_site.group_disk import GroupDisk
from remote_site.recovery_point import PointImage, PointVolume
from tests.support.remote_store_group import (
    BINDING,
    DATA,
    SETTINGS,
    ask,
    filled,
    make_files,
    tracks_of,
    zero_tracks,
)
from tests.support.simulated_files import InlineThreads, SimulatedFiles


def committed(files: SimulatedFiles) -> tuple[GroupDisk, bytes]:
    """Return a disk with point 1, and what volume `data` holds there."""
    disk = GroupDisk(files, SETTINGS)
    disk.open()
    disk.bind(**BINDING)
    wanted = bytearray(DATA.size_bytes)
    wanted[: 20 * 4096] = random.Random(1).randbytes(20 * 4096)
    apply_tracks(disk.volumes[0], [tracks_of(DATA, 0, bytes(wanted[: 20 * 4096]))])
    disk.commit_point(1, b"1" * 16, 1, None)
    return disk, bytes(wanted)


class InterruptedDevice:
    """A device that lets something happen right before it answers, once."""

    def __init__(self, inner: Any, before: Callable[[], None]) -> None:
        self._inner = inner
        self._before: Callable[[], None] | None = before

    def __getattr__(self, name: str) -> Any:
        if name in {"read", "extents"} and self._before is not None:
            before, self._before = self._before, None
            before()
        return getattr(self._inner, name)


def overwrite_and_commit(disk: GroupDisk) -> None:
    volume = disk.volumes[0]
    apply_tracks(volume, [zero_tracks(0, 30), tracks_of(DATA, 40, filled(DATA, 9, 8))])
    disk.commit_point(2, b"2" * 16, 2, None)
    apply_tracks(volume, [tracks_of(DATA, 0, filled(DATA, 7, 64))])


@pytest.mark.parametrize("kind", ["read", "status"])
def test_a_track_overwritten_between_the_look_and_the_read_is_the_point_s(
    kind: str,
) -> None:
    files = make_files()
    disk, wanted = committed(files)
    assert disk.pin(1) == 1
    volume = disk.volumes[0]
    image = PointImage(volume, 1)
    inner = volume.device

    def interrupt() -> None:
        volume.device = inner
        if kind == "read":
            overwrite_and_commit(disk)
        else:  # what was data when the indexes were looked at becomes a hole
            apply_tracks(volume, [zero_tracks(0, 30)])

    volume.device = InterruptedDevice(inner, interrupt)  # type: ignore[assignment]
    if kind == "read":
        assert image.read(0, DATA.size_bytes) == wanted
    else:
        offset = 0
        for length, flags in image.status(0, DATA.size_bytes):
            if flags:
                assert not any(wanted[offset : offset + length])
            offset += length
    assert volume.device is inner, "the interruption has happened"
    assert image.read(0, DATA.size_bytes) == wanted


def test_any_range_is_read_exactly() -> None:
    disk, wanted = committed(make_files())
    disk.pin(1)
    overwrite_and_commit(disk)
    image = PointImage(disk.volumes[0], 1)
    rng = random.Random(2)
    for _ in range(300):
        offset = rng.randrange(DATA.size_bytes)
        length = rng.randrange(1, DATA.size_bytes - offset + 1)
        assert image.read(offset, length) == wanted[offset : offset + length]


def test_status_covers_the_range_and_calls_a_hole_only_what_is_one() -> None:
    disk, _ = committed(make_files())
    image = PointImage(disk.volumes[0], 1)
    assert image.status(0, DATA.size_bytes) == [(20 * 4096, 0), (44 * 4096, 3)]
    assert image.status(100, 4096) == [(4096, 0)]
    assert image.status(20 * 4096 - 512, 1024) == [(512, 0), (512, 3)]
    apply_tracks(disk.volumes[0], [zero_tracks(0, 64)])
    # Preserved zeroes are said to be data: always a safe answer.
    assert image.status(0, DATA.size_bytes) == [(DATA.size_bytes, 0)]


class OnePoint:
    """Notes its releases; there is no point before."""

    def __init__(self, released: list[int]) -> None:
        self.released = released

    def hold_before(self) -> bool:
        return False

    def release(self) -> None:
        self.released.append(1)


def open_volume(disk: GroupDisk, released: list[int]) -> PointVolume:
    volume = disk.volumes[0]
    return PointVolume(PointImage(volume, 1), "x", InlineThreads(), OnePoint(released))


async def test_a_point_refuses_every_change() -> None:
    disk, wanted = committed(make_files())
    volume = open_volume(disk, [])
    requests = await ask(
        volume,
        HostRequest(HostCommand.WRITE, 0, 512, b"x" * 512),
        HostRequest(HostCommand.TRIM, 0, 4096),
        HostRequest(HostCommand.WRITE_ZEROES, 0, 4096),
        HostRequest(HostCommand.FLUSH, 0, 0),
        HostRequest(HostCommand.CACHE, 0, 4096),
        HostRequest(HostCommand.READ, 10, 5000),
        HostRequest(
            HostCommand.BLOCK_STATUS, 0, DATA.size_bytes, contexts=(BASE_ALLOCATION,)
        ),
    )
    errors = [request.error for request in requests]
    assert errors == [errno.EPERM, errno.EPERM, errno.EPERM, 0, 0, 0, 0]
    assert requests[5].data == wanted[10:5010]
    assert sum(length for length, _ in requests[6].data[0]) == DATA.size_bytes
    assert volume.read_only
    assert volume.size_bytes == DATA.size_bytes


async def test_a_device_that_fails_gives_its_errno_for_that_request() -> None:
    files = make_files()
    disk, wanted = committed(files)
    volume = open_volume(disk, [])
    files.inject = lambda operation, _: errno.EIO if operation == "read" else None
    (request,) = await ask(volume, HostRequest(HostCommand.READ, 0, 4096))
    assert request.error == errno.EIO
    files.inject = None
    (request,) = await ask(volume, HostRequest(HostCommand.READ, 0, 4096))
    assert bytes(request.data) == wanted[:4096]


async def test_a_damaged_journal_record_is_an_error_never_other_bytes() -> None:
    files = make_files()
    disk, _ = committed(files)
    apply_tracks(disk.volumes[0], [zero_tracks(0, 1)])
    ((_, _, position),) = disk.volumes[0].journals[-1].find(0, 1)
    files.trash("/journal/orders/data@1.journal", position + 99, b"\0\0\0\0\0\1")
    (request,) = await ask(open_volume(disk, []), HostRequest(HostCommand.READ, 0, 512))
    assert request.error == errno.EIO


async def test_release_unpins_once() -> None:
    disk, _ = committed(make_files())
    released: list[int] = []
    volume = open_volume(disk, released)
    volume.release()
    volume.release()
    assert released == [1]
