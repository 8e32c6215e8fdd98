"""Power cuts and kills at every write and flush of a takeover, and of what follows."""

from __future__ import annotations

import pytest

from common.errors import FarshoreError
from tests.support.crash.campaign import COMPONENTS, Campaign
from tests.support.crash.exploration import ViolationError
from tests.support.remote_store_explorer import RemoteExploration
from tests.support.takeover_explorer import TakeoverExploration


@pytest.mark.every_core
@pytest.mark.timeout(600)
def test_every_crash_image_ends_at_the_point_that_was_chosen(
    campaign: Campaign,
) -> None:
    campaign.run(["takeover"])
    found = campaign.components["takeover"]
    assert not found.problems, "\n".join(found.problems)
    assert found.distinct >= COMPONENTS["takeover"].images_min


@pytest.mark.parametrize(
    "path", ["/state/orders/store", ".img", ".journal", ".changed", "/group.record.new"]
)
def test_leaving_out_the_flushes_of_one_file_is_found(path: str) -> None:
    """The explorer can fail: each flush of a takeover is needed, and it can tell."""

    def lie(explorer: RemoteExploration, _operation: str, found: str) -> bool:
        assert isinstance(explorer, TakeoverExploration)
        return explorer.is_received and found.endswith(path)

    for seed in range(40):
        try:
            TakeoverExploration(seed, images_per_step=4, lie=lie).run()
        except (ViolationError, FarshoreError):
            return
    pytest.fail(f"nothing went wrong although {path} is never flushed")
