"""Background readers stay within their rate, and leave most of the time to others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.storage.background_reading import (
    REST_SECONDS_MAX,
    SHARE_MIN,
    BackgroundReading,
)
from common.storage.files import SystemFile, SystemFiles

MIB = 1 << 20
PAGE_BYTES = 4096


def test_alone_it_reads_at_its_rate_and_saves_nothing_up() -> None:
    pace = BackgroundReading(10 * MIB)
    assert pace.wait_seconds(50.0) == 0.0
    pace.note(50.0, 50.02, MIB, beside_others=False)
    assert pace.wait_seconds(50.02) == pytest.approx(0.08)
    assert pace.wait_seconds(90.0) == 0.0
    pace.note(90.0, 90.0, MIB, beside_others=False)
    pace.note(90.0, 90.0, MIB, beside_others=False)
    assert pace.wait_seconds(90.0) == pytest.approx(0.2)


def test_beside_others_it_is_at_work_for_a_share_of_the_time() -> None:
    pace = BackgroundReading(1 << 40)
    at_work, now = 0.0, 7.0
    for piece in range(100):
        took = 0.001 * (1 + piece % 5)
        pace.note(now, now + took, MIB, beside_others=True)
        at_work += took
        now += took
        now += pace.wait_seconds(now)
    assert at_work / (now - 7.0) == pytest.approx(1 / SHARE_MIN)


def test_the_rate_holds_beside_others_too_and_no_rest_is_endless() -> None:
    pace = BackgroundReading(MIB)
    pace.note(0.0, 0.001, MIB, beside_others=True)
    assert pace.wait_seconds(0.001) == pytest.approx(0.999)
    pace = BackgroundReading(1 << 40)
    pace.note(0.0, 100.0, MIB, beside_others=True)
    assert pace.wait_seconds(100.0) == REST_SECONDS_MAX


def held_pages(file: SystemFile, pages: int) -> list[bool]:
    return [
        file.try_read(page * PAGE_BYTES, PAGE_BYTES) is not None
        for page in range(pages)
    ]


def test_what_is_read_once_is_right_and_memory_keeps_what_it_held(
    tmp_path: Path,
) -> None:
    path, pages = tmp_path / "device", 64
    content = os.urandom(pages * PAGE_BYTES - 512)
    path.write_bytes(content)
    file = SystemFiles().open(str(path), scattered=True)
    try:
        file.datasync()
        file.drop_cache()
        # Whether memory lets go of it again is up to the system, which need not.
        assert bytes(file.read_once(0, len(content))) == content
        assert bytes(file.read_once(513, 1000)) == content[513:1513]
        assert file.read(0, len(content)) == content
        held = held_pages(file, pages - 1)
        file.read_once(0, len(content))
        assert held_pages(file, pages - 1) == held
    finally:
        file.close()
