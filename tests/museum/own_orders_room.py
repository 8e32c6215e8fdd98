"""Dangerous orders of our own, where points go for the room that hosts need."""

from __future__ import annotations

from tests.museum.exhibit import Exhibit, swap, tests

_TESTS = "unit/remote_site/test_points_given_up.py::"
_KEPT = "unit/remote_site/test_what_is_given_up.py::"
_DEVICE = "remote_site/preserving_device.py"
_WHETHER = "                if not error.is_out_of_space or not self._make_room():\n"

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "O1100",
        "a host's write fails for want of room that points could give",
        (swap(_DEVICE, _WHETHER, "                if error.is_out_of_space:\n"),),
        tests(f"{_TESTS}test_so_many_points_go_as_a_host_s_write_needs_and_no_more"),
        says="No space",
    ),
    Exhibit(
        "O1101",
        "points go for a journal's device that fails",
        (swap(_DEVICE, _WHETHER, "                if not self._make_room():\n"),),
        tests(f"{_TESTS}test_a_device_that_fails_costs_no_point"),
        says="DID NOT RAISE|assert",
    ),
    Exhibit(
        "O1102",
        "a host's write goes on when another's preserving, for both, has failed",
        (
            swap(
                _DEVICE,
                "                self._keep([run])  "
                "# the one who tried for it has failed\n",
                "                pass\n",
            ),
        ),
        tests(
            f"{_TESTS}test_who_waited_for_another_s_preserving_that_failed_preserves_itself"
        ),
        says="assert",
    ),
    Exhibit(
        "O1103",
        "what hosts zero after a takeover is not preserved",
        (
            swap(
                _DEVICE,
                '        """Zero, in the order of `write`."""\n'
                "        self._preserve(offset, length)\n",
                '        """Zero, in the order of `write`."""\n',
            ),
        ),
        tests(f"{_TESTS}test_so_many_points_go_as_a_host_s_write_needs_and_no_more"),
        says="assert",
    ),
    Exhibit(
        "O1104",
        "points go while the devices are on their way back to one",
        (
            swap(
                "remote_site/group_disk.py",
                "            if state.is_on_its_way_back:\n"
                "                return\n"
                "            newest",
                "            newest",
            ),
        ),
        tests(
            f"{_TESTS}test_nothing_goes_while_the_devices_are_on_their_way_back",
        ),
        says="assert",
    ),
    Exhibit(
        "O1105",
        "the last point's journal goes while somebody appends to it",
        (
            swap(
                "remote_site/group_disk.py",
                "                    held.enter_context(volume.lock)\n"
                "            shorter",
                "                    pass\n            shorter",
            ),
        ),
        tests(
            f"{_TESTS}test_nobody_appends_to_a_journal_that_goes_with_the_last_point"
        ),
        says="assert",
    ),
    Exhibit(
        "O1106",
        "a fork goes for the room that hosts need",
        (
            swap(
                "remote_site/retention.py",
                "    if oldest.is_fixed or (oldest.is_pinned and not ends_pins):\n",
                "    if oldest.is_pinned and not ends_pins:\n",
            ),
        ),
        tests("unit/remote_site/test_retention.py"),
        says="assert",
    ),
    Exhibit(
        "O1107",
        "points go for hosts' room, and nobody is told",
        (
            swap(
                "remote_site/room_for_hosts.py",
                "            loop.call_soon_threadsafe(tell, went, "
                "len(store.disk.points))\n",
                "            pass\n",
            ),
        ),
        tests(f"{_TESTS}test_each_point_that_goes_is_said_with_where_to_make_room"),
        says="points_given_up",
    ),
    Exhibit(
        "O1108",
        "what a volume has grown by is preserved for a point that lacks it",
        (
            swap(
                _DEVICE,
                "        length = min(length, journal.header.size_bytes - offset)\n"
                "        if length <= 0:\n",
                "        if offset >= journal.header.size_bytes:\n",
            ),
        ),
        tests(f"{_KEPT}test_what_a_volume_has_grown_by_needs_no_preserving"),
        says="assert|Error",
    ),
    Exhibit(
        "O1109",
        "the point that was taken over from goes by the rules",
        (
            swap(
                "remote_site/history.py",
                "        if state.takeover is not None:\n"
                "            kept = kept | {state.takeover.fork.cycle.number}\n",
                "",
            ),
        ),
        tests(
            f"{_KEPT}test_the_point_that_was_taken_over_from_stays_whatever_rules_say"
        ),
        says="assert",
    ),
)
