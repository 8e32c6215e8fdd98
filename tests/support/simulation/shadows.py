"""Power losses that nobody notices: what recovery would find if it were now.

A run goes on after a look at an image of one site's disk as a power loss at this very
operation may leave it; the product's recovery opens the image. So one run meets many
power losses, at the writes and flushes where they matter.
"""

from __future__ import annotations

import random
from functools import partial

from common.errors import FarshoreError
from primary_site.opening import OpenedGroup, open_group
from remote_site.group_disk import GroupDisk
from remote_site.recovery_point import PointImage
from tests.support.simulated_files import SimulatedFiles
from tests.support.simulation.durability import device_bytes
from tests.support.simulation.model import summary
from tests.support.simulation.oracle import Oracle
from tests.support.simulation.sites import STATE, PrimarySite, RemoteSite

SHADOWS_MAX = 4
"""A site and run: each costs as much as fifty callbacks."""

OPERATIONS = {"write", "datasync", "truncate", "rename", "sync_directory", "create"}
ODDS_STATE = 0.03
ODDS_OTHER = 0.004


class Shadows:
    """Looks at images of both disks, on chance of its own."""

    def __init__(
        self, seed: int, oracle: Oracle, primary: PrimarySite, remote: RemoteSite
    ) -> None:
        self.count = 0
        self.is_active = True
        self._rng = random.Random(seed ^ 0x5AD0)
        self._oracle = oracle
        self._primary = primary
        self._remote = remote
        self._left = {primary.name: SHADOWS_MAX, remote.name: SHADOWS_MAX}
        self._is_looking = False
        primary.machine.on_operation = partial(self._operation, primary.name)
        remote.machine.on_operation = partial(self._operation, remote.name)

    def look_again(self, site: str) -> None:
        """Look as often again: something new begins."""
        self._left[site] = SHADOWS_MAX

    def _operation(self, site: str, operation: str, path: str) -> None:
        if not self._left[site] or operation not in OPERATIONS or self._is_looking:
            return
        is_state = path.startswith((STATE, "/journal"))
        if self._rng.random() < (ODDS_STATE if is_state else ODDS_OTHER):
            self._left[site] -= 1
            self.look(site)

    def look(self, site: str) -> None:
        """Lose the power of a site, in an image, and look at what is recovered."""
        if not self.is_active:
            return
        self.count += 1
        self._is_looking = True
        try:
            if site == self._primary.name:
                self._look_at_primary()
            else:
                self._look_at_remote()
        finally:
            self._is_looking = False

    def _image(self, files: SimulatedFiles) -> SimulatedFiles:
        fate = self._rng.choice(("lost", "kept", "mixed", "mixed"))
        return files.crash_image(self._rng, fate)

    # -- the primary -------------------------------------------------------------------

    def _look_at_primary(self) -> None:
        oracle = self._oracle
        if oracle.is_older_state or not self._primary.is_alive:
            return
        image = self._image(self._primary.machine.files)
        try:
            opened = open_group(image, STATE, self._primary.config, "primary.toml")
        except FarshoreError as error:
            self._fail("I3", f"the primary could not start: {error!r}")
            return
        for volume in opened.volumes:
            data = device_bytes(image, volume.name)
            size_bytes = volume.geometry.size_bytes
            if size_bytes < oracle.model(volume.name).size_bytes:
                self._fail("I3", f"{volume.name}: would shrink to {size_bytes}")
                return
            wrong = oracle.model(volume.name).wrong_after_power_loss(data)
            if wrong:
                self._fail("I3", f"{volume.name}: would lose {summary(wrong)}")
        self._look_at_tracking(opened, image)

    def _look_at_tracking(self, opened: OpenedGroup, image: SimulatedFiles) -> None:
        oracle, state, remote = self._oracle, opened.state, self._remote
        store = remote.store
        is_acked_known = (
            store is not None
            and (remote.is_alive and remote.is_serving)
            and not oracle.durability.is_rolled_back
            and (store.epoch, store.relation_id) == (state.epoch, state.relation_id)
        )
        number = state.committed_number
        if number is not None and number > oracle.told_number:
            self._fail("I2", f"the primary would know of point {number}")
        if number is not None and number not in oracle.cuts:
            return
        for volume in opened.volumes:
            data, geometry = device_bytes(image, volume.name), volume.geometry
            track_bytes = geometry.track_bytes
            old = bytes(len(data))
            if number is not None:
                old = oracle.cuts[number][volume.name]
            for track in range(geometry.track_count):
                at = slice(track * track_bytes, (track + 1) * track_bytes)
                if data[at] != old[at] and not volume.verdict.carried.test(track):
                    self._fail(
                        "I4",
                        f"{volume.name}: track {track} differs from point {number} "
                        "and would be in no bitmap",
                    )
                    return
            if is_acked_known:
                oracle.durability.compare_acked(
                    volume.name,
                    volume.verdict.acked,
                    data,
                    track_bytes,
                    "after a power loss",
                )

    # -- the remote --------------------------------------------------------------------

    def _look_at_remote(self) -> None:
        site, oracle = self._remote, self._oracle
        disk = GroupDisk(self._image(site.machine.files), site.settings, site.retain)
        try:
            disk.open()
        except FarshoreError as error:
            self._fail("I2", f"the remote could not start: {error!r}")
            return
        number = disk.points[-1].number if disk.points else 0
        if number < oracle.promised.number:
            self._fail(
                "I2", f"point {oracle.promised.number} would be lost, {number} is left"
            )
        epoch = disk.state.epoch if disk.state else 0
        if epoch < oracle.promised.epoch:
            self._fail("I8", f"epoch {oracle.promised.epoch} would be lost: {epoch}")
        for point in disk.points:
            cut = oracle.cuts.get(point.number)
            for volume in disk.volumes if cut is not None else ():
                assert cut is not None
                wanted = cut[volume.offer.name]
                size_bytes = PointImage(volume, point.number).geometry.size_bytes
                if size_bytes != len(wanted):
                    name = f"{volume.offer.name}@{point.number}"
                    self._fail("I1", f"{name} would have {size_bytes} bytes")
                    continue
                found = PointImage(volume, point.number).read(0, len(wanted))
                if found != wanted:
                    name = f"{volume.offer.name}@{point.number}"
                    self._fail("I1", f"{name} would not be the cut")
        disk.close()

    def _fail(self, invariant: str, text: str) -> None:
        self._oracle.world.problem(f"{invariant}: {text}")
