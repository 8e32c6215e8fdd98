"""A group of one volume on a real file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.primary_host_site import Site, Stopped


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.open()
    yield site
    for rule in site.files.rules:
        if isinstance(rule, Stopped):
            rule.go()  # or a test that failed would wait for its threads
    site.files.rules.clear()
    await site.close()
