"""What a daemon's command imports, and what it leaves alone."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys

import pytest

from common.service.importing import quickly

SHOW = """
import gc, sys
import {site}.__main__
packages = {{name.partition(".")[0] for name in sys.modules}}
print(sorted(packages & {{"rich", "pygments"}}))
print(gc.isenabled(), gc.get_freeze_count() > 10_000)
import rich.console
"""


@pytest.mark.parametrize("site", ["primary_site", "remote_site"])
def test_a_daemon_imports_nothing_that_draws_on_terminals(site: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", SHOW.format(site=site)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines() == ["[]", "True True"]


def test_the_collector_works_again_whatever_happens() -> None:
    try:
        with contextlib.suppress(ImportError), quickly():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled()
    finally:
        gc.unfreeze()
