"""What a sender does by what its remote says that it has changed itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import ProtocolError
from common.replication.features import EXCHANGE
from common.replication.role_messages import Changed
from common.service.clock import SystemClock
from primary_site.exchange import carry_told_changes
from primary_site.replicator import Replicator
from tests.support.primary_host_site import TRACK, Site


class DividedRemote:
    """A session with a site that gave up, which nothing is common with."""

    features = frozenset({EXCHANGE})

    def __init__(self, site: Site, numbers_up_to: int) -> None:
        relation_id = site.group.state.relation_id
        receiver = SimpleNamespace(relation_id=relation_id)
        self.welcome = SimpleNamespace(receiver=receiver)
        self.lacking: set[int] = set()
        self._tracks = site.group.volumes[0].geometry.track_count
        self._numbers_up_to = numbers_up_to
        self.answer: Changed | None = None

    async def ask_changed(self, volume: int, first: int) -> Changed:
        assert (volume, first) == (0, 0)
        if self.answer is not None:
            return self.answer
        return Changed(1, 0, (), self._tracks, self._numbers_up_to)


async def test_a_cycle_whose_number_the_remote_has_used_begins_anew(
    site: Site,
) -> None:
    """It was begun with an older copy of the remote: no newer one ever takes it."""

    async def connect(address: str) -> Any:
        raise AssertionError(address)

    await site.write(0, b"x" * TRACK)
    cycles = Replicator(site.group, "amsterdam", connect, SystemClock()).cycles
    await cycles._take_cut(None)
    cut = site.group.cut
    assert cut is not None
    earlier: Any = DividedRemote(site, cut.number - 1)
    await carry_told_changes(cycles, earlier)
    assert site.group.cut is cut, "that number is free there"

    newer: Any = DividedRemote(site, cut.number)
    await carry_told_changes(cycles, newer)
    assert site.group.cut is None
    assert site.group.has_changed(), "what it had is in the next one"
    await cycles._take_cut(None)
    assert site.group.cut is not None
    assert site.group.cut.number > cut.number
    site.group.abandon_cycle()


@pytest.mark.parametrize(
    ("volume", "runs", "end"),
    [
        (1, (), 4),
        (0, (), 0),
        (0, (), 1 << 40),
        (0, ((3, 2),), 4),
        (0, ((0, 0),), 4),
        (0, ((2, 1), (1, 1)), 4),
    ],
)
async def test_what_goes_beyond_the_volume_or_back_is_no_answer(
    site: Site, volume: int, runs: tuple[tuple[int, int], ...], end: int
) -> None:
    async def connect(address: str) -> Any:
        raise AssertionError(address)

    remote: Any = DividedRemote(site, 0)
    remote.answer = Changed(1, volume, runs, end, 0)
    cycles = Replicator(site.group, "amsterdam", connect, SystemClock()).cycles
    with pytest.raises(ProtocolError, match="CHANGED"):
        await carry_told_changes(cycles, remote)
