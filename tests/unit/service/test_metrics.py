"""The metrics page: every definition against a full status, and the pages about it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from common.service.drill_status import DrillVerdict
from common.service.histogram import Histogram
from common.service.hook_status import HooksStatus, HookStatus
from common.service.metric_definitions.catalogue import METRICS, TOPICS
from common.service.metric_definitions.checks import DRILL_VERDICTS
from common.service.metric_definitions.metric import Kind
from common.service.metric_definitions.promise import CAUSES, PROMISES
from common.service.metrics import SERVING, MetricsPage
from common.service.metrics_reference import reference
from common.service.status import (
    AlarmStatus,
    CertificateStatus,
    DrillSummary,
    ForecastStatus,
    GroupRole,
    GroupState,
    GroupStatus,
    HistoryStatus,
    LastCycleStatus,
    LinkState,
    LinkStatus,
    NbdStatus,
    PeerStatus,
    ProgressStatus,
    RecoveryPointStatus,
    RoleChangeStatus,
    RoleStep,
    ScrubSummary,
    SiteStatus,
    TotalsStatus,
    TracingStatus,
    VerifySummary,
    VolumeStatus,
)
from primary_site.autopilot import Promise
from primary_site.drain_waits import Stage

ROOT = Path(__file__).parents[3]
RULES = ROOT / "config/prometheus-rules.yml"
DASHBOARD = ROOT / "config/grafana-dashboard.json"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def histogram(*seconds: float) -> Histogram:
    found = Histogram((0.001, 0.01, 0.1))
    for each in seconds:
        found.observe(each)
    return found


def certificate(seconds_left: float) -> CertificateStatus:
    return CertificateStatus(names=("a",), expires_ns=10**18, seconds_left=seconds_left)


def full_group(**others: Any) -> GroupStatus:
    """Return a group of which everything is known."""
    fields: dict[str, Any] = {
        "name": 'or"ders\n',
        "role": GroupRole.SENDING,
        "state": GroupState.DRAINING,
        "cycle_number": 8,
        "recovery_point": RecoveryPointStatus(
            number=7, cut_ns=10**18, current_as_of_ns=2 * 10**18
        ),
        "recovery_point_age_seconds": 4.5,
        "link": LinkStatus(
            state=LinkState.CONNECTED,
            encrypted=True,
            peers=(
                PeerStatus(
                    address="b:1",
                    state=LinkState.CONNECTED,
                    round_trip_seconds=0.02,
                ),
                PeerStatus(address="b:2", state=LinkState.CONNECTING),
            ),
            rate_bytes_per_second=1000,
            session_sent_bytes=123,
            certificate=certificate(50.0),
            peer_certificate=certificate(-5.0),
        ),
        "changed_bytes": 4096,
        "out_of_sync_bytes": 8192,
        "last_cycle": LastCycleStatus(
            number=7,
            hold_seconds=0.001,
            drain_seconds=2.0,
            tracks=3,
            bytes_changed=12288,
            bytes_on_wire=99,
        ),
        "volumes": (VolumeStatus(name="v", size_bytes=1 << 30, track_bytes=4096),),
        "progress": ProgressStatus(
            operation="first_copy", done_bytes=5, total_bytes=10
        ),
        "last_verify": VerifySummary(
            result="clean", ended_ns=10**18, compared_bytes=6, differing_bytes=0
        ),
        "last_scrub": ScrubSummary(
            result="clean", ended_ns=10**18, read_bytes=7, findings=0
        ),
        "last_drill": DrillSummary(
            started_ns=10**18, verdict="passed", point=7, probe_seconds=1.5
        ),
        "forecast": ForecastStatus(
            target_seconds=5,
            promise="in_danger",
            expected_age_seconds=6,
            seconds_until_breach=3,
            cause="link",
            needed_bytes_per_second=11,
            measured_bytes_per_second=10,
        ),
        "totals": TotalsStatus(
            cycles_committed=7,
            cycles_abandoned=1,
            bytes_changed=4,
            bytes_on_wire=5,
            hold_seconds=histogram(0.0005, 0.01, 0.02, 5.0).status(),
            cycle_seconds=histogram(0.2).status(),
            commit_seconds=histogram(0.05).status(),
        ),
        "history": HistoryStatus(
            points=3,
            journal_bytes=77,
            journal_limit_bytes=100,
            oldest_cut_ns=10**18,
            kept=1,
            forks=2,
        ),
        "role_change": RoleChangeStatus(step=RoleStep.FAILING_BACK, point=6),
        "hooks": HooksStatus(
            before_cut=HookStatus(runs={"done": 2, "failed": 1}, last_seconds=0.3),
            after_cut=HookStatus(runs={"done": 3}, last_seconds=0.1),
        ),
        "alarms": (
            AlarmStatus(name="cut_starved", message="see"),
            AlarmStatus(name="cut_starved", message="again"),
        ),
    }
    return GroupStatus(**fields | others)


def site(*groups: GroupStatus) -> SiteStatus:
    return SiteStatus(
        site="a",
        role="primary",
        version="1",
        nbd=NbdStatus(handshakes=1, exports={"orders/v": 2}, waiting_for_memory=0),
        tracing=TracingStatus(spans_sent=7, spans_lost=2),
        groups=groups,
    )


def scraped(status: SiteStatus | None) -> Samples:
    page = MetricsPage().render(status, wants_openmetrics=False)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_every_metric_has_a_value_once_all_is_known() -> None:
    receiving = full_group(name="r", role=GroupRole.RECEIVING)
    names = {name for name, _ in scraped(site(full_group(), receiving))}

    for metric in METRICS:
        suffix = "_bucket" if metric.kind is Kind.HISTOGRAM else ""
        assert metric.name + suffix in names


def test_what_is_not_known_has_no_sample() -> None:
    empty = GroupStatus(
        name="g",
        role=GroupRole.RECEIVING,
        state=GroupState.DISCONNECTED,
        link=LinkStatus(state=LinkState.DOWN),
    )
    found = {name for name, _ in scraped(site(empty)) if name.startswith("farshore_")}

    assert found == {
        "farshore_build_info",
        "farshore_group_role",
        "farshore_group_state",
        "farshore_link_connections",
        "farshore_link_encrypted",
        "farshore_link_state",
        "farshore_nbd_connections",
        "farshore_nbd_handshakes",
        "farshore_nbd_waiting_for_memory",
        "farshore_test_copies",
        "farshore_trace_spans_total",
        SERVING,
    }


def test_values_and_labels_are_those_of_the_status() -> None:
    found = scraped(site(full_group()))
    group = ("group", 'or"ders\n')

    def of(name: str, *labels: tuple[str, str]) -> float:
        return found[name, tuple(sorted((group, *labels)))]

    assert of("farshore_recovery_point_age_seconds") == 4.5
    assert of("farshore_recovery_point_timestamp_seconds") == 2e9
    assert of("farshore_cycles_total") == 7
    assert of("farshore_group_state", ("state", "draining")) == 1
    assert of("farshore_group_state", ("state", "idle")) == 0
    assert of("farshore_rpo_forecast_cause", ("cause", "link")) == 1
    assert of("farshore_role_change", ("step", "failing_back")) == 1
    assert of("farshore_role_change", ("step", "superseded")) == 0
    assert of("farshore_oldest_recovery_point_timestamp_seconds") == 1e9
    assert of("farshore_rpo_forecast_promise", ("promise", "kept")) == 0
    assert of("farshore_certificate_expires_seconds", ("whose", "peer")) == -5
    assert of("farshore_link_connections", ("state", "connecting")) == 1
    assert of("farshore_link_round_trip_seconds", ("connection", "0")) == 0.02
    assert of("farshore_alarm", ("name", "cut_starved")) == 1
    assert of("farshore_link_encrypted") == 1


def test_a_histogram_adds_up() -> None:
    found = scraped(site(full_group(name="g")))
    buckets = [
        value
        for (name, labels), value in found.items()
        if name == "farshore_hold_seconds_bucket"
    ]

    assert buckets == [1, 2, 3, 4]
    assert found["farshore_hold_seconds_count", (("group", "g"),)] == 4
    assert found["farshore_hold_seconds_sum", (("group", "g"),)] == pytest.approx(
        5.0305
    )


def test_a_client_that_asks_for_openmetrics_gets_it() -> None:
    page = MetricsPage().render(site(full_group()), wants_openmetrics=True)

    assert MetricsPage().content_type(True).startswith("application/openmetrics-text")
    names = {family.name for family in openmetrics_families(page.decode())}
    assert "farshore_cycles" in names


def test_a_site_that_does_not_serve_yet_says_so() -> None:
    found = scraped(None)

    assert found[SERVING, ()] == 0
    assert scraped(site())[SERVING, ()] == 1
    assert ("process_resident_memory_bytes", ()) in found


def test_names_end_in_their_unit_and_are_told_once() -> None:
    names = [metric.name for metric in METRICS]

    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"farshore_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert not re.search(r"_(ms|ns|kib|mib|percent)\b", metric.name)


def test_the_forecast_s_words_are_those_of_its_source() -> None:
    assert set(DRILL_VERDICTS) == {verdict.value for verdict in DrillVerdict}
    assert set(PROMISES) == {promise.value for promise in Promise}
    assert {stage.value for stage in Stage} <= set(CAUSES)


def test_the_reference_page_is_what_its_generator_prints() -> None:
    page = (ROOT / "docs/reference/metrics.md").read_text()

    assert page == reference()


def known_names() -> set[str]:
    found = {SERVING}
    for metric in METRICS:
        found.add(metric.name)
        if metric.kind is Kind.HISTOGRAM:
            found |= {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
    return found


def test_alerts_name_metrics_that_exist_and_pages_that_do() -> None:
    text = RULES.read_text()
    rules = re.sub(r"#.*", "", text)
    used = set(re.findall(r"\bfarshore_\w+", rules))

    assert len(used) > 10
    assert used <= known_names()
    for page in set(re.findall(r"docs/[\w/-]+\.md", text)):
        assert (ROOT / page).is_file(), page
    for alert in ("FarshoreDown", "FarshoreRecoveryPointTooOld", "FarshoreAlarm"):
        assert f"alert: {alert}\n" in text


def test_the_dashboard_names_metrics_that_exist_and_labels_that_they_have() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    by_name = {metric.name: metric for metric in METRICS}
    used = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            names = set(re.findall(r"\bfarshore_\w+", target["expr"]))
            used |= names
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            had = {"instance", "le"} | {
                label
                for name in names
                if (metric := by_name.get(name.removesuffix("_bucket")))
                for label in metric.labels
            }
            assert labels <= had, (panel["title"], labels - had)

    assert used <= known_names()
    assert len(used) > 25
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_dashboard_shows_every_group_of_figures_and_no_panel_covers_another() -> (
    None
):
    dashboard = json.loads(DASHBOARD.read_text())
    text = json.dumps(dashboard)
    cells: set[tuple[int, int]] = set()

    for topic, metrics in TOPICS.items():
        assert any(metric.name in text for metric in metrics), topic
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        own = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & own, panel["title"]
        cells |= own
    assert max(x for x, _ in cells) < 24
