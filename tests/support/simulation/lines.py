"""What hosts were promised of each line of data, and where it may be served.

A lineage is one line: from the moment at which a site begins to send it. One that was
agreed upon, in a switchover, goes on with all that hosts of the line before were
promised; one that an operator forced begins with a point.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Any

from common.ports import HostRequest
from primary_site.group import ConsistencyGroup
from primary_site.volume import WRITES
from tests.support.simulation.circle_sites import CircleSite
from tests.support.simulation.hosts import Hosts
from tests.support.simulation.loop import World
from tests.support.simulation.model import Flush, HostWrite, VolumeModel

REQUESTS = 40
"""Of the hosts of one line, until trouble ends."""


class Place:
    """Where hosts are: a site, and the loop that takes their requests there."""

    def __init__(self, site: CircleSite) -> None:
        self.site = site

    @property
    def loop(self) -> Any:
        return self.site.host_loop

    @property
    def machine(self) -> Any:
        return self.site.machine

    @property
    def thawed_at(self) -> float:
        return self.site.thawed_at


class LineHosts(Hosts):
    """Hosts of one line; a write that was refused never was."""

    def __init__(self, world: World, line: Line, sizes: dict[str, int]) -> None:
        place: Any = Place(line.site)
        super().__init__(world, place, sizes, REQUESTS)
        self.excuses = (*self.excuses, "/journal")
        self.think_seconds = world.rng.choice((0.005, 0.05, 0.3))
        self._line = line

    def _submit(self, life: int, name: str, request: HostRequest, then: Any) -> None:
        group = self._group
        assert group is not None
        is_superseded = group.state.superseded is not None

        def judged(done: HostRequest) -> None:
            stays_so = is_superseded and group.state.superseded is not None
            if not done.error and stays_so and done.command in WRITES:
                self.world.problem(
                    f"I8: {name}: a write is taken by a site that was taken over from"
                )
            then(done)

        super()._submit(life, name, request, judged)

    def _wrote(self, model: VolumeModel, write: HostWrite, done: HostRequest) -> None:
        if done.error == errno.EPERM:
            model.refused(write)
            self.world.note(f"{model.name} {write.first}+{write.count} refused")
            return
        if not done.error and self._line.is_handed_over:
            self.world.problem(
                f"I8: {model.name}: a write is answered after the line was handed over"
            )
        super()._wrote(model, write, done)


@dataclass(slots=True)
class Line:
    """A lineage that `site`, and no other, has sent.

    It has another one from the moment at which an operator has its site, superseded,
    go on from its own data: for its hosts nothing has changed.
    """

    lineage: bytes
    site: CircleSite
    hosts: LineHosts = field(init=False)
    is_handed_over: bool = False
    """Another site serves its successor, by agreement."""
    destaged: dict[tuple[int, str], Flush] = field(default_factory=dict)

    def begin(self, world: World, group: ConsistencyGroup) -> None:
        sizes = {volume.name: volume.size_bytes for volume in group.volumes}
        self.hosts = LineHosts(world, self, sizes)
