"""The status page's files, and the part of its JavaScript that thinks, run by Node."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from common.service.http.answers import Answer, Request
from common.service.http.pages import FILES, page_routes

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "common/service/http/page"
OURS = [path for path in PAGE.iterdir() if not path.name.startswith("uPlot")]

needs_node = pytest.mark.skipif(
    shutil.which("node") is None, reason="node (Debian: nodejs) is not installed"
)


async def test_every_file_is_served_as_what_it_is() -> None:
    routes = page_routes()
    served = {name for name, _ in FILES.values()}

    assert served | {"VENDORED.md"} == {path.name for path in PAGE.iterdir()}
    for path, (name, content_type) in FILES.items():
        answer = await routes[path](Request(path, "", {}))
        assert isinstance(answer, Answer)
        assert answer.body == (PAGE / name).read_bytes()
        assert answer.content_type == content_type


def test_the_page_asks_nobody_else_and_needs_nothing_that_its_policy_forbids() -> None:
    for path in OURS:
        text = path.read_text()
        elsewhere = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`]*", text))
        assert elsewhere <= {"http://www.w3.org/2000/svg"}, path.name
        if path.suffix in {".js", ".html"}:
            for word in (" style=", "innerHTML", "eval(", "onclick=", "document.write"):
                assert word not in text, (path.name, word)
    html = (PAGE / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)", html) == []
    for target in re.findall(r"(?:href|src)=\"([^\"]+)\"", html):
        assert f"/{target}" in FILES or target in {"status.json", "metrics", "readyz"}


def test_files_of_others_are_as_published() -> None:
    told = (PAGE / "VENDORED.md").read_text()
    rows = dict(re.findall(r"^\| `(\S+)` \|.*`([0-9a-f]{64})` \|$", told, re.MULTILINE))

    assert set(rows) == {path.name for path in PAGE.glob("uPlot*")}
    for name, digest in rows.items():
        assert hashlib.sha256((PAGE / name).read_bytes()).hexdigest() == digest


def run_node(tmp_path: Path, script: str, *values: Any) -> Any:
    """Return what a script of the page's modules leaves in `result`."""
    for path in PAGE.glob("*.js"):
        if not path.name.startswith("uPlot"):
            shutil.copy(path, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "test.js").write_text(
        'import * as words from "./words.js";\n'
        'import * as pictures from "./pictures.js";\n'
        'import * as series from "./series.js";\n'
        'import * as standing from "./standing.js";\n'
        "const given = JSON.parse(process.argv[2]);\n"
        f"const result = {script};\n"
        "process.stdout.write(JSON.stringify(result));\n"
    )
    told = subprocess.run(
        ["node", "test.js", json.dumps(values)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


@needs_node
def test_sizes_and_times_are_written_as_people_read_them(tmp_path: Path) -> None:
    sizes = [0, 1023, 1536, 5 << 20, (1 << 50) * 3, None]
    times = [0, 0.00004, 0.0123, 1.5, 59.94, 90, 3600, 90061, -86400, None]

    found = run_node(
        tmp_path,
        "[given[0].map(words.bytes), given[1].map(words.seconds), "
        "[words.clockTime(1795458875), words.clockTime(null), words.clockTime()]]",
        sizes,
        times,
    )

    assert found == [
        ["0 B", "1023 B", "1.50 KiB", "5.00 MiB", "3.00 PiB", "–"],
        [
            *("0 s", "40.0 µs", "12.3 ms", "1.50 s", "59.9 s", "1 min 30 s"),
            *("1 h", "1 d 1 h", "-1 d", "–"),
        ],
        ["18:34:35", "–", "–"],
    ]


def group(**others: Any) -> dict[str, Any]:
    return {
        "name": "g",
        "role": "sending",
        "state": "draining",
        "alarms": [],
        "recovery_point": {"number": 7},
        "recovery_point_age_seconds": 4.5,
        "forecast": {
            "target_seconds": 5.0,
            "promise": "in_danger",
            "expected_age_seconds": 6.0,
            "seconds_until_breach": 3.0,
            "cause": "remote_disk",
        },
        "changed_bytes": 4096,
        "out_of_sync_bytes": 8192,
        "last_cycle": {
            "hold_seconds": 0.001,
            "drain_seconds": 2.0,
            "bytes_changed": 12288,
            "bytes_on_wire": 99,
        },
        "totals": {"cycles_committed": 7},
        "history": None,
        "role_change": None,
        "test_copies": [],
        "last_verify": None,
        "last_scrub": None,
        "last_drill": None,
        "progress": None,
        "link": {
            "state": "connected",
            "site": "b",
            "encrypted": True,
            "peers": [
                {"state": "connected", "round_trip_seconds": 0.02},
                {"state": "connecting", "round_trip_seconds": None},
            ],
            "rate_bytes_per_second": 1 << 20,
            "certificate": {"seconds_left": 86400},
            "peer_certificate": None,
        },
        **others,
    }


@needs_node
def test_figures_are_those_of_the_status(tmp_path: Path) -> None:
    figures = run_node(tmp_path, "pictures.figures(given[0], 0)", group())

    found = {key: (text, *tone) for key, _, text, *tone in figures}
    assert found["age"] == ("4.50 s old", "warn")
    assert found["point"][0] == "7"
    assert found["target"][0] == "5.00 s"
    assert found["breach"] == ("3.00 s", "bad")
    assert found["cause"] == ("remote disk", "warn")
    assert found["behind"][0] == "8.00 KiB"
    assert found["hold"][0] == "1.00 ms"
    assert found["wire"][0] == "99 B for 12.0 KiB"
    assert found["rate"][0] == "1.00 MiB/s"
    assert found["certificate"] == ("1 d", "bad")
    assert "points" not in found


@needs_node
def test_the_chain_tells_where_it_is_broken(tmp_path: Path) -> None:
    exports = {"g/a": 2, "g/b": 1, "gg/a": 8}
    status = {"site": "a", "nbd": {"exports": exports}}
    down = {**group()["link"], "state": "down", "peers": []}
    cases = [group(), group(link=down, state="disconnected"), group(role="receiving")]

    whole, broken, receiving = run_node(
        tmp_path, "given[1].map((one) => pictures.chain(given[0], one))", status, cases
    )

    assert whole["boxes"][0]["lines"] == ["3 connections"]
    assert whole["boxes"][1]["title"] == "primary a"
    assert whole["wires"][1] == {
        "words": ["connected, TLS", "1 × 20.0 ms"],
        "tone": "warn",
        "isMoving": True,
    }
    assert broken["wires"][1]["tone"] == "bad"
    assert not broken["wires"][1]["isMoving"]
    assert broken["boxes"][1]["tone"] == "warn"
    assert receiving["boxes"][2]["title"] == "remote a"
    assert receiving["boxes"][0]["lines"] == ["at the other site"]
    assert receiving["boxes"][1]["title"] == "primary b"
    assert whole["boxes"][2]["title"] == "remote b"
    assert receiving["boxes"][2]["lines"][-1] == "3 readers"


@needs_node
def test_rates_come_from_counters_that_a_restart_resets(tmp_path: Path) -> None:
    times = [0, 5, 10, 15, 20]
    totals = [0, 50, 10, None, 40]

    found = run_node(tmp_path, "series.rates(given[0], given[1])", times, totals)

    assert found == [None, 10, 2, None, None]


@needs_node
def test_bars_and_marks_show_what_there_is(tmp_path: Path) -> None:
    holds = {"bounds_seconds": [0.001, 0.01, 0.1], "counts": [0, 4, 0, 1]}
    points = [
        {"number": 9, "cut_time": "1970-01-01T00:16:40Z", "bytes": 5},
        {
            "number": 8,
            "cut_time": "1970-01-01T00:00:00Z",
            "bytes": 5,
            "pinned": True,
            "label": "nightly",
        },
    ]

    bars, none, line, empty = run_node(
        tmp_path,
        "[series.holdBars(given[0]), series.holdBars(null), "
        "series.timeline(given[1], 2000), series.timeline([], 2000)]",
        holds,
        points,
    )

    assert [(bar["words"], bar["number"]) for bar in bars] == [
        ("≤ 10.0 ms", 4),
        ("≤ 100 ms", 0),
        ("more", 1),
    ]
    assert none == []
    newest, oldest = line["marks"]
    assert (newest["number"], newest["kind"]) == (9, "newest")
    assert (oldest["place"], oldest["kind"]) == (0, "pinned")
    assert 0 < newest["place"] < 0.2  # half the time is not half the line
    assert "nightly" in oldest["words"]
    places = [(tick["words"], tick["place"]) for tick in line["ticks"]]
    assert [words for words, _ in places] == ["1 min", "10 min"]
    assert 1 > places[0][1] > places[1][1] > newest["place"]
    assert (empty["marks"], empty["ticks"]) == ([], [])


@needs_node
def test_what_a_chart_shows_of_its_lines(tmp_path: Path) -> None:
    usual = [[1, 2, None, 2], [1, 1, 1, 1]]
    lines = [[*usual[0] * 10, 500], [*usual[1] * 10, 3]]

    found = run_node(
        tmp_path,
        "[series.visible(given[0]), series.visible(given[1]), "
        "series.visible([[null], []]), series.greatest(given[1]), "
        "series.newest([4, null]), series.timeShown([], 100), "
        "series.timeShown([90], 100), series.timeShown([10, 90], 100)]",
        usual,
        lines,
    )

    assert found == [2, 4, None, 500, 4, [40, 100], [30, 90], [10, 90]]


def exchanged(step: str, **others: Any) -> dict[str, Any]:
    change = {
        "step": step,
        "point": 7,
        "cut_time": "1970-01-01T00:16:40.000000Z",
        "at": "1970-01-01T00:20:00.000000Z",
        "lineage": "ab",
    }
    return group(role_change=change, **others)


@needs_node
def test_roles_that_change_are_told_in_words(tmp_path: Path) -> None:
    cases = [
        group(),
        exchanged("superseded", state="superseded"),
        exchanged("taken_over", state="taken_over"),
        exchanged("taken_over", state="idle"),
        exchanged("split_brain", state="disconnected"),
        exchanged("failing_back", role="receiving", state="draining"),
        exchanged("handing_over"),
        exchanged("taking_over", role="receiving", state="taken_over"),
        exchanged("a_later_step"),
    ]

    found = run_node(
        tmp_path,
        "given[0].map((one) => [standing.roleBanner(one), standing.stateTone(one), "
        "pictures.chain({site: 'a', nbd: null}, one).wires[0].words])",
        cases,
    )

    banners = [banner for banner, _, _ in found]
    assert banners[0] is None
    assert [banner["title"] for banner in banners[1:]] == [
        *("Superseded", "Taken over", "Taken over", "Split brain", "Failback"),
        *("Switchover", "Takeover under way", "a later step"),
    ]
    told = banners[1]["words"]
    assert "took over 1970-01-01 00:20:00 UTC, from point 7" in told
    assert "farshore failback g" in told
    assert "Nothing is replicated" in banners[2]["words"]
    assert "Nothing is replicated" not in banners[3]["words"]
    assert "fork 7" in banners[5]["words"]
    assert [tone for _, tone, _ in found[:5]] == ["good", "bad", "warn", "good", "bad"]
    refused = ["NBD", "writes refused"]
    assert [words == refused for _, _, words in found] == [
        *(False, True, False, False, False, False, True, False, False)
    ]


@needs_node
def test_progress_is_told_with_what_is_left(tmp_path: Path) -> None:
    progress = {
        "operation": "first_copy",
        "done_bytes": 3 << 20,
        "total_bytes": 12 << 20,
        "eta_seconds": 90,
    }
    back = {**progress, "operation": "takeover", "eta_seconds": None}
    other = {**back, "operation": "something_later", "total_bytes": 0, "done_bytes": 0}

    found = run_node(
        tmp_path, "given.map(pictures.progressWords)", progress, back, other
    )

    assert found == [
        "first copy: 3.00 MiB of 12.0 MiB (25.0 %), 1 min 30 s left",
        "going back to the recovery point: 3.00 MiB of 12.0 MiB (25.0 %)",
        "something later: 0 B of 0 B (0.0 %)",
    ]


@needs_node
def test_a_receiving_site_shows_its_own_view(tmp_path: Path) -> None:
    receiving = group(
        role="receiving",
        forecast=None,
        last_cycle=None,
        history={
            "points": 26,
            "journal_bytes": 95 << 20,
            "journal_limit_bytes": 100 << 20,
            "oldest_cut_time": "1970-01-01T00:00:00Z",
            "kept": 2,
            "forks": 1,
            "retain": ["all for 1h", "1 per 1d for 30d"],
        },
        test_copies=["try", "look"],
        last_drill={"verdict": "timed_out", "started": "1970-01-01T00:00:00Z"},
        last_scrub={"result": "clean", "ended": "1970-01-01T00:00:00Z"},
    )

    figures = run_node(tmp_path, "pictures.figures(given[0], 7200)", receiving)

    found = {key: (text, *tone) for key, _, text, *tone in figures}
    assert found["points"][0] == "26"
    assert found["oldest"][0] == "2 h old"
    assert found["journal"] == ("95.0 MiB of 100 MiB", "bad")
    assert found["kept"][0] == "2"
    assert found["forks"] == ("1", "warn")
    assert found["retain"][0] == "all for 1h, 1 per 1d for 30d"
    assert found["test_copies"][0] == "try, look"
    assert found["drill"] == ("timed out, 2 h ago", "bad")
    assert found["scrub"] == ("clean, 2 h ago", "good")
    assert "verify" not in found
