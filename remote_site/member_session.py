"""What a session says of the volumes of its group, beyond its HELLO."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from common.errors import ProtocolError
from common.replication.member_messages import (
    OFFER_TEXT_BYTES_MAX,
    OfferVolume,
    VolumeAnswered,
    Whole,
)

WhyNot = Callable[[OfferVolume], Awaitable[str]]
"""Returns why a volume can't come to the group; empty: it can."""


async def no_volume(offer: OfferVolume) -> str:
    """Return why a group takes no more volumes."""
    return f"the remote can't take volume {offer.name!r}"


class SessionMembers:
    """Of one session; messages of other sessions have been dropped before."""

    def __init__(self, epoch: int, order: Sequence[int], why_not: WhyNot) -> None:
        """`order` gives the store's index of each volume, in the peer's order."""
        self._epoch = epoch
        self._order = order
        self._why_not = why_not
        self._told = b"", frozenset[int]()

    def take(self, message: Whole) -> None:
        """Note of which volumes a cycle that begins next completes the copy."""
        if any(volume >= len(self._order) for volume in message.volumes):
            raise ProtocolError("WHOLE of a volume of none such")
        whole = frozenset(self._order[volume] for volume in message.volumes)
        self._told = message.cycle_id, whole

    def whole(self, cycle_id: bytes) -> frozenset[int]:
        """Return the store's indexes of the volumes that a cycle makes complete."""
        told, whole = self._told
        return whole if told == cycle_id else frozenset()

    async def answer(self, message: OfferVolume) -> VolumeAnswered:
        """Answer whether a volume may come."""
        text = (await self._why_not(message)).encode("utf-8", "replace")
        cut = text[:OFFER_TEXT_BYTES_MAX].decode("utf-8", "ignore")
        return VolumeAnswered(self._epoch, cut)
