"""Guards of our own, for what stands at both sites after a takeover or a switchover."""

from __future__ import annotations

from tests.museum.exhibit import Exhibit, swap, tests

_SENDER = "unit/primary_site/test_handing_over.py::"
_GIVEN_UP = "unit/remote_site/test_what_is_given_up.py::"
_SPLIT = "primary_site/split_brain.py"

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "O1300",
        "a split brain is told of though the other site's line has ended",
        (
            swap(
                _SPLIT,
                "            self.is_settled = True\n            self._end()\n",
                "            self.is_settled = True\n",
            ),
        ),
        tests(
            f"{_SENDER}test_no_split_brain_is_left_once_the_other_site_says_that_its_"
            "line_ended",
            "integration/test_forced_takeover.py",
        ),
        says="assert",
    ),
    Exhibit(
        "O1301",
        "whoever takes over by force tells of a split brain before the other has heard",
        (
            swap(
                _SPLIT,
                "        if told.fork.lineage == self._went_on_from(state):\n",
                "        if told.fork.lineage == state.lineage:\n",
            ),
        ),
        tests(
            f"{_SENDER}test_who_was_taken_over_from_is_given_time_to_hear_of_it",
        ),
        says="assert",
    ),
    Exhibit(
        "O1302",
        "a site that never hears of a takeover serves hosts, and nobody says so",
        (
            swap(
                _SPLIT,
                "            if not self._unheard.waits_for_operator(now):\n"
                "                return False\n",
                "            return False\n",
            ),
        ),
        tests(
            f"{_SENDER}test_who_was_taken_over_from_is_given_time_to_hear_of_it",
        ),
        says="assert|it can't hear of it",
    ),
    Exhibit(
        "O1303",
        "whoever took over has an older copy of the other site not follow a growth",
        (
            swap(
                "primary_site/taking_over.py",
                "                    first_bytes=SMALLEST_BYTES,\n",
                "",
            ),
        ),
        tests(
            "unit/remote_site/test_growing_secondary.py::"
            "test_a_growth_that_was_cut_short_is_finished_by_who_takes_over"
        ),
        says="older copy has any size",
    ),
    Exhibit(
        "O1304",
        "what a volume has grown by is no change that a failback need take",
        (
            swap(
                "primary_site/parting.py",
                "        changed[name] = with_grown_by(bits, geometry, volume)\n",
                "        changed[name] = bits\n",
            ),
        ),
        tests(
            f"{_GIVEN_UP}"
            "test_what_a_volume_has_grown_by_has_changed_though_no_bitmap_says_so"
        ),
        says="assert",
    ),
    Exhibit(
        "O1305",
        "what was handed over looks as old as its cut",
        (
            swap(
                "remote_site/giving_up.py",
                "        disk.make_current(disk.record.known(), "
                "point.current_as_of_ns)\n",
                "        pass\n",
            ),
        ),
        tests(f"{_GIVEN_UP}test_what_was_handed_over_is_as_current_as_its_sender_knew"),
        says="assert",
    ),
    Exhibit(
        "O1306",
        "a site that sends says two ages of one point",
        (
            swap(
                "remote_site/roles.py",
                "        return points_of_both(found, sent)\n",
                "        return found if sent else found\n",
            ),
        ),
        tests(
            "unit/remote_site/test_site_that_gives_up.py::"
            "test_who_was_received_and_sends_again_grows_and_tells_what_is"
        ),
        says="assert",
    ),
    Exhibit(
        "O1307",
        "a primary forgets what it has received without a word of it",
        (
            swap(
                "remote_site/forget_command.py",
                "    store = folders[0] / RECORDS[role][-1]\n",
                "    store = folders[0] / RECORDS[role][0]\n",
            ),
        ),
        tests(
            "integration/test_full_circles.py::"
            "test_roles_exchanged_again_and_again_by_whoever_has_just_grown"
        ),
        says="assert|no record|Error",
    ),
    Exhibit(
        "O1308",
        "a site at home tells of a switchover to come, for good",
        (
            swap(
                "remote_site/sending.py",
                "        is_over = is_followed and name in self._at_home\n",
                "        is_over = not is_followed and name in self._at_home\n",
            ),
        ),
        tests("integration/test_forced_takeover.py"),
        says="there is nothing to go back to",
    ),
)
