"""What must be durable when: looked up on the simulated disks, not waited for.

A promise that rests on a flush is broken the moment the flush is left out, and seen
only if power is lost in the few milliseconds until the next one. So the disks are
asked what they would hold: at each commit, at each answer, at each new session.
"""

from __future__ import annotations

from typing import Any

from common.storage.bitmap import Bitmap
from remote_site.store import GroupStore
from tests.support.simulated_files import SimulatedFiles
from tests.support.simulation.loop import World
from tests.support.simulation.sites import PrimarySite, RemoteSite

Images = dict[str, bytes]


class Durability:
    """Watches both disks; tells the world of what is claimed and not there."""

    def __init__(
        self,
        world: World,
        primary: PrimarySite,
        remote: RemoteSite,
        cuts: dict[int, Images],
    ) -> None:
        self.world = world
        self.acked_compared = 0
        self.is_rolled_back = False
        """An older copy of the remote is there, and no session has looked at it yet."""
        self._primary = primary
        self._remote = remote
        self._cuts = cuts
        self._unflushed: dict[tuple[int, str], tuple[Any, int]] = {}
        """By cut and volume: the device's inode that was dirty then, its flushes."""

    # -- destage before commit ---------------------------------------------------------

    def cut(self, number: int, volume: str, device: Any) -> None:
        """A volume is cut: what its device has not flushed yet is to be destaged."""
        inode = device._inode
        self._unflushed.pop((number, volume), None)
        if inode.versions:
            self._unflushed[number, volume] = inode, inode.flushes

    def told_to_commit(self, number: int) -> None:
        """I3: the remote may not hold what the primary can still lose."""
        for volume in self._cuts.get(number, {}):
            inode, flushes = self._unflushed.pop((number, volume), (None, 0))
            if inode is not None and inode.flushes == flushes:
                self._fail("I3", f"point {number} before {volume} is destaged")

    # -- a point is on the disk --------------------------------------------------------

    def committed(self, number: int, store: Any) -> None:
        """I2: a point that was acknowledged is on the devices, whatever happens."""
        cut = self._cuts.get(number)
        if cut is None or store.points[-1].number != number:
            return
        for volume in store._disk.volumes:
            wanted = cut[volume.offer.name]
            if durable_bytes(volume.device._inode, len(wanted)) != wanted:
                name = volume.offer.name
                self._fail("I2", f"{name}@{number} is committed and not on the disk")

    # -- acked bits --------------------------------------------------------------------

    def look_at_acked(self) -> None:
        """A track that counts as acked is on the remote's disk as it is to be."""
        group, replicator = self._primary.group, self._primary.replicator
        store = self._remote.store
        if group is None or replicator is None or store is None:
            return
        session = replicator.session
        if (
            not (self._primary.is_serving and self._primary.is_alive)
            or not (self._remote.is_serving and self._remote.is_alive)
            or session is None
            or session.ended
            or self.is_rolled_back
            or session.epoch != store.epoch
            or group.failed is not None
        ):
            return
        cut = None if group.cut is None else self._cuts[group.cut.number]
        for volume in group.volumes:
            changes, device = volume.changes, volume.device
            if volume.heat.acked_tag != store.relation_id or changes.transferred:
                continue
            acked = changes.acked.copy()
            if cut is None:
                acked.subtract(changes.flashcopy.bitmap)
                wanted = bytes(device._inode.content)  # type: ignore[attr-defined]
            else:
                wanted = cut[volume.name]
            self.compare_acked(
                volume.name, acked, wanted, volume.geometry.track_bytes, "now"
            )

    def compare_acked(
        self, name: str, acked: Bitmap, wanted: bytes, track_bytes: int, when: str
    ) -> None:
        files = self._remote.machine.files
        path = f"/devices/{name}.img"
        if not acked.count or not files.exists(path):
            return
        found = durable_bytes(files.inode(path), len(wanted))
        self.acked_compared += acked.count
        for first, count in acked.runs():
            for track in range(first, first + count):
                at = slice(track * track_bytes, (track + 1) * track_bytes)
                if found[at] != wanted[at]:
                    text = f"{name}: track {track} is acked, and not there: {when}"
                    self._fail("I4", text)
                    return

    # -- one session after the other, and none after a failed flush -------------------

    def watch_store(self, store: GroupStore) -> None:
        """Have a store's durable answers checked; the caller wraps what it watches."""
        self._watch(store, "flush")
        self._watch(store, "commit")

    def _watch(self, store: Any, name: str) -> None:
        work, machine = getattr(store, name), self._remote.machine

        async def watched(**what: Any) -> Any:
            had_failed = machine.failed_flush
            result = await work(**what)
            if had_failed:
                self._fail("I9", f"{name} succeeded after {had_failed} failed")
            return result

        setattr(store, name, watched)

    def session_begins(self) -> None:
        """I8: nothing of an older session runs when a newer one is given a number."""
        self.is_rolled_back = False
        group = self._remote.group
        session = group.session if group is not None else None
        if session is not None and not session.closed.is_set():
            self._fail("I8", f"session {session.epoch} is still open")
        threads = self._remote.threads
        if threads is not None and threads.is_busy_with("apply_tracks"):
            self._fail("I8", "an applier of an older session is under way")

    def _fail(self, invariant: str, text: str) -> None:
        self.world.problem(f"{invariant}: {text}")


def durable_bytes(inode: Any, length: int) -> bytes:
    """Return what a file would hold if all that is not flushed were lost."""
    inode.content  # noqa: B018 - has an image of an image settle what is durable
    return bytes(inode.durable[:length]).ljust(length, b"\0")


def device_bytes(files: SimulatedFiles, name: str) -> bytes:
    """Return what readers of a volume's device see."""
    return bytes(files.inode(f"/devices/{name}.img").content)
