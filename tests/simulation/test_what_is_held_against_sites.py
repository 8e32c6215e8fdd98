"""The simulation holds against the sites what they have done, and nothing else.

Those of nothing were seeds once: 704126, 707828, 708429 and 709829 the first, 701244
the second, 707090 and 709561 the last. What a seed does has changed since.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog

from common.replication.lineage import Verdict
from primary_site import reconciling, session_opening
from remote_site import admission
from tests.support.simulation.faults import Faults
from tests.support.simulation.knobs import controlled, quiet_logs
from tests.support.simulation.loop import World
from tests.support.simulation.model import SECTOR, VolumeModel
from tests.support.simulation.operators import Operators
from tests.support.simulation.scenario import Simulation

pytestmark = [
    # Of killed processes, found by the garbage collector at any time.
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SEED = 0
"""Its sites cut by themselves, three times a second."""


@contextmanager
def _running() -> Iterator[Simulation]:
    world = World(SEED, keep_trace=True)
    with quiet_logs(world), controlled(world):
        simulation = Simulation(world)
        simulation.hosts.budget = 1000
        simulation.remote.start()
        simulation.primary.start()
        try:
            yield simulation
        finally:
            simulation.close()
            world.close()
            gc.collect()


def _run_for(simulation: Simulation, seconds: float) -> None:
    world = simulation.world
    end = world.now + seconds
    world.after(seconds, lambda: None)
    world.run(lambda: world.now >= end)


def _log_a_bug() -> None:
    try:
        int("no number")
    except ValueError:
        structlog.get_logger().exception("internal_error")


def test_a_bug_that_is_logged_counts_until_the_world_is_over() -> None:
    """What is closed in the middle of anything may say whatever it likes."""
    world = World(SEED)
    with quiet_logs(world):
        _log_a_bug()
        assert [text for text, _ in world.problems] == [
            "at 0.000000 s: a bug was logged: internal_error"
        ]
        world.is_over = True
        _log_a_bug()
    assert len(world.problems) == 1


def test_a_copy_is_judged_once_the_remote_has_made_durable_what_it_was_sent() -> None:
    """Else the remote refuses the copy later, rightly, and nobody puts the newest back.

    A cycle's beginning waits in a thread of the remote, whose disk hangs, while the
    machine of the primary that sent it is put back to before that cycle.
    """
    with _running() as simulation:
        world, oracle, remote = simulation.world, simulation.oracle, simulation.remote
        simulation._tick()
        world.run(lambda: oracle.completed_number > 0)
        simulation.restoring.primary(seconds=1.0)
        assert simulation.restoring._primary is not None
        newest = max(oracle.cuts)
        world.run(lambda: max(oracle.cuts) > newest)
        remote.machine.hang(2.0)
        _run_for(simulation, 0.5)
        simulation.restoring.primary(seconds=1.0)
        _run_for(simulation, 4.0)
        assert simulation.restoring.count == 1
        faults = Faults(simulation, Operators(simulation))
        faults.is_active = False
        simulation._heal(faults)
        world.run(lambda: simulation.is_over)
        assert not world.problems


def test_an_alarm_that_ends_before_anybody_looks_was_said() -> None:
    with _running() as simulation:
        world, alarms, remote = simulation.world, simulation.alarms, simulation.remote
        world.run(lambda: simulation.oracle.completed_number > 0)
        group = remote.group
        assert group is not None
        remote.machine.full.add("/journal")
        world.run(lambda: "out_of_space" in group.alarms)
        remote.machine.full.clear()
        world.run(lambda: "out_of_space" not in group.alarms)
        _run_for(simulation, 30.0)
        alarms.look()
        assert alarms.said == 1
        assert not world.problems


def test_silence_about_a_lack_of_room_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with _running() as simulation:
        world, alarms, remote = simulation.world, simulation.alarms, simulation.remote
        world.run(lambda: simulation.oracle.completed_number > 0)
        assert remote.group is not None
        monkeypatch.setattr(remote.group, "raise_alarm", lambda *_: None)
        remote.machine.full.add("/journal")
        world.run(lambda: alarms._unsaid_since is not None)
        remote.machine.full.clear()
        _run_for(simulation, 30.0)
        alarms.look()
        [(problem, _)] = world.problems
        assert "has not said so" in problem


def test_a_session_of_an_older_state_directory_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the product lets all of them pass: what is older is judged apart."""
    for site in (admission, session_opening, reconciling):
        monkeypatch.setattr(site, "judge", lambda *_: Verdict.GO_ON)
    with _running() as simulation:
        world, oracle = simulation.world, simulation.oracle
        world.run(lambda: oracle.completed_number > 0)
        simulation.restoring.state(seconds=5.0)
        newest = oracle.completed_number
        world.run(lambda: oracle.completed_number > newest)
        simulation.restoring.state(seconds=5.0)
        _run_for(simulation, 5.0)
        [(problem, _), *_] = world.problems
        assert "I7: a session of an older state directory" in problem


def test_what_one_copy_flushed_is_promised_of_no_other() -> None:
    """Both have started as often since one was taken from the other."""
    line = VolumeModel("data", 2 * SECTOR)
    parted = line.copied()
    line.recovered(bytes(2 * SECTOR), lost_power=False)
    flushes = []
    for model, stamp in ((line, 1), (parted, 2)):
        for _ in range(3):
            model.recovered(model.visible[0][0].content(0) * 2, lost_power=False)
            write = model.submitted(stamp, 0, 1)
            model.replied(write, is_sure=True, is_durable=False)
            flushes.append((model, model.flush_submitted()))
    for model in (line, parted):
        for owner, flush in flushes:
            if owner is not model:
                model.flushed(flush)
        assert all(model.durable)
        assert len(model.durable[0]) > 1  # nothing was flushed of this one
