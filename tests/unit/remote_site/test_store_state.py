"""What a remote remembers of its sessions, and what it takes from a HELLO."""

from __future__ import annotations

import errno
from dataclasses import replace

import msgpack  # type: ignore[import-untyped]
import pytest

from common.errors import ProtocolError, StateMismatchError, StorageError
from common.replication.cycle_messages import PROGRESS_MAX
from common.replication.lineage import (
    NO_ID,
    CycleName,
    Fork,
    SenderState,
    Verdict,
    judge,
)
from remote_site.group_disk import GroupDisk
from remote_site.membership import ALWAYS, Membership
from remote_site.store_state import (
    Point,
    StoreState,
    Takeover,
    from_record,
    to_record,
)
from tests.support.remote_store_group import BINDING, OFFERS, SETTINGS, make_files
from tests.support.simulated_files import SimulatedFiles

FRESH = SenderState(b"g" * 16, b"L" * 16)
STATE = StoreState(
    group="orders",
    group_id=b"g" * 16,
    lineage=b"L" * 16,
    peer="amsterdam",
    epoch=0,
    relation_id=b"r" * 16,
    volumes=OFFERS,
    created=(True, True),
)
ONE, TWO, THREE = b"1" * 16, b"2" * 16, b"3" * 16
POINT = Point(4, ONE, 3, 3, None)
POINTED = STATE.with_point(POINT, b"4" * 16)


def shows(receipt: bytes, epoch: int) -> SenderState:
    return replace(FRESH, receipt=receipt, epoch=epoch)


def test_a_receipt_that_was_not_shown_yet_is_given_again() -> None:
    met = STATE.met(FRESH, ONE)
    assert (met.epoch, met.shown, met.given) == (1, NO_ID, ONE)
    again = met.met(FRESH, TWO)
    assert (again.epoch, again.shown, again.given) == (2, NO_ID, ONE)
    # Whichever of the two WELCOMEs the sender has recorded, it is known.
    for epoch in (1, 2):
        assert not judge(shows(ONE, epoch), again.judged()).is_refusal


def test_what_was_shown_gives_way_to_a_new_receipt() -> None:
    met = STATE.met(FRESH, ONE).met(shows(ONE, 1), TWO)
    assert (met.shown_epoch, met.shown, met.given) == (1, ONE, TWO)
    assert judge(FRESH, met.judged()) is Verdict.SENDER_OLDER


def test_the_first_word_of_a_session_shows_its_receipt() -> None:
    heard = STATE.met(FRESH, ONE).heard()
    assert (heard.shown_epoch, heard.shown, heard.given) == (1, ONE, ONE)
    assert judge(FRESH, heard.judged()) is Verdict.SENDER_OLDER
    assert heard.met(shows(ONE, 1), TWO).given == TWO


def test_a_state_that_was_put_back_takes_up_where_the_sender_is() -> None:
    older = STATE.met(FRESH, ONE).heard()
    met = older.met(shows(THREE, 9), TWO)
    assert (met.epoch, met.shown_epoch, met.shown, met.given) == (10, 9, THREE, TWO)


def test_sessions_that_a_copy_has_counted_itself_make_no_sender_an_older_one() -> None:
    """While its record fails the sender shows one state, and has the next on disk."""
    copy = STATE.met(FRESH, ONE).heard()
    for _ in range(5):  # one gave THREE, and is forgotten
        copy = copy.met(shows(ONE, 1), TWO)
    assert (copy.epoch, copy.given) == (6, TWO)
    assert not judge(shows(THREE, 2), copy.judged()).is_refusal


def test_a_point_is_noted_by_whoever_knows_it() -> None:
    point = Point(4, b"c" * 16, 1, 1, None)
    committed = STATE.with_point(point, b"s" * 16)
    assert not committed.is_noted
    assert not committed.met(FRESH, ONE).is_noted
    knows = replace(FRESH, committed=CycleName(4, b"c" * 16))
    assert committed.met(knows, ONE).is_noted
    assert committed.heard().is_noted
    assert not committed.heard().with_point(replace(point, number=5), TWO).is_noted


def test_all_of_it_is_in_the_record() -> None:
    state = replace(
        STATE.met(FRESH, ONE), begun=CycleName(3, THREE), progress_count=7
    ).heard()
    assert from_record(to_record(state), "store") == state


def opened(progress_count: int = 0) -> GroupDisk:
    disk = GroupDisk(make_files(), SETTINGS)
    disk.open()
    disk.bind(**BINDING)  # type: ignore[arg-type]
    assert disk.state is not None
    disk.record.state = replace(disk.state, progress_count=progress_count)
    return disk


def test_progress_is_counted_durably_and_anew_in_each_relation() -> None:
    disk = opened()
    assert [disk.flush() for _ in range(3)] == [1, 2, 3]
    disk.commit_point(1, ONE, 1, None)
    assert disk.flush() == 1
    again = GroupDisk(disk.files.after_kill(), SETTINGS)  # type: ignore[attr-defined]
    again.open()
    assert again.flush() == 2


def test_the_count_stops_at_what_a_page_has_room_for() -> None:
    disk = opened(PROGRESS_MAX - 1)
    assert [disk.flush() for _ in range(2)] == [PROGRESS_MAX, PROGRESS_MAX]


def test_a_cycle_that_is_not_newer_than_the_one_begun_is_refused() -> None:
    disk = opened()
    disk.begin_cycle(CycleName(5, ONE))
    disk.begin_cycle(CycleName(5, ONE))  # resumed
    for name in (CycleName(5, TWO), CycleName(4, ONE)):
        with pytest.raises(ProtocolError, match="after cycle 5"):
            disk.begin_cycle(name)
    assert disk.state is not None
    assert disk.state.begun == CycleName(5, ONE)


def test_a_takeover_is_kept_and_refused_by_releases_that_do_not_know_it() -> None:
    fork = Fork(b"M" * 16, b"L" * 16, CycleName(3, THREE), 7, 9)
    assert to_record(STATE)["version"] == 3
    for is_done in (False, True):
        taken = replace(STATE, takeover=Takeover(fork, is_done))
        record = to_record(taken)
        assert record["version"] == 4
        assert from_record(msgpack.unpackb(msgpack.packb(record)), "store") == taken


@pytest.mark.parametrize(
    ("state", "version"),
    [
        (replace(POINTED, points=(replace(POINT, is_kept=True),)), 5),
        (replace(POINTED, points=(replace(POINT, generation=1),)), 5),
        (replace(POINTED, points=(replace(POINT, journal_bytes=4096),)), 5),
        (replace(POINTED, members=(ALWAYS, Membership(0, 4, "/devices/log.img"))), 6),
        (replace(POINTED, members=(ALWAYS, Membership(None))), 6),
    ],
)
def test_a_record_is_refused_by_releases_that_would_misread_it(
    state: StoreState, version: int
) -> None:
    """They would look for journals under names of before, or of volumes that left."""
    assert to_record(POINTED)["version"] == 3
    record = to_record(state)
    assert record["version"] == version
    assert from_record(msgpack.unpackb(msgpack.packb(record)), "store") == state


@pytest.mark.parametrize("version", [None, 2, 7])
def test_a_record_of_a_version_that_is_not_known_is_refused(
    version: int | None,
) -> None:
    with pytest.raises(StateMismatchError, match="store"):
        from_record({**to_record(POINTED), "version": version}, "store")


def test_what_was_not_recorded_is_not_shown() -> None:
    disk = opened()
    disk.commit_point(1, ONE, 1, None)
    shown = disk.points
    files = disk.files
    assert isinstance(files, SimulatedFiles)
    files.inject = lambda operation, _: errno.ENOSPC if operation == "write" else None
    for change in (
        lambda: disk.advance_current(1, 7),
        lambda: disk.keep(1, is_kept=True),
        lambda: disk.grow(0, OFFERS[0].size_bytes, 2 * OFFERS[0].size_bytes),
        lambda: disk.commit_point(2, TWO, 2, None),
    ):
        with pytest.raises(StorageError):
            change()
        assert disk.points == shown
        assert disk.state is not None
        assert disk.state.points == shown
