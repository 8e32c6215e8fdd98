"""What must hold while roles change, at every opening, cut, commit and end.

I1  a point is one cut, a fork is what its site had, to the byte; I2 points do not fall
back; I3 what hosts were promised in a line is there, and goes on in the line that was
agreed to follow it; I4 what differs from the newest point is known; I6 points and forks
stay what they are; I8 a line is served by one site, and by nobody once it is given up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from common.replication.lineage import judge
from common.replication.session_messages import VolumeOffer
from common.storage.bitmap_file import PAGE_BYTES
from primary_site.group import ConsistencyGroup
from primary_site.group_state import GroupState
from primary_site.replicator import Replicator
from remote_site.giving_up import Beginning
from remote_site.recovery_point import PointImage
from remote_site.store import GroupStore, Point
from tests.support.simulation.circle_sites import CircleSite
from tests.support.simulation.durability import device_bytes, durable_bytes
from tests.support.simulation.lines import Line, LineHosts
from tests.support.simulation.loop import World
from tests.support.simulation.model import VolumeModel, summary
from tests.support.simulation.references import References

Images = dict[str, bytes]

WORKERS = 4
REQUESTS_AGAIN = 16
"""Of the hosts of a line, after each start and with each wish of the operators."""


class CircleOracle:
    """Watches both sites; tells the world of what does not hold."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.images: dict[bytes, Images] = {}
        """What a point has to show, by its cycle id."""
        self.cuts: dict[tuple[bytes, int], Images] = {}
        """By lineage and number: of one used twice nobody heard the first time."""
        self.lines: dict[bytes, Line] = {}
        self.agreed: dict[bytes, bytes] = {}
        """Lineages that a sender has chosen for its successor: by which."""
        self.promised: dict[str, int] = {}
        """The newest point's number at each site."""
        self.forks: dict[str, dict[int, Images]] = {}
        """What each site has to keep, by the point's number."""
        self.are_hosts_active = True
        self.references = References()
        self.verdicts: Counter[str] = Counter()
        """Between sites of which the one that receives has sent before."""
        self.commits = 0
        self.merges = 0
        self.points_compared = 0
        self.forks_compared = 0
        self.forks_made = 0
        self.handed_over = 0
        self.taken_over = 0
        self.reclaimed = 0
        self.starts_checked = 0

    # -- a site sends ------------------------------------------------------------------

    def opened(self, site: CircleSite, replicator: Replicator) -> None:
        group = replicator.group
        self.references.watch(replicator)
        self.starts_checked += 1
        lineage = group.state.lineage
        line = self.lines.get(lineage)
        if line is None:
            line = self._first_opened(site, group)
        elif line.site is not site:
            self._fail("I8", f"line {lineage.hex()[:8]} is served by two sites")
        else:
            self._opened_again(line, group)
        site.lost_power = False
        self._check_tracking(site, group)
        for volume in group.volumes:
            self._watch_cut(line, group, volume)
        self._watch_lineage(line, group)
        self._watch_asking(replicator)
        self._watch_verdicts(site, replicator)
        line.hosts.is_active = self.are_hosts_active
        line.hosts.budget = max(line.hosts.budget, REQUESTS_AGAIN)
        line.hosts.attach(group, WORKERS)

    def _first_opened(self, site: CircleSite, group: ConsistencyGroup) -> Line:
        """Begin a line: with zeroes, a point, or all that hosts had in another one."""
        lineage = group.state.lineage
        line = self.lines[lineage] = Line(lineage, site)
        line.begin(self.world, group)
        before = self.lines.get(self.agreed.get(lineage, b""))
        point = self.images.get(group.state.committed_cycle_id, {})
        self.world.note(f"{site.name} begins line {len(self.lines)}")
        for volume in group.volumes:
            data = self.content(site, volume.name, volume.size_bytes)
            wanted = point.get(volume.name, b"").ljust(len(data), b"\0")
            if data != wanted:
                self._fail("I1", f"{volume.name}: begins otherwise than its point")
            if before is not None:
                model = self._grown(before, volume)
                wrong = model.wrong_sectors(data, may_be_torn=True)
                if wrong:
                    self._fail("I3", f"{volume.name}: handed over, {summary(wrong)}")
            model = line.hosts.models[volume.name]
            model.recovered(data, lost_power=False)
            model.durable = [list(writes) for writes in model.visible]
        if before is not None:
            before.is_handed_over = True
            self.handed_over += 1
        elif group.state.committed_number is not None:
            self.taken_over += 1
        return line

    def _opened_again(self, line: Line, group: ConsistencyGroup) -> None:
        site = line.site
        for volume in group.volumes:
            wrong = self._grown(line, volume).recovered(
                self.content(site, volume.name, volume.size_bytes),
                lost_power=site.lost_power,
            )
            if wrong:
                how = "a power loss" if site.lost_power else "a kill"
                self._fail("I3", f"{volume.name}: after {how} {summary(wrong)}")

    def _grown(self, line: Line, volume: Any) -> VolumeModel:
        """Return a volume's model; a growth may have come true and nobody been told."""
        model = line.hosts.models[volume.name]
        if volume.size_bytes < model.size_bytes:
            self._fail("I3", f"{volume.name}: has shrunk to {volume.size_bytes}")
        line.hosts.grown(volume.name, volume.size_bytes)
        return model

    @property
    def growths(self) -> int:
        return sum(line.hosts.growths for line in self._served)

    @property
    def host_writes(self) -> int:
        return sum(line.hosts.writes_replied for line in self._served)

    @property
    def _served(self) -> list[Line]:
        """Each line once: one that was reclaimed has two names."""
        return list({id(line): line for line in self.lines.values()}.values())

    def hosts_of(self, group: ConsistencyGroup) -> LineHosts:
        return self.lines[group.state.lineage].hosts

    def gone(self, site: CircleSite) -> None:
        line = self._served_by(site)
        if line is not None:
            line.hosts.detach()

    def hosts_ended(self, site: CircleSite) -> bool:
        line = self._served_by(site)
        if line is None:
            return True
        line.hosts.is_active = False
        return line.hosts.is_idle

    def let_hosts_go_on(self) -> None:
        """Something else begins: hosts are there meanwhile."""
        for line in self.lines.values():
            line.hosts.budget = max(line.hosts.budget, REQUESTS_AGAIN)

    def _served_by(self, site: CircleSite) -> Line | None:
        """Return the line whose hosts are connected to a site."""
        lines = [line for line in self.lines.values() if line.site is site]
        return next((line for line in lines if line.hosts.is_attached), None)

    def _watch_cut(self, line: Line, group: ConsistencyGroup, volume: Any) -> None:
        transfer, changes = volume.changes.transfer, volume.changes
        site = line.site

        def watched(relation: Any, fresh: Any) -> Any:
            number = group.state.cycle_number + 1
            if volume is group.volumes[0]:
                self.cuts[line.lineage, number] = {}
                self.world.note(f"cut {number}")
            data = self.content(site, volume.name, volume.size_bytes)
            self.cuts[line.lineage, number][volume.name] = data
            model = line.hosts.models[volume.name]
            line.destaged[number, volume.name] = model.flush_submitted()
            may_be_torn = site.machine.has_failed_at("/devices")
            wrong = model.wrong_sectors(data, may_be_torn=may_be_torn)
            if wrong:
                self._fail("I5", f"cut {number}: {volume.name}: {summary(wrong)}")
            return transfer(relation, fresh)

        changes.transfer = watched

    def _watch_lineage(self, line: Line, group: Any) -> None:
        change = group.change
        line.lineage = group.state.lineage

        async def changed(make: Callable[[GroupState], GroupState]) -> None:
            before, steps = group.state.lineage, set()

            def looked_at(state: GroupState) -> GroupState:
                """Called when its turn comes, and again once that is durable."""
                to_be = make(state)
                if to_be.handing and not state.handing and "handing" not in steps:
                    steps.add("handing")
                    self.world.note("handing")
                self.lines[to_be.lineage] = line  # also if it dies on the way
                return to_be

            await change(looked_at)
            line.lineage = group.state.lineage
            self.reclaimed += line.lineage != before

        group.change = changed

    def _watch_asking(self, replicator: Any) -> None:
        switchover, group = replicator.switchover, replicator.group
        ask = switchover.ask

        async def asked(session: Any) -> None:
            fork = group.state.handing
            if fork is not None:
                self.agreed[fork.lineage] = fork.parent
                self.world.note("asks to take over")
            await ask(session)

        switchover.ask = asked

    def _watch_verdicts(self, site: CircleSite, replicator: Any) -> None:
        """Count what is judged of receivers that have sent themselves."""
        cycles, group = replicator.cycles, replicator.group
        reconcile = cycles.reconcile

        async def reconciled(welcome: Any) -> None:
            verdict = judge(group.judged(), welcome.receiver)
            if any(line.site is not site for line in self.lines.values()):
                self.verdicts[verdict.name.lower()] += 1
            await reconcile(welcome)

        cycles.reconcile = reconciled

    def _check_tracking(self, site: CircleSite, group: ConsistencyGroup) -> None:
        """I4: what differs from the newest known point is in some bitmap."""
        state = group.state
        point: Images = {}
        if state.committed_number is not None:
            found = self.images.get(state.committed_cycle_id)
            if found is None:
                self._fail("I4", f"point {state.committed_number} is of no cut")
                return
            point = found
        for volume in group.volumes:
            data = self.content(site, volume.name, volume.size_bytes)
            track = untracked(volume, data, point.get(volume.name, b""))
            if track is not None:
                self._fail(
                    "I4",
                    f"{volume.name}: track {track} differs from point "
                    f"{state.committed_number} and is in no bitmap",
                )

    def content(self, site: CircleSite, name: str, size_bytes: int) -> bytes:
        return device_bytes(site.machine.files, name)[:size_bytes]

    # -- a site receives ---------------------------------------------------------------

    def store_opened(self, site: CircleSite, store: GroupStore) -> None:
        self.starts_checked += 1
        newest = store.points[-1].number if store.points else 0
        promised = self.promised.get(site.name, 0)
        taken = store.takeover
        lacked_room = any(
            site.machine.injected[f"{operation} /journal ENOSPC"]
            for operation in ("write", "create")
        )
        # Where hosts of a site that took over have no room, points go for them.
        is_taken = taken is not None and taken.is_done
        has_given_up = is_taken and not store.points and lacked_room
        if newest < promised and not has_given_up:
            self._fail("I2", f"{site.name}: point {promised} was safe, now {newest}")
        self.promised[site.name] = newest
        for fork in store.forks:
            # One that was made durable and of which nobody was told before a kill.
            cycle_id = next(p.cycle_id for p in store.points if p.number == fork.number)
            kept = self.forks.setdefault(site.name, {})
            kept.setdefault(fork.number, self.images[cycle_id])
        self.check_forks(site, store)
        self.compare_points(site, store)
        self._watch_store(site, store)

    def _watch_store(self, site: CircleSite, store: Any) -> None:
        commit, session = store.commit, store.new_epoch

        async def committed(**what: Any) -> bytes:
            number = what["number"]
            self._is_committing(store, number, what["cycle_id"])
            relation: bytes = await commit(**what)
            self.world.note(f"commit {number}")
            self.commits += 1
            self.promised[site.name] = max(self.promised.get(site.name, 0), number)
            self.compare_points(site, store, store.points[-2:])
            self._check_durable(store, number, self.images[what["cycle_id"]])
            return relation

        async def opened(sender: Any) -> int:
            line = self.lines.get(sender.lineage)
            if line is None or line.site is site:
                self._fail("I7", "a session of a line that nobody else serves")
            epoch: int = await session(sender)
            return epoch

        merge = store._disk.merges.replace_merged

        def merged(*what: Any) -> bool:
            done: bool = merge(*what)
            self.merges += done
            return done

        store.commit, store.new_epoch = committed, opened
        store._disk.merges.replace_merged = merged
        self._watch_giving_up(site, store)

    def _watch_giving_up(self, site: CircleSite, store: Any) -> None:
        begin_receiving, commit_point = (
            store.begin_receiving,
            store._disk.commit_point,
        )

        async def given_up(beginning: Beginning) -> None:
            self.begins_with(site, beginning)
            await begin_receiving(beginning)

        def begun(*what: Any, **how: Any) -> bytes:
            begin = how.get("begin")
            gives_up = begin is not None
            if begin is not None:
                self._begins(site, what, begin(store._disk.state).volumes)
            relation: bytes = commit_point(*what, **how)
            # A thread of a process that has died on the way comes here, too.
            if gives_up and store._disk.files is site.machine.files:
                self._has_begun(site, store, what)
            return relation

        store.begin_receiving, store._disk.commit_point = given_up, begun

    def _is_committing(self, store: Any, number: int, cycle_id: bytes) -> None:
        """What is told to be committed is a cut, which the sender can lose no more."""
        if store.takeover is not None:
            self._fail("I8", f"point {number} of a sender that was taken over from")
        cut = self.cuts.get((store.lineage, number))
        if cut is None:
            self._fail("I7", f"point {number} is of no cut of its line")
        self.images[cycle_id] = cut or {}
        line = self.lines[store.lineage]
        for name, model in line.hosts.models.items():
            flush = line.destaged.get((number, name))
            if flush is not None:
                model.flushed(flush)

    def _check_durable(self, store: Any, number: int, cut: Images) -> None:
        """I2: what was acknowledged is on the disk, whatever happens."""
        if store.points[-1].number != number:
            return
        for volume in store._disk.volumes:
            name = volume.offer.name
            if durable_bytes(volume.device._inode, len(cut[name])) != cut[name]:
                self._fail("I2", f"{name}@{number} is committed and not on the disk")

    # -- a site gives up what it had ---------------------------------------------------

    def _begins(
        self, site: CircleSite, what: tuple[Any, ...], volumes: Sequence[VolumeOffer]
    ) -> None:
        """`volumes`: with the sizes that they have come to while it sent."""
        number, cycle_id = what[:2]
        found = {
            offer.name: self.content(site, offer.name, offer.size_bytes)
            for offer in volumes
        }
        handed = self.images.setdefault(cycle_id, found)
        if handed != found:
            self._fail(
                "I1", f"{site.name}: is not at point {number}, as it handed over"
            )

    def _has_begun(self, site: CircleSite, store: Any, what: tuple[Any, ...]) -> None:
        number, cycle_id = what[:2]
        self.promised[site.name] = number
        if any(fork.number == number for fork in store.forks):
            kept = self.forks.setdefault(site.name, {})
            if number not in kept:
                kept[number] = self.images[cycle_id]
                self.forks_made += 1
        self.world.note(f"{site.name} gave up at {number}")

    def begins_with(self, site: CircleSite, beginning: Beginning) -> None:
        """I3: what is kept as a fork is what hosts of this site had."""
        line = self.lines.get(beginning.own_lineage)
        if line is None or line.site is not site:
            self._fail("I7", f"{site.name} gives up a line that it did not send")
            return
        for name, model in line.hosts.models.items():
            data = self.content(site, name, model.size_bytes)
            wrong = model.wrong_sectors(data, may_be_torn=True)
            if wrong:
                self._fail("I3", f"{name}: given up, {summary(wrong)}")

    # -- looking -----------------------------------------------------------------------

    def check_forks(self, site: CircleSite, store: GroupStore) -> None:
        """I6: a fork is there until an operator deletes it, and shows what it did."""
        points = {point.number for point in store.points}
        listed = {fork.number for fork in store.forks}
        for number in self.forks.get(site.name, {}):
            if number not in listed or number not in points:
                self._fail("I6", f"{site.name}: fork {number} is gone")

    def compare_points(
        self, site: CircleSite, store: Any, points: Sequence[Point] | None = None
    ) -> None:
        for point in store.points if points is None else points:
            wanted = self.images.get(point.cycle_id)
            if wanted is None:
                self._fail("I1", f"{site.name}: point {point.number} is of no cut")
                return
            for volume in store._disk.volumes:
                self._compare(site, volume, point, wanted[volume.offer.name])

    def _compare(
        self, site: CircleSite, volume: Any, point: Point, wanted: bytes
    ) -> None:
        self.points_compared += 1
        self.forks_compared += point.number in self.forks.get(site.name, {})
        image = PointImage(volume, point.number)
        name = f"{site.name}: {volume.offer.name}@{point.number}"
        if image.geometry.size_bytes != len(wanted):
            self._fail("I1", f"{name} has {image.geometry.size_bytes} bytes")
            return
        found = site.machine.looking(partial(image.read, 0, len(wanted)))
        if bytes(found) != wanted:
            size = volume.offer.track_bytes
            tracks = [
                at // size
                for at in range(0, len(wanted), size)
                if found[at : at + size] != wanted[at : at + size]
            ]
            self._fail("I1", f"{name} is not the cut: tracks {tracks}")

    def look(self, site: CircleSite) -> None:
        """Compare a point now, whatever is being applied or preserved."""
        group = site.received
        if group is None or not site.is_serving or group.store.failed is not None:
            return
        points = group.store.points
        if points:
            self.compare_points(site, group.store, [self.world.rng.choice(points)])
        self.check_forks(site, group.store)

    def _fail(self, invariant: str, text: str) -> None:
        self.world.problem(f"{invariant}: {text}")


def untracked(volume: Any, data: bytes, point: bytes) -> int | None:
    """Return the first track that differs from a point and is in no bitmap."""
    if data == point:
        return None
    geometry, changes = volume.geometry, volume.changes
    point = point.ljust(len(data), b"\0")
    marked = b"".join(
        changes.changed_page(page)
        for page in range(-(-geometry.track_count // (8 * PAGE_BYTES)))
    )
    for track in range(geometry.track_count):
        if marked[track >> 3] >> (track & 7) & 1:
            continue
        offset, length = geometry.byte_range(track, 1)
        if data[offset : offset + length] != point[offset : offset + length]:
            return track
    return None
