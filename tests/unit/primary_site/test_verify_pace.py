"""What ends a verify that waits for its rate: at a low one that is most of its time.

In virtual time, with the product's group and verify; nobody is asked, for there is no
link.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from common.service.clock import SystemClock
from primary_site.alarms import Alarms
from primary_site.group_cycles import GroupCycles
from primary_site.tickets import CutTickets
from primary_site.verification import Verification, VerifyEndedError
from primary_site.verify_plan import PIECE_BYTES_MAX
from tests.support.primary_host_site import SIZE, Site
from tests.support.virtual_time import InlineThreads, VirtualLoop, in_virtual_time

RATE = 64 << 10
PIECE_SECONDS = PIECE_BYTES_MAX / RATE
"""A quarter of a minute."""


class LoopClock(SystemClock):
    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


async def verifying(site: Site) -> tuple[Verification, asyncio.Task[None]]:
    """Return a verify, at a low rate, of a volume that has data all over."""
    clock = LoopClock()
    await site.open()
    await site.write(0, random.Random(1).randbytes(SIZE))
    await site.group.make_cut(None)
    await site.group.settle_cut()
    cycles = GroupCycles(site.group, CutTickets(), Alarms(clock), clock)
    verification = Verification(site.group, cycles, lambda: None, RATE, clock)
    return verification, asyncio.create_task(verification.run())


def test_a_suspension_ends_it_though_a_piece_is_waited_for(tmp_path: Path) -> None:
    async def test(loop: VirtualLoop) -> None:
        site = Site(tmp_path, InlineThreads)
        verification, running = await verifying(site)
        await asyncio.sleep(PIECE_SECONDS / 4)
        await site.group.update(suspended=True)
        verification.look_again()
        asked = loop.time()
        with pytest.raises(VerifyEndedError, match="suspended"):
            await running
        assert loop.time() == asked, "no time passes"
        site.group.abandon_cycle()
        await site.close()

    in_virtual_time(test)


def test_it_looks_by_itself_every_second(tmp_path: Path) -> None:
    async def test(loop: VirtualLoop) -> None:
        site = Site(tmp_path, InlineThreads)
        _, running = await verifying(site)
        await asyncio.sleep(PIECE_SECONDS / 4)
        asked = loop.time()
        await site.group.update(suspended=True)
        with pytest.raises(VerifyEndedError):
            await running
        assert loop.time() - asked <= 1.0
        site.group.abandon_cycle()
        await site.close()

    in_virtual_time(test)


def test_its_rate_is_kept(tmp_path: Path) -> None:
    async def test(loop: VirtualLoop) -> None:
        site = Site(tmp_path, InlineThreads)
        began = loop.time()
        verification, running = await verifying(site)
        while verification._todo or verification._reading:
            await asyncio.sleep(0.1)
        pieces = SIZE // PIECE_BYTES_MAX
        took = loop.time() - began
        assert (pieces - 1) * PIECE_SECONDS <= took <= pieces * PIECE_SECONDS
        running.cancel()
        await asyncio.wait([running])
        site.group.abandon_cycle()
        await site.close()

    in_virtual_time(test)
