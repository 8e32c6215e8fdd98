"""What a site that sends a group asks of the points of it that it has itself.

A site that has received a group keeps points of it, also once it sends. Their volumes
need their devices and their names, whatever becomes of the group.
"""

from __future__ import annotations

from typing import Protocol

from common.service.config_primary import PrimaryVolume


class PointsHere(Protocol):
    """Of one group."""

    def check_free(self, volume: PrimaryVolume) -> None:
        """Raise `RefusedError` where points need this volume's name, or its device."""

    def leaves(self, name: str) -> None:
        """Keep, durably, where the device of a volume is that leaves the group.

        In a thread; it may block. Asked again it changes nothing.
        """


class NoPoints:
    """Of a group that this site has never received."""

    def check_free(self, volume: PrimaryVolume) -> None:
        del volume

    def leaves(self, name: str) -> None:
        del name


NO_POINTS = NoPoints()
