"""Power cuts and kills at every write and flush of a site that gives up what it had."""

from __future__ import annotations

import pytest

from common.errors import FarshoreError
from tests.support.crash.campaign import COMPONENTS, Campaign
from tests.support.crash.exploration import ViolationError
from tests.support.failback_explorer import FailbackExploration
from tests.support.remote_store_explorer import RemoteExploration


@pytest.mark.every_core
@pytest.mark.timeout(600)
def test_every_crash_image_keeps_what_was_given_up(campaign: Campaign) -> None:
    campaign.run(["failback"])
    found = campaign.components["failback"]
    assert not found.problems, "\n".join(found.problems)
    assert found.distinct >= COMPONENTS["failback"].images_min


@pytest.mark.parametrize("path", ["/state/orders/store", ".img", ".journal", ".told"])
def test_leaving_out_the_flushes_of_one_file_is_found(path: str) -> None:
    """The explorer can fail: each flush of a failback is needed, and it can tell."""

    def lie(explorer: RemoteExploration, _operation: str, found: str) -> bool:
        assert isinstance(explorer, FailbackExploration)
        return explorer.is_sent and found.endswith(path)

    for seed in range(40):
        try:
            FailbackExploration(seed, images_per_step=4, lie=lie).run()
        except (ViolationError, FarshoreError):
            return
    pytest.fail(f"nothing went wrong although {path} is never flushed")
