"""Dangerous orders of our own, where volumes come to a group and leave it."""

from __future__ import annotations

from tests.museum.exhibit import Exhibit, swap, tests

_MEMBERS = "primary_site/members.py"
_JOINING = (
    "unit/primary_site/test_members.py::"
    "test_no_crash_forgets_what_a_volume_that_joins_has_to_send"
)
_LEAVING = (
    "unit/primary_site/test_members.py::"
    "test_a_volume_leaves_whatever_a_crash_leaves_of_it"
)
_POINTS = (
    "unit/remote_site/test_membership.py::"
    "test_each_point_has_its_volumes_whatever_a_crash_leaves"
)

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "O1000",
        "hosts may write to a volume that no record names yet",
        (
            swap(
                _MEMBERS,
                "            await group.change(\n"
                "                lambda state: with_added("
                "state, volume.name, volume_id, opened)\n"
                "            )\n",
                "            group.state = with_added("
                "group.state, volume.name, volume_id, opened)\n",
            ),
        ),
        tests(_JOINING),
        says="assert",
        order="_add",
    ),
    Exhibit(
        "O1001",
        "an added volume's device is recorded before its name is durable",
        (
            swap(
                "primary_site/adding.py",
                "        make_names_durable(files, [volume])\n",
                "",
            ),
        ),
        tests(_JOINING),
        says="does not exist",
        order="open_added",
    ),
    Exhibit(
        "O1002",
        "what is kept of a volume goes before the record without it",
        (
            swap(
                _MEMBERS,
                "        await group.change(lambda state: without(state, name))\n",
                "        group.state = without(group.state, name)\n",
            ),
        ),
        tests(_LEAVING),
        says="assert",
        order="_remove",
    ),
    Exhibit(
        "O1003",
        "a volume counts as whole while some of its first copy is held back",
        (
            swap(
                "primary_site/group.py",
                "        taken = [v.name for v in self.volumes "
                "if v.changes.held_back is None]\n",
                "        taken = [v.name for v in self.volumes]\n",
            ),
        ),
        tests(_JOINING),
        says="assert",
        order="settle_cut",
    ),
    Exhibit(
        "O1004",
        "a removed volume is let go of while older points have it",
        (
            swap(
                "remote_site/member_transitions.py",
                "members=tuple(members)), change.forgotten)\n",
                "members=tuple(members)), change.forgotten + change.removed)\n",
            ),
        ),
        tests(_POINTS),
        says="AssertionError",
        order="change_members",
    ),
    Exhibit(
        "O1005",
        "a point has a volume of which it has a part",
        (
            swap(
                "remote_site/member_transitions.py",
                "member.is_joining and index in whole",
                "member.is_joining",
            ),
        ),
        tests(_POINTS),
        says="assert",
        order="commit_point",
    ),
    Exhibit(
        "O1006",
        "the remote is told that a part of a first copy is all of it",
        (
            swap(
                "primary_site/exchange.py",
                "            continue  # its first copy has all of it: "
                "see `joining.py`\n",
                "            session.lacking.add(index)\n            continue\n",
            ),
        ),
        tests(
            "integration/test_volumes_come_and_go.py::"
            "test_cycles_go_on_beside_the_first_copy"
        ),
        says="before the copy was complete",
    ),
)
