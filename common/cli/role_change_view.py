"""An exchange of the two sites' roles in words: where it stands, and what to type next.

A pure function of a group's status, as plain JSON.
"""

from __future__ import annotations

from typing import Any

from rich.text import Text

from common.cli.display import UNKNOWN, plain, size_text

HERE = "here"
OTHER = "at the other site"

BRINGS_BACK = frozenset({"failback", "compare", "first_copy"})
"""Operations of which the other site has not got all yet."""

Told = tuple[str, list[str]]
"""What there is to say, and what to type next, with the site where."""


def role_change_lines(group: dict[str, Any]) -> list[Text]:
    """Return a line for where it stands, and one for each command that may follow."""
    change = group.get("role_change")
    if change is None:
        return []
    name, step = str(group.get("name")), str(change.get("step"))
    tell = STEPS.get(step, _unknown)
    said, commands = tell(group, change)
    style = STYLES.get(step, "bold yellow")
    return [
        plain(f"{name}: {said}", style),
        *(plain(f"next: {command}", "bold") for command in commands),
    ]


def _point(change: dict[str, Any]) -> str:
    return (
        f"point {change.get('point', UNKNOWN)}, cut at "
        f"{change.get('cut_time', UNKNOWN)}"
    )


def _typed(command: str, where: str, why: str) -> str:
    return f"{command} ({where}): {why}"


def _handing_over(group: dict[str, Any], change: dict[str, Any]) -> Told:
    if change.get("point") is not None:
        said = f"switchover: the other site takes over at {_point(change)}; "
        return said + "hosts' writes are refused here", [
            _typed("farshore status", OTHER, "where hosts are served from then on")
        ]
    left = size_text(group.get("out_of_sync_bytes"))
    return f"switchover: the last cycle goes over, {left} of it left", []


def _taking_over(group: dict[str, Any], change: dict[str, Any]) -> Told:
    command = f"farshore takeover {group['name']}"
    return (
        f"takeover: this site goes back to {_point(change)}, and serves hosts then",
        [_typed(command, HERE, "waits for its end")],
    )


def _taken_over(group: dict[str, Any], change: dict[str, Any]) -> Told:
    name = group["name"]
    said = f"taken over from {_point(change)}, at {change.get('at', UNKNOWN)}: "
    if (group.get("progress") or {}).get("operation") in BRINGS_BACK:
        return said + "failback under way, the other site gets what has changed", []
    if (group.get("link") or {}).get("state") == "connected":
        return said + "the other site follows this one", [
            _typed(f"farshore switchover {name}", HERE, "returns the roles")
        ]
    if group.get("state") == "disconnected":
        return said + "the other site follows this one, and has no link now", []
    return said + "hosts may write here, and nothing goes to the other site", [
        _typed(
            f"farshore failback {name}", OTHER, "once it is back: it follows this one"
        )
    ]


def _superseded(group: dict[str, Any], change: dict[str, Any]) -> Told:
    name = group["name"]
    said = f"superseded: the other site has taken over from {_point(change)}, at "
    follow = "follow the other site; what this one alone has stays as a fork"
    go_on = "go on from this site's own data instead"
    return f"{said}{change.get('at', UNKNOWN)}; hosts' writes are refused here", [
        _typed(f"farshore failback {name}", HERE, follow),
        _typed(f"farshore takeover {name} --force", HERE, go_on),
    ]


def _split_brain(group: dict[str, Any], change: dict[str, Any]) -> Told:
    del change  # it has no more than the step
    said = "split brain: both sites serve hosts. Keep them away from one, now"
    return said, _choices(group)


def _choices(group: dict[str, Any]) -> list[str]:
    """Return the sentences of the alarm that say what to type at which site."""
    for alarm in group.get("alarms", []):
        if alarm.get("name") == "split_brain":
            sentences = str(alarm.get("message")).split(". ")
            return [each for each in sentences if ": farshore " in each]
    return []


def _failing_back(group: dict[str, Any], change: dict[str, Any]) -> Told:
    said = f"failback: what this site alone had is kept as {_point(change)}; "
    if (group.get("link") or {}).get("state") != "connected":
        return said + "the other site has not connected yet", [
            _typed("farshore doctor", OTHER, "says why it can't")
        ]
    return said + "the other site sends what has changed", [
        _typed("farshore status --watch", OTHER, "its rate, and the time left")
    ]


def _unknown(group: dict[str, Any], change: dict[str, Any]) -> Told:
    """A daemon of another version knows more steps."""
    del group
    return f"the sites exchange their roles: {change.get('step')}", []


STEPS = {
    "handing_over": _handing_over,
    "taking_over": _taking_over,
    "taken_over": _taken_over,
    "superseded": _superseded,
    "split_brain": _split_brain,
    "failing_back": _failing_back,
}

STYLES = {
    "taken_over": "magenta",
    "superseded": "bold red",
    "split_brain": "bold red",
}
