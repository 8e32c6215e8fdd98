"""Dangerous orders of our own, where a site that sent begins to receive."""

from __future__ import annotations

from tests.museum.exhibit import Exhibit, swap, tests

_GIVING_UP = "remote_site/giving_up.py"
_CRASHES = (
    "unit/remote_site/test_giving_up.py::"
    "test_a_crash_at_any_step_leaves_what_was_there_and_the_way_on"
)
_GROWN = (
    "unit/remote_site/test_growing_secondary.py::"
    "test_a_new_size_at_a_change_of_roles_over_a_crash_at_any_step"
)

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "O900",
        "a sender is welcome before what this site had is a point",
        (
            swap(
                _GIVING_UP,
                "        disk.bind(beginning.group_id, NO_LINEAGE, "
                "beginning.peer, beginning.volumes)\n",
                "        disk.bind(\n"
                "            beginning.group_id, beginning.lineage, "
                "beginning.peer, beginning.volumes\n"
                "        )\n",
            ),
        ),
        tests(_CRASHES),
        says="assert",
        order="begin_receiving",
    ),
    Exhibit(
        "O901",
        "what a site changed itself is not durable when a sender is welcome",
        (
            swap(
                _GIVING_UP,
                "        _write_changed(disk, beginning.changed)\n",
                "        pass\n",
            ),
        ),
        tests(_CRASHES),
        says="assert",
        order="begin_receiving",
    ),
    Exhibit(
        "O902",
        "a site that sent receives into the sizes of before",
        (
            swap(
                _GIVING_UP,
                "        return with_sender_sizes(received, beginning.volumes)\n",
                "        return received\n",
            ),
        ),
        tests(_GROWN),
        says="DeviceError|assert",
        order="begin_receiving",
    ),
    Exhibit(
        "O903",
        "the journals of what a site gives up have the sizes of before",
        (
            swap(
                "remote_site/group_disk.py",
                "                state.group_id, state.offers_at(number), relation_id, "
                "number\n",
                "                state.group_id,\n"
                "                self.record.known().offers_at(number),\n"
                "                relation_id,\n"
                "                number,\n",
            ),
        ),
        tests(_GROWN),
        says="CorruptStateError|assert",
        order="begin_receiving",
    ),
    Exhibit(
        "O904",
        "points of before a change of roles are taken to have grown, too",
        (
            swap(
                "remote_site/growing.py",
                "        growing=growing if any(growing) else (),\n"
                "        points=tuple(sized(point, state.sizes) "
                "for point in state.points),\n",
                "        growing=growing if any(growing) else (),\n",
            ),
        ),
        tests(_GROWN),
        says="CorruptStateError|assert",
        order="begin_receiving",
    ),
    Exhibit(
        "O905",
        "who hands a group over untouched goes on as its sender",
        (
            swap(
                "remote_site/group_disk.py",
                "                if begin is not None:  "
                "# given up as it was taken over\n"
                "                    self.record.store(state)\n",
                "",
            ),
        ),
        tests(
            "unit/remote_site/test_giving_up.py::"
            "test_what_was_taken_over_and_handed_back_untouched_is_received_again"
        ),
        says="assert",
        order="begin_receiving",
    ),
    Exhibit(
        "O1310",
        "hosts may write at a site that takes up what the other one serves",
        (
            swap(
                "primary_site/adopting.py",
                "        superseded=None if found.served is None "
                "else _told(found.served),\n",
                "        superseded=None,\n",
            ),
        ),
        tests(
            "integration/test_lost_sites.py::"
            "test_who_has_lost_its_state_receives_from_the_site_that_took_over"
        ),
        says="superseded",
    ),
    Exhibit(
        "O1311",
        "who has lost its state is told a line of data that has ended",
        (
            swap(
                "remote_site/identity.py",
                "        served=_served(here.taken, here.lineage),\n",
                "        served=_served(here.taken, here.taken.lineage),\n",
            ),
        ),
        tests(
            "unit/remote_site/test_sender_here.py::"
            "test_who_has_lost_its_state_is_told_the_line_that_is_served_now"
        ),
        says="assert",
    ),
    Exhibit(
        "O1312",
        "a second switchover that is refused lets hosts write after the last cut",
        (
            swap(
                "primary_site/switchover.py",
                "        if self.is_under_way or self.is_handing:\n",
                "        if self.is_handing:\n",
            ),
        ),
        tests(
            "unit/primary_site/test_handing_over.py::"
            "test_a_second_operator_s_switchover_lets_no_host_write_after_the_last_cut"
        ),
        says="assert|DID NOT RAISE",
    ),
    Exhibit(
        "O1313",
        "a switchover that fails for a takeover lets hosts write at a superseded site",
        (
            swap(
                "primary_site/switchover.py",
                "            if not "
                "(state.handing or state.superseded or self._is_in_doubt):\n",
                "            if not (state.handing or self._is_in_doubt):\n",
            ),
        ),
        tests(
            "unit/primary_site/test_handing_over.py::"
            "test_a_takeover_amid_a_switchover_leaves_no_host_writing"
        ),
        says="assert|DID NOT RAISE",
    ),
    Exhibit(
        "O1314",
        "two operators choose both sides, and the record has half of each",
        (
            swap(
                "primary_site/switchover.py",
                "            if state.gives_up or state.lineage != lineage:\n"
                "                raise _decided(state)\n",
                "",
            ),
            swap(
                "primary_site/switchover.py",
                "            if state.lineage != lineage:\n"
                "                raise _decided(state)\n",
                "",
            ),
        ),
        tests(
            "unit/primary_site/test_handing_over.py::"
            "test_of_two_operators_who_choose_a_side_at_once_one_is_refused"
        ),
        says="assert|DID NOT RAISE",
    ),
)
