"""Hooks before and after cuts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from common.service.hook_status import HookOutcome, HookStatus
from common.service.metric_definitions.metric import Kind, Labels, of_each
from common.service.status import GroupStatus


def _hook_runs(group: GroupStatus) -> Iterator[tuple[Labels, float]]:
    for hook, told in _hooks(group):
        for outcome in HookOutcome:
            yield (hook, outcome), told.runs.get(outcome, 0)


def _hook_seconds(group: GroupStatus) -> Iterator[tuple[Labels, float | None]]:
    for hook, told in _hooks(group):
        yield (hook,), told.last_seconds


def _hooks(group: GroupStatus) -> Iterator[tuple[str, HookStatus]]:
    if group.hooks is not None:
        yield "before_cut", group.hooks.before_cut
        yield "after_cut", group.hooks.after_cut


HOOK_METRICS: Final = (
    of_each(
        "farshore_hook_runs_total",
        "Runs of a hook, by how they ended.",
        ("hook", "outcome"),
        _hook_runs,
        kind=Kind.COUNTER,
        site="sending",
        choices=tuple(HookOutcome),
    ),
    of_each(
        "farshore_hook_last_seconds",
        "How long the hook took the last time.",
        ("hook",),
        _hook_seconds,
        site="sending",
    ),
)
