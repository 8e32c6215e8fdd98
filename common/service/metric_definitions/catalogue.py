"""Every metric of farshore, by its topic: the sections of docs/reference/metrics.md."""

from __future__ import annotations

from typing import Final

from common.service.metric_definitions.checks import CHECK_METRICS
from common.service.metric_definitions.cycles import CYCLE_METRICS
from common.service.metric_definitions.hooks import HOOK_METRICS
from common.service.metric_definitions.link import LINK_METRICS
from common.service.metric_definitions.metric import Metric
from common.service.metric_definitions.points import POINT_METRICS
from common.service.metric_definitions.promise import RPO_METRICS
from common.service.metric_definitions.site import HOST_METRICS, SITE_METRICS

TOPICS: Final = {
    "build": SITE_METRICS,
    "nbd": HOST_METRICS,
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
