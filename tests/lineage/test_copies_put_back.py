"""What each verdict does to data: two real sites, of which one or both are put back.

After every verdict that moves data, the remote's newest point is byte for byte what the
primary has, and no more than needed was sent. After every refusal nothing has changed.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.replication.lineage import Verdict
from tests.support.evidence import record
from tests.support.primary_host_site import Failing, Stopped, reached
from tests.support.restorable_sites import TRACKS, RestorableSites, until

HALF = TRACKS // 2
REGION_TRACKS = 16


@pytest.fixture(scope="module")
def simulated() -> Iterator[Counter[str]]:
    """Counts the verdicts that were carried out."""
    counts: Counter[str] = Counter()
    yield counts
    record(
        "lineage_carried_out",
        "pytest tests/lineage",
        {"verdicts": dict(sorted(counts.items())), "arrangements": counts.total()},
    )


@pytest.fixture
async def sites(
    tmp_path: Path, simulated: Counter[str]
) -> AsyncIterator[RestorableSites]:
    """Two sites, the primary's volume written whole."""
    sites = RestorableSites(tmp_path)
    await sites.start()
    try:
        await sites.primary.write(0, TRACKS, 1)
        yield sites
        simulated[sites.verdicts[-1].name.lower()] += 1
    finally:
        await sites.close()


async def all_well(sites: RestorableSites, ticket: Any = None) -> tuple[int, int]:
    """End the cycle under way, or make one; return tracks (sent, compared) by it."""
    primary = sites.primary
    if ticket is None:
        await primary.write(7, 1, 99)
        await primary.cut()
    else:
        primary.release_reads()
        await primary.ended(ticket)
    last = primary.replicator.cycles.last_cycle
    assert last is not None
    number, data = await sites.remote.point()
    assert number == last.number
    assert data == primary.content(), "a track was skipped"
    return last.tracks, last.tracks_compared


async def acked_on_disk(sites: RestorableSites) -> None:
    """Have all regions but the first cool: a restart relies on their acked bits."""
    for _ in range(2):
        await sites.primary.group.upkeep.tend()
    await sites.primary.write(0, 1, 2)  # it heats: the log tells which have cooled


async def stays_refused(sites: RestorableSites, words: str) -> None:
    """The primary is told why; nothing changes at the remote, and hosts are served."""
    before = sites.remote.on_disk()
    text = await sites.primary.refused()
    assert words in text
    assert sites.remote.is_running
    assert "peer_refused" in sites.remote.group.alarms
    await sites.primary.write(3, 1, 77)
    assert sites.remote.on_disk() == before


# -- go on -----------------------------------------------------------------------------


async def test_a_remote_that_was_killed_gets_nothing_twice(
    sites: RestorableSites,
) -> None:
    ticket = await sites.primary.cut_and_hold(HALF)
    await sites.remote.kill()
    await sites.remote.start()
    assert sites.verdicts[-1] is Verdict.GO_ON
    assert await all_well(sites, ticket) == (TRACKS - HALF, 0)


async def test_a_primary_that_was_killed_sends_nothing_twice(
    sites: RestorableSites,
) -> None:
    primary = sites.primary
    await primary.cut_and_hold(HALF)
    await acked_on_disk(sites)
    await primary.kill()
    await primary.start()
    assert sites.verdicts[-1] is Verdict.GO_ON
    assert primary.acked == HALF - REGION_TRACKS
    sent, compared = await all_well(sites)
    assert sent == TRACKS - HALF + 2
    assert compared == TRACKS - HALF + REGION_TRACKS, "nor was what is acked compared"


async def test_both_put_back_to_one_moment_go_on_from_there(
    sites: RestorableSites,
) -> None:
    primary, remote = sites.primary, sites.remote
    await primary.cut()
    copies = primary.copied(), remote.copied()
    await primary.write(100, 5, 2)
    await primary.cut()
    await primary.stop()
    await remote.stop()
    primary.put_back(copies[0])
    remote.put_back(copies[1])
    await sites.start()
    assert sites.verdicts[-1] is Verdict.GO_ON
    await all_well(sites)


# -- compare acked ---------------------------------------------------------------------


async def test_what_a_restored_remote_had_acknowledged_is_compared(
    sites: RestorableSites,
) -> None:
    """I1 and I4: the copy has the same point and relation, and lacks the tracks."""
    primary, remote = sites.primary, sites.remote
    await primary.cut()
    await primary.write(0, TRACKS, 2)
    primary.hold_reads(0)
    await primary.connected()
    copy = remote.copied()
    primary.release_reads()
    ticket = await primary.cut_and_hold(HALF)
    await remote.start_from(copy)
    assert sites.verdicts[-1] is Verdict.COMPARE_ACKED
    assert await all_well(sites, ticket) == (TRACKS, HALF)
    assert not primary.replicator.alarms.all()


async def test_a_remote_restored_to_before_the_first_point_is_compared(
    sites: RestorableSites,
) -> None:
    await sites.primary.connected()
    copy = sites.remote.copied()
    ticket = await sites.primary.cut_and_hold(HALF)
    await sites.remote.start_from(copy)
    assert sites.verdicts[-1] is Verdict.COMPARE_ACKED
    assert await all_well(sites, ticket) == (TRACKS, HALF)


async def test_what_is_acked_after_a_doubt_is_told_from_what_was_before(
    sites: RestorableSites,
) -> None:
    """The restored remote counts up to where it was; old acked bits stay void."""
    primary, remote = sites.primary, sites.remote
    await primary.cut()
    await primary.write(0, TRACKS, 2)
    copy = remote.copied()
    await primary.cut_and_hold(HALF)
    await acked_on_disk(sites)
    await remote.stop()
    remote.put_back(copy)
    primary.hold_reads(0)  # nothing of it is compared yet
    await remote.start()
    assert sites.verdicts[-1] is Verdict.COMPARE_ACKED
    await until(lambda: not primary.acked)
    await primary.connected()
    await primary.kill()
    for _ in range(9):
        await remote.store.flush()
    await primary.start()
    assert sites.verdicts[-1] is Verdict.GO_ON
    assert primary.acked == 0
    await all_well(sites)


async def test_a_copy_older_by_a_session_is_known_by_the_receipt(
    sites: RestorableSites,
) -> None:
    primary, remote = sites.primary, sites.remote
    await primary.cut()
    copy = remote.copied()
    for _ in range(2):
        await primary.stop()
        await primary.start()
        await primary.connected()
        await until(lambda: remote.store.judged.shown == primary.group.state.receipt)
    await remote.start_from(copy)
    assert sites.verdicts[-1] is Verdict.COMPARE_ACKED
    await all_well(sites)
    assert remote.store.epoch > 3, "no number of a session is used again"


async def test_a_primary_whose_record_failed_is_no_older_one_to_a_copy_put_back(
    sites: RestorableSites,
) -> None:
    """Its disk holds a session that it did not know to be recorded; the copy counts on
    with what the primary still showed."""
    primary, remote = sites.primary, sites.remote
    await primary.cut()
    await until(lambda: not primary.group.is_whole())  # nothing is left to record
    copy = remote.copied()
    shown = primary.group.state
    primary.files.rules.insert(0, Failing("datasync", "group.record", errno.EIO, 1))
    await remote.stop()
    await remote.start()
    await until(lambda: primary.group.failed)
    await remote.start_from(copy)
    await until(lambda: remote.store.epoch > shown.epoch + 1)
    assert primary.group.state.epoch == shown.epoch
    await primary.kill()
    await primary.start()
    assert primary.group.state.epoch == shown.epoch + 1
    assert remote.store.epoch > shown.epoch + 1
    assert sites.verdicts[-1] is Verdict.COMPARE_ACKED
    await all_well(sites)


# -- send again, note point, compare all -----------------------------------------------


async def test_another_remote_before_the_first_point_gets_everything(
    sites: RestorableSites,
) -> None:
    ticket = await sites.primary.cut_and_hold(HALF)
    await sites.remote.stop()
    sites.remote.empty()
    await sites.remote.start()
    await all_well(sites, ticket)
    # It was bound anew, to a relation of its own, before the verdict.
    assert sites.verdicts[-1] is Verdict.SEND_AGAIN
    last = sites.primary.replicator.cycles.last_cycle
    assert last is not None
    assert last.tracks == TRACKS


async def test_a_point_whose_answer_was_lost_is_noted(sites: RestorableSites) -> None:
    primary, remote = sites.primary, sites.remote
    ticket = await primary.cut_and_hold(HALF)
    answered = Stopped("write", "group.record")
    primary.files.rules.insert(0, answered)
    primary._released.set()
    await reached(answered)  # COMMITTED has come, and is not recorded
    copy = primary.copied()
    await remote.kill()
    answered.go()
    await primary.stop()
    assert ticket.safe.done()
    primary.put_back(copy)
    await remote.start()
    await primary.start()
    assert sites.verdicts[-1] is Verdict.NOTE_POINT
    await all_well(sites)


async def test_a_remote_with_an_older_point_is_compared_whole(
    sites: RestorableSites,
) -> None:
    primary, remote = sites.primary, sites.remote
    await primary.cut()
    copy = remote.copied()
    await primary.write(200, 50, 2)
    await primary.cut()
    await remote.start_from(copy)
    assert sites.verdicts[-1] is Verdict.COMPARE_ALL
    assert await all_well(sites) == (51, TRACKS)


async def test_an_empty_remote_after_a_point_is_compared_whole(
    sites: RestorableSites,
) -> None:
    await sites.primary.cut()
    await sites.remote.stop()
    sites.remote.empty()
    await sites.remote.start()
    assert sites.verdicts[-1] is Verdict.COMPARE_ALL
    assert await all_well(sites) == (TRACKS, TRACKS)


# -- refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["", "state"])
async def test_a_primary_put_back_to_before_a_point_is_refused(
    sites: RestorableSites, part: str
) -> None:
    """The whole machine, or its state directory under a newer device."""
    primary = sites.primary
    await primary.cut()
    copy = primary.copied()
    await primary.write(300, 9, 2)
    await primary.cut()
    await primary.start_from(copy, part)
    assert sites.verdicts[-1] is Verdict.SENDER_OLDER
    await stays_refused(sites, "older copy")


@pytest.mark.parametrize("part", ["", "state"])
async def test_a_primary_put_back_into_its_newest_cycle_is_refused_once_it_was_noted(
    sites: RestorableSites, part: str
) -> None:
    """Its newest cycle is the remote's point: as if only the answer had been lost."""
    primary = sites.primary
    ticket = await primary.cut_and_hold(HALF)
    copy = primary.copied()
    primary.release_reads()
    await primary.ended(ticket)
    await until(lambda: sites.remote.store.judged.is_noted)
    await primary.write(400, 9, 2)  # no region that the copy knows as hot
    await primary.start_from(copy, part)
    assert sites.verdicts[-1] is Verdict.SENDER_OLDER
    await stays_refused(sites, "older copy")


async def test_a_primary_put_back_to_before_a_cycle_that_is_under_way_is_refused(
    sites: RestorableSites,
) -> None:
    """Tracks of that cycle were applied; this state knows nothing of them."""
    primary = sites.primary
    await primary.cut()
    copy = primary.copied()
    await primary.write(0, TRACKS, 2)
    await primary.cut_and_hold(HALF)
    await primary.start_from(copy)
    assert sites.verdicts[-1] is Verdict.SENDER_OLDER
    await stays_refused(sites, "cycle 2")


async def test_of_two_primaries_from_one_copy_one_is_refused(
    sites: RestorableSites,
) -> None:
    primary, remote = sites.primary, sites.remote
    await primary.cut()
    copy = primary.copied()
    await primary.stop()
    await primary.start()
    await primary.connected()  # one of them, which has cut nothing since
    await until(lambda: remote.store.judged.shown == primary.group.state.receipt)
    await primary.stop()
    primary.put_back(copy)
    await primary.start()  # the other
    assert sites.verdicts[-1] is Verdict.SENDER_OLDER
    await stays_refused(sites, "older copy")


async def test_lines_that_have_parted_are_not_put_together(
    sites: RestorableSites,
) -> None:
    primary, remote = sites.primary, sites.remote
    await primary.cut()
    both = primary.copied(), remote.copied()
    await primary.write(1, 1, 5)
    await primary.cut()
    await primary.stop()
    await remote.stop()
    one = remote.copied()
    primary.put_back(both[0])
    remote.put_back(both[1])
    await sites.start()
    await primary.write(2, 1, 6)
    await primary.cut()
    for _ in range(2):  # more sessions than in the other line
        await primary.stop()
        await primary.start()
        await primary.connected()
    await primary.stop()
    await remote.stop()
    remote.put_back(one)
    await sites.start()
    assert sites.verdicts[-1] is Verdict.PARTED
    await stays_refused(sites, "gone on from an older copy")


async def test_another_primary_of_the_same_names_is_refused(
    sites: RestorableSites,
) -> None:
    primary = sites.primary
    await primary.cut()
    await primary.stop()
    for path in (primary.directory / "state").rglob("*"):
        if path.is_file():
            path.unlink()
    await primary.start()
    assert sites.verdicts[-1] is Verdict.UNRELATED
    await stays_refused(sites, "another state_dir made it")
