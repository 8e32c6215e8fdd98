"""May this site take over, from which point, and what is lost by it?

Pure. Texts name what is lost and what to type, for they are read in a disaster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import RefusedError
from remote_site.store_state import Point, StoreState, Takeover


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known at this site when somebody wants to take over.

    `is_connected`: a session with the sender is open and healthy. `cycle_under_way`:
    the number of a cycle that has begun to come in and is no point. `own_up_to`: the
    number of the point that this site had itself when it gave up sending; 0: it has
    only received.
    """

    group: str
    is_connected: bool
    cycle_under_way: int | None
    now_ns: int
    own_up_to: int = 0


@dataclass(frozen=True, slots=True)
class Losses:
    """What taking over from a point gives up.

    `age_seconds`: what hosts wrote at the sender in the time before now, at least, is
    not in the point. `newer_points` stay readable and are not what is served.
    `is_own`: the point is of before this site gave up what it had.
    """

    point: Point
    age_seconds: float
    newer_points: tuple[int, ...]
    cycle_under_way: int | None
    is_own: bool = False

    def sentences(self, group: str) -> list[str]:
        """Return what an operator has to know before saying yes."""
        age = _duration(self.age_seconds)
        first = (
            f"takeover of {group}: hosts go on from point {self.point.number}; what "
            f"the sending site's hosts wrote in the last {age} or more is not there"
        )
        told = [first]
        if self.is_own:
            told.append(
                f"point {self.point.number} is of before this site gave up what it "
                "had: nothing that came from the other site since is in it"
            )
        if self.cycle_under_way is not None:
            told.append(
                f"cycle {self.cycle_under_way} has come in in part and is given up"
            )
        if self.newer_points:
            listed = ", ".join(str(number) for number in self.newer_points)
            told.append(
                f"newer points ({listed}) stay readable, and their changes are not "
                "in what is served"
            )
        told.append(
            "the sending site is superseded from then on: it never sends to this site "
            f"again in its line of data; farshore failback {group} brings it back in"
        )
        return told


def chosen_point(group: str, points: Sequence[Point], number: int | None) -> Point:
    """Return the point to go on from, the newest when None.

    Raises `RefusedError` where it is not there.
    """
    if not points:
        raise RefusedError(
            f"group {group!r} has no recovery point yet: what has come in of its first "
            "copy, if anything, is a mixture of times, and is not served, with --force "
            "neither. If the sending site comes back the copy goes on by itself "
            "(farshore status there tells how far it is). If that site is lost, "
            f"restore from elsewhere: farshore forget {group} --config FILE, with this "
            "daemon stopped, gives the group up here, and the devices stay, to be "
            "copied and looked into"
        )
    if number is None:
        return points[-1]
    for point in points:
        if point.number == number:
            return point
    listed = ", ".join(str(point.number) for point in points)
    raise RefusedError(f"group {group!r} keeps no point {number}: it has {listed}")


def check_same_point(group: str, taken: Takeover, number: int | None) -> None:
    """Raise `RefusedError` if a takeover was decided from another point."""
    if number not in (None, taken.fork.cycle.number):
        raise RefusedError(
            f"group {group!r} was taken over already, from point "
            f"{taken.fork.cycle.number}: that is not undone by taking over again"
        )


def check_has_all(state: StoreState, point: Point) -> None:
    """Raise `RefusedError` if a point is of before one of the group's volumes came.

    Hosts of that volume would go on without it, and what it holds would be no part of
    any point: that is not for a command to decide.
    """
    for offer, member in zip(state.volumes, state.memberships, strict=True):
        if member.first is not None and point.number < member.first:
            raise RefusedError(
                f"point {point.number} of group {state.group!r} is of before volume "
                f"{offer.name} was added: take over from point {member.first} or a "
                "newer one, and read older ones as recovery points"
            )


def losses(situation: Situation, points: Sequence[Point], number: int | None) -> Losses:
    """Return what would be lost. Raises `RefusedError` as `chosen_point` does."""
    point = chosen_point(situation.group, points, number)
    age_ns = max(0, situation.now_ns - point.current_as_of_ns)
    newer = tuple(each.number for each in points if each.number > point.number)
    under_way = situation.cycle_under_way
    is_own = point.number <= situation.own_up_to
    return Losses(point, age_ns / 1e9, newer, under_way, is_own)


def check_may_begin(
    situation: Situation,
    state: StoreState | None,
    number: int | None,
    *,
    force: bool,
) -> None:
    """Raise `RefusedError` unless a takeover from this point may begin, or go on."""
    taken = None if state is None else state.takeover
    if taken is not None:
        check_same_point(situation.group, taken, number)
        return
    found = losses(situation, () if state is None else state.points, number)
    if state is not None:
        check_has_all(state, found.point)
    if state is not None and state.is_divided and not force:
        raise RefusedError(
            f"nothing was received of group {situation.group!r} since this site gave "
            "it up; wait for the first recovery point, or say --force to go on from "
            f"point {found.point.number}, which is what this site had itself"
        )
    if situation.is_connected and not force:
        raise RefusedError(
            f"the sending site of group {situation.group!r} is connected and well: "
            f"taking over now loses what is newer than point {found.point.number} "
            f"({_duration(found.age_seconds)} old); stop its hosts and farshore cut "
            "--wait there first, or say --force"
        )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h"
