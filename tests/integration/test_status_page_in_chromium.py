"""The status page in a real browser: its numbers are those of the JSON."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.chromium import Chromium, find_chromium
from tests.support.http_raw import ask
from tests.support.sites import Pair, VolumeSpec, until

needs_chromium = pytest.mark.skipif(
    find_chromium() is None, reason="chromium is not installed"
)

UNITS = {
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "B": 1.0,
    "KiB": 1024.0,
    "MiB": 1024.0**2,
}
DIGITS = 0.006
"""Of its size, what a figure of three digits may be away from the number."""


def number(text: str) -> float:
    """Read a figure back from what the page says."""
    value, unit = re.findall(r"([\d.]+) (\S+)", text)[0]
    return float(value) * UNITS[unit]


def figure(page: Chromium, key: str) -> str:
    return text(page, f"[data-key={key}]")


def text(page: Chromium, selector: str) -> str:
    """Wait until something is shown there: a group is drawn once it is seen."""
    found = page.until(f"document.querySelector('{selector}')?.textContent")
    assert isinstance(found, str)
    return found


def plotted(page: Chromium, name: str, line: int) -> list[Any]:
    """Return the numbers of one line, from the chart itself."""
    chart = f"farshore.cards.get('g').{name}.plot.data"
    found = page.evaluate(f"Array.from({chart}[{line}])")
    assert isinstance(found, list)
    return found


@needs_chromium
async def test_numbers_on_the_page_equal_the_json(tmp_path: Path) -> None:
    volumes = [VolumeSpec("v", 64 << 20, region_bytes=1 << 20)]
    with Pair(tmp_path, volumes, http=True) as pair:
        assert pair.http_ports is not None
        port = pair.http_ports[0]
        await pair.start()
        host = await pair.primary.nbd("g/v")
        for at in range(0, 4 << 20, 64 << 10):
            await host.write(at, at.to_bytes(8, "big") * 8192)
        cut = await pair.cut()
        await until(
            lambda: pair.committed("g") == cut["number"], "the primary knows it"
        )
        await host.write(0, b"x" * 300_000)

        def look() -> None:
            with Chromium() as page:
                page.open(f"http://127.0.0.1:{port}/")
                compare(page, pair, port)
                look_at_pictures(page, port)
                look_at_the_other_site(page, pair)
                page.open(f"http://127.0.0.1:{port}/")
                page.until("window.farshore && farshore.status.role == 'primary'")
                pair.primary.kill()
                page.until(live("off"))
                assert page.evaluate("document.querySelector('main.stale') !== null")
                asyncio.run(pair.primary.start())
                page.until(live("on"))
                assert page.evaluate("document.querySelector('main.stale') === null")

        await asyncio.to_thread(look)


def live(what: str) -> str:
    return f"document.getElementById('live')?.className == 'live {what}'"


def look_at_the_other_site(page: Chromium, pair: Pair) -> None:
    """The remote shows its own view, with the figures of its own status."""
    assert pair.http_ports is not None
    port = pair.http_ports[1]
    page.open(f"http://127.0.0.1:{port}/")
    page.until("window.farshore && farshore.status.role == 'remote'")
    group = asyncio.run(status(port))["groups"][0]
    history = group["history"]
    assert figure(page, "points") == str(history["points"]) == "1"
    assert figure(page, "retain") == "the newest only"
    assert number(figure(page, "journal")) == pytest.approx(
        history["journal_bytes"], rel=DIGITS
    )
    words = text(page, "svg.chain")
    assert "remote b" in words
    assert "primary a" in words
    drawn = "farshore.cards.get('g').journals?.plot.data[1].at(-1)"
    page.until(f"{drawn} == {history['journal_bytes']}")  # samples are seconds apart
    label = page.evaluate("document.querySelector('.plot').getAttribute('aria-label')")
    assert label.startswith("Age of the recovery point: age now ")
    assert page.complaints == []


def compare(page: Chromium, pair: Pair, port: int) -> None:
    group = asyncio.run(status(port))["groups"][0]
    written = group["changed_bytes"]
    assert written >= 300_000
    page.until(
        "window.farshore && farshore.status.groups[0].changed_bytes == " + str(written)
    )
    assert figure(page, "point") == str(group["recovery_point"]["number"])
    assert figure(page, "state") == group["state"]
    assert figure(page, "cycles") == str(group["totals"]["cycles_committed"])
    last = group["last_cycle"]
    for key, value in (
        ("changed", written),
        ("behind", group["out_of_sync_bytes"]),
        ("hold", last["hold_seconds"]),
        ("drain", last["drain_seconds"]),
        ("wire", last["bytes_on_wire"]),
    ):
        assert number(figure(page, key)) == pytest.approx(value, rel=DIGITS), key
    words = text(page, "svg.chain")
    assert "1 connection" in words
    assert "primary a" in words
    assert "remote b" in words
    assert f"point {group['recovery_point']['number']}" in words
    page.until("document.querySelectorAll('svg.holds rect').length")


def look_at_pictures(page: Chromium, port: int) -> None:
    page.until("farshore.cards.get('g').history")
    history = asyncio.run(json_of(port, "/history.json?group=g"))
    fields = history["fields"]
    times = history["fine"][fields.index("time_seconds")]
    ages = history["fine"][fields.index("age_seconds")]
    drawn = dict(zip(plotted(page, "age", 0), plotted(page, "age", 1), strict=True))
    assert drawn
    for time, age in zip(times, ages, strict=True):
        if time in drawn:
            assert drawn[time] == age
    page.until("document.querySelectorAll('circle.point').length == 1")
    # Hosts wrote in the first sixteenth of the volume and nowhere else.
    row = page.until(
        "(() => { const map = document.querySelector('canvas.map'); if (!map) return 0;"
        "const data = map.getContext('2d')"
        ".getImageData(0, map.height - 1, map.width, 1).data;"
        "const seen = Array.from({length: map.width}, (_, x) => data[4 * x + 3] > 0);"
        "return seen.some((one) => one) ? seen : 0; })()"
    )
    assert len(row) == 64
    assert any(row[:4])
    assert not any(row[4:])
    use_without_a_mouse(page)
    for scheme in ("light", "dark"):
        page.use_colours(scheme)
        for width in (390, 1280):
            page.resize(width, 900)
            page.until(
                f"document.documentElement.scrollWidth <= {width} "
                f"&& innerWidth == {width}"
            )
    assert page.complaints == []


def use_without_a_mouse(page: Chromium) -> None:
    """Pictures have words, and what can be clicked is reached and used by keys."""
    images = "[...document.querySelectorAll('[role=img]')]"
    unnamed = f"{images}.filter(one => !one.getAttribute('aria-label')).length"
    assert page.evaluate(unnamed) == 0
    page.evaluate("document.querySelector('[data-ring=fine]').focus()")
    for name, text in (("Tab", None), ("Enter", "\r")):
        page.press(name, text)
    page.until("document.querySelector('[data-ring=coarse]').ariaPressed == 'true'")


async def json_of(port: int, path: str) -> Any:
    return json.loads((await ask(port, path)).body)


async def status(port: int) -> Any:
    return await json_of(port, "/status.json")
