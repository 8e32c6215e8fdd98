"""Hold, quiesce, release."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from primary_site.gate import Gate


def test_an_empty_gate_is_quiet_at_once() -> None:
    gate, quiet = Gate(), []
    gate.hold(lambda: quiet.append(True))
    assert quiet


def test_waiting_writes_are_let_go_in_their_order_and_see_an_open_gate() -> None:
    gate = Gate()
    resumed: list[tuple[int, bool]] = []
    gate.hold(lambda: None)
    for number in range(3):
        gate.wait(lambda n=number: resumed.append((n, gate.held)))
    gate.release()
    assert resumed == [(0, False), (1, False), (2, False)]


def test_a_write_that_meets_a_new_hold_at_the_release_waits_again() -> None:
    gate = Gate()
    entered: list[int] = []

    def enter(number: int) -> None:
        if gate.held:
            gate.wait(lambda: enter(number))
            return
        gate.enter(1)
        entered.append(number)
        if number == 0:
            gate.hold(lambda: None)

    gate.hold(lambda: None)
    enter(0)
    enter(1)
    gate.release()
    assert entered == [0]
    gate.leave(1)
    gate.release()
    assert entered == [0, 1]


def test_a_hold_given_up_is_not_told_later() -> None:
    gate, quiet = Gate(), []
    gate.enter(1)
    gate.hold(lambda: quiet.append(True))
    gate.release()
    gate.leave(1)
    assert not quiet


@given(st.lists(st.sampled_from(("enter", "leave", "hold", "release")), max_size=60))
def test_the_cut_is_told_once_a_hold_and_only_with_nothing_in_flight(
    actions: list[str],
) -> None:
    gate = Gate()
    quiet: list[int] = []
    entered: list[int] = []
    in_flight = holds = 0

    def enter() -> None:
        if gate.held:
            gate.wait(enter)
        else:
            gate.enter(2)
            entered.append(2)

    for action in actions:
        if action == "enter":
            enter()
        elif action == "leave" and gate.in_flight:
            gate.leave(1)
            in_flight -= 1
        elif action == "hold" and not gate.held:
            holds += 1
            gate.hold(lambda: quiet.append(gate.in_flight))
        elif action == "release" and gate.held:
            gate.release()
        in_flight += sum(entered)
        entered.clear()
        assert gate.in_flight == in_flight
        assert len(quiet) <= holds
        assert not gate.held or bool(in_flight) == (len(quiet) < holds) or not in_flight
    assert set(quiet) <= {0}
