"""The points of a group that this site sends and has received: one list, one age.

Its store has those of before it took over; of the newest that the other site has had
since, and of how current the common one still is, only its sending role knows. Pure.
"""

from __future__ import annotations

from typing import Any

Point = dict[str, Any]
"""As JSON; see `PointStatus`."""


def points_of_both(received: list[Point], sent: list[Point]) -> list[Point]:
    """Return `received`, newest first, with what the sending role knows.

    `sent`: the newest point by that role, or none. No two points of the sites have one
    number, but the common one.
    """
    if not sent:
        return received
    (newest,) = sent
    for point in received:
        if point["number"] == newest["number"]:
            times = point["current_as_of"], newest["current_as_of"]
            current = max(times)  # of one length, in UTC
            return [
                {**each, "current_as_of": current} if each is point else each
                for each in received
            ]
    return [newest, *received]
