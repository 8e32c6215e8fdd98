"""Power cuts and kills at every write and flush of a takeover, and of what follows."""

from __future__ import annotations

import contextlib
import errno

import pytest

from common.errors import FarshoreError
from tests.support.crash.campaign import COMPONENTS, Campaign
from tests.support.crash.disk import CrashDisk
from tests.support.crash.exploration import ViolationError
from tests.support.crash.power import image
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


class _WithAFault(TakeoverExploration):
    """Unwatched; the `number`-th call to the disk of the takeover itself fails."""

    def __init__(self, seed: int, number: int, code: int) -> None:
        self._left, self._code = number, code
        self.calls = 0
        super().__init__(seed)

    def at_step(self, operation: str, path: str) -> None:
        """Nobody looks: the fault alone happens."""

    def watch(self, disk: CrashDisk) -> None:
        super().watch(disk)
        disk.inject = self._inject

    def _inject(self, operation: str, path: str) -> int | None:
        if not self.is_received or self.is_done:
            return None
        self.calls += 1
        self._left -= 1
        return self._code if self._left == 0 else None

    def explore(self) -> None:
        self._receive()
        with contextlib.suppress(FarshoreError):
            self._take_over()
        self.disk.inject = None
        killed = self.disk.after_kill()
        self.recover(killed)
        self.recover(image(killed, [], [], self.rng))  # what was told before is durable
        self.recover(self.some_power_cut())


def _fail_each_call(seeds: range, *codes: int) -> int:
    """Let each call of the takeovers fail, one a run; return how many runs it took."""
    tried = 0
    for seed in seeds:
        sound = _WithAFault(seed, 0, errno.EIO)
        sound.run()
        for number in range(1, sound.calls + 1):
            for code in codes:
                _WithAFault(seed, number, code).run()
                tried += 1
    return tried


def test_a_takeover_that_meets_a_fault_is_finished_by_a_start() -> None:
    assert _fail_each_call(range(4), errno.EIO) > 40


@pytest.mark.hunt
@pytest.mark.timeout(600)
def test_more_takeovers_that_meet_faults_are_finished_by_a_start() -> None:
    assert _fail_each_call(range(12), errno.EIO, errno.ENOSPC) > 300
