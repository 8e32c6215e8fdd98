"""What a site that hands a group over, or is superseded, lets its hosts do."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from common.errors import (
    ConnectionLostError,
    NotCommittedError,
    PeerRefusedError,
    RefusedError,
    StorageError,
)
from common.replication.features import EXCHANGE, MEMBERS
from common.replication.lineage import CycleName, Fork, ToldFork
from common.replication.link import ForkedError
from common.replication.role_messages import HandOver
from common.replication.session_messages import GoodbyeReason, VolumeOffer
from common.service.clock import SystemClock
from common.service.config_primary import PrimaryGroup, PrimaryVolume
from common.service.split_brain import ALARM as SPLIT_BRAIN
from common.storage.record import DurableRecord
from primary_site.group_state import GroupState, from_record, to_record
from primary_site.members import GroupMembers
from primary_site.not_yet import WAITS_FOR_OPERATOR_SECONDS
from primary_site.replicator import (
    NOT_YET_SECONDS,
    RECONNECT_SECONDS_MIN,
    Replicator,
)
from primary_site.switchover import ALARM
from tests.support.primary_host_site import TRACK, Failing, Site, Stopped, reached

OTHER = CycleName(7, b"c" * 16)
DATA = b"x" * TRACK
PATIENCE_SECONDS = 30.0


class Receiver:
    """A session with a remote that can take over; it notes what it is sent."""

    epoch = 3

    def __init__(self, *features: str) -> None:
        self.features = frozenset(features)
        self.sent: list[Any] = []
        self.is_aborted = False
        self.takes: str | Exception = ""
        """What it answers to a volume that is offered; empty: it takes it."""

    async def offer_volume(self, offer: VolumeOffer) -> str:
        self.sent.append(offer)
        if isinstance(self.takes, Exception):
            raise self.takes
        return self.takes

    def abort(self) -> None:
        self.is_aborted = True

    async def send(self, message: object) -> int:
        self.sent.append(message)
        return 0


class LaterClock(SystemClock):
    """A clock that a test puts forward."""

    later_seconds = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.later_seconds


class Sender:
    """A site's group and its replicator, without a link."""

    def __init__(self, site: Site, clock: SystemClock | None = None) -> None:
        async def connect(address: str) -> Any:
            raise AssertionError(address)

        self.site = site
        self.group = site.group
        self.replicator = Replicator(
            site.group, "amsterdam", connect, clock or SystemClock()
        )
        self.switchover = self.replicator.switchover

    async def write(self) -> int:
        return await self.site.write(0, DATA)

    def stored(self) -> GroupState:
        path = str(self.site.directory / "state/groups/orders/group.record")
        found = DurableRecord(path, self.site.files).load()
        assert found is not None
        return from_record(found, path)

    async def hand_over(
        self,
        before_the_answer: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Hand over, with a remote that has the last cycle at once."""
        receiver: Any = Receiver(EXCHANGE)
        tickets = self.replicator.cycles.tickets
        handing = asyncio.create_task(self.switchover.hand_over(receiver))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (tickets or handing.done()):
                await asyncio.sleep(0.001)
        if tickets:
            tickets.board()
            await self.site.commit_cut()
            if before_the_answer is not None:
                await before_the_answer()
            tickets.safe(self.group.state.committed_number or 0)
        await handing


def forked(sender: Sender, lineage: bytes = b"n" * 16) -> ToldFork:
    parent = sender.group.state.lineage
    return ToldFork(Fork(lineage, parent, OTHER, 5, 9), is_known=False)


def agreed(sender: Sender) -> ToldFork:
    fork = sender.group.state.handing
    assert fork is not None
    return ToldFork(fork, is_known=True)


# -- handing over ----------------------------------------------------------------------


async def test_a_remote_of_an_earlier_release_is_handed_nothing(site: Site) -> None:
    sender, receiver = Sender(site), Receiver()
    with pytest.raises(RefusedError, match="can't take a group over"):
        await sender.switchover.hand_over(receiver)  # type: ignore[arg-type]
    assert await sender.write() == 0


async def test_hosts_write_nothing_from_before_the_last_cut(site: Site) -> None:
    sender = Sender(site)
    assert await sender.write() == 0
    found: list[int] = []

    async def write() -> None:
        found.append(await sender.write())

    await sender.hand_over(write)
    assert found == [errno.EPERM]
    assert sender.stored().handing == sender.group.state.handing is not None
    assert await sender.write() == errno.EPERM
    with pytest.raises(RefusedError, match="being handed over"):
        await sender.replicator.request_cut(None)
    asked: Any = Receiver(EXCHANGE)
    await sender.switchover.ask(asked)
    assert asked.sent == [HandOver(3, agreed(sender).fork)]


async def test_writes_under_way_end_before_the_last_cut_is_asked_for(
    site: Site,
) -> None:
    sender = Sender(site)
    stopped = Stopped("write", "data.img")
    site.files.rules.append(stopped)
    writing = asyncio.ensure_future(sender.write())
    await reached(stopped)
    receiver: Any = Receiver(EXCHANGE)
    handing = asyncio.create_task(sender.switchover.hand_over(receiver))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not sender.replicator.cycles.tickets, "a cut that may miss what is written"
    stopped.go()
    assert await writing == 0
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not sender.replicator.cycles.tickets:
            await asyncio.sleep(0.001)
    handing.cancel()
    await asyncio.wait([handing])
    assert await sender.write() == 0


async def test_a_last_cycle_that_was_not_the_last_leaves_hosts_as_they_were(
    site: Site,
) -> None:
    sender = Sender(site)

    async def change() -> None:
        site.volume.allow_writes()  # as a write that slipped through would
        assert await sender.write() == 0
        site.volume.refuse_writes()

    with pytest.raises(RefusedError, match="was not the last"):
        await sender.hand_over(change)
    assert sender.stored().handing is None
    assert await sender.write() == 0


async def test_hosts_wait_while_nobody_knows_whether_the_record_hands_over(
    site: Site,
) -> None:
    sender = Sender(site)
    failing = Failing("write", "group.record", errno.EIO, 1)

    async def fail() -> None:
        site.files.rules.append(failing)

    with pytest.raises(StorageError):
        await sender.hand_over(fail)
    assert failing.met == 1
    assert sender.group.state.handing is None
    assert await sender.write() == errno.EPERM, "a restart may find it handed over"


async def test_a_remote_that_refuses_leaves_the_group_here_and_that_is_durable_first(
    site: Site,
) -> None:
    sender = Sender(site)
    await sender.hand_over()
    assert ALARM in {alarm.name for alarm in sender.replicator.alarms.all()}
    stopped = Stopped("write", "group.record")
    site.files.rules.append(stopped)
    error = PeerRefusedError(GoodbyeReason.NOT_PERMITTED, "no link")
    pause = asyncio.create_task(sender.replicator._refused(error))
    await reached(stopped)
    assert await sender.write() == errno.EPERM
    stopped.go()
    assert await pause == RECONNECT_SECONDS_MIN
    assert sender.stored().handing is None
    assert await sender.write() == 0
    assert not sender.replicator.alarms.all()


async def test_a_remote_that_is_not_there_yet_is_asked_again(site: Site) -> None:
    """It may have taken over already: hosts stay out until it says that it can't."""
    sender = Sender(site)
    await sender.hand_over()
    for reason in (GoodbyeReason.NOT_YET, GoodbyeReason.SHUTTING_DOWN):
        error = PeerRefusedError(reason, "just now")
        assert await sender.replicator._refused(error) == RECONNECT_SECONDS_MIN
    assert sender.stored().handing is not None
    assert await sender.write() == errno.EPERM


async def test_a_second_operator_s_switchover_lets_no_host_write_after_the_last_cut(
    site: Site,
) -> None:
    sender = Sender(site)
    stopped = Stopped("write", "group.record")
    second: list[asyncio.Task[None]] = []
    receiver: Any = Receiver(EXCHANGE)

    async def again() -> None:
        second.append(asyncio.create_task(sender.switchover.hand_over(receiver)))
        await asyncio.wait(second, timeout=0.05)
        site.files.rules.append(stopped)

    first = asyncio.create_task(sender.hand_over(again))
    await reached(stopped)
    await asyncio.wait(second)
    assert await sender.write() == errno.EPERM, "it would be in no point, and lost"
    stopped.go()
    await first
    with pytest.raises(RefusedError, match="being handed over already"):
        await second[0]
    assert await sender.write() == errno.EPERM


def members_of(sender: Sender) -> GroupMembers:
    directory = str(sender.site.directory / "state")
    return GroupMembers(sender.replicator, directory, "a.toml")


async def test_no_volume_comes_or_leaves_from_the_last_cut_on(site: Site) -> None:
    """It has been waiting for its turn: hosts would write what no site takes over."""
    sender = Sender(site)
    members = members_of(sender)
    config, later = with_later(site)

    async def is_refused() -> None:
        with pytest.raises(RefusedError, match="being handed over"):
            await members._add(config, later, b"n" * 16)
        with pytest.raises(RefusedError, match="being handed over"):
            await members._remove("data", lambda name: None)

    await sender.hand_over(is_refused)
    await is_refused()
    assert list(sender.stored().volumes) == ["data"]
    assert not (site.directory / "later.img").exists()


async def test_nothing_is_handed_over_while_volumes_change(site: Site) -> None:
    sender = Sender(site)
    await site.commit_cut()
    stopped = Stopped("write", "group.record")
    site.files.rules.append(stopped)
    members, (config, later) = members_of(sender), with_later(site)
    coming = asyncio.create_task(
        sender.replicator.cycles.reshaping.run(
            "it comes", lambda: members._add(config, later, b"n" * 16)
        )
    )
    await reached(stopped)
    session: Any = Receiver()
    with pytest.raises(RefusedError, match="change just now: try again"):
        await sender.switchover.hand_over(session)
    stopped.go()
    await coming
    assert await sender.write() == 0


async def test_hosts_do_not_write_to_a_volume_that_came_amid_a_takeover(
    site: Site,
) -> None:
    sender = Sender(site)
    await site.commit_cut()
    stopped = Stopped("truncate", "later.img")
    site.files.rules.append(stopped)
    coming = asyncio.create_task(members_of(sender)._add(*with_later(site), b"n" * 16))
    await reached(stopped)
    await sender.switchover.superseded(forked(sender))
    stopped.go()
    await coming
    assert [volume.read_only for volume in site.group.volumes] == [True, True]


async def test_a_takeover_amid_a_switchover_leaves_no_host_writing(site: Site) -> None:
    sender = Sender(site)

    receiver: Any = Receiver(EXCHANGE)
    handing = asyncio.create_task(sender.switchover.hand_over(receiver))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not sender.replicator.cycles.tickets:
            await asyncio.sleep(0.001)
    await sender.switchover.superseded(forked(sender))
    sender.replicator.cycles.fail_all("the remote took over")
    with pytest.raises(NotCommittedError):
        await handing
    assert await sender.write() == errno.EPERM


# -- superseded ------------------------------------------------------------------------


async def test_only_who_was_handed_the_group_ends_the_sending_role(site: Site) -> None:
    sender = Sender(site)
    await sender.hand_over()
    mine = agreed(sender)
    await sender.switchover.superseded(forked(sender))
    assert not sender.switchover.gave_up.is_set(), "somebody else's takeover"
    assert not sender.stored().gives_up
    await sender.switchover.superseded(mine)
    assert sender.switchover.gave_up.is_set()
    assert sender.stored().gives_up
    await sender.group.update(handing=None)
    await sender.switchover.superseded(forked(sender))
    assert sender.stored().gives_up, "what is given up stays so"


async def test_hosts_write_no_more_before_it_is_recorded_who_took_over(
    site: Site,
) -> None:
    sender = Sender(site)
    stopped = Stopped("write", "group.record")
    site.files.rules.append(stopped)
    told = asyncio.create_task(sender.switchover.superseded(forked(sender)))
    await reached(stopped)
    assert await sender.write() == errno.EPERM
    stopped.go()
    await told
    assert sender.stored().superseded == sender.switchover.other


async def test_no_cut_stands_at_a_superseded_site(site: Site) -> None:
    """Hosts' writes would go on preserving for it, for ever."""
    sender = Sender(site)
    await site.group.make_cut(None)
    await site.group.settle_cut()
    told = forked(sender)
    await sender.switchover.superseded(told)
    standing = asyncio.create_task(sender.replicator._stand_superseded(told))
    await asyncio.sleep(0)  # it has begun
    sender.switchover.reclaimed.set()  # an operator lets it go on, once it stands
    async with asyncio.timeout(PATIENCE_SECONDS):
        await standing
    assert sender.group.cut is None


@pytest.mark.parametrize("role", ["handing", "superseded"])
async def test_volumes_neither_come_nor_leave_where_the_group_is_another_s(
    site: Site, role: str
) -> None:
    sender = Sender(site)
    members = GroupMembers(sender.replicator, str(site.directory / "state"), "a.toml")
    told = forked(sender)
    if role == "handing":
        await sender.group.update(handing=told.fork)
    else:
        await sender.group.update(superseded=told)
    says = "being handed over" if role == "handing" else "took over"
    with pytest.raises(RefusedError, match=says):
        await members.leaving("data")


def with_later(site: Site) -> tuple[PrimaryGroup, PrimaryVolume]:
    """Return the config of a group that has one volume more, and that one's."""
    assert site.config is not None
    (data,) = site.config.volumes
    device = str(site.directory / "later.img")
    later = data.model_copy(update={"name": "later", "device": device})
    return site.config.model_copy(update={"volumes": (data, later)}), later


async def test_the_remote_hears_of_a_volume_that_came_by_a_new_session(
    site: Site,
) -> None:
    sender, session = Sender(site), Receiver()
    replicator: Any = sender.replicator
    members = GroupMembers(replicator, str(site.directory / "state"), "a.toml")
    await site.commit_cut()
    replicator.session = session
    replicator.met.set()
    await members._add(*with_later(site), b"n" * 16)
    assert session.is_aborted, "it would go on without the volume"
    assert replicator.session is None
    assert not replicator.met.is_set()


@pytest.mark.parametrize(
    ("takes", "says"),
    [
        ("no room for it there", "^no room for it there$"),
        (TimeoutError(), "does not answer: try again"),
        (ConnectionLostError("gone"), "does not answer: try again"),
    ],
)
async def test_a_volume_that_the_remote_does_not_take_stays_out(
    site: Site, takes: str | Exception, says: str
) -> None:
    """Every later session would be refused, for the sake of a volume."""
    sender, session = Sender(site), Receiver(MEMBERS)
    session.takes = takes
    replicator: Any = sender.replicator
    members = GroupMembers(replicator, str(site.directory / "state"), "a.toml")
    await site.commit_cut()
    replicator.session = session
    with pytest.raises(RefusedError, match=says):
        await members.add(*with_later(site))
    assert [offer.name for offer in session.sent] == ["later"]
    assert list(sender.stored().volumes) == ["data"]
    assert not (site.directory / "later.img").exists()


async def test_a_remote_of_an_earlier_release_is_offered_no_volume(site: Site) -> None:
    sender, session = Sender(site), Receiver()
    replicator: Any = sender.replicator
    members = GroupMembers(replicator, str(site.directory / "state"), "a.toml")
    await site.commit_cut()
    replicator.session = session
    with pytest.raises(RefusedError, match="can't add volumes to a group"):
        await members.add(*with_later(site))
    with pytest.raises(RefusedError, match="can't remove volumes from a group"):
        await members.leaving("data")
    assert session.sent == []


@pytest.mark.parametrize("role", ["handing", "superseded", "gives_up"])
async def test_a_restart_finds_what_hosts_may_do(site: Site, role: str) -> None:
    sender = Sender(site)
    told = forked(sender)
    if role == "handing":
        await sender.group.update(handing=told.fork)
    else:
        await sender.group.update(superseded=told, gives_up=role == "gives_up")
    again = Sender(site)
    assert await again.write() == errno.EPERM
    assert again.switchover.gave_up.is_set() == (role == "gives_up")


async def test_a_site_that_goes_on_has_a_lineage_of_its_own_before_hosts_write(
    site: Site,
) -> None:
    sender = Sender(site)
    told, before = forked(sender), sender.group.state.lineage
    await sender.switchover.superseded(told)
    stopped = Stopped("write", "group.record")
    site.files.rules.append(stopped)
    reclaiming = asyncio.create_task(sender.switchover.reclaim())
    await reached(stopped)
    assert await sender.write() == errno.EPERM
    stopped.go()
    fork = await reclaiming
    assert await sender.write() == 0
    stored = sender.stored()
    assert stored.lineage == fork.lineage not in {before, told.fork.lineage}
    assert fork.parent == told.fork.lineage
    assert stored.superseded is None
    assert stored.reclaimed == ToldFork(fork, is_known=False)


async def test_what_was_given_up_is_not_reclaimed(site: Site) -> None:
    sender = Sender(site)
    await sender.switchover.superseded(forked(sender))
    await sender.switchover.give_up()
    with pytest.raises(RefusedError, match="not superseded here"):
        await sender.switchover.reclaim()
    assert sender.stored().gives_up


@pytest.mark.parametrize("first", ["give_up", "reclaim"])
async def test_of_two_operators_who_choose_a_side_at_once_one_is_refused(
    site: Site, first: str
) -> None:
    sender = Sender(site)
    await sender.switchover.superseded(forked(sender))
    stopped = Stopped("write", "group.record")
    site.files.rules.append(stopped)
    chosen: list[Callable[[], Coroutine[Any, Any, object]]]
    chosen = [sender.switchover.give_up, sender.switchover.reclaim]
    if first == "reclaim":
        chosen.reverse()
    one = asyncio.create_task(chosen[0]())
    await reached(stopped)
    other = asyncio.create_task(chosen[1]())
    await asyncio.sleep(0)
    stopped.go()
    await one
    with pytest.raises(RefusedError):
        await other
    stored = sender.stored()
    assert stored.gives_up == (stored.superseded is not None) == (first == "give_up")
    assert await sender.write() == (errno.EPERM if first == "give_up" else 0)


async def test_a_site_that_went_on_from_elsewhere_supersedes_nobody(site: Site) -> None:
    sender = Sender(site)
    told = ToldFork(Fork(b"n" * 16, b"z" * 16, OTHER, 5, 9), is_known=True)
    for reason in (GoodbyeReason.SUPERSEDED, GoodbyeReason.SPLIT_BRAIN):
        await sender.replicator._refused(ForkedError(reason, "it serves", told))
        assert sender.group.state.superseded is None
        assert sender.switchover.other == told, "an operator may choose it"
    assert SPLIT_BRAIN in {alarm.name for alarm in sender.replicator.alarms.all()}
    assert await sender.write() == 0


async def test_not_yet_is_an_operator_s_business_once_it_is_said_again(
    site: Site,
) -> None:
    clock = LaterClock()
    replicator = Sender(site, clock).replicator
    for text, is_said in (("a", False), ("b", False), ("b", True)):
        error = PeerRefusedError(GoodbyeReason.NOT_YET, text)
        assert await replicator._refused(error) == NOT_YET_SECONDS
        said = {alarm.name for alarm in replicator.alarms.all()}
        assert ("refused" in said) == is_said
        assert (replicator.link_state == "refused") == is_said
        clock.later_seconds += WAITS_FOR_OPERATOR_SECONDS


def said_by(replicator: Replicator) -> set[str]:
    return {alarm.name for alarm in replicator.alarms.all()}


async def test_no_split_brain_is_left_once_the_other_site_says_that_its_line_ended(
    site: Site,
) -> None:
    sender = Sender(site)
    replicator, told = sender.replicator, forked(sender)
    told = replace(told, fork=replace(told.fork, parent=b"z" * 16))
    await replicator._refused(ForkedError(GoodbyeReason.SPLIT_BRAIN, "both", told))
    assert said_by(replicator) == {SPLIT_BRAIN, "refused"}
    assert not replicator.split_brain.is_settled

    await replicator._refused(PeerRefusedError(GoodbyeReason.NOT_YET, "it ended"))
    assert said_by(replicator) == set()
    assert replicator.split_brain.is_settled
    assert sender.switchover.other is None, "there is nothing to choose any more"


@pytest.mark.parametrize("is_reclaimed", [False, True])
async def test_who_was_taken_over_from_is_given_time_to_hear_of_it(
    site: Site, *, is_reclaimed: bool
) -> None:
    clock = LaterClock()
    sender = Sender(site, clock)
    replicator, told = sender.replicator, forked(sender)
    if is_reclaimed:
        await sender.switchover.superseded(told)
        await sender.switchover.reclaim()
    else:
        replicator.split_brain.taken_from = told.fork.lineage
        told = replace(told, fork=replace(told.fork, parent=b"z" * 16))
    error = ForkedError(GoodbyeReason.SPLIT_BRAIN, "it has not heard", told)
    assert await replicator._refused(error) == NOT_YET_SECONDS
    assert said_by(replicator) == set()
    assert sender.switchover.other is None

    clock.later_seconds += WAITS_FOR_OPERATOR_SECONDS
    await replicator._refused(error)
    assert said_by(replicator) == {SPLIT_BRAIN, "refused"}, "it can't hear of it"
    assert sender.switchover.other == told


# -- the record ------------------------------------------------------------------------

FORK = Fork(b"n" * 16, b"p" * 16, OTHER, 5, 9)
TOLD = ToldFork(FORK, is_known=False)
NONE = GroupState("orders", b"g" * 16, b"p" * 16)


@pytest.mark.parametrize(
    "state",
    [
        replace(NONE, superseded=TOLD),
        replace(NONE, superseded=TOLD, handing=FORK, gives_up=True),
        replace(NONE, handing=FORK),
        replace(NONE, reclaimed=TOLD),
    ],
)
def test_a_record_keeps_what_became_of_a_role_and_earlier_releases_refuse_it(
    state: GroupState,
) -> None:
    assert from_record(to_record(state), "path") == state
    assert to_record(state)["version"] == 4
