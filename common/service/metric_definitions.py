"""Every metric of farshore: name, kind, labels, meaning, and where its value is.

Values come from the status at the moment of the scrape; nothing is counted here. A
group, export, volume or alarm is a label: as many as the config has. What is not
known is left out, never 0. Names end in their unit; docs/reference/metrics.md is
generated from this.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from common.service.hook_status import HookOutcome, HookStatus
from common.service.status import (
    GroupRole,
    GroupState,
    GroupStatus,
    HistogramStatus,
    LinkState,
    RoleStep,
    SiteStatus,
)

Labels = tuple[str, ...]
"""Values, in the order of the metric's label names."""

CAUSES: Final = ("link_down", "link", "remote_disk", "primary_disk", "cpu")
PROMISES: Final = ("kept", "in_danger", "breached")
"""As `ForecastStatus` has them."""


class Kind(enum.StrEnum):
    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


Sample = tuple[Labels, float | HistogramStatus | None]


@dataclass(frozen=True, slots=True)
class Metric:
    """`site` is whose status has it: "both", "sending" or "receiving" groups'.

    `choices` are all values of the last label, where they are known beforehand.
    """

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...]
    site: str
    samples: Callable[[SiteStatus], Iterable[Sample]]
    choices: tuple[str, ...] = ()

    @property
    def topic(self) -> str:
        """Return the section of the reference page that it belongs to."""
        return next(topic for topic, metrics in TOPICS.items() if self in metrics)


def _at(group: GroupStatus, path: str) -> Any:
    """Return what a status has at a dotted path; None where a part is not known.

    A moment is returned in seconds.
    """
    value: Any = group
    for name in path.split("."):
        if value is None:
            return None
        value = getattr(value, name)
    return value / 1e9 if value is not None and path.endswith("_ns") else value


def _of_groups(
    name: str,
    meaning: str,
    path: str,
    *,
    kind: Kind = Kind.GAUGE,
    site: str = "both",
) -> Metric:
    """Return a metric with one value a group; see `_at` for `path`."""

    def samples(status: SiteStatus) -> Iterator[Sample]:
        for group in status.groups:
            yield (group.name,), _at(group, path)

    return Metric(name, kind, meaning, ("group",), site, samples)


def _of_each(
    name: str,
    meaning: str,
    labels: tuple[str, ...],
    values: Callable[[GroupStatus], Iterable[tuple[Labels, float | None]]],
    *,
    kind: Kind = Kind.GAUGE,
    site: str = "both",
    choices: tuple[str, ...] = (),
) -> Metric:
    """Return a metric with several values a group, told apart by `labels`."""

    def samples(status: SiteStatus) -> Iterator[Sample]:
        for group in status.groups:
            for inner, value in values(group):
                yield (group.name, *inner), value

    return Metric(name, kind, meaning, ("group", *labels), site, samples, choices)


def _one_of(
    name: str,
    meaning: str,
    label: str,
    choices: Iterable[str],
    path: str,
    *,
    site: str = "both",
    when: str = "name",
) -> Metric:
    """Return a metric that is 1 for what holds, and 0 for each other choice.

    It has no values while the status has nothing at `when`.
    """
    every = tuple(choices)

    def values(group: GroupStatus) -> Iterator[tuple[Labels, float | None]]:
        if _at(group, when) is not None:
            found = _at(group, path)
            for choice in every:
                yield (choice,), float(choice == found)

    return _of_each(name, meaning, (label,), values, site=site, choices=every)


# -- the process ---------------------------------------------------------------------


def _build(status: SiteStatus) -> Iterator[Sample]:
    yield (status.site, status.role, status.version), 1


def _exports(status: SiteStatus) -> Iterator[Sample]:
    for export, count in (status.nbd.exports if status.nbd else {}).items():
        yield (export,), count


def _handshakes(status: SiteStatus) -> Iterator[Sample]:
    yield (), status.nbd.handshakes if status.nbd else None


def _waiting(status: SiteStatus) -> Iterator[Sample]:
    yield (), status.nbd.waiting_for_memory if status.nbd else None


def _spans(status: SiteStatus) -> Iterator[Sample]:
    if status.tracing:
        yield ("sent",), status.tracing.spans_sent
        yield ("lost",), status.tracing.spans_lost


SITE_METRICS: Final = (
    Metric(
        "farshore_build_info",
        Kind.GAUGE,
        "Always 1; the labels say who and what answers.",
        ("site", "role", "version"),
        "both",
        _build,
    ),
    Metric(
        "farshore_trace_spans_total",
        Kind.COUNTER,
        "Spans of cycles: those that a collector has, and those that nobody has.",
        ("result",),
        "both",
        _spans,
        ("sent", "lost"),
    ),
    Metric(
        "farshore_nbd_connections",
        Kind.GAUGE,
        "Hosts' connections to each export that has any.",
        ("export",),
        "both",
        _exports,
    ),
    Metric(
        "farshore_nbd_handshakes",
        Kind.GAUGE,
        "Connections that have not chosen an export yet.",
        (),
        "both",
        _handshakes,
    ),
    Metric(
        "farshore_nbd_waiting_for_memory",
        Kind.GAUGE,
        "Batches of requests that wait for memory of `[nbd.limits]`.",
        (),
        "both",
        _waiting,
    ),
)


# -- what a group keeps safe ---------------------------------------------------------


def _volumes(group: GroupStatus) -> Iterator[tuple[Labels, float]]:
    for volume in group.volumes:
        yield (volume.name,), volume.size_bytes


def _alarms(group: GroupStatus) -> Iterator[tuple[Labels, float]]:
    # One name may be told twice; a series is told once.
    for name in {alarm.name for alarm in group.alarms}:
        yield (name,), 1


def _progress_done(group: GroupStatus) -> Iterator[tuple[Labels, float]]:
    if group.progress:
        yield (group.progress.operation,), group.progress.done_bytes


def _progress_total(group: GroupStatus) -> Iterator[tuple[Labels, float]]:
    if group.progress:
        yield (group.progress.operation,), group.progress.total_bytes


POINT_METRICS: Final = (
    _one_of(
        "farshore_group_role",
        "1 for what this site does with the group.",
        "role",
        GroupRole,
        "role",
    ),
    _one_of(
        "farshore_group_state",
        "1 for the state that the group is in; docs/operating/monitor.md has them.",
        "state",
        GroupState,
        "state",
    ),
    _one_of(
        "farshore_role_change",
        "1 for where an exchange of the sites' roles stands, once there was one.",
        "step",
        RoleStep,
        "role_change.step",
        when="role_change",
    ),
    _of_each(
        "farshore_alarm",
        "1 for each alarm that stands; docs/operating/monitor.md has their names.",
        ("name",),
        _alarms,
    ),
    _of_groups(
        "farshore_recovery_point_age_seconds",
        "How far the newest recovery point is behind now: what a disaster would cost.",
        "recovery_point_age_seconds",
    ),
    _of_groups(
        "farshore_recovery_point_number",
        "Number of the newest recovery point.",
        "recovery_point.number",
    ),
    _of_groups(
        "farshore_recovery_point_timestamp_seconds",
        "Up to when the newest recovery point is current, since 1970 in UTC.",
        "recovery_point.current_as_of_ns",
    ),
    _of_groups(
        "farshore_recovery_points",
        "Recovery points kept.",
        "history.points",
        site="receiving",
    ),
    _of_groups(
        "farshore_journal_bytes",
        "Bytes of the journals that recovery points are made of.",
        "history.journal_bytes",
        site="receiving",
    ),
    _of_groups(
        "farshore_journal_limit_bytes",
        "What they may have, where `group.journal.limit` says so.",
        "history.journal_limit_bytes",
        site="receiving",
    ),
    _of_groups(
        "farshore_oldest_recovery_point_timestamp_seconds",
        "When the oldest recovery point was cut, since 1970 in UTC.",
        "history.oldest_cut_ns",
        site="receiving",
    ),
    _of_groups(
        "farshore_kept_recovery_points",
        "Recovery points that stay by an operator's word, whatever `retain` says.",
        "history.kept",
        site="receiving",
    ),
    _of_groups(
        "farshore_forks",
        "Forks kept: what this site wrote, and gave up in a failback.",
        "history.forks",
        site="receiving",
    ),
    _of_each("farshore_volume_size_bytes", "Size of a volume.", ("volume",), _volumes),
)

# -- the promise ---------------------------------------------------------------------

RPO_METRICS: Final = (
    _of_groups(
        "farshore_rpo_target_seconds",
        "The age that `rpo` promises.",
        "forecast.target_seconds",
        site="sending",
    ),
    _of_groups(
        "farshore_rpo_forecast_age_seconds",
        "The greatest age that can be foreseen.",
        "forecast.expected_age_seconds",
        site="sending",
    ),
    _of_groups(
        "farshore_rpo_forecast_breach_seconds",
        "Time until the promise breaks, if it will.",
        "forecast.seconds_until_breach",
        site="sending",
    ),
    _one_of(
        "farshore_rpo_forecast_promise",
        "1 for what becomes of the promise.",
        "promise",
        PROMISES,
        "forecast.promise",
        site="sending",
        when="forecast",
    ),
    _one_of(
        "farshore_rpo_forecast_cause",
        "1 for what stands in the promise's way; all are 0 while it is kept.",
        "cause",
        CAUSES,
        "forecast.cause",
        site="sending",
        when="forecast",
    ),
    _of_groups(
        "farshore_rpo_forecast_needed_bytes_per_second",
        "Rate on the wire that keeping the promise takes.",
        "forecast.needed_bytes_per_second",
        site="sending",
    ),
    _of_groups(
        "farshore_rpo_forecast_measured_bytes_per_second",
        "Rate on the wire that there is.",
        "forecast.measured_bytes_per_second",
        site="sending",
    ),
)

# -- cycles --------------------------------------------------------------------------

CYCLE_METRICS: Final = (
    _of_groups(
        "farshore_cycle_number",
        "Number of the newest cycle begun.",
        "cycle_number",
    ),
    _of_groups(
        "farshore_changed_bytes",
        "Bytes in tracks that the next cycle will send.",
        "changed_bytes",
        site="sending",
    ),
    _of_groups(
        "farshore_out_of_sync_bytes",
        "These, and what the current cycle has not got across yet.",
        "out_of_sync_bytes",
        site="sending",
    ),
    _of_groups(
        "farshore_cycles_total",
        "Cycles committed since the daemon started.",
        "totals.cycles_committed",
        kind=Kind.COUNTER,
    ),
    _of_groups(
        "farshore_cycles_abandoned_total",
        "Cycles given up; what they had to send joined the next one.",
        "totals.cycles_abandoned",
        kind=Kind.COUNTER,
        site="sending",
    ),
    _of_groups(
        "farshore_cycle_changed_bytes_total",
        "Bytes in changed tracks of committed cycles.",
        "totals.bytes_changed",
        kind=Kind.COUNTER,
        site="sending",
    ),
    _of_groups(
        "farshore_cycle_wire_bytes_total",
        "Bytes that committed cycles took on the wire, everything included.",
        "totals.bytes_on_wire",
        kind=Kind.COUNTER,
        site="sending",
    ),
    _of_groups(
        "farshore_hold_seconds",
        "How long cuts held host writes, those that were given up included.",
        "totals.hold_seconds",
        kind=Kind.HISTOGRAM,
        site="sending",
    ),
    _of_groups(
        "farshore_cycle_seconds",
        "From a cut to its commit.",
        "totals.cycle_seconds",
        kind=Kind.HISTOGRAM,
        site="sending",
    ),
    _of_groups(
        "farshore_commit_seconds",
        "What the commit itself takes at the receiving site.",
        "totals.commit_seconds",
        kind=Kind.HISTOGRAM,
        site="receiving",
    ),
    _of_groups(
        "farshore_last_cycle_hold_seconds",
        "How long the newest committed cut held host writes.",
        "last_cycle.hold_seconds",
        site="sending",
    ),
    _of_groups(
        "farshore_last_cycle_drain_seconds",
        "From that cut to its commit.",
        "last_cycle.drain_seconds",
        site="sending",
    ),
    _of_groups(
        "farshore_last_cycle_tracks",
        "Tracks that it sent.",
        "last_cycle.tracks",
        site="sending",
    ),
    _of_groups(
        "farshore_last_cycle_changed_bytes",
        "Bytes in its changed tracks.",
        "last_cycle.bytes_changed",
        site="sending",
    ),
    _of_groups(
        "farshore_last_cycle_wire_bytes",
        "Bytes that it took on the wire.",
        "last_cycle.bytes_on_wire",
        site="sending",
    ),
    _of_each(
        "farshore_progress_done_bytes",
        "How far an operation that takes long has come: a first copy, a verify.",
        ("operation",),
        _progress_done,
    ),
    _of_each(
        "farshore_progress_total_bytes",
        "How far it has to go in all.",
        ("operation",),
        _progress_total,
    ),
)

# -- the link ------------------------------------------------------------------------


def _connections(group: GroupStatus) -> Iterator[tuple[Labels, float]]:
    for state in LinkState:
        yield (state,), sum(peer.state is state for peer in group.link.peers)


def _round_trips(group: GroupStatus) -> Iterator[tuple[Labels, float | None]]:
    # By place and not by number: a number is new each time that one is made again.
    for place, peer in enumerate(group.link.peers):
        yield (str(place),), peer.round_trip_seconds


def _certificates(group: GroupStatus) -> Iterator[tuple[Labels, float]]:
    for whose, certificate in (
        ("own", group.link.certificate),
        ("peer", group.link.peer_certificate),
    ):
        if certificate:
            yield (whose,), certificate.seconds_left


LINK_METRICS: Final = (
    _one_of(
        "farshore_link_state",
        "1 for the state that the link is in.",
        "state",
        LinkState,
        "link.state",
    ),
    _of_each(
        "farshore_link_connections",
        "Connections of the session, by their state.",
        ("state",),
        _connections,
        choices=tuple(LinkState),
    ),
    _of_each(
        "farshore_link_round_trip_seconds",
        "Round trip of each connection, by its place among them.",
        ("connection",),
        _round_trips,
    ),
    _of_groups(
        "farshore_link_sent_bytes_total",
        "Bytes sent in this session over all connections; a new session begins at 0.",
        "link.session_sent_bytes",
        kind=Kind.COUNTER,
        site="sending",
    ),
    _of_groups(
        "farshore_link_rate_bytes_per_second",
        "The rate that paces sending, if one does.",
        "link.rate_bytes_per_second",
        site="sending",
    ),
    _of_groups(
        "farshore_link_encrypted",
        "1 where replication goes over TLS, 0 in plain text.",
        "link.encrypted",
    ),
    _of_each(
        "farshore_certificate_expires_seconds",
        "Time until a certificate of replication expires; negative once it has.",
        ("whose",),
        _certificates,
        choices=("own", "peer"),
    ),
)

# -- what was checked ----------------------------------------------------------------


def _test_copies(group: GroupStatus) -> Iterator[tuple[Labels, float]]:
    if group.role is GroupRole.RECEIVING:
        yield (), len(group.test_copies)


DRILL_VERDICTS: Final = ("passed", "failed", "timed_out", "interrupted", "not_started")
"""As `drill_status.DrillVerdict` has them."""

CHECK_METRICS: Final = (
    _of_groups(
        "farshore_last_verify_timestamp_seconds",
        "When the last verify ended, since 1970 in UTC.",
        "last_verify.ended_ns",
        site="sending",
    ),
    _of_groups(
        "farshore_last_verify_compared_bytes",
        "Bytes that it compared.",
        "last_verify.compared_bytes",
        site="sending",
    ),
    _of_groups(
        "farshore_last_verify_differing_bytes",
        "Bytes that it found to differ.",
        "last_verify.differing_bytes",
        site="sending",
    ),
    _of_groups(
        "farshore_last_scrub_timestamp_seconds",
        "When the last scrub ended, since 1970 in UTC.",
        "last_scrub.ended_ns",
        site="receiving",
    ),
    _of_groups(
        "farshore_last_scrub_read_bytes",
        "Bytes that it read.",
        "last_scrub.read_bytes",
        site="receiving",
    ),
    _of_groups(
        "farshore_last_scrub_findings",
        "Places that it found damaged.",
        "last_scrub.findings",
        site="receiving",
    ),
    _of_groups(
        "farshore_last_drill_timestamp_seconds",
        "When the last drill began, since 1970 in UTC.",
        "last_drill.started_ns",
        site="receiving",
    ),
    _one_of(
        "farshore_last_drill_verdict",
        "1 for what the last drill came to.",
        "verdict",
        DRILL_VERDICTS,
        "last_drill.verdict",
        site="receiving",
        when="last_drill",
    ),
    _of_groups(
        "farshore_last_drill_probe_seconds",
        "How long its probe took.",
        "last_drill.probe_seconds",
        site="receiving",
    ),
    _of_each(
        "farshore_test_copies",
        "Test copies that there are.",
        (),
        _test_copies,
        site="receiving",
    ),
)


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
    _of_each(
        "farshore_hook_runs_total",
        "Runs of a hook, by how they ended.",
        ("hook", "outcome"),
        _hook_runs,
        kind=Kind.COUNTER,
        site="sending",
        choices=tuple(HookOutcome),
    ),
    _of_each(
        "farshore_hook_last_seconds",
        "How long the hook took the last time.",
        ("hook",),
        _hook_seconds,
        site="sending",
    ),
)

TOPICS: Final = {
    "build": SITE_METRICS[:2],
    "nbd": SITE_METRICS[2:],
    "point": POINT_METRICS,
    "rpo": RPO_METRICS,
    "cycle": CYCLE_METRICS,
    "link": LINK_METRICS,
    "check": CHECK_METRICS,
    "hook": HOOK_METRICS,
}

METRICS: Final[tuple[Metric, ...]] = tuple(
    metric for metrics in TOPICS.values() for metric in metrics
)
