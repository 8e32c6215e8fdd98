"""The plot of a link that falls: drawn from what was recorded, and all of it."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

from benchmarks.wan_fall import summary
from benchmarks.wan_fall_plot import drawing

SVG = "{http://www.w3.org/2000/svg}"


def looks() -> list[dict[str, Any]]:
    ages = {-2.0: 1.0, 0.0: 2.0, 3.0: 5.0, 6.0: 8.0, 12.0: 2.0}
    promises = ["kept", "kept", "in_danger", "breached", "kept"]
    return [
        {
            "seconds": seconds,
            "age_seconds": age,
            "promise": promise,
            "cause": None if promise == "kept" else "link",
        }
        for (seconds, age), promise in zip(ages.items(), promises, strict=True)
    ]


def test_what_is_told_of_a_fall() -> None:
    assert summary(looks()) == {
        "age_seconds_max": 8.0,
        "age_seconds_max_before": 1.0,
        "in_danger_at": 3.0,
        "breached_at": 6.0,
        "kept_again_at": 12.0,
        "causes": ["link"],
    }


def test_every_look_is_a_point_and_every_moment_has_its_words() -> None:
    run = {"hosts_write": "a < b", "bytes_per_second": 1e6, "looks": looks()}
    recorded = {
        "megabits": 40.0,
        "fallen_share": 0.1,
        "fallen_seconds": 10.0,
        "rpo_seconds": 5.0,
        "runs": [run | summary(looks())] * 2,
    }
    tree = ET.fromstring(drawing(recorded))
    lines = tree.findall(f"{SVG}polyline")
    assert [len(str(each.get("points")).split()) for each in lines] == [5, 5]
    words = [each.text for each in tree.findall(f"{SVG}text")]
    assert "Hosts write 1 MB/s, a < b" in words
    assert "in danger, 3.0 s" in words
    assert "breached, 6.0 s" in words
