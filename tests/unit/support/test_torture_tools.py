"""What the torture rests on: disks that write down, promises about power, sweeps."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cut_oracle import SECTOR_BYTES, CutViolationError, History, stamp
from tests.support.evidence import REPOSITORY
from tests.torture.bench import Bench, Figures, Part, lacking_commands
from tests.torture.kill_sweep import KillPoint, Sweep, parse_point
from tests.torture.logged_disk import FLUSH, Entry, LoggedDisks, Replay
from tests.torture.promises import (
    Flushed,
    Promises,
    check_after_power_loss,
    forget_what_power_took,
)
from tests.torture.soak import Samples

DISK_BYTES = 1 << 20
SECTORS = 64


def write(offset: int, value: int, disk: str = "a", size: int = 1024) -> Entry:
    return Entry(disk, offset, bytes([value]) * size, 0)


def images(replay: Replay, path: Path, choice: str, chance: random.Random) -> bytes:
    with replay.image(path, choice, chance) as image:
        return image.read_bytes()


# -- disks -----------------------------------------------------------------------------


def test_a_replay_keeps_what_was_flushed_and_chooses_of_the_rest(
    tmp_path: Path,
) -> None:
    entries = [
        write(0, 1),
        Entry("a", FLUSH, b"", 0),
        write(0, 2),
        write(4096, 3, size=8192),
        write(0, 9, disk="b"),
    ]
    replay = Replay("a", DISK_BYTES, entries)
    replay.go_to(len(entries))
    path = tmp_path / "image"
    chance = random.Random(1)
    none = images(replay, path, "none", chance)
    assert (none[0], none[4096], len(none)) == (1, 0, DISK_BYTES)
    whole = images(replay, path, "all", chance)
    assert (whole[0], whole[1023], whole[4096]) == (2, 2, 3)
    seen = set()
    for _ in range(60):
        some = images(replay, path, "some", chance)
        seen.add((some[0], some[512], some[4096], some[8192]))
        assert some[1024:4096] == bytes(3072)
    assert {(1, 1, 0, 0), (2, 2, 0, 0), (1, 1, 3, 3), (2, 2, 3, 3)} <= seen
    assert (1, 1, 3, 0) in seen, "nothing was ever torn"
    assert all(first == second for first, second, _, _ in seen), "torn within a block"
    assert images(replay, path, "none", chance) == none, "an image changed the disk"


def test_a_replay_does_not_go_back() -> None:
    replay = Replay("a", DISK_BYTES, [write(0, 1), write(0, 2)])
    replay.go_to(2)
    with pytest.raises(AssertionError, match="does not go back"):
        replay.go_to(1)


@pytest.mark.needs_package("fusermount3")
def test_a_logged_disk_writes_down_each_write_and_flush(tmp_path: Path) -> None:
    sizes = {"primary": DISK_BYTES, "remote": DISK_BYTES}
    with LoggedDisks(tmp_path / "disks", sizes, lambda: 7) as disks:
        descriptor = os.open(disks.path / "primary", os.O_RDWR)
        try:
            os.pwrite(descriptor, b"one", 512)
            os.fdatasync(descriptor)
            os.pwrite(descriptor, b"two", 0)
        finally:
            os.close(descriptor)
        assert disks.moment() == 3
        assert [(e.disk, e.offset, e.data, e.event) for e in disks.entries] == [
            ("primary", 512, b"one", 7),
            ("primary", FLUSH, b"", 7),
            ("primary", 0, b"two", 7),
        ]


# -- promises --------------------------------------------------------------------------


def make_history() -> tuple[History, Promises, bytearray]:
    """One write flushed, one with FUA, one of which nothing was promised."""
    history = History()
    promises = Promises(history)
    image = bytearray(SECTORS * SECTOR_BYTES)
    for first in (0, 8, 16):
        op = history.submit(1, 0, first, 8)
        history.ack(op)
        image[first * SECTOR_BYTES : (first + 8) * SECTOR_BYTES] = stamp(op)
        if first == 0:
            promises.flushed.append(Flushed(0, history.now(), 10))
        if first == 8:
            promises.forced.append((op.sequence, 20))
    return history, promises, image


def check(history: History, durable: set[int], image: bytes | bytearray) -> int:
    return check_after_power_loss(image, 0, history.ops, durable, history.now())


def test_only_what_was_promised_by_then_is_durable() -> None:
    history, promises, _ = make_history()
    durable = [promises.durable(moment, history.ops) for moment in (9, 10, 20)]
    assert durable == [set(), {1}, {1, 2}]


def test_power_may_take_what_was_not_flushed_and_nothing_else() -> None:
    history, promises, image = make_history()
    durable = promises.durable(20, history.ops)
    assert check(history, durable, image) == 16
    image[20 * SECTOR_BYTES : 21 * SECTOR_BYTES] = bytes(SECTOR_BYTES)
    check(history, durable, image)
    for sector in (3, 12):
        broken = bytearray(image)
        broken[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES] = bytes(512)
        with pytest.raises(CutViolationError, match="lacks a write that was flushed"):
            check(history, durable, broken)
    image[40 * SECTOR_BYTES] = 1
    with pytest.raises(CutViolationError, match="neither zeroes nor a stamp"):
        check(history, durable, image)


def test_nothing_from_after_the_power_loss_may_be_there() -> None:
    history, _, image = make_history()
    with pytest.raises(CutViolationError, match="from the future"):
        check_after_power_loss(image, 0, history.ops, set(), history.ops[1].submitted)


def test_what_power_took_is_no_longer_expected_nor_flushed_later() -> None:
    history, promises, _ = make_history()
    durable = promises.durable(20, history.ops)
    forget_what_power_took(history, durable)
    assert [op.optional for op in history.ops] == [False, False, True]
    promises.flushed.append(Flushed(0, history.now(), 30))
    assert promises.durable(30, history.ops) == {1, 2}


# -- the rest --------------------------------------------------------------------------


def make_bench(tmp_path: Path) -> Bench:
    return Bench("kills", 3, 60.0, tmp_path)


def test_a_kill_point_is_read_as_it_was_printed(tmp_path: Path) -> None:
    point = KillPoint("remote", "starting", "rename,unlink", 3)
    assert parse_point(str(point)) == point
    bench = make_bench(tmp_path)
    bench.point = str(point)
    assert list(Sweep(bench)) == [point]


def test_a_sweep_lowers_its_sights_and_repeats_from_its_seed(tmp_path: Path) -> None:
    def walk() -> list[KillPoint]:
        sweep = Sweep(make_bench(tmp_path))
        found = []
        for point in sweep:
            found.append(point)
            sweep.note(point, was_killed=point.number <= 2)
            if len(found) == 300:
                return found
        raise AssertionError

    points = walk()
    assert points == walk()
    late = points[250:]
    assert max(point.number for point in late) < max(p.number for p in points[:100])
    assert len({(point.site, point.phase) for point in points}) == 4


def test_growth_compares_the_last_third_with_the_middle_one() -> None:
    flat = Samples([9] * 30, [100 + min(n, 10) for n in range(30)])
    assert flat.growth() == (0, 0)
    leaking = Samples(list(range(30)), [n << 20 for n in range(30)])
    assert leaking.growth() == (10, 10 << 20)


async def nothing(bench: Bench) -> Figures:
    return {}


def test_a_part_says_what_it_lacks() -> None:
    part = Part("p", "does", 1.0, nothing, commands=("sh",))
    assert part.lacks() == []
    assert lacking_commands(("xfs_io",)) in (
        [],
        ["xfs_io is not installed (package xfsprogs)"],
    )


def test_absent_tools_are_told_in_the_table(tmp_path: Path) -> None:
    """With nothing but Python on the path every part says what it wants."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--minutes", "0.01", "--seed", "1"],
        cwd=REPOSITORY,
        env={"PATH": str(tmp_path), "FARSHORE_EVIDENCE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    for word in ("strace", "fusermount3", "xfs_io", "setpriv"):
        assert f"{word} is not installed" in done.stdout
