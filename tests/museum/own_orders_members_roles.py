"""Dangerous orders of our own, where volumes come and go at a site with points."""

from __future__ import annotations

from tests.museum.exhibit import Exhibit, swap, tests

_MEMBERS = "primary_site/members.py"
_ENROLLING = "remote_site/enrolling.py"
_SENDING = "remote_site/sending.py"
_GIVEN_UP = "unit/remote_site/test_volumes_given_up.py::"
_NO_CRASH = (
    f"{_GIVEN_UP}test_no_crash_changes_a_point_as_volumes_come_and_go_at_who_sends"
)
_DEVICES = f"{_GIVEN_UP}test_what_is_given_up_is_what_the_devices_hold"
_CUT_SHORT = f"{_GIVEN_UP}test_a_removal_that_a_crash_cut_short_has_not_happened"
_FREE = f"{_GIVEN_UP}test_names_and_devices_of_points_are_not_given_to_a_new_volume"
_LEAVING = (
    "unit/primary_site/test_members.py::"
    "test_a_volume_leaves_whatever_a_crash_leaves_of_it"
)
_CIRCLES = (
    "integration/test_volumes_in_circles.py::"
    "test_volumes_come_and_go_wherever_the_group_is_sent"
)
_HANDING = "unit/primary_site/test_handing_over.py::"
_COMES_LATE = f"{_HANDING}test_no_volume_comes_or_leaves_from_the_last_cut_on"
_WHILE_CHANGING = f"{_HANDING}test_nothing_is_handed_over_while_volumes_change"
_AMID_A_TAKEOVER = (
    f"{_HANDING}test_hosts_do_not_write_to_a_volume_that_came_amid_a_takeover"
)
_ADOPTING = (
    "unit/primary_site/test_adopting.py::"
    "test_devices_are_made_anew_where_a_try_was_cut_short"
)

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "O1210",
        "a volume has left before its points know where its device is",
        (
            swap(
                _MEMBERS,
                "        await group.state_threads.run(leaves, name)\n"
                "        await group.change(lambda state: without(state, name))\n",
                "        await group.change(lambda state: without(state, name))\n"
                "        await group.state_threads.run(leaves, name)\n",
            ),
        ),
        tests(_LEAVING),
        says="points keep its device",
        order="_remove",
    ),
    Exhibit(
        "O1211",
        "hosts overwrite what points have of a volume that is about to leave",
        (
            swap(
                _SENDING,
                "            for volume, member in "
                "zip(disk.volumes, disk.state.memberships, strict=True)\n",
                "            for volume, member in "
                "zip(disk.volumes, disk.state.memberships, strict=True)\n"
                "            if not member.has_left\n",
            ),
        ),
        tests(_NO_CRASH, _CUT_SHORT),
        says="assert|Busy",
    ),
    Exhibit(
        "O1212",
        "what is given up has the volumes of when the site began to send",
        (
            swap(
                "remote_site/giving_up.py",
                "    take_sent_members(disk, beginning.volumes)\n",
                "",
            ),
        ),
        tests(_DEVICES),
        says="AssertionError|KeyError",
        order="begin_receiving",
    ),
    Exhibit(
        "O1213",
        "a volume that came is in no point of what is given up",
        (
            swap(
                "remote_site/giving_up.py",
                "        whole=here,\n",
                "        whole=frozenset(),\n",
            ),
        ),
        tests(_DEVICES),
        says="AssertionError",
    ),
    Exhibit(
        "O1214",
        "a removal that a crash cut short keeps a site from receiving",
        (
            swap(
                _ENROLLING,
                "    change = _change(disk, returned, sent)\n",
                "    change = _change(disk, disk.state, sent)\n",
            ),
        ),
        tests(_CUT_SHORT),
        says="StateMismatchError|assert",
    ),
    Exhibit(
        "O1215",
        "a removed volume's name and device go to another one while points need them",
        (
            swap(
                "primary_site/sending_groups.py",
                "            points.check_free(config)\n",
                "",
            ),
        ),
        tests(_CIRCLES),
        says="DID NOT RAISE|Regex pattern did not match",
    ),
    Exhibit(
        "O1216",
        "a site that gives up does not know where the device is of a volume that came",
        (
            swap(
                "remote_site/roles.py",
                "            group.enrolment.take_added()\n",
                "",
            ),
        ),
        tests(_CIRCLES),
        says="assert|Timeout",
    ),
    Exhibit(
        "O1217",
        "a removed volume is held for ever by a site that sends",
        (
            swap(
                "remote_site/group_disk.py",
                "                if not state.is_on_its_way_back:\n",
                "                if state.takeover is None:\n",
            ),
        ),
        tests(_FREE),
        says="RefusedError|assert|does not exist",
    ),
    Exhibit(
        "O1330",
        "a volume that waited for its turn comes to a group that is handed over",
        (
            swap(
                _MEMBERS,
                "        self._replicator.check_may_reshape()  # it waited for "
                "its turn\n        self._check(why_not_add",
                "        self._check(why_not_add",
            ),
        ),
        tests(_COMES_LATE),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O1331",
        "a group is handed over while a volume comes to it",
        (
            swap(
                "primary_site/switchover.py",
                "        if self._cycles.reshaping.is_under_way:",
                "        if self._cycles.reshaping is None:",
            ),
        ),
        tests(_WHILE_CHANGING),
        says="Regex",
    ),
    Exhibit(
        "O1332",
        "hosts write to a volume that came while the remote took over",
        (
            swap(
                _MEMBERS,
                "        follow_role(group)  # the remote",
                "        # the remote",
            ),
        ),
        tests(_AMID_A_TAKEOVER),
        says="assert",
    ),
    Exhibit(
        "O1333",
        "an adopt cut short is not begun anew",
        (
            swap(
                "primary_site/adopting.py",
                "        if size or is_block_device:\n",
                "        if True:\n",
            ),
        ),
        tests(_ADOPTING),
        says="has 0 bytes",
    ),
)
