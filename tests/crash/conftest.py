"""One campaign for all tests of this folder: no seed is run twice."""

from __future__ import annotations

import pytest

from tests.support.crash.campaign import Campaign


@pytest.fixture(scope="session")
def campaign() -> Campaign:
    return Campaign()
