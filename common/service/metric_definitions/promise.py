"""The `rpo` that a group promises, and what becomes of it."""

from __future__ import annotations

from typing import Final

from common.service.metric_definitions.metric import of_groups, one_of

CAUSES: Final = (
    "link_down",
    "just_begun",
    "link",
    "remote_disk",
    "primary_disk",
    "cpu",
)
PROMISES: Final = ("kept", "in_danger", "breached")
"""As `ForecastStatus` has them."""

RPO_METRICS: Final = (
    of_groups(
        "farshore_rpo_target_seconds",
        "The age that `rpo` promises.",
        "forecast.target_seconds",
        site="sending",
    ),
    of_groups(
        "farshore_rpo_forecast_age_seconds",
        "The greatest age that can be foreseen.",
        "forecast.expected_age_seconds",
        site="sending",
    ),
    of_groups(
        "farshore_rpo_forecast_breach_seconds",
        "Time until the promise breaks, if it will.",
        "forecast.seconds_until_breach",
        site="sending",
    ),
    one_of(
        "farshore_rpo_forecast_promise",
        "1 for what becomes of the promise.",
        "promise",
        PROMISES,
        "forecast.promise",
        site="sending",
        when="forecast",
    ),
    one_of(
        "farshore_rpo_forecast_cause",
        "1 for what stands in the promise's way; all are 0 while it is kept.",
        "cause",
        CAUSES,
        "forecast.cause",
        site="sending",
        when="forecast",
    ),
    of_groups(
        "farshore_rpo_forecast_needed_bytes_per_second",
        "Rate on the wire that keeping the promise takes.",
        "forecast.needed_bytes_per_second",
        site="sending",
    ),
    of_groups(
        "farshore_rpo_forecast_measured_bytes_per_second",
        "Rate on the wire that there is.",
        "forecast.measured_bytes_per_second",
        site="sending",
    ),
)
