"""Which recovery points have which volume: volumes come to a group, and leave it.

Pure. A volume that was added is *joining* until its first copy is complete: tracks of
it are applied, and no point has it. It is in every point from the one whose cycle made
the copy complete on. One that was removed has *left*: its device and its journals stay
as they are for the points that have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.replication.session_messages import VolumeOffer


@dataclass(frozen=True, slots=True)
class Membership:
    """`first`: number of the first point with the volume; 0: since the first of all;
    None: no point has it, it is joining.

    `last`: number of the newest point with it, once it has left; None: it is in the
    group. `device` is then where its content is: no config need name it any more.
    """

    first: int | None = 0
    last: int | None = None
    device: str = ""

    @property
    def is_joining(self) -> bool:
        return self.first is None

    @property
    def has_left(self) -> bool:
        return self.last is not None

    def has(self, number: int) -> bool:
        """Tell whether point `number` has the volume."""
        if self.first is None or number < self.first:
            return False
        return self.last is None or number <= self.last

    def joined(self, number: int) -> Membership:
        """Return the membership of a joining volume whose copy a point completes."""
        assert self.is_joining
        return Membership(number)

    def left(self, number: int, device: str) -> Membership:
        """Return the membership of a volume that left after point `number`."""
        return Membership(self.first, number, device)


ALWAYS = Membership()


@dataclass(frozen=True, slots=True)
class Change:
    """What a sender's volumes make of those that are here; names, in wire order.

    `forgotten`: of those that leave, what no point has.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    forgotten: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.forgotten)


def change_to(
    offered: Sequence[VolumeOffer],
    volumes: Sequence[VolumeOffer],
    members: Sequence[Membership],
    points: Sequence[int],
) -> Change:
    """Return what is to change so that the group has the volumes that are offered.

    `points`: numbers of all points that are here, of those that only readers keep, too.
    A volume that has left is forgotten with the last point that has it, so is one that
    leaves before any has.
    """
    names = {offer.name for offer in offered}
    current: set[str] = set()
    removed: list[str] = []
    forgotten: list[str] = []
    for offer, member in zip(volumes, members, strict=True):
        is_seen = any(member.has(number) for number in points)
        if not member.has_left:
            current.add(offer.name)
        if (member.has_left or offer.name not in names) and not is_seen:
            forgotten.append(offer.name)
        elif not member.has_left and offer.name not in names:
            removed.append(offer.name)
    added = [offer.name for offer in offered if offer.name not in current]
    return Change(tuple(added), tuple(removed), tuple(forgotten))
