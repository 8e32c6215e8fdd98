from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ProtocolError
from common.replication.cycle_messages import (
    COVERED_BYTES_MAX,
    Abandon,
    CycleBegin,
    CycleEnd,
    Hashes,
    Tracks,
)
from remote_site.receiver import (
    AHEAD_MAX,
    TRANSITIONS,
    WINDOW_BYTES,
    Applied,
    Begun,
    CycleState,
    Event,
    Receiver,
    Sequences,
    VolumeShape,
    ranges,
)

EPOCH = 5
A, B, OLD = b"a" * 16, b"b" * 16, b"o" * 16
BEGIN = CycleBegin(EPOCH, 8, A, 1, None)


def receiver() -> Receiver:
    shapes = [VolumeShape(1 << 30, 4096), VolumeShape((1 << 20) + 512, 1 << 20)]
    return Receiver(EPOCH, shapes, 7, OLD)


def opened() -> Receiver:
    machine = receiver()
    assert machine.begin(BEGIN) is Begun.OPENED
    return machine


def frame(sequence: int, raw_bytes: int = 100, checksum: int = 1) -> Tracks:
    return Tracks(EPOCH, A, sequence, 0, raw_bytes, b"", checksum)


def hashes(first: int, count: int, volume: int = 0) -> Hashes:
    return Hashes(EPOCH, A, 0, volume, first, count, bytes(16 * count), 1)


def flush(machine: Receiver) -> tuple[tuple[int, int], ...]:
    applied = machine.take_applied()
    assert applied is not None
    assert machine.flushed(applied)
    return applied.sequences


def test_a_cycle_runs_from_begin_to_commit() -> None:
    machine = opened()
    for sequence in (0, 2, 1):
        message = frame(sequence, checksum=1 << sequence)
        assert machine.take(message)
        machine.applied(message)
    assert machine.end(CycleEnd(EPOCH, A, 3, 0b111))
    assert not machine.is_complete, "nothing is durable yet"
    assert flush(machine) == ((0, 2),)
    assert machine.is_complete
    assert machine.start_commit() == BEGIN
    assert not machine.is_complete
    machine.committed()
    assert (machine.committed_number, machine.committed_cycle_id) == (8, A)
    assert machine.state is CycleState.NONE
    assert machine.begin(replace(BEGIN, cycle_number=9, cycle_id=B)) is Begun.OPENED


def test_the_end_may_overtake_frames_of_other_links() -> None:
    machine = opened()
    machine.take(frame(0, checksum=4))
    machine.end(CycleEnd(EPOCH, A, 2, 4 ^ 9))
    machine.applied(frame(0))
    flush(machine)
    assert not machine.is_complete
    machine.take(frame(1, checksum=9))
    machine.applied(frame(1))
    assert not machine.is_complete
    flush(machine)
    assert machine.is_complete


def test_a_cycle_whose_tracks_were_all_acked_before_needs_no_frame() -> None:
    machine = opened()
    machine.end(CycleEnd(EPOCH, A, 0, 0))
    assert machine.is_complete


def test_only_what_was_applied_before_the_flush_is_acknowledged() -> None:
    machine = opened()
    for sequence in range(3):
        machine.take(frame(sequence))
    machine.applied(frame(0))
    first = machine.take_applied()
    machine.applied(frame(1))
    assert first is not None
    assert first.sequences == ((0, 0),)
    assert machine.flushed(first)
    assert flush(machine) == ((1, 1),)
    assert machine.take_applied() is None


def test_a_wrong_digest_never_commits() -> None:
    machine = opened()
    machine.take(frame(0, checksum=4))
    with pytest.raises(ProtocolError, match="not those that were sent"):
        machine.end(CycleEnd(EPOCH, A, 1, 5))
    assert not machine.is_complete
    machine = opened()
    machine.end(CycleEnd(EPOCH, A, 1, 5))
    with pytest.raises(ProtocolError, match="not those that were sent"):
        machine.take(frame(0, checksum=4))
    assert not machine.is_complete


def test_more_frames_than_counted_are_refused() -> None:
    machine = opened()
    machine.take(frame(0))
    machine.take(frame(1))
    with pytest.raises(ProtocolError, match="more frames"):
        machine.end(CycleEnd(EPOCH, A, 1, 0))


@pytest.mark.parametrize(
    "message",
    [
        replace(frame(0), epoch=EPOCH - 1),
        replace(frame(0), epoch=EPOCH + 1),
        replace(frame(0), cycle_id=B),
        replace(frame(0), cycle_id=OLD),
    ],
)
def test_frames_of_another_session_or_cycle_are_dropped(message: Tracks) -> None:
    machine = opened()
    assert not machine.take(message)
    assert machine.received.count == 0
    machine.applied(message)
    assert machine.take_applied() is None
    assert machine.take_credit() == 0


def test_control_of_another_session_or_cycle_is_dropped() -> None:
    machine = opened()
    assert not machine.end(CycleEnd(EPOCH - 1, A, 0, 0))
    assert not machine.end(CycleEnd(EPOCH, B, 0, 0))
    assert not machine.abandon(Abandon(EPOCH, B))
    assert not machine.abandon(Abandon(EPOCH - 1, A))
    stale = replace(BEGIN, epoch=EPOCH - 1, cycle_id=B)
    assert machine.begin(stale) is Begun.DROPPED
    assert machine.state is CycleState.RECEIVING


def test_a_closed_machine_takes_nothing_more() -> None:
    machine = opened()
    machine.take(frame(0))
    machine.applied(frame(0))
    applied = machine.take_applied()
    machine.close()
    assert not machine.take(frame(1))
    assert not machine.end(CycleEnd(EPOCH, A, 1, 1))
    assert machine.begin(replace(BEGIN, cycle_id=B)) is Begun.DROPPED
    assert applied is not None
    assert not machine.flushed(applied), "acknowledged after the end of its session"


def test_what_was_abandoned_is_neither_acknowledged_nor_counted() -> None:
    machine = opened()
    machine.take(frame(0))
    machine.applied(frame(0))
    applied = machine.take_applied()
    assert applied is not None
    assert machine.abandon(Abandon(EPOCH, A))
    machine.begin(replace(BEGIN, cycle_number=9, cycle_id=B))
    assert not machine.flushed(applied)
    assert machine.durable_count == 0
    assert machine.credit_bytes == WINDOW_BYTES


def test_a_committed_cycle_that_is_begun_again_is_already_committed() -> None:
    assert (
        receiver().begin(CycleBegin(EPOCH, 7, OLD, 1, None)) is Begun.ALREADY_COMMITTED
    )
    with pytest.raises(ProtocolError, match="has the id of the committed 7"):
        receiver().begin(CycleBegin(EPOCH, 8, OLD, 1, None))


@pytest.mark.parametrize("number", [0, 6, 7])
def test_a_cycle_that_is_not_newer_than_the_committed_is_refused(number: int) -> None:
    with pytest.raises(ProtocolError, match="not newer than the committed 7"):
        receiver().begin(replace(BEGIN, cycle_number=number))


def test_a_cycle_is_begun_once_a_session() -> None:
    with pytest.raises(ProtocolError, match="twice"):
        opened().begin(BEGIN)


def test_another_cycle_takes_the_place_of_one_that_is_received() -> None:
    machine = opened()
    machine.take(frame(0))
    assert machine.begin(replace(BEGIN, cycle_number=9, cycle_id=B)) is Begun.OPENED
    assert not machine.take(frame(1))
    assert machine.received.count == 0


def test_a_frame_beyond_its_credit_is_refused() -> None:
    machine = opened()
    most = 4 << 20
    for sequence in range(WINDOW_BYTES // most):
        assert machine.take(frame(sequence, most))
    with pytest.raises(ProtocolError, match="exceeds the credit"):
        machine.take(frame(4, 1))


def test_credit_comes_back_once_a_frame_is_durable() -> None:
    machine = opened()
    machine.take(frame(0, 5000))
    machine.applied(frame(0, 5000))
    assert machine.take_credit() == 0
    applied = machine.take_applied()
    assert applied is not None
    assert machine.take_credit() == 0
    assert machine.flushed(applied)
    assert machine.take_credit() == 5000
    assert machine.take_credit() == 0
    assert machine.credit_bytes == WINDOW_BYTES


@given(st.data())
def test_what_is_sent_and_not_durable_never_exceeds_the_window(
    data: st.DataObject,
) -> None:
    """What a link lost at any moment has the sender send again."""
    machine = opened()
    credit, costs, durable = WINDOW_BYTES, list[int](), 0
    arrived = applied_count = 0
    taken: list[Applied] = []
    for _ in range(data.draw(st.integers(1, 60))):
        match data.draw(st.sampled_from(["send", "apply", "take", "flush"])):
            case "send":
                cost = data.draw(st.integers(1, 4 << 20))
                if cost <= credit:
                    credit -= cost
                    costs.append(cost)
                    assert machine.take(frame(arrived, cost))
                    arrived += 1
            case "apply" if applied_count < arrived:
                machine.applied(frame(applied_count, costs[applied_count]))
                applied_count += 1
            case "take" if (some := machine.take_applied()) is not None:
                taken.append(some)
            case "flush" if taken:
                some = taken.pop(0)
                assert machine.flushed(some)
                durable += sum(sum(costs[a : b + 1]) for a, b in some.sequences)
        credit += machine.take_credit()
        assert sum(costs) - durable + credit == WINDOW_BYTES


def test_a_frame_that_comes_twice_is_refused() -> None:
    for again in (0, 2):
        machine = opened()
        machine.take(frame(0))
        machine.take(frame(2))
        with pytest.raises(ProtocolError, match=f"frame {again} came twice"):
            machine.take(frame(again))


def test_a_volume_that_is_none_is_refused() -> None:
    with pytest.raises(ProtocolError, match="none such"):
        opened().take(replace(frame(0), volume=2))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (hashes((1 << 30) // 4096, 1), "beyond the volume's end"),
        (hashes((1 << 30) // 4096 - 1, 2), "beyond the volume's end"),
        (hashes(2, 1, volume=1), "beyond the volume's end"),
        (hashes(0, COVERED_BYTES_MAX // 4096 + 1), "covers too much"),
    ],
)
def test_hashes_of_what_is_not_there_are_refused(message: Hashes, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        opened().take(message)
    assert opened().take(hashes((1 << 30) // 4096 - 1, 1))


def drive(machine: Receiver, event: Event) -> None:
    """Let an event of the present cycle happen."""
    digest = machine.digest
    count = machine.received.count
    steps: dict[Event, Callable[[], object]] = {
        Event.BEGIN: lambda: machine.begin(replace(BEGIN, cycle_number=9, cycle_id=B)),
        Event.FRAME: lambda: machine.take(frame(count)),
        Event.END: lambda: machine.end(CycleEnd(EPOCH, A, count, digest)),
        Event.ABANDON: lambda: machine.abandon(Abandon(EPOCH, A)),
        Event.COMPLETE: machine.start_commit,
        Event.STORED: machine.committed,
    }
    steps[event]()


def in_state(state: CycleState) -> Receiver:
    machine = receiver() if state is CycleState.NONE else opened()
    if state in {CycleState.ENDING, CycleState.COMMITTING}:
        machine.end(CycleEnd(EPOCH, A, 0, 0))
    if state is CycleState.COMMITTING:
        machine.start_commit()
    assert machine.state is state
    return machine


@pytest.mark.parametrize("state", CycleState)
@pytest.mark.parametrize("event", [Event.BEGIN, Event.FRAME, Event.END, Event.ABANDON])
def test_what_a_peer_can_cause_is_in_the_table(state: CycleState, event: Event) -> None:
    machine = in_state(state)
    after = TRANSITIONS[state].get(event)
    if state is CycleState.NONE and event is not Event.BEGIN:
        drive(machine, event)
        assert machine.state is CycleState.NONE, "dropped: its cycle is gone"
    elif after is None:
        with pytest.raises(ProtocolError):
            drive(machine, event)
        assert machine.state is state
    elif state is CycleState.ENDING and event is Event.FRAME:
        with pytest.raises(ProtocolError, match="more frames"):
            drive(machine, event)
    else:
        drive(machine, event)
        assert machine.state is after


def test_the_shell_may_not_commit_what_is_not_complete() -> None:
    for state in (CycleState.NONE, CycleState.RECEIVING, CycleState.COMMITTING):
        with pytest.raises(AssertionError):
            drive(in_state(state), Event.COMPLETE)


def test_sequences_that_run_ahead_are_bounded() -> None:
    found = Sequences()
    found.add(AHEAD_MAX)
    with pytest.raises(ProtocolError, match="long before 0"):
        found.add(AHEAD_MAX + 1)


def test_ranges_hold_exactly_the_numbers() -> None:
    assert ranges([]) == ()
    assert ranges([5, 1, 2, 9, 3]) == ((1, 3), (5, 5), (9, 9))


def test_a_cycle_that_was_abandoned_is_not_begun_again_in_its_session() -> None:
    machine = opened()
    machine.abandon(Abandon(EPOCH, A))
    for again in (
        BEGIN,
        replace(BEGIN, cycle_number=BEGIN.cycle_number + 1),
        replace(BEGIN, cycle_id=B),
    ):
        with pytest.raises(ProtocolError, match="twice"):
            machine.begin(again)


def test_what_is_flushed_for_one_cycle_does_not_count_for_another_of_its_id() -> None:
    """A sender that uses an id again harms nothing but its own data."""
    machine = opened()
    taken = frame(0)
    machine.take(taken)
    machine.applied(taken)
    flushing = machine.take_applied()
    assert flushing is not None
    number = BEGIN.cycle_number
    machine.begin(replace(BEGIN, cycle_number=number + 1, cycle_id=B))
    machine.begin(replace(BEGIN, cycle_number=number + 2))
    assert not machine.flushed(flushing)
    assert machine.durable_count == 0


def test_frames_with_a_gap_in_their_numbers_are_not_all_of_them() -> None:
    machine = opened()
    for number in (0, 2):
        machine.take(frame(number))
    with pytest.raises(ProtocolError, match="not those that were sent"):
        machine.end(CycleEnd(EPOCH, A, 2, machine.digest))
