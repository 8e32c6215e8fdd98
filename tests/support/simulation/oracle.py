"""What must hold, at every cut, commit, start and end of a run.

I1  a point equals all volumes at one cut; I2 the newest point never falls back, nor
an epoch that was told; I3 what a host was promised is there, and nothing else; I4 each
track that differs from the newest point is known as such; I5 a cut holds every write
that had ended; I6 an image that is read does not change; I9 a failed flush ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from common.ports import HostCommand, HostRequest
from common.replication.lineage import SenderState
from common.storage.bitmap_file import PAGE_BYTES
from primary_site.cut_volume import CutVolume
from primary_site.group import ConsistencyGroup
from primary_site.replicator import Replicator
from primary_site.volume import PrimaryVolume
from remote_site.recovery_point import PointImage
from remote_site.secondary import SecondaryVolume
from remote_site.store import GroupStore, Point
from tests.support.simulation.durability import Durability
from tests.support.simulation.hosts import Hosts
from tests.support.simulation.loop import World
from tests.support.simulation.model import Flush, VolumeModel, summary
from tests.support.simulation.sites import PrimarySite, RemoteSite

Images = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Promised:
    """What the remote has said, or could have said, to be durable."""

    number: int = 0
    current_as_of_ns: int = 0
    epoch: int = 0


class Oracle:
    """Watches both sites; tells the world of what does not hold."""

    def __init__(
        self, world: World, primary: PrimarySite, remote: RemoteSite, hosts: Hosts
    ) -> None:
        self.world = world
        self.cuts: dict[int, Images] = {}
        """By number: of a number that was used twice nobody heard the first time."""
        self.cycle_ids: dict[int, bytes] = {}
        self._destaged: dict[tuple[int, str], Flush] = {}
        self.promised = Promised()
        self.told_number = 0
        """The newest point ever, also if an operator rolled the remote back since."""
        self.completed_number = 0
        """The newest point that the primary has heard of."""
        self.commits = 0
        self.points_compared = 0
        self.starts_checked = 0
        self.lost_power = False
        """The primary's machine has lost power since the hosts last looked."""
        self.is_older_state = False
        """The primary runs with an older state directory: nothing may be sent."""
        self.durability = Durability(world, primary, remote, self.cuts)
        self._writes_seen = 0
        self._primary = primary
        self._remote = remote
        self._hosts = hosts

    def model(self, volume: str) -> VolumeModel:
        """Return what hosts were promised of a volume."""
        return self._hosts.models[volume]

    # -- the primary -------------------------------------------------------------------

    def primary_opened(self, group: ConsistencyGroup, replicator: Replicator) -> None:
        """The daemon has recovered; no host has written yet."""
        self.starts_checked += 1
        for volume in group.volumes:
            data = self.content(volume)
            model = self._hosts.models[volume.name]
            if volume.size_bytes < model.size_bytes:
                self._fail("I3", f"{volume.name}: has shrunk to {volume.size_bytes}")
            # One that was under way may have ended, or been resumed by this start.
            self._hosts.grown(volume.name, volume.size_bytes)
            wrong = model.recovered(data, lost_power=self.lost_power)
            if wrong:
                how = "a power loss" if self.lost_power else "a kill"
                self._fail("I3", f"{volume.name}: after {how} {summary(wrong)}")
            self._watch_cut(volume)
        self.lost_power = False
        self.check_tracking(group)
        self._watch_group(group)

    def _watch_cut(self, volume: PrimaryVolume) -> None:
        changes: Any = volume.changes
        transfer = changes.transfer
        number_of = self._primary

        def watched(relation: Any, fresh: Any) -> Any:
            group = number_of.group
            assert group is not None
            number = group.state.cycle_number + 1
            if self.is_older_state:
                self._fail("I7", f"cut {number} of an older state directory")
            if volume is group.volumes[0]:
                self.cuts[number] = {}
                self.world.note(f"cut {number}")
            data = self.content(volume)
            self.cuts[number][volume.name] = data
            model = self._hosts.models[volume.name]
            self._destaged[number, volume.name] = model.flush_submitted()
            self.durability.cut(number, volume.name, volume.device)
            may_be_torn = self._primary.machine.has_failed_at("/devices")
            wrong = model.wrong_sectors(data, may_be_torn=may_be_torn)
            if wrong:
                self._fail("I5", f"cut {number}: {volume.name}: {summary(wrong)}")
            return transfer(relation, fresh)

        changes.transfer = watched
        self._note_progress(volume)

    def _note_progress(self, volume: Any) -> None:
        """Put into the trace what a crash is worth most after."""
        ack, save = volume.changes.ack, volume.heat.save

        def acked(first: int, count: int) -> None:
            ack(first, count)
            self.world.note(f"acked {volume.name} {first}+{count}")

        async def saved(pages: set[int], *, sync_device: bool) -> None:
            await save(pages, sync_device=sync_device)
            if sync_device:
                self.world.note(f"cooled {volume.name}")

        volume.changes.ack, volume.heat.save = acked, saved

    def _watch_group(self, group: Any) -> None:
        complete, has_changed = group.complete_cycle, group.has_changed
        adopt = group.remote_relation.adopt

        async def completed(relation_id: bytes) -> None:
            number = group.cut.number
            if number > self.told_number:
                self._fail("I2", f"cycle {number} completed, {self.told_number} told")
            await complete(relation_id)
            self.completed_number = number
            self.world.note(f"complete {number}")
            self.check_tracking(group)

        async def adopted(relation_id: bytes) -> None:
            await adopt(relation_id)
            self.check_tracking(group)

        def changed() -> bool:
            found: bool = has_changed()
            number = group.state.committed_number
            if not (found or self.is_older_state) and number in self.cuts:
                for volume in group.volumes:
                    if self.content(volume) != self.cuts[number][volume.name]:
                        self._fail("I4", f"{volume.name}: said to be as in {number}")
            return found

        group.complete_cycle, group.has_changed = completed, changed
        group.remote_relation.adopt = adopted

    def check_tracking(self, group: ConsistencyGroup) -> None:
        """I4: what differs from the newest known point is in some bitmap."""
        number = group.state.committed_number
        if self.is_older_state:
            return
        if number is None:
            point = {v.name: bytes(v.size_bytes) for v in group.volumes}
        elif number in self.cuts:
            point = self.cuts[number]
        else:
            return
        for volume in group.volumes:
            data, old = self.content(volume), point[volume.name]
            if data == old:
                continue
            geometry, changes = volume.geometry, volume.changes
            marked = b"".join(
                changes.changed_page(page)
                for page in range(-(-geometry.track_count // (8 * PAGE_BYTES)))
            )
            for track in range(geometry.track_count):
                if marked[track >> 3] >> (track & 7) & 1:
                    continue
                offset, length = geometry.byte_range(track, 1)
                if data[offset : offset + length] != old[offset : offset + length]:
                    self._fail(
                        "I4",
                        f"{volume.name}: track {track} differs from point {number} "
                        "and is in no bitmap",
                    )
                    return

    def content(self, volume: PrimaryVolume) -> bytes:
        device: Any = volume.device
        return bytes(device._inode.content[: volume.size_bytes])

    # -- the remote --------------------------------------------------------------------

    is_tampered = False
    """The remote's devices were altered behind its back, and nobody has been told."""

    judged_points = 2
    """Compared at a commit. Older points may rest on what was altered."""

    def remote_opened(self, store: GroupStore) -> None:
        self.starts_checked += 1
        newest = store.points[-1] if store.points else None
        number = newest.number if newest else 0
        promised = self.promised
        if number < promised.number:
            self._fail("I2", f"point {promised.number} was safe, now it is {number}")
        as_of_ns = newest.current_as_of_ns if newest else 0
        if number == promised.number and as_of_ns < promised.current_as_of_ns:
            self._fail("I2", "the newest point is current up to earlier")
        if store.epoch < promised.epoch:
            self._fail("I8", f"epoch {promised.epoch} was told, not {store.epoch}")
        self._promise_point(number)
        self.compare_points(store)
        self.durability.watch_store(store)
        self._watch_store(store)

    def _promise_point(self, number: int) -> None:
        self.told_number = max(self.told_number, number)
        if number > self.promised.number:
            self.promised = replace(self.promised, number=number, current_as_of_ns=0)

    def _watch_store(self, store: Any) -> None:
        commit, new_epoch = store.commit, store.new_epoch
        advance = store.advance_current

        async def committed(**what: Any) -> bytes:
            number = what["number"]
            known = self.cycle_ids.setdefault(number, what["cycle_id"])
            if known != what["cycle_id"]:
                self._fail("I7", f"number {number} is of two cycles")
            self.durability.told_to_commit(number)
            # What the remote is told to commit the primary can lose no more.
            for name, model in self._hosts.models.items():
                flush = self._destaged.get((number, name))
                if flush is not None:
                    model.flushed(flush)
            relation: bytes = await commit(**what)
            self.world.note(f"commit {number}")
            self.commits += 1
            self._check_receives(store, number)
            self._promise_point(number)
            self._compare_committed(number, store)
            return relation

        async def advanced(number: int, time_ns: int) -> None:
            await advance(number, time_ns)
            promised = self.promised
            if number == promised.number and time_ns > promised.current_as_of_ns:
                self.promised = replace(promised, current_as_of_ns=time_ns)

        async def begun(sender: SenderState) -> int:
            if self.is_older_state:
                self._fail("I7", "a session of an older state directory")
            self.durability.session_begins()
            epoch: int = await new_epoch(sender)
            if epoch <= self.promised.epoch:
                self._fail("I8", f"epoch {epoch} after {self.promised.epoch}")
            self.promised = replace(self.promised, epoch=epoch)
            return epoch

        store.commit, store.new_epoch, store.advance_current = (
            committed,
            begun,
            advanced,
        )

    def _compare_committed(self, number: int, store: Any) -> None:
        if not self.is_tampered:
            self.durability.committed(number, store)
            self.compare_points(store, store.points[-self.judged_points :])

    def _check_receives(self, store: GroupStore, number: int) -> None:
        if store.takeover is not None:
            self._fail("I8", f"point {number} of a sender that was taken over from")

    def compare_points(
        self,
        store: Any,
        points: Sequence[Point] | None = None,
        volumes: Sequence[SecondaryVolume] | None = None,
    ) -> None:
        """I1: what can be recovered now is exactly one cut; all of it by default."""
        for point in store.points if points is None else points:
            cut = self.cuts.get(point.number)
            if cut is None:
                self._fail("I1", f"point {point.number} is of no cut")
                return
            for volume in store._disk.volumes if volumes is None else volumes:
                self.points_compared += 1
                wanted = cut[volume.offer.name]
                image = PointImage(volume, point.number)
                if image.geometry.size_bytes != len(wanted):
                    name, size = volume.offer.name, image.geometry.size_bytes
                    self._fail("I1", f"{name}@{point.number} has {size} bytes")
                    return
                read = partial(image.read, 0, len(wanted))
                found = self._remote.machine.looking(read)
                if bytes(found) != wanted:
                    tracks = _differing(bytes(found), wanted, volume.offer.track_bytes)
                    self._fail(
                        "I1",
                        f"{volume.offer.name}@{point.number} is not the cut: "
                        f"tracks {tracks}",
                    )

    def look_at_remote(self) -> None:
        """Compare one point of one volume now, whatever is being applied."""
        site, rng = self._remote, self.world.rng
        writes = site.machine.files.counts.get("write", 0)
        if not site.is_serving or not site.is_alive or writes == self._writes_seen:
            return
        self._writes_seen = writes
        store: Any = site.store
        volumes = store._disk.volumes
        if store.points and volumes:
            self.compare_points(
                store, [rng.choice(store.points)], [rng.choice(volumes)]
            )
        self.durability.look_at_acked()

    def look_at_cut(self) -> None:
        """I6: read the FlashCopy target as a host does; it must be the cut."""
        site = self._primary
        group = site.group
        if not site.is_serving or not site.is_alive or group is None:
            return
        volume = group.volumes[self.world.rng.randrange(len(group.volumes))]
        standing = volume.preserver.standing()
        if standing is None or not standing.relation.readable:
            return
        wanted = self.cuts[standing.relation.cycle_number][volume.name]
        first = self.world.rng.randrange(len(wanted) // 512)
        offset = first * 512
        length = min(16 << 10, len(wanted) - offset)

        def complete(done: list[HostRequest]) -> None:
            for request in done:
                if request.error:
                    continue  # the relation ended meanwhile
                if bytes(request.data) != wanted[offset : offset + length]:
                    self._fail("I6", f"{volume.name}@cut changed at {offset}")

        def read() -> None:
            request = HostRequest(HostCommand.READ, offset, length)
            CutVolume(volume, standing).submit([request], complete)

        site.loop.call_soon(read)

    def _fail(self, invariant: str, text: str) -> None:
        self.world.problem(f"{invariant}: {text}")


def _differing(found: bytes, wanted: bytes, track_bytes: int) -> list[int]:
    return [
        start // track_bytes
        for start in range(0, len(wanted), track_bytes)
        if found[start : start + track_bytes] != wanted[start : start + track_bytes]
    ]
