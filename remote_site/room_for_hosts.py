"""Room for hosts of a group that was taken over: points go before a write fails.

What hosts overwrite is preserved for the points of before. Where the journals have no
room for that, a surviving site that serves counts for more than its history.
"""

from __future__ import annotations

import asyncio

import structlog

from remote_site.group import ReceivingGroup
from remote_site.preserving_device import MakeRoom
from remote_site.thinning import POINTS_GIVEN_UP_ALARM

log = structlog.get_logger()


def room_maker(group: ReceivingGroup) -> MakeRoom:
    """Return what gives up a group's oldest point, from any thread, and says so.

    To be called on the group's loop.
    """
    loop = asyncio.get_running_loop()

    def tell(went: tuple[int, ...], left: int) -> None:
        log.warning("points_given_up", group=group.name, points=list(went), left=left)
        numbers = ", ".join(map(str, went))
        group.raise_alarm(
            POINTS_GIVEN_UP_ALARM,
            f"the journals of {group.name} have no room for what hosts overwrite: "
            f"points {numbers} went, {left} are left; make room in "
            f"{group.store.disk.settings.journal_directory}",
        )

    def make_room() -> bool:
        store = group.store
        went = store.history.make_room()
        if went is None:
            return False
        if went:
            loop.call_soon_threadsafe(tell, went, len(store.disk.points))
        return True

    return make_room
