"""Writes on the loop: the same promises as writes by a thread."""

from __future__ import annotations

import asyncio
import errno
import random
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.ports import HostCommand
from primary_site.cut_reader import CutReader
from primary_site.hops import PATIENCE_SECONDS
from primary_site.promptness import PROOF_BATCHES, WAITED_SECONDS
from tests.support.primary_host_site import SIZE, TRACK, Failing, Site


class Observed:
    """A rule that notes which thread does an operation."""

    def __init__(self, operation: str, suffix: str) -> None:
        self._what = operation, suffix
        self.on_loop: list[int] = []
        self.in_thread: list[int] = []

    def __call__(self, operation: str, path: str, offset: int) -> None:
        if operation == self._what[0] and path.endswith(self._what[1]):
            is_main = threading.current_thread() is threading.main_thread()
            (self.on_loop if is_main else self.in_thread).append(offset)


@pytest.fixture
async def prompt(tmp_path: Path) -> AsyncIterator[Site]:
    """A site whose device holds data, has all regions hot, and is proved prompt."""
    site = Site(tmp_path)
    await site.open()
    await site.write(0, random.Random(5).randbytes(SIZE))
    prove(site)
    yield site
    site.files.rules.clear()
    await site.close()


def prove(site: Site) -> None:
    for _ in range(PROOF_BATCHES):
        site.volume.promptness.took_in_thread(0.0, 1)


def observe(site: Site, operation: str = "write", suffix: str = "data.img") -> Observed:
    rule = Observed(operation, suffix)
    site.files.rules.append(rule)
    return rule


async def as_at_the_cut(site: Site) -> bytes:
    standing = site.volume.preserver.standing()
    assert standing is not None
    reader = CutReader(site.volume, standing)
    found = bytearray()
    for first in range(0, SIZE // TRACK, 64):
        (run,) = await reader.read([(first, 64)])
        found += run.data or bytes(64 * TRACK)
    return bytes(found)


async def test_a_prompt_device_is_written_on_the_loop(prompt: Site) -> None:
    written = observe(prompt)
    assert await prompt.write(8 * TRACK, b"n" * TRACK) == 0
    assert written.on_loop == [8 * TRACK]
    assert not written.in_thread
    assert await prompt.read(8 * TRACK, TRACK) == b"n" * TRACK


async def test_old_content_is_kept_and_every_track_marked(prompt: Site) -> None:
    rng = random.Random(6)
    await prompt.commit_cut()
    image = await prompt.read(0, SIZE)
    written = observe(prompt)
    model = bytearray(image)
    touched = set()
    for _ in range(400):
        offset = rng.randrange(SIZE - 40_000)
        data = rng.randbytes(rng.choice((1, 512, 4096, 5000, 40_000)))
        assert await prompt.write(offset, data, fua=rng.random() < 0.1) == 0
        model[offset : offset + len(data)] = data
        touched |= set(range(offset // TRACK, (offset + len(data) - 1) // TRACK + 1))
    assert len(written.on_loop) > 300
    bitmap = prompt.volume.changes.flashcopy.bitmap
    assert {t for t in range(SIZE // TRACK) if bitmap.test(t)} == touched
    assert await as_at_the_cut(prompt) == image
    assert await prompt.read(0, SIZE) == model


async def test_without_a_relation_tracks_are_marked_and_nothing_is_kept(
    prompt: Site,
) -> None:
    await prompt.commit_cut()
    prompt.group.withdraw()
    kept = observe(prompt, suffix=".target")
    await prompt.write(0, b"x" * 3 * TRACK)
    assert prompt.volume.changes.flashcopy.is_marked(0, 3)
    assert not kept.on_loop + kept.in_thread


async def test_a_full_target_ends_the_relation_before_the_device_is_written(
    prompt: Site,
) -> None:
    await prompt.commit_cut()
    standing = prompt.volume.preserver.standing()
    assert standing is not None
    prompt.files.rules.append(Failing("write", ".target", errno.ENOSPC, 1))
    valid_at_write = []

    def look(operation: str, path: str, _offset: int) -> None:
        if operation == "write" and path.endswith("data.img"):
            valid_at_write.append(standing.relation.valid)

    prompt.files.rules.append(look)
    assert await prompt.write(0, b"x" * TRACK) == 0
    assert valid_at_write == [False]
    assert await prompt.read(0, TRACK) == b"x" * TRACK


async def test_a_full_device_gets_another_try_in_a_thread(prompt: Site) -> None:
    await prompt.commit_cut()
    prompt.files.rules.append(Failing("write", "data.img", errno.ENOSPC, 2))
    written = observe(prompt)
    assert await prompt.write(0, b"y" * TRACK) == 0
    assert written.in_thread == [0]
    assert await prompt.read(0, TRACK) == b"y" * TRACK


async def test_a_device_that_fails_tells_the_host(prompt: Site) -> None:
    prompt.files.rules.append(Failing("write", "data.img", errno.EIO, 2))
    assert await prompt.write(0, b"z" * TRACK) == errno.EIO
    assert await prompt.write(0, b"z" * TRACK) == 0


async def test_half_a_page_that_is_not_in_memory_goes_to_a_thread(
    prompt: Site,
) -> None:
    await prompt.flush()
    prompt.volume.device.drop_cache()
    written = observe(prompt)
    assert await prompt.write(20 * TRACK + 512, b"h" * 512) == 0
    assert written.in_thread == [20 * TRACK + 512]
    assert await prompt.write(20 * TRACK + 1024, b"h" * 512) == 0
    assert written.on_loop == [20 * TRACK + 1024]


async def test_old_content_that_is_not_in_memory_is_read_by_a_thread(
    prompt: Site,
) -> None:
    await prompt.commit_cut()
    await prompt.flush()
    prompt.volume.device.drop_cache()
    written = observe(prompt)
    assert await prompt.write(30 * TRACK, b"o" * TRACK) == 0
    assert written.in_thread == [30 * TRACK]


async def test_a_cold_region_is_heated_before_it_is_written(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.open()
    prove(site)
    written = observe(site)
    assert await site.write(0, b"c" * TRACK) == 0
    assert written.in_thread == [0]
    assert await site.write(0, b"c" * TRACK) == 0
    assert written.on_loop == [0]
    site.files.rules.clear()
    await site.close()


async def test_no_write_passes_a_held_gate(prompt: Site) -> None:
    written = observe(prompt)
    prompt.group.gate.hold(lambda: None)
    waiting = prompt.start(HostCommand.WRITE, 0, TRACK, data=b"g" * TRACK)
    await prompt.read(0, TRACK)
    assert not written.on_loop + written.in_thread
    prompt.group.gate.release()
    assert (await waiting).error == 0


async def test_a_failed_volume_takes_nothing(prompt: Site) -> None:
    prompt.files.rules.append(Failing("datasync", "data.img", errno.EIO, 1))
    assert await prompt.flush() == errno.EIO
    written = observe(prompt)
    assert await prompt.write(0, b"f" * TRACK) == errno.EIO
    assert not written.on_loop + written.in_thread


async def test_fua_is_answered_after_a_sync_begun_after_the_write(
    prompt: Site,
) -> None:
    order = []

    def note(operation: str, path: str, _offset: int) -> None:
        if path.endswith("data.img"):
            order.append(operation)

    prompt.files.rules.append(note)
    assert await prompt.write(0, b"u" * TRACK, fua=True) == 0
    assert order == ["write", "datasync"]


class Stuck:
    """A rule that keeps a thread's write to the device waiting until `go`."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go = threading.Event()

    def __call__(self, operation: str, path: str, _offset: int) -> None:
        in_thread = threading.current_thread() is not threading.main_thread()
        if in_thread and operation == "write" and path.endswith("data.img"):
            self.began.set()
            assert self.go.wait(30)


@pytest.mark.parametrize("waits", [False, True])
async def test_a_thread_that_is_at_it_is_passed_unless_it_waits(
    prompt: Site, monkeypatch: pytest.MonkeyPatch, *, waits: bool
) -> None:
    hops = prompt.volume._threaded.hops
    monkeypatch.setattr(hops, "_monotonic", lambda: 1.0)
    await prompt.commit_cut()
    await prompt.flush()
    prompt.volume.device.drop_cache()
    stuck = Stuck()
    prompt.files.rules.append(stuck)
    # What is to be preserved is not in memory: a thread takes it.
    first = prompt.start(HostCommand.WRITE, 0, TRACK, data=b"1" * TRACK)
    await asyncio.to_thread(stuck.began.wait, 30)
    if waits:
        monkeypatch.setattr(hops, "_monotonic", lambda: 1.0 + 2 * PATIENCE_SECONDS)
    await prompt.read(9 * TRACK, TRACK)  # now it is in memory
    written = observe(prompt)
    second = prompt.start(HostCommand.WRITE, 9 * TRACK, TRACK, data=b"2" * TRACK)
    assert bool(written.on_loop) is not waits
    stuck.go.set()
    assert (await first).error == (await second).error == 0
    assert await prompt.read(9 * TRACK, TRACK) == b"2" * TRACK


async def test_a_write_does_not_pass_what_it_overlaps(
    prompt: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host may not rely on it; some do: fio trims a block and writes it at once."""
    monkeypatch.setattr(prompt.volume._threaded.hops, "_monotonic", lambda: 1.0)
    go = threading.Event()

    def stuck(operation: str, path: str, _offset: int) -> None:
        if operation == "write_zeroes" and path.endswith("data.img"):
            assert go.wait(30)

    prompt.files.rules.append(stuck)
    written = observe(prompt)
    trim = prompt.start(HostCommand.TRIM, 0, 4 * TRACK)
    write = prompt.start(HostCommand.WRITE, 3 * TRACK, TRACK, data=b"w" * TRACK)
    apart = prompt.start(HostCommand.WRITE, 4 * TRACK, TRACK, data=b"a" * TRACK)
    assert written.on_loop == [4 * TRACK]
    go.set()
    assert [(await each).error for each in (trim, write, apart)] == [0, 0, 0]
    assert await prompt.read(3 * TRACK, 2 * TRACK) == b"w" * TRACK + b"a" * TRACK
    assert not prompt.volume._order.under_way


async def test_a_device_that_makes_the_loop_wait_is_left_to_threads(
    prompt: Site,
) -> None:
    def slow(operation: str, path: str, _offset: int) -> None:
        if operation == "write" and path.endswith("data.img"):
            time.sleep(WAITED_SECONDS)  # a device, not a condition

    prompt.files.rules.append(slow)
    written = observe(prompt)
    for track in range(5):
        assert await prompt.write(track * TRACK, b"s" * TRACK) == 0
    assert written.on_loop == [0]
    assert written.in_thread == [TRACK, 2 * TRACK, 3 * TRACK, 4 * TRACK]
