"""All exhibits. B1 to B34 are bugs that others met, in the order of our catalogue."""

from __future__ import annotations

from tests.museum import (
    historical_lineage,
    historical_orders,
    historical_tracking,
    own_orders_after_takeover,
    own_orders_circles,
    own_orders_delta,
    own_orders_giving_up,
    own_orders_handing,
    own_orders_history,
    own_orders_hosts,
    own_orders_kernel,
    own_orders_lineage,
    own_orders_links,
    own_orders_members,
    own_orders_members_roles,
    own_orders_primary,
    own_orders_remote,
    own_orders_roles,
    own_orders_room,
    own_orders_shapes,
    own_orders_starts,
    own_orders_takeover,
)
from tests.museum.exhibit import Exhibit, Missing

BUGS = tuple(f"B{number}" for number in range(1, 35))


def _catalogue_place(exhibit: Exhibit) -> tuple[int, str]:
    return int(exhibit.bug[1:]), exhibit.number


HISTORICAL: tuple[Exhibit, ...] = tuple(
    sorted(
        (
            *historical_orders.EXHIBITS,
            *historical_tracking.EXHIBITS,
            *historical_lineage.EXHIBITS,
        ),
        key=_catalogue_place,
    )
)
MISSING: tuple[Missing, ...] = historical_lineage.MISSING
OWN: tuple[Exhibit, ...] = tuple(
    sorted(
        (
            *own_orders_primary.EXHIBITS,
            *own_orders_remote.EXHIBITS,
            *own_orders_starts.EXHIBITS,
            *own_orders_lineage.EXHIBITS,
            *own_orders_delta.EXHIBITS,
            *own_orders_history.EXHIBITS,
            *own_orders_hosts.EXHIBITS,
            *own_orders_links.EXHIBITS,
            *own_orders_takeover.EXHIBITS,
            *own_orders_roles.EXHIBITS,
            *own_orders_circles.EXHIBITS,
            *own_orders_members.EXHIBITS,
            *own_orders_members_roles.EXHIBITS,
            *own_orders_room.EXHIBITS,
            *own_orders_giving_up.EXHIBITS,
            *own_orders_handing.EXHIBITS,
            *own_orders_after_takeover.EXHIBITS,
            *own_orders_kernel.EXHIBITS,
            *own_orders_shapes.EXHIBITS,
        ),
        key=_catalogue_place,
    )
)
ALL: tuple[Exhibit, ...] = (*HISTORICAL, *OWN)
