"""Guards of our own, at a site that gives up what it sent."""

from __future__ import annotations

from tests.museum.exhibit import Exhibit, swap, tests

_TESTS = "unit/remote_site/test_site_that_gives_up.py::"
_KILLS = (
    f"{_TESTS}test_a_kill_at_any_step_of_giving_up_ends_with_the_fork_and_what_differs"
)
_KEPT = "unit/remote_site/test_what_is_given_up.py::"
_ROLES = "remote_site/roles.py"

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "O1110",
        "a start receives into a store that does not keep what was sent yet",
        (
            swap(
                _ROLES,
                "            if group.store.is_ready:\n",
                "            if group.store.failed is None:\n",
            ),
        ),
        tests(_KILLS),
        says="assert",
    ),
    Exhibit(
        "O1111",
        "hosts read on what the other site overwrites",
        (swap(_ROLES, "        await self._cut_off(name)\n", ""),),
        tests(f"{_TESTS}test_hosts_are_cut_off_before_what_they_read_is_overwritten"),
        says="assert|Timeout",
    ),
    Exhibit(
        "O1112",
        "a fork that nothing came after is taken over",
        (
            swap(
                "remote_site/takeover_plan.py",
                "state.is_divided and not force:\n",
                "state.is_divided and force:\n",
            ),
        ),
        tests(
            f"{_TESTS}"
            "test_a_fork_is_not_taken_over_and_its_room_is_free_as_it_is_deleted"
        ),
        says="DID NOT RAISE|nothing was received",
    ),
    Exhibit(
        "O1113",
        "a command is carried out amid a change of roles",
        (
            swap(
                _ROLES,
                "        if name in self._changing:\n            raise RefusedError(",
                "        if name in self._changing and name in self.sending.hosted:\n"
                "            raise RefusedError(",
            ),
        ),
        tests(f"{_TESTS}test_what_is_asked_amid_the_change_is_refused"),
        says="Regex pattern did not match|KeyError",
    ),
    Exhibit(
        "O1114",
        "a group is given up at a site that nobody can send to",
        (swap(_ROLES, "        if not self.can_receive:\n", "        if not name:\n"),),
        tests(f"{_TESTS}test_a_site_that_cannot_receive_gives_nothing_up"),
        says="DID NOT RAISE|nothing to fail back|Timeout|no link",
    ),
    Exhibit(
        "O1115",
        "the room of a fork that was deleted is not free before the next point",
        (
            swap(
                "remote_site/fork_requests.py",
                "        group.thinning.operator_chose()  "
                "# its room, now rather than with the next cut\n",
                "",
            ),
        ),
        tests(
            f"{_TESTS}"
            "test_a_fork_is_not_taken_over_and_its_room_is_free_as_it_is_deleted"
        ),
        says="an operator has chosen",
    ),
    Exhibit(
        "O1116",
        "a fork has the number of a point that the other site has",
        (
            swap(
                _ROLES,
                "        number = max(state.cycle_number, "
                "state.committed_number or 0, newest) + 1\n",
                "        number = (state.committed_number or 0) + 1\n",
            ),
        ),
        tests(f"{_KEPT}test_a_fork_has_a_number_that_no_point_of_either_site_has"),
        says="assert",
    ),
    Exhibit(
        "O1117",
        "bitmaps of a sender that was killed are believed",
        (
            swap(
                "primary_site/parting.py",
                "is_known = state.clean and all(",
                "is_known = all(",
            ),
        ),
        tests(f"{_KEPT}test_bitmaps_count_only_where_they_say_all_that_differs"),
        says="assert",
    ),
    Exhibit(
        "O1118",
        "bitmaps are believed of a volume that was never sent whole",
        (
            swap(
                "primary_site/parting.py",
                "    return not (volume.full or volume.suspect)\n",
                "    return not volume.suspect\n",
            ),
        ),
        tests(f"{_KEPT}test_bitmaps_count_only_where_they_say_all_that_differs"),
        says="assert",
    ),
    Exhibit(
        "O1119",
        "what has begun to receive begins once more, with another fork",
        (
            swap(
                "remote_site/giving_up.py",
                "    if disk.state.lineage == beginning.lineage "
                "and disk.state.takeover is None:\n"
                "        return\n",
                "",
            ),
        ),
        tests(f"{_KEPT}test_what_has_begun_is_not_begun_again"),
        says="assert",
    ),
    Exhibit(
        "O1231",
        "a site gives up what only memory has, after a flush that failed",
        (
            swap(
                "remote_site/giving_up.py",
                "        volume.device.drop_cache()\n",
                "",
            ),
        ),
        tests(
            "unit/remote_site/test_what_is_given_up.py::"
            "test_a_fork_is_what_the_disk_has_after_a_flush_that_failed"
        ),
        says="assert",
    ),
)
