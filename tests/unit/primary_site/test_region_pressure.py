"""More regions wanted at once than may be hot."""

from __future__ import annotations

import asyncio

import pytest

from common.ports import HostCommand
from tests.support.primary_host_site import Site

REGION_BYTES = 8192
HOT_REGIONS_MAX = 16


async def test_more_cold_regions_than_may_be_hot_are_written_at_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """With no region hot there is none to cool, and nothing that would end a wait."""
    site = Site(tmp_path_factory.mktemp("pressure"))
    wanted = 3 * HOT_REGIONS_MAX
    await site.open(
        region_size="8KiB",
        hot_regions_max=HOT_REGIONS_MAX,
        size=f"{wanted * REGION_BYTES}B",
    )
    writes = [
        site.start(HostCommand.WRITE, number * REGION_BYTES, 3, data=b"abc")
        for number in range(wanted)
    ]
    async with asyncio.timeout(30):
        for request in await asyncio.gather(*writes):
            assert request.error == 0
    assert len(site.volume.heat.durable.log.hot) <= HOT_REGIONS_MAX
    await site.close()
