"""History against a model: whatever is merged, dropped and restarted, every point that
is listed shows what it always showed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import CorruptStateError, StorageError
from common.storage import journal_merge
from common.storage.open_journals import OPEN_MAX
from common.storage.zeroes import is_zero
from remote_site import point_map, store_record
from remote_site.applier import apply_tracks
from remote_site.group_disk import GroupDisk, StoreSettings
from remote_site.history import History, PointMerge
from remote_site.recovery_point import PointGoneError, PointImage
from remote_site.retention import Drop, Merge
from remote_site.store_state import Point
from tests.support.remote_store_group import (
    BINDING,
    OFFERS,
    SETTINGS,
    make_files,
    tracks_of,
    zero_tracks,
)
from tests.support.simulated_files import SimulatedFiles

SECTORS_MAX = 700


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows and batches that a small volume fills."""
    monkeypatch.setattr(journal_merge, "WINDOW_TRACKS", 8)
    monkeypatch.setattr(journal_merge, "BATCH_BYTES", 16 << 10)
    monkeypatch.setattr(point_map, "WINDOW_TRACKS", 8)
    monkeypatch.setattr(point_map, "DIRECT_MAX", 1)


class Chosen:
    """Retention by numbers: those that a test names, and the newest few."""

    def __init__(self, newest: int = 2) -> None:
        self.numbers: set[int] = set()
        self.newest = newest

    def __call__(self, points: Sequence[Point]) -> set[int]:
        there = {point.number for point in points}
        return {point.number for point in points[-self.newest :]} | (
            self.numbers & there
        )


class Site:
    """A remote's disk, and of every point what it has to show."""

    def __init__(self, store: StoreSettings = SETTINGS) -> None:
        self.settings = store
        self.files = make_files()
        self.chosen = Chosen()
        self.identities = iter(range(1, 1 << 30))
        self.now = [bytearray(offer.size_bytes) for offer in OFFERS]
        self.wanted: dict[int, list[bytes]] = {}
        self.number = 0
        self.open()
        self.disk.bind(**BINDING)  # type: ignore[arg-type]

    def open(self) -> None:
        self.disk = GroupDisk(
            self.files,
            self.settings,
            self.chosen,
            lambda: next(self.identities).to_bytes(16, "big"),
        )
        self.disk.open()
        self.history = History(self.disk)
        self.pinned: list[int] = []
        self.images: list[tuple[int, int, PointImage]] = []

    def write(self, volume: int, at: float, count: int, value: int) -> None:
        offer = self.disk.volumes[volume].offer
        tracks = self.disk.volumes[volume].geometry.track_count
        first = min(int(at * tracks), tracks - 1)
        offset = first * offer.track_bytes
        end = min(offset + count * offer.track_bytes, offer.size_bytes)
        data = bytes([value]) * (end - offset)
        if value > 200:
            data = random.Random(value).randbytes(end - offset)
        record = tracks_of(offer, first, data)
        if is_zero(data):
            record = zero_tracks(first, record.count)
        apply_tracks(self.disk.volumes[volume], [record])
        self.now[volume][offset:end] = data

    def commit(self) -> None:
        self.number += 1
        self.wanted[self.number] = [bytes(each) for each in self.now]
        cycle_id = self.number.to_bytes(16, "big")
        self.disk.commit_point(self.number, cycle_id, self.number, None)

    def grow(self, volume: int, sectors: int) -> None:
        size = self.disk.volumes[volume].offer.size_bytes
        if size // 512 + sectors <= SECTORS_MAX:
            self.disk.grow(volume, size, size + 512 * sectors)
            self.now[volume].extend(bytes(512 * sectors))

    def thin(self) -> None:
        """Follow the plan to its end."""
        self.history.seal()
        while (step := self.history.plan()) is not None:
            if isinstance(step, Drop):
                self.history.drop(step)
                continue
            self.merge(step)

    def merge(self, step: Merge) -> bool:
        merge = self.history.merge(step)
        assert merge is not None
        while merge.step() is not None:
            if len(self.numbers()) < 50:
                self.check()
        return merge.finish()

    def open_image(self, at: float) -> None:
        numbers = [point.number for point in self.disk.points]
        if not numbers:
            return
        number = numbers[int(at * len(numbers)) % len(numbers)]
        assert self.disk.pin(number) == number
        self.pinned.append(number)
        for index, volume in enumerate(self.disk.volumes):
            self.images.append((number, index, PointImage(volume, number)))

    def let_go(self) -> None:
        if self.pinned:
            number = self.pinned.pop(0)
            self.disk.unpin(number)
            if number not in self.pinned:
                self.images = [each for each in self.images if each[0] != number]

    def keep(self, at: float, is_kept: bool) -> None:
        state = self.disk.state
        assert state is not None
        if state.points:
            point = state.points[int(at * len(state.points)) % len(state.points)]
            assert self.disk.keep(point.number, is_kept=is_kept)

    def restart(self, kind: str) -> None:
        if kind == "clean":
            self.disk.close()
        elif kind == "kill":
            self.files = self.files.after_kill()
        else:
            self.files = self.files.crash_image(random.Random(1), "lost")
        self.open()
        self.now = [bytearray(self.device(i)) for i in range(len(OFFERS))]

    def device(self, index: int) -> bytes:
        volume = self.disk.volumes[index]
        return volume.device.read(0, volume.geometry.size_bytes)

    def check(self) -> None:
        points = self.disk.points
        if self.number:
            assert points[-1].number == self.number
        for point in points:
            for index, volume in enumerate(self.disk.volumes):
                self.compare(point.number, index, PointImage(volume, point.number))
        for opened in self.images:
            self.compare(*opened)

    def compare(self, number: int, index: int, image: PointImage) -> None:
        wanted = self.wanted[number][index]
        assert image.geometry.size_bytes == len(wanted)
        assert image.read(0, len(wanted)) == wanted

    def numbers(self) -> list[int]:
        return [point.number for point in self.disk.points]


fraction = st.floats(0, 1)
write = st.tuples(
    st.just("write"),
    st.integers(0, 1),
    fraction,
    st.integers(1, 30),
    st.sampled_from([0, 1, 2, 3, 201, 202, 203, 204]),
)
cycle = st.tuples(st.just("cycle"), st.lists(write, min_size=1, max_size=4))
others = st.one_of(
    write,
    st.tuples(st.just("grow"), st.integers(0, 1), st.sampled_from([1, 3, 16, 50])),
    st.tuples(st.just("choose"), st.sets(st.integers(1, 30), max_size=6)),
    st.tuples(st.just("thin")),
    st.tuples(st.just("open_image"), fraction),
    st.tuples(st.just("let_go")),
    st.tuples(st.just("keep"), fraction, st.booleans()),
    st.tuples(st.just("restart"), st.sampled_from(["clean", "kill", "power"])),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.one_of(cycle, others), min_size=5, max_size=30))
def test_every_listed_point_shows_what_it_always_showed(
    operations: list[tuple[object, ...]],
) -> None:
    site = Site()
    site.chosen.newest = 12
    for name, *what in operations:
        if name == "cycle":
            for each in what[0]:  # type: ignore[attr-defined]
                site.write(*each[1:])
            site.commit()
        elif name == "choose":
            site.chosen.numbers, site.chosen.newest = what[0], 1  # type: ignore[assignment]
        else:
            getattr(site, str(name))(*what)
        site.check()
    site.thin()
    site.check()
    site.restart("kill")
    site.check()


# -- one thing at a time ---------------------------------------------------------------


def to_the_end(merge: PointMerge) -> None:
    while merge.step() is not None:
        pass


def with_points(count: int, store: StoreSettings = SETTINGS) -> Site:
    """A site with so many points, each of which overwrites some of the one before."""
    site = Site(store)
    site.chosen.newest = count
    rng = random.Random(5)
    for _ in range(count):
        for volume in (0, 1):
            site.write(volume, rng.random(), rng.randrange(1, 9), rng.randrange(1, 255))
        site.commit()
    return site


def test_a_point_committed_meanwhile_has_a_journal_that_stays_open() -> None:
    site = with_points(3)
    site.chosen.newest = 100

    def commit(_operation: str, _path: str) -> None:
        site.files.hook = None
        site.commit()

    site.files.hook = commit
    site.history.seal()
    assert site.numbers() == [1, 2, 3, 4]
    for volume in (0, 1):
        site.write(volume, 0.3, 4, 9)
    site.check()


def test_a_merge_takes_points_away_and_their_journals_with_them() -> None:
    site = with_points(6)
    before = site.history.used_bytes
    site.chosen.newest, site.chosen.numbers = 1, {2, 5}
    site.thin()
    assert site.numbers() == [2, 5, 6]
    assert site.history.used_bytes < before
    assert site.files.list("/journal/orders") == [
        "data@2.1.journal",
        "data@2.1.journal.index",
        "data@5.journal",
        "data@5.journal.index",
        "data@6.journal",
        "log@2.1.journal",
        "log@2.1.journal.index",
        "log@5.journal",
        "log@5.journal.index",
        "log@6.journal",
    ]
    site.check()
    state = site.disk.state
    assert state is not None
    assert [p.generation for p in state.points] == [1, 0, 0]
    assert all(p.journal_bytes for p in state.points[:-1])
    site.restart("power")
    assert site.numbers() == [2, 5, 6]
    site.check()


def test_a_point_that_is_opened_while_it_is_merged_away_stays() -> None:
    site = with_points(4)
    site.chosen.newest, site.chosen.numbers = 1, {1}
    step = site.history.plan()
    assert isinstance(step, Merge)
    merge = site.history.merge(step)
    assert merge is not None
    to_the_end(merge)
    assert site.disk.pin(3) == 3
    assert merge.finish() is False
    assert site.numbers() == [1, 2, 3, 4]
    assert not [n for n in site.files.list("/journal/orders") if ".1.journal" in n]
    site.check()


def test_who_has_a_point_open_reads_on_while_its_journals_are_merged() -> None:
    site = with_points(6)
    site.open_image(0.0)
    site.chosen.newest, site.chosen.numbers = 1, {1}
    volume = site.disk.volumes[0]
    with volume.leases.held():  # a read is under way
        site.thin()
        assert site.numbers() == [1, 6]
        assert "data@1.journal" in site.files.list("/journal/orders")
        site.check()
    assert "data@1.journal" not in site.files.list("/journal/orders")
    assert "data@3.journal" not in site.files.list("/journal/orders")
    site.check()


def test_a_record_that_rots_is_not_merged_and_stays_named() -> None:
    site = with_points(4)
    site.chosen.newest, site.chosen.numbers = 1, {1}
    file = site.files.open("/journal/orders/data@2.journal")
    for _, _, position in site.disk.volumes[0].journals[1].find(0, 64):
        file.write(position + 12, b"rot")
    step = site.history.plan()
    assert isinstance(step, Merge)
    with pytest.raises(CorruptStateError, match=r"data@2\.journal"):
        site.merge(step)
    site.history.refuse(step)
    assert site.history.plan() is None
    site.chosen.newest = 100
    for _ in range(4):
        site.write(0, 0.3, 4, 9)
        site.commit()
    site.chosen.newest, site.chosen.numbers = 1, {1, 5}
    site.history.seal()
    following = site.history.plan()
    assert isinstance(following, Merge), "others are merged as ever"
    assert following.into == 3


def test_without_room_a_merge_leaves_all_as_it_was() -> None:
    site = with_points(4)
    site.chosen.newest, site.chosen.numbers = 1, {1}
    step = site.history.plan()
    assert isinstance(step, Merge)
    site.files.inject = lambda operation, path: (
        28 if operation == "write" and ".1.journal" in path else None
    )
    merge = site.history.merge(step)
    assert merge is not None
    with pytest.raises(StorageError):
        to_the_end(merge)
    merge.abandon()
    site.files.inject = None
    assert not [n for n in site.files.list("/journal/orders") if ".1.journal" in n]
    site.check()
    site.thin()
    assert site.numbers() == [1, 4]
    site.check()


def test_after_a_failed_flush_of_the_record_new_journals_are_left_alone() -> None:
    """Which record the disk holds is unknown: it may name them."""
    site = with_points(4)
    site.chosen.newest, site.chosen.numbers = 1, {1}
    step = site.history.plan()
    assert isinstance(step, Merge)
    merge = site.history.merge(step)
    assert merge is not None
    to_the_end(merge)

    def landed_all_the_same(operation: str, path: str) -> None:
        if operation == "datasync" and path.endswith("/store"):
            raise StorageError("input/output error", errno=5, file=path)

    site.files.hook = landed_all_the_same
    with pytest.raises(StorageError):
        merge.finish()
    site.files.hook = None
    merge.abandon()
    for kind in ("lost", "kept"):
        image = site.files.crash_image(random.Random(2), kind)
        disk = GroupDisk(image, SETTINGS, site.chosen)
        disk.open()
        for point in disk.points:
            for index, volume in enumerate(disk.volumes):
                site.compare(point.number, index, PointImage(volume, point.number))


def test_a_kept_point_stays_over_restarts_until_it_is_released() -> None:
    site = with_points(5)
    assert site.disk.keep(3, is_kept=True)
    assert not site.disk.keep(9, is_kept=True)
    site.chosen.newest = 1
    site.thin()
    assert site.numbers() == [3, 5]
    site.restart("power")
    site.commit()
    site.thin()
    assert site.numbers()[0] == 3
    site.check()
    assert site.disk.keep(3, is_kept=False)
    site.thin()
    assert site.numbers() == [6]


def test_the_limit_takes_the_oldest_then_pins_but_never_the_newest() -> None:
    limited = replace(SETTINGS, journal_limit_bytes=200 << 10)
    site = with_points(12, limited)
    site.open_image(0.3)  # one that a connection reads
    held = site.pinned[0]
    assert site.disk.keep(held + 2, is_kept=True)
    site.thin()
    assert site.history.used_bytes < 0.9 * (200 << 10)
    assert held in site.numbers()
    site.check()
    _, _, image = site.images[0]
    small = replace(SETTINGS, journal_limit_bytes=1 << 10)
    site.disk.settings = small
    site.thin()
    assert site.numbers() == [12]
    with pytest.raises(PointGoneError):
        image.read(0, 4096)
    site.images = []
    site.disk.unpin(held)
    site.check()


def test_hard_pins_stay_and_nothing_more_is_applied() -> None:
    site = with_points(4)
    site.open_image(0.0)
    site.disk.settings = replace(
        SETTINGS, journal_limit_bytes=site.history.used_bytes, has_hard_pins=True
    )
    site.thin()
    site.disk.settings = replace(
        SETTINGS, journal_limit_bytes=1 << 10, has_hard_pins=True
    )
    site.thin()
    assert site.numbers() == [1, 4]
    site.check()
    with pytest.raises(StorageError, match=r"group\.journal\.limit") as caught:
        site.history.check_room()
    assert caught.value.is_out_of_space
    site.let_go()
    site.history.check_room()
    site.thin()
    assert site.numbers() == [4]
    site.history.check_room()


def test_a_map_made_before_a_merge_does_not_outlive_it() -> None:
    site = with_points(12)
    site.open_image(0.0)
    site.check()
    site.chosen.numbers = {1, *range(4, 13)}
    site.chosen.newest = 1
    site.thin()
    assert site.numbers() == [1, *range(4, 13)]
    site.check()


def test_a_point_from_before_a_growth_gets_no_more_than_it_had() -> None:
    site = Site()
    site.chosen.newest = 10
    site.write(1, 0.0, 10, 3)
    site.commit()
    site.grow(1, 40)
    site.commit()
    last = OFFERS[1].size_bytes // OFFERS[1].track_bytes
    for value in (7, 8):
        track = (last + 0.5) / site.disk.volumes[1].geometry.track_count
        site.write(1, track, 1, value)  # the track that was cut, whole now
        site.commit()
    site.chosen.newest, site.chosen.numbers = 1, {1}
    site.thin()
    assert site.numbers() == [1, 4]
    site.check()


def journals_open(site: Site) -> int:
    return sum(
        journal._stored.file is not None
        for volume in site.disk.volumes
        for journal in volume.journals[:-1]
    )


def many(count: int) -> Iterator[tuple[int, int]]:
    rng = random.Random(8)
    for _ in range(count):
        yield rng.randrange(64), rng.randrange(256)


def test_hundreds_of_points_are_read_with_few_files_open() -> None:
    site = Site()
    site.chosen.newest = 1000
    for track, value in many(180):
        site.write(0, track / 64, 1, value)
        site.commit()
        site.history.seal()
    assert site.numbers() == list(range(1, 181))
    assert "catalogue" in " ".join(site.files.list("/state/orders"))
    site.restart("power")
    assert site.numbers() == list(range(1, 181))
    assert journals_open(site) == 0, "nothing is opened before it is asked"
    site.compare(1, 0, PointImage(site.disk.volumes[0], 1))
    site.history.seal()  # the power cut took an index whose name was not durable
    for number in (1, 2, 100, 179, 180):
        site.compare(number, 0, PointImage(site.disk.volumes[0], number))
        assert journals_open(site) <= OPEN_MAX
    site.chosen.newest, site.chosen.numbers = 20, set(range(1, 161, 40))
    site.thin()
    site.chosen.newest = 1
    site.thin()
    site.check()
    site.restart("kill")
    assert site.numbers()[0] == 1
    assert len(site.numbers()) < 100
    site.check()
    names = site.files.list("/state/orders")
    assert len([name for name in names if name.startswith("catalogue")]) <= 1


def test_a_map_stays_right_while_newer_points_come() -> None:
    site = with_points(5)
    site.chosen.newest = 100
    site.open_image(0.0)
    rng = random.Random(11)
    for _ in range(30):
        site.write(0, rng.random(), 2, rng.randrange(256))
        site.check()
        site.commit()
        site.check()


def test_a_power_cut_at_any_step_of_a_merge_leaves_each_point_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_record, "TAIL_POINTS_MAX", 2)
    monkeypatch.setattr(store_record, "TAIL_POINTS_LEFT", 1)
    site = with_points(5)
    site.chosen.newest, site.chosen.numbers = 1, {1, 4}
    site.history.seal()
    each_crash_image_has(site, {1, 4, 5}, site.thin)
    assert site.numbers() == [1, 4, 5]


def test_a_power_cut_at_any_step_of_a_drop_leaves_each_point_whole() -> None:
    site = with_points(5)
    site.history.seal()
    each_crash_image_has(site, {3, 4, 5}, lambda: site.disk.drop_before(3))
    assert site.numbers() == [3, 4, 5]


def each_crash_image_has(
    site: Site, stay: set[int], happens: Callable[[], None]
) -> None:
    images: list[SimulatedFiles] = []
    rng = random.Random(3)
    site.files.hook = lambda *_: images.extend(site.files.crash_images(rng, 4))
    happens()
    site.files.hook = None
    site.chosen.newest = 100
    for image in images:
        disk = GroupDisk(image, SETTINGS, site.chosen)
        disk.open()
        assert stay <= {point.number for point in disk.points}
        for point in disk.points:
            for index, volume in enumerate(disk.volumes):
                site.compare(point.number, index, PointImage(volume, point.number))
        disk.close()
