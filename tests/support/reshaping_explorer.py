"""Crash a remote whose volumes come, leave and grow, at every write and flush.

Between cycles the sender's HELLO has a volume more, one less, or a larger one. In every
image the group has the volumes of the HELLO that was answered last, or of the one being
answered; each point has the volumes of its own cut, with the sizes and the bytes that
they had then, and no other; one that joins is in no point before a cycle has all of it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace

import structlog

from common.replication.session_messages import VolumeOffer
from remote_site.enrolling import change_members
from remote_site.group_disk import GroupDisk
from remote_site.recovery_point import PointGoneError, PointImage
from remote_site.secondary import SecondaryVolume
from tests.support.crash.disk import CrashDisk
from tests.support.crash.exploration import ViolationError
from tests.support.remote_store_explorer import (
    GROUP_ID,
    LINEAGE,
    OFFERS,
    PEER,
    SETTINGS,
    Cycle,
    Lie,
    RemoteExploration,
)

STAYS = OFFERS[0].name
"""The volume that never leaves."""

LATER = VolumeOffer("later", bytes(16), 5 * 4096 + 512, 4096)
DEVICES = {**SETTINGS.devices, LATER.name: "/devices/later.img"}
CYCLES = 5
RESHAPED_SHARE = 0.7
PARTIAL_SHARE = 0.4
"""Of the cycles while a volume joins: those that do not complete its first copy."""


class ReshapingExploration(RemoteExploration):
    """Cycles, and in between a volume that comes, leaves or grows."""

    COMPONENT = "reshaping"
    SETTINGS = SETTINGS
    """Of the config as it is by now: it names no volume that has left."""

    def __init__(
        self, seed: int, *, images_per_step: int = 12, lie: Lie | None = None
    ) -> None:
        self.came = self.left = self.grown = self.partly_copied = 0
        self.joining: set[bytes] = set()
        """Volumes, by id, that no committed cycle has had whole."""
        self.is_partial = False
        self._is_sending_partly = False
        self._had: dict[bytes, tuple[VolumeOffer, ...]] = {}
        """By cycle: the volumes that its point has."""
        self._allowed: set[tuple[VolumeOffer, ...]] = {OFFERS}
        super().__init__(seed, images_per_step=images_per_step, lie=lie)

    # -- the sender --------------------------------------------------------------------

    def explore(self) -> None:
        with _quiet_logs():
            super().explore()

    def _explore(self) -> None:
        self.store.bind(GROUP_ID, LINEAGE, PEER, OFFERS)
        self.is_bound = True
        self._new_epoch()
        for number in range(1, CYCLES + 1):
            if number > 1 and self.rng.random() < RESHAPED_SHARE:
                self._reshape()
            self._mutate()
            is_partial = bool(self.joining) and self.rng.random() < PARTIAL_SHARE
            self.is_partial = is_partial
            self.partly_copied += is_partial
            self._note(number)
            self._synchronise(number)
            if not is_partial:
                self.joining.clear()
            if self.rng.random() < 0.3:
                self._restart()
        self.at_step("end", "")

    def _reshape(self) -> None:
        names = [offer.name for offer in self.offers]
        ways = [self._grow]
        if LATER.name not in names and self._is_free(LATER.name):
            ways += [self._come] * 2
        if len(names) > 1:
            ways.append(self._leave)
        self.rng.choice(ways)()
        self._new_epoch()

    def _is_free(self, name: str) -> bool:
        """Tell whether no point has a volume of this name any more."""
        state = self.store.state
        assert state is not None
        return not any(
            offer.name == name and state.has(point.number, index)
            for point in self.store.points
            for index, offer in enumerate(state.volumes)
        )

    def _come(self) -> None:
        offer = replace(LATER, volume_id=self.rng.randbytes(16))
        self.offers = (*self.offers, offer)
        self.current.append(bytearray(self.rng.randbytes(offer.size_bytes)))
        self.joining.add(offer.volume_id)
        self.came += 1

    def _leave(self) -> None:
        index = self.rng.choice(
            [i for i, offer in enumerate(self.offers) if offer.name != STAYS]
        )
        self.joining.discard(self.offers[index].volume_id)
        self.offers = (*self.offers[:index], *self.offers[index + 1 :])
        del self.current[index]
        self.left += 1

    def _grow(self) -> None:
        index = self.rng.randrange(len(self.offers))
        offer = self.offers[index]
        if offer.volume_id in self.joining:
            return  # it grows once a point has it
        by = self.rng.choice((512, offer.track_bytes, offer.track_bytes + 1536))
        larger = replace(offer, size_bytes=offer.size_bytes + by)
        self.offers = (*self.offers[:index], larger, *self.offers[index + 1 :])
        self.current[index].extend(bytes(by))
        self.grown += 1

    def hello(self, store: GroupDisk) -> None:
        """Have the store the volumes and the sizes that the sender has."""
        was = _offers_of(store)
        sizes = {offer.volume_id: offer.size_bytes for offer in was}
        met = [
            replace(offer, size_bytes=sizes.get(offer.volume_id, offer.size_bytes))
            for offer in self.offers
        ]
        if tuple(met) == was == self.offers:
            return
        self._expect(was, tuple(met))
        store.settings = self.SETTINGS
        change_members(store, self.offers)
        for place, offer in enumerate(self.offers):
            if met[place] != offer:
                before = tuple(met)
                met[place] = offer
                self._expect(before, tuple(met))
                volume = _by_id(store)[offer.volume_id]
                index = store.volumes.index(volume)
                store.grow(index, sizes[offer.volume_id], offer.size_bytes)
        self._expect(self.offers)

    def _expect(self, *allowed: tuple[VolumeOffer, ...]) -> None:
        self._allowed = {_in_order(offers) for offers in allowed}
        names = {offer.name for offers in allowed for offer in offers}
        self.SETTINGS = replace(
            SETTINGS,
            devices={name: path for name, path in DEVICES.items() if name in names},
            accept_existing=frozenset({LATER.name}),
        )
        self.promised()

    def _note(self, number: int) -> None:
        super()._note(number)
        self._had[self.history[number].cycle_id] = tuple(
            offer
            for offer in self.offers
            if not (self.is_partial and offer.volume_id in self.joining)
        )

    def sent(self, store: GroupDisk) -> list[tuple[SecondaryVolume, bytearray]]:
        found = _by_id(store)
        return [
            (found[offer.volume_id], content)
            for offer, content in zip(self.offers, self.current, strict=True)
            if not (self._is_sending_partly and offer.volume_id in self.joining)
        ]

    def _send(self, store: GroupDisk) -> None:
        """Of a cycle that does not complete a first copy some of it comes along."""
        if self.is_partial and self.rng.random() < 0.7:
            self._abandoned_cycle(store)
        self._is_sending_partly = self.is_partial
        try:
            super()._send(store)
        finally:
            self._is_sending_partly = False

    def whole(self, store: GroupDisk, number: int) -> frozenset[int]:
        had = {offer.volume_id for offer in self._had[self.history[number].cycle_id]}
        return frozenset(
            index
            for index, volume in enumerate(store.volumes)
            if volume.offer.volume_id in had
        )

    def image_of(self, cycle: Cycle, volume: SecondaryVolume) -> bytes:
        """Of what came since, or was not there yet, zeroes."""
        image = self._images(cycle).get(volume.offer.volume_id, b"")
        return image.ljust(volume.offer.size_bytes, b"\0")

    def _images(self, cycle: Cycle) -> dict[bytes, bytes]:
        had = self._had[cycle.cycle_id]
        return dict(zip((offer.volume_id for offer in had), cycle.images, strict=False))

    # -- the oracle --------------------------------------------------------------------

    def _check(self, store: GroupDisk) -> int:
        if store.state is not None and _offers_of(store) not in self._allowed:
            raise ViolationError(
                f"the group has {_told(_offers_of(store))}, not "
                f"{' or '.join(_told(each) for each in self._allowed)}"
            )
        return super()._check(store)

    def images_at(
        self, store: GroupDisk, number: int, cycle: Cycle
    ) -> Iterator[tuple[SecondaryVolume, bytes]]:
        found, images = _by_id(store), self._images(cycle)
        if lost := images.keys() - found.keys():
            raise ViolationError(f"point {number} has lost {len(lost)} volumes")
        for volume_id, volume in found.items():
            if volume_id in images:
                yield volume, images[volume_id]
                continue
            with contextlib.suppress(PointGoneError):
                PointImage(volume, number)
                raise ViolationError(f"point {number} has {volume.offer.name}, too")

    def go_on_from(self, disk: CrashDisk) -> None:
        was = self._allowed, self.SETTINGS, self.is_partial
        self.is_partial = False
        try:
            super().go_on_from(disk)
        finally:
            self._allowed, self.SETTINGS, self.is_partial = was


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    """A start warns of each volume that the config alone has: thousands of times."""
    before = structlog.get_config()
    filtering = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=filtering)
    try:
        yield
    finally:
        structlog.configure(**before)


def _by_id(store: GroupDisk) -> dict[bytes, SecondaryVolume]:
    return {volume.offer.volume_id: volume for volume in store.volumes}


def _offers_of(store: GroupDisk) -> tuple[VolumeOffer, ...]:
    assert store.state is not None
    return _in_order(store.state.current)


def _in_order(offers: tuple[VolumeOffer, ...]) -> tuple[VolumeOffer, ...]:
    return tuple(sorted(offers, key=lambda offer: offer.volume_id))


def _told(offers: tuple[VolumeOffer, ...]) -> str:
    return ", ".join(f"{offer.name} of {offer.size_bytes} bytes" for offer in offers)
