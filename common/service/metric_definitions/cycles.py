"""Cycles: how many, how long, how much; and what goes on for long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from common.service.metric_definitions.metric import Kind, Labels, of_each, of_groups
from common.service.status import GroupStatus


def _progress_done(group: GroupStatus) -> Iterator[tuple[Labels, float]]:
    if group.progress:
        yield (group.progress.operation,), group.progress.done_bytes


def _progress_total(group: GroupStatus) -> Iterator[tuple[Labels, float]]:
    if group.progress:
        yield (group.progress.operation,), group.progress.total_bytes


CYCLE_METRICS: Final = (
    of_groups(
        "farshore_cycle_number",
        "Number of the newest cycle begun.",
        "cycle_number",
    ),
    of_groups(
        "farshore_changed_bytes",
        "Bytes in tracks that the next cycle will send.",
        "changed_bytes",
        site="sending",
    ),
    of_groups(
        "farshore_out_of_sync_bytes",
        "These, and what the current cycle has not got across yet.",
        "out_of_sync_bytes",
        site="sending",
    ),
    of_groups(
        "farshore_cycles_total",
        "Cycles committed since the daemon started.",
        "totals.cycles_committed",
        kind=Kind.COUNTER,
    ),
    of_groups(
        "farshore_cycles_abandoned_total",
        "Cycles given up; what they had to send joined the next one.",
        "totals.cycles_abandoned",
        kind=Kind.COUNTER,
        site="sending",
    ),
    of_groups(
        "farshore_cycle_changed_bytes_total",
        "Bytes in changed tracks of committed cycles.",
        "totals.bytes_changed",
        kind=Kind.COUNTER,
        site="sending",
    ),
    of_groups(
        "farshore_cycle_wire_bytes_total",
        "Bytes that committed cycles took on the wire, everything included.",
        "totals.bytes_on_wire",
        kind=Kind.COUNTER,
        site="sending",
    ),
    of_groups(
        "farshore_hold_seconds",
        "How long cuts held host writes, those that were given up included.",
        "totals.hold_seconds",
        kind=Kind.HISTOGRAM,
        site="sending",
    ),
    of_groups(
        "farshore_cycle_seconds",
        "From a cut to its commit.",
        "totals.cycle_seconds",
        kind=Kind.HISTOGRAM,
        site="sending",
    ),
    of_groups(
        "farshore_commit_seconds",
        "What the commit itself takes at the receiving site.",
        "totals.commit_seconds",
        kind=Kind.HISTOGRAM,
        site="receiving",
    ),
    of_groups(
        "farshore_last_cycle_hold_seconds",
        "How long the newest committed cut held host writes.",
        "last_cycle.hold_seconds",
        site="sending",
    ),
    of_groups(
        "farshore_last_cycle_drain_seconds",
        "From that cut to its commit.",
        "last_cycle.drain_seconds",
        site="sending",
    ),
    of_groups(
        "farshore_last_cycle_tracks",
        "Tracks that it sent.",
        "last_cycle.tracks",
        site="sending",
    ),
    of_groups(
        "farshore_last_cycle_changed_bytes",
        "Bytes in its changed tracks.",
        "last_cycle.bytes_changed",
        site="sending",
    ),
    of_groups(
        "farshore_last_cycle_wire_bytes",
        "Bytes that it took on the wire.",
        "last_cycle.bytes_on_wire",
        site="sending",
    ),
    of_each(
        "farshore_progress_done_bytes",
        "How far an operation that takes long has come: a first copy, a verify.",
        ("operation",),
        _progress_done,
    ),
    of_each(
        "farshore_progress_total_bytes",
        "How far it has to go in all.",
        ("operation",),
        _progress_total,
    ),
)
