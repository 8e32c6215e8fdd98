"""What tests may need of the machine: markers that skip, or fail in CI."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import settings

# A deadline would judge the machine that the tests share, not the code.
# `make test` looks at the same examples each time; `make hunt` at others.
settings.register_profile("farshore", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile("farshore")

_IS_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def _missing(item: pytest.Item) -> str | None:
    """Say in one sentence what this test lacks here; None if nothing."""
    for marker in item.iter_markers("needs_package"):
        lacking = [name for name in marker.args if shutil.which(name) is None]
        if lacking:
            return f"needs {', '.join(lacking)}, which is not installed"
    if item.get_closest_marker("needs_root") is not None and os.geteuid() != 0:
        return "needs root, for loop devices and mounts"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot run here; in CI everything has to run."""
    reason = _missing(item)
    if reason is None:
        return
    if _IS_CI:
        pytest.fail(f"{reason}; CI must provide it", pytrace=False)
    pytest.skip(reason)
