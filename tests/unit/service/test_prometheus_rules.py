"""The alert rules in Prometheus's own judgement: valid, firing when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
RULES = ROOT / "config/prometheus-rules.yml"
SCENARIOS = ROOT / "tests/vectors/prometheus/alerts.yml"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool (Debian: prometheus) is not installed",
)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=60
    )


@needs_promtool
def test_the_rules_are_valid() -> None:
    told = promtool("check", "rules", str(RULES))

    assert told.returncode == 0, told.stdout + told.stderr


@needs_promtool
def test_alerts_fire_in_their_scenarios_and_only_there() -> None:
    told = promtool("test", "rules", str(SCENARIOS))

    assert told.returncode == 0, told.stdout + told.stderr


GROUP = 'instance="a", group="g"'
DAY = 86400

FIRING = {
    "FarshoreDown": {'farshore_serving{instance="a"}': (0, 1)},
    "FarshoreGroupFailed": {f'farshore_group_state{{{GROUP}, state="failed"}}': (1, 0)},
    "FarshoreSplitBrain": {
        f'farshore_role_change{{{GROUP}, step="split_brain"}}': (1, 0)
    },
    "FarshoreSuperseded": {
        f'farshore_role_change{{{GROUP}, step="superseded"}}': (1, 0)
    },
    "FarshoreExchangeUnfinished": {
        f'farshore_role_change{{{GROUP}, step="taking_over"}}': (1, 0)
    },
    "FarshoreNobodyReceives": {
        f'farshore_group_state{{{GROUP}, state="taken_over"}}': (1, 0)
    },
    "FarshoreRecoveryPointTooOld": {
        f"farshore_recovery_point_age_seconds{{{GROUP}}}": (9, 5),
        f"farshore_rpo_target_seconds{{{GROUP}}}": (5, 5),
    },
    "FarshoreRecoveryPointVeryOld": {
        f"farshore_recovery_point_age_seconds{{{GROUP}}}": (3601, 3600)
    },
    "FarshoreNoRecoveryPoint": {
        f'farshore_group_role{{{GROUP}, role="sending"}}': (1, 0)
    },
    "FarshorePromiseInDanger": {
        f'farshore_rpo_forecast_promise{{{GROUP}, promise="in_danger"}}': (1, 0)
    },
    "FarshoreAlarm": {f'farshore_alarm{{{GROUP}, name="cut_starved"}}': (1, 0)},
    "FarshoreLinkDown": {f'farshore_link_state{{{GROUP}, state="connected"}}': (0, 1)},
    "FarshoreLinkConnectionsMissing": {
        f'farshore_link_connections{{{GROUP}, state="connecting"}}': (1, 0)
    },
    "FarshoreCertificateExpires": {
        f'farshore_certificate_expires_seconds{{{GROUP}, whose="peer"}}': (
            14 * DAY - 1,
            14 * DAY,
        )
    },
    "FarshoreDataDiffers": {
        f"farshore_last_verify_differing_bytes{{{GROUP}}}": (4096, 0),
        f"farshore_last_scrub_findings{{{GROUP}}}": (0, 0),
    },
    "FarshoreJournalsNearLimit": {
        f"farshore_journal_bytes{{{GROUP}}}": (81, 80),
        f"farshore_journal_limit_bytes{{{GROUP}}}": (100, 100),
    },
    "FarshoreTestCopyForgotten": {f"farshore_test_copies{{{GROUP}}}": (1, 0)},
    "FarshoreForkForgotten": {f"farshore_forks{{{GROUP}}}": (1, 0)},
    "FarshoreDrillOld": {
        f"farshore_last_drill_timestamp_seconds{{{GROUP}}}": (-36 * DAY, -34 * DAY)
    },
    "FarshoreScrubOld": {
        f"farshore_last_scrub_timestamp_seconds{{{GROUP}}}": (-36 * DAY, -34 * DAY)
    },
    "FarshoreDrillFailed": {
        f'farshore_last_drill_verdict{{{GROUP}, verdict="passed"}}': (0, 1)
    },
    "FarshoreFilesRunOut": {
        'process_open_fds{instance="a"}': (81, 80),
        'process_max_fds{instance="a"}': (100, 100),
        'farshore_build_info{instance="a"}': (1, 1),
    },
}
"""Alert -> series with a value that makes it fire, and one that just does not."""

HELD = "0+100x4000", "0+100x4000"

COUNTING = {
    "FarshoreCyclesAbandoned": {
        f"farshore_cycles_abandoned_total{{{GROUP}}}": ("0+1x4000", "0+0x4000")
    },
    "FarshoreHostsHeldLong": {
        f'farshore_hold_seconds_bucket{{{GROUP}, le="0.05"}}': (
            "0+1x4000",
            "0+100x4000",
        ),
        f'farshore_hold_seconds_bucket{{{GROUP}, le="0.1"}}': HELD,
        f'farshore_hold_seconds_bucket{{{GROUP}, le="+Inf"}}': HELD,
    },
}
"""The same of counters: how they grow every five minutes."""

SINCE = {
    "FarshoreNoRecoveryPoint": "25h",
    "FarshoreTestCopyForgotten": "8d",
    "FarshoreForkForgotten": "15d",
}
"""When it is looked, past `for`; else after three hours."""


FIRES = 'group by (alertname) (ALERTS{alertstate="firing"})'


def scenarios() -> list[dict[str, Any]]:
    """Return for each alert a test in which it fires alone, and one with none."""
    values: dict[str, dict[str, tuple[str, str]]] = {
        alert: {
            series: (f"{fires}+0x4400", f"{quiet}+0x4400")
            for series, (fires, quiet) in found.items()
        }
        for alert, found in FIRING.items()
    }
    made = []
    for alert, found in (values | COUNTING).items():
        for which, names in enumerate(([alert], [])):
            told = [{"series": s, "values": v[which]} for s, v in found.items()]
            expected = [{"labels": f'{{alertname="{n}"}}', "value": 1} for n in names]
            made.append(
                {
                    "interval": "5m",
                    "input_series": told,
                    "promql_expr_test": [
                        {
                            "expr": FIRES,
                            "eval_time": SINCE.get(alert, "3h"),
                            "exp_samples": expected,
                        }
                    ],
                }
            )
    return made


def test_every_alert_has_a_scenario() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())

    assert sorted(alerts) == sorted(FIRING | COUNTING)


@needs_promtool
def test_every_alert_fires_alone_and_is_quiet_just_before(tmp_path: Path) -> None:
    asked = tmp_path / "every_alert.yml"  # JSON is YAML
    asked.write_text(
        json.dumps(
            {
                "rule_files": [str(RULES)],
                "evaluation_interval": "30m",
                "tests": scenarios(),
            }
        )
    )

    told = promtool("test", "rules", str(asked))

    assert told.returncode == 0, told.stdout + told.stderr


@needs_promtool
def test_the_dashboard_s_expressions_are_valid(tmp_path: Path) -> None:
    dashboard = json.loads((ROOT / "config/grafana-dashboard.json").read_text())
    asked = [
        target["expr"].replace("$__rate_interval", "5m")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]
    rules = [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(asked)]
    page = tmp_path / "dashboard.yml"
    page.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    told = promtool("check", "rules", str(page))

    assert len(rules) > 40
    assert told.returncode == 0, told.stdout + told.stderr
