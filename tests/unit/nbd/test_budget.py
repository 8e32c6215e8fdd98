"""Bytes that many connections share: never too many, never lost, first come first."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from common.nbd.budget import OWN_BYTES_MAX, BudgetShare, MemoryBudget, Pool, Ticket
from common.nbd.server import NbdLimits
from tests.support.memory_volume import MemoryVolume
from tests.support.nbd_server import PATIENCE_SECONDS, serving, until

KIB = 1 << 10
MIB = 1 << 20


class TestPool:
    def test_what_fits_is_granted_at_once(self) -> None:
        pool = Pool(100)
        assert pool.take(60) is None
        assert pool.take(40) is None
        assert pool.held_bytes == 100
        assert pool.take(1) is not None

    def test_nobody_passes_one_who_waits_however_small(self) -> None:
        pool = Pool(100)
        pool.take(60)
        large, small = pool.take(80), pool.take(1)
        assert isinstance(large, Ticket)
        assert isinstance(small, Ticket)
        assert pool.held_bytes == 60
        assert pool.give_back(30) == []
        assert pool.give_back(11) == [large, small]
        assert pool.held_bytes == 19 + 80 + 1

    def test_one_that_leaves_lets_those_behind_it_in(self) -> None:
        pool = Pool(100)
        pool.take(60)
        large, small = pool.take(80), pool.take(40)
        assert large is not None
        assert pool.withdraw(large) == [small]
        assert pool.held_bytes == 100
        assert pool.waiting_count == 0

    def test_more_than_there_is_is_granted_alone(self) -> None:
        pool = Pool(100)
        pool.take(1)
        huge = pool.take(500)
        assert isinstance(huge, Ticket)
        after = pool.take(1)
        assert pool.give_back(1) == [huge]
        assert pool.held_bytes == 500
        assert pool.give_back(500) == [after]

    def test_more_cannot_come_back_than_went_out(self) -> None:
        pool = Pool(100)
        pool.take(10)
        with pytest.raises(AssertionError):
            pool.give_back(11)


class PoolMachine(RuleBasedStateMachine):
    """Any order of taking, waiting, leaving and giving back."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(100)
        self.held: list[int] = []
        self.queue: list[Ticket] = []

    @rule(length=st.integers(1, 130))
    def take(self, length: int) -> None:
        fits = not self.held or sum(self.held) + length <= 100
        ticket = self.pool.take(length)
        assert (ticket is None) == (fits and not self.queue)
        if ticket is None:
            self.held.append(length)
        else:
            self.queue.append(ticket)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        length = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.grant(self.pool.give_back(length))

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = self.queue.pop(data.draw(st.integers(0, len(self.queue) - 1)))
        self.grant(self.pool.withdraw(ticket))

    def grant(self, tickets: list[Ticket]) -> None:
        assert tickets == self.queue[: len(tickets)]
        del self.queue[: len(tickets)]
        self.held += [ticket.length_bytes for ticket in tickets]

    @invariant()
    def holds_what_is_out_and_no_more(self) -> None:
        assert self.pool.held_bytes == sum(self.held)
        assert sum(self.held) <= 100 or len(self.held) == 1

    @invariant()
    def nobody_waits_without_need(self) -> None:
        assert self.pool.waiting_count == len(self.queue)
        if self.queue:
            assert self.held
            assert sum(self.held) + self.queue[0].length_bytes > 100


PoolMachine.TestCase.settings = settings(max_examples=100, deadline=None)
TestPoolInAnyOrder = PoolMachine.TestCase


def nothing() -> None:
    raise AssertionError("nothing was waited for")


class TestShares:
    async def test_little_is_always_there_and_does_not_touch_the_pool(self) -> None:
        loop = asyncio.get_running_loop()
        budget = MemoryBudget(512 * MIB, 100)
        assert budget.own_bytes_max == OWN_BYTES_MAX
        hogs = [budget.share(loop, nothing) for _ in range(3)]
        for hog in hogs[:2]:
            assert hog.take(240 * MIB)
        assert not hogs[2].take(240 * MIB)
        host = budget.share(loop, nothing)
        assert host.take(128 * KIB)
        assert host.take(128 * KIB)
        host.give_back(256 * KIB)
        for share in [*hogs, host]:
            share.close()
        assert budget.pool_held_bytes == budget.waiting_count == 0

    async def test_all_together_stays_below_the_bound(self) -> None:
        loop = asyncio.get_running_loop()
        budget = MemoryBudget(8 * MIB, 100)
        shares = [budget.share(loop, nothing) for _ in range(100)]
        taken = 0
        for share in shares:
            while share.take(4 * KIB):
                taken += 4 * KIB
        assert 7 * MIB < taken <= 8 * MIB
        for share in shares:
            share.close()
        assert budget.pool_held_bytes == budget.waiting_count == 0

    async def test_one_that_waited_holds_it_when_told(self) -> None:
        loop = asyncio.get_running_loop()
        told: list[int] = []
        budget = MemoryBudget(8 * MIB, 1)
        first = budget.share(loop, nothing)
        second = budget.share(loop, lambda: told.append(budget.pool_held_bytes))
        assert first.take(6 * MIB)
        assert not second.take(5 * MIB)
        assert second.is_waiting
        first.give_back(6 * MIB)
        assert told == []
        await until(lambda: told == [5 * MIB])
        assert not second.is_waiting
        second.give_back(5 * MIB)
        assert budget.pool_held_bytes == 0

    async def test_its_own_completions_serve_one_that_waits_behind_hogs(self) -> None:
        loop = asyncio.get_running_loop()
        told: list[str] = []
        budget = MemoryBudget(8 * MIB, 4)
        hog = budget.share(loop, nothing)
        host = budget.share(loop, lambda: told.append("host"))
        assert hog.take(7 * MIB)
        assert host.take(200 * KIB)
        assert not host.take(100 * KIB)
        host.give_back(200 * KIB)
        assert told == ["host"]
        assert budget.waiting_count == 0
        assert budget.pool_held_bytes == 7 * MIB
        host.give_back(100 * KIB)
        assert host.take(budget.own_bytes_max)

    async def test_pieces_come_back_in_other_sizes(self) -> None:
        budget = MemoryBudget(8 * MIB, 4)
        share = budget.share(asyncio.get_running_loop(), nothing)
        for length in [100 * KIB, MIB, 100 * KIB, 3 * MIB]:
            assert share.take(length)
        for _ in range(200 + 4 * 1024):
            share.give_back(KIB)
        assert budget.pool_held_bytes == 0
        with pytest.raises(AssertionError):
            share.give_back(1)

    async def test_one_that_leaves_while_waiting_leaves_no_trace(self) -> None:
        loop = asyncio.get_running_loop()
        told: list[str] = []
        budget = MemoryBudget(8 * MIB, 1)
        first = budget.share(loop, nothing)
        leaver = budget.share(loop, nothing)
        behind = budget.share(loop, lambda: told.append("behind"))
        assert first.take(4 * MIB)
        assert not leaver.take(7 * MIB)
        assert not behind.take(3 * MIB)
        leaver.close()
        assert not leaver.is_waiting
        await until(lambda: told == ["behind"])
        first.give_back(4 * MIB)
        behind.give_back(3 * MIB)
        assert budget.pool_held_bytes == budget.waiting_count == 0

    async def test_one_that_stops_waiting_keeps_what_it_holds_and_its_place_is_free(
        self,
    ) -> None:
        loop = asyncio.get_running_loop()
        told: list[str] = []
        budget = MemoryBudget(8 * MIB, 1)
        gone = budget.share(loop, lambda: told.append("gone"))
        behind = budget.share(loop, lambda: told.append("behind"))
        assert gone.take(4 * MIB)
        assert not gone.take(7 * MIB)
        assert not behind.take(3 * MIB)
        gone.stop_waiting()
        assert not gone.is_waiting
        await until(lambda: told == ["behind"])
        gone.give_back(4 * MIB)  # its requests end at last
        assert budget.pool_held_bytes == 3 * MIB
        gone.close()
        behind.close()
        assert budget.pool_held_bytes == budget.waiting_count == 0

    async def test_one_that_leaves_before_it_is_told_gives_its_grant_back(self) -> None:
        loop = asyncio.get_running_loop()
        told: list[str] = []
        budget = MemoryBudget(8 * MIB, 1)
        first = budget.share(loop, nothing)
        leaver = budget.share(loop, lambda: told.append("leaver"))
        assert first.take(6 * MIB)
        assert not leaver.take(5 * MIB)
        first.give_back(6 * MIB)
        assert budget.pool_held_bytes == 5 * MIB
        leaver.close()
        assert budget.pool_held_bytes == 0
        await asyncio.sleep(0)
        assert budget.pool_held_bytes == 0
        assert told == []

    async def test_a_share_waits_for_one_thing_at_a_time(self) -> None:
        loop = asyncio.get_running_loop()
        budget = MemoryBudget(8 * MIB, 1)
        first, second = budget.share(loop, nothing), budget.share(loop, nothing)
        assert first.take(6 * MIB)
        assert not second.take(5 * MIB)
        with pytest.raises(AssertionError):
            second.take(1)


@pytest.fixture
def other_loops() -> Iterator[list[asyncio.AbstractEventLoop]]:
    """Three event loops, each in a thread of its own; threads change often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    loops = [asyncio.new_event_loop() for _ in range(3)]
    threads = [threading.Thread(target=loop.run_forever) for loop in loops]
    for thread in threads:
        thread.start()
    yield loops
    for loop, thread in zip(loops, threads, strict=True):
        if not loop.is_closed():
            loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_SECONDS)
        loop.close()
    sys.setswitchinterval(before)


class LockedPool(Pool):
    """Complains if it is used by one who does not hold the budget's lock."""

    def __init__(self, bytes_max: int, budget: MemoryBudget) -> None:
        super().__init__(bytes_max)
        self.calls = 0
        self._lock = budget._lock

    def take(self, length_bytes: int) -> Ticket | None:
        self._note()
        return super().take(length_bytes)

    def give_back(self, length_bytes: int) -> list[Ticket]:
        self._note()
        return super().give_back(length_bytes)

    def withdraw(self, ticket: Ticket) -> list[Ticket]:
        self._note()
        return super().withdraw(ticket)

    def _note(self) -> None:
        assert self._lock.locked()
        self.calls += 1


class TestThreads:
    def test_one_that_waits_is_told_on_its_own_loop(
        self, other_loops: list[asyncio.AbstractEventLoop]
    ) -> None:
        budget = MemoryBudget(8 * MIB, 1)
        told: Future[int] = Future()
        first = budget.share(other_loops[0], nothing)
        second = budget.share(
            other_loops[1], lambda: told.set_result(threading.get_ident())
        )

        async def take(share: BudgetShare, length: int) -> tuple[bool, int]:
            return share.take(length), threading.get_ident()

        def run(n: int, share: BudgetShare, length: int) -> tuple[bool, int]:
            coroutine = take(share, length)
            future = asyncio.run_coroutine_threadsafe(coroutine, other_loops[n])
            return future.result(PATIENCE_SECONDS)

        assert run(0, first, 6 * MIB)[0]
        granted, thread = run(1, second, 6 * MIB)
        assert not granted
        other_loops[0].call_soon_threadsafe(first.give_back, 6 * MIB)
        assert told.result(PATIENCE_SECONDS) == thread

    async def test_the_pool_is_never_touched_without_the_lock(self) -> None:
        # A race in here would show once in a million: ask for the lock itself.
        budget = MemoryBudget(8 * MIB, 1)
        pool = LockedPool(4 * MIB, budget)
        budget._pool = pool
        loop = asyncio.get_running_loop()
        told: list[int] = []
        first = budget.share(loop, nothing)
        shares = [budget.share(loop, lambda: told.append(1)) for _ in range(3)]
        assert first.take(4 * MIB)
        for share in shares:
            assert not share.take(3 * MIB)
        shares[1].close()
        first.give_back(4 * MIB)
        await until(lambda: told == [1])
        shares[2].close()
        shares[0].close()
        assert pool.calls == 8

    def test_what_was_granted_to_a_closed_loop_comes_back(self) -> None:
        budget = MemoryBudget(8 * MIB, 1)
        dead, living = asyncio.new_event_loop(), asyncio.new_event_loop()
        first = budget.share(living, nothing)
        gone = budget.share(dead, nothing)
        assert first.take(6 * MIB)
        assert not gone.take(5 * MIB)
        dead.close()
        first.give_back(6 * MIB)
        assert budget.pool_held_bytes == 0
        gone.close()
        assert budget.pool_held_bytes == 0
        living.close()

    def test_many_threads_never_hold_too_much_and_lose_nothing(
        self, other_loops: list[asyncio.AbstractEventLoop]
    ) -> None:
        budget = MemoryBudget(MIB, 12)
        worst: list[int] = []

        async def use(seed: int) -> None:
            chance = random.Random(seed)
            resumed = asyncio.Event()
            share = budget.share(asyncio.get_running_loop(), resumed.set)
            held: list[int] = []
            for _ in range(300):
                length = chance.choice([4, 64, 200, 700]) * KIB
                resumed.clear()
                if share.take(length) or await give_until(resumed, share, held):
                    held.append(length)
                    worst.append(budget.pool_held_bytes)
                while held and chance.random() < 0.5:
                    share.give_back(held.pop())
                await asyncio.sleep(0)
            share.close()

        async def give_until(
            resumed: asyncio.Event, share: BudgetShare, held: list[int]
        ) -> bool:
            for length in held:
                share.give_back(length)
            held.clear()
            await asyncio.wait_for(resumed.wait(), PATIENCE_SECONDS)
            return True

        futures = [
            asyncio.run_coroutine_threadsafe(use(n), other_loops[n % 3])
            for n in range(12)
        ]
        for future in futures:
            future.result(3 * PATIENCE_SECONDS)
        assert max(worst) <= MIB - 12 * budget.own_bytes_max
        assert max(worst) > MIB // 2
        assert budget.pool_held_bytes == budget.waiting_count == 0


class TestConnections:
    """A real server, whose budget is smaller than what its clients ask for."""

    SIZE = 2 * MIB
    LIMITS = NbdLimits(daemon_bytes_in_flight_max=MIB, connections_max=4)

    async def test_one_that_asks_for_much_waits_and_one_for_little_does_not(
        self, tmp_path: Path
    ) -> None:
        volume = MemoryVolume(self.SIZE, held=True)
        volume.content[:] = b"x" * self.SIZE
        async with serving(tmp_path, {"g/v": volume}, self.LIMITS) as served:
            budget = served.server.budget
            hog, other = await served.client(), await served.client()
            first = hog.read(0, 700 * KIB)
            await until(lambda: len(volume.waiting) == 1)
            second = other.read(0, 600 * KIB)
            await until(lambda: budget.waiting_count == 1)
            small = await served.client()
            third = small.read(5, 4 * KIB)
            await until(lambda: len(volume.waiting) == 2)
            volume.step(last=True)
            assert await third == b"x" * (4 * KIB)
            assert [request.length for request, _ in volume.waiting] == [700 * KIB]
            volume.step()
            assert len(await first) == 700 * KIB
            await until(lambda: len(volume.waiting) == 1)
            volume.step()
            assert len(await second) == 600 * KIB
            await until(lambda: budget.pool_held_bytes == 0)
            for client in (hog, other, small):
                await client.disconnect()

    async def test_a_long_write_waits_before_its_payload_is_given_memory(
        self, tmp_path: Path
    ) -> None:
        volume = MemoryVolume(4 * MIB, held=True)
        async with serving(tmp_path, {"g/v": volume}, self.LIMITS) as served:
            budget = served.server.budget
            hog, other = await served.client(), await served.client()
            first = hog.read(0, 700 * KIB)
            await until(lambda: len(volume.waiting) == 1)
            write = other.write(0, b"y" * (2 * MIB))
            await until(lambda: budget.waiting_count == 1)
            held_before = budget.pool_held_bytes
            assert held_before == 700 * KIB
            volume.step()
            await first
            # Longer than all there is: alone, once nothing else is out.
            await until(lambda: len(volume.waiting) == 1)
            assert budget.pool_held_bytes == 2 * MIB
            volume.step()
            await write
            assert volume.content[: 2 * MIB] == b"y" * (2 * MIB)
            await until(lambda: budget.pool_held_bytes == 0)
            await hog.disconnect()
            await other.disconnect()

    @pytest.mark.parametrize("is_waiting", [False, True])
    async def test_one_that_dies_gives_all_back(
        self, tmp_path: Path, is_waiting: bool
    ) -> None:
        volume, other = (MemoryVolume(self.SIZE, held=True) for _ in range(2))
        volumes = {"g/v": volume, "g/w": other}
        async with serving(tmp_path, volumes, self.LIMITS) as served:
            budget = served.server.budget
            hog, dying = await served.client(), await served.client("g/w")
            first = hog.read(0, (700 if is_waiting else 4) * KIB)
            await until(lambda: len(volume.waiting) == 1)
            dying.read(0, 600 * KIB)
            await until(
                lambda: budget.waiting_count + len(other.waiting) == 1,
            )
            assert budget.waiting_count == is_waiting
            dying.abort()
            await dying.closed
            volume.step()
            await first
            # A socket that is left unread does not tell that its client is gone.
            while not other.released_count:
                other.step(len(other.waiting))
                await asyncio.sleep(0)
            await until(lambda: budget.pool_held_bytes == 0)
            assert budget.waiting_count == 0
            await hog.disconnect()

    async def test_replies_that_nobody_reads_stay_counted_until_they_are(
        self, tmp_path: Path
    ) -> None:
        async with serving(
            tmp_path, {"g/v": MemoryVolume(self.SIZE)}, self.LIMITS
        ) as served:
            budget = served.server.budget
            reader = await served.client()
            assert reader._transport is not None
            reader._transport.pause_reading()
            first = reader.read(0, 600 * KIB)
            await until(lambda: budget.pool_held_bytes == 600 * KIB)
            second = reader.read(0, 500 * KIB)
            await until(lambda: budget.waiting_count == 1)
            assert budget.pool_held_bytes == 600 * KIB
            reader._transport.resume_reading()
            await asyncio.gather(first, second)
            await until(lambda: budget.pool_held_bytes == 0)
            await reader.disconnect()
