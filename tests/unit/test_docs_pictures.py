"""The drawings of the pages: small, readable in light and dark, of nothing but text."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PICTURES = sorted((DOCS / "pictures").glob("*.svg"))
PICTURE_BYTES_MAX = 16 << 10


def test_every_picture_is_on_a_page() -> None:
    text = "".join(page.read_text() for page in DOCS.rglob("*.md"))
    shown = set(re.findall(r"!\[[^\]]{20,}\]\((?:\.\./)?pictures/([\w.]+)\)", text))
    assert shown == {picture.name for picture in PICTURES}
    assert shown


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_a_picture_says_what_it_shows_in_light_and_dark(picture: Path) -> None:
    text = picture.read_text()
    assert len(text) <= PICTURE_BYTES_MAX
    root = ET.fromstring(text)
    assert root.get("aria-label")
    assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
    assert "@media(prefers-color-scheme:dark)" in text
    assert re.findall(r"(?:href|src)=|url\((?!#)|@import|<script", text) == []
