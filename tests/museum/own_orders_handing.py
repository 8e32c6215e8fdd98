"""Guards of our own, where a group is handed over, superseded or reclaimed."""

from __future__ import annotations

from tests.museum.exhibit import Exhibit, swap, tests

_TESTS = "unit/primary_site/test_handing_over.py::"
_SWITCHOVER = "primary_site/switchover.py"
_REPLICATOR = "primary_site/replicator.py"
_RECORD = "primary_site/group_state.py"
_RESTART = f"{_TESTS}test_a_restart_finds_what_hosts_may_do"
_NOT_YET = f"{_TESTS}test_not_yet_is_an_operator_s_business_once_it_is_said_again"
_KEEPS = (
    f"{_TESTS}test_a_record_keeps_what_became_of_a_role_and_earlier_releases_refuse_it"
)

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "O1120",
        "hosts write on while the last cycle is under way",
        (
            swap(
                _SWITCHOVER,
                "            self._cycles.wake.set()\n"
                "            ticket = self._cycles.tickets.ask(None)\n"
                "            await ticket.safe\n",
                "            allow_writes(group)\n"
                "            self._cycles.wake.set()\n"
                "            ticket = self._cycles.tickets.ask(None)\n"
                "            await ticket.safe\n"
                "            refuse_writes(group)\n",
            ),
        ),
        tests(f"{_TESTS}test_hosts_write_nothing_from_before_the_last_cut"),
        says="was not the last|assert",
    ),
    Exhibit(
        "O1121",
        "a last cut does not wait for writes under way",
        (swap(_SWITCHOVER, "            await self._writes_ended()\n", ""),),
        tests(f"{_TESTS}test_writes_under_way_end_before_the_last_cut_is_asked_for"),
        says="a cut that may miss what is written",
    ),
    Exhibit(
        "O1122",
        "a group is handed over though something was written after its last cut",
        (
            swap(
                _SWITCHOVER,
                "        if group.cut is not None or group.has_changed():\n",
                "        if group.cut is not None:\n",
            ),
        ),
        tests(
            f"{_TESTS}test_a_last_cycle_that_was_not_the_last_leaves_hosts_as_they_were"
        ),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O1123",
        "hosts write on though the record may say that the group is the remote's",
        (
            swap(
                _SWITCHOVER,
                "            if not "
                "(state.handing or state.superseded or self._is_in_doubt):\n",
                "            if not (state.handing or state.superseded):\n",
            ),
        ),
        tests(
            f"{_TESTS}test_hosts_wait_while_nobody_knows_whether_the_record_hands_over"
        ),
        says="assert",
    ),
    Exhibit(
        "O1124",
        "hosts write again before it is durable that nothing is handed over",
        (
            swap(
                _SWITCHOVER,
                "        await self._group.update(handing=None)\n"
                "        allow_writes(self._group)\n",
                "        allow_writes(self._group)\n"
                "        await self._group.update(handing=None)\n",
            ),
        ),
        tests(
            f"{_TESTS}"
            "test_a_remote_that_refuses_leaves_the_group_here_and_that_is_durable_first"
        ),
        says="assert",
    ),
    Exhibit(
        "O1125",
        "any refusal ends a handing over that may have succeeded",
        (
            swap(
                _REPLICATOR,
                "        if error.reason == GoodbyeReason.NOT_PERMITTED:\n"
                "            await self.switchover.refused(error)\n",
                "        await self.switchover.refused(error)\n",
            ),
        ),
        tests(f"{_TESTS}test_a_remote_that_is_not_there_yet_is_asked_again"),
        says="assert",
    ),
    Exhibit(
        "O1126",
        "somebody else's takeover counts as the one that was agreed",
        (
            swap(
                _SWITCHOVER,
                "        is_agreed = handing is not None "
                "and handing.lineage == told.fork.lineage\n",
                "        is_agreed = handing is not None\n",
            ),
        ),
        tests(f"{_TESTS}test_only_who_was_handed_the_group_ends_the_sending_role"),
        says="assert",
    ),
    Exhibit(
        "O1127",
        "a site that is told once more forgets that it has given up",
        (
            swap(
                _SWITCHOVER,
                "gives_up=state.gives_up or is_agreed)",
                "gives_up=is_agreed)",
            ),
        ),
        tests(f"{_TESTS}test_only_who_was_handed_the_group_ends_the_sending_role"),
        says="assert",
    ),
    Exhibit(
        "O1128",
        "hosts write on until it is recorded that the remote has taken over",
        (
            swap(
                _SWITCHOVER,
                "        group = self._group\n"
                "        refuse_writes(group)\n"
                "        handing",
                "        group = self._group\n        handing",
            ),
        ),
        tests(f"{_TESTS}test_hosts_write_no_more_before_it_is_recorded_who_took_over"),
        says="assert",
    ),
    Exhibit(
        "O1129",
        "hosts write after a restart amid a handing over",
        (
            swap(
                "primary_site/superseded.py",
                " or group.state.handing is not None:\n",
                ":\n",
            ),
        ),
        tests(_RESTART),
        says="assert",
    ),
    Exhibit(
        "O1130",
        "a start forgets that the group is to be received",
        (
            swap(
                _SWITCHOVER,
                "        if group.state.gives_up:\n            self.gave_up.set()\n",
                "",
            ),
        ),
        tests(_RESTART),
        says="assert",
    ),
    Exhibit(
        "O1131",
        "a site that goes on lets hosts write in the lineage of before",
        (
            swap(
                _SWITCHOVER,
                "        await group.change(reclaimed)\n",
                "        allow_writes(group)\n        await group.change(reclaimed)\n",
            ),
        ),
        tests(
            f"{_TESTS}"
            "test_a_site_that_goes_on_has_a_lineage_of_its_own_before_hosts_write"
        ),
        says="assert",
    ),
    Exhibit(
        "O1132",
        "what was given up for the other site's data is gone on from",
        (
            swap(
                _SWITCHOVER,
                "        if other is None or group.state.gives_up:\n",
                "        if other is None:\n",
            ),
            swap(
                _SWITCHOVER,
                "            if state.gives_up or state.lineage != lineage:\n",
                "            if state.lineage != lineage:\n",
            ),
        ),
        tests(f"{_TESTS}test_what_was_given_up_is_not_reclaimed"),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O1133",
        "a site that goes on claims to know all that differs",
        (
            swap(
                _SWITCHOVER,
                "                reclaimed=ToldFork(fork, other.is_known),\n",
                "                reclaimed=ToldFork(fork, True),\n",
            ),
        ),
        tests(
            f"{_TESTS}"
            "test_a_site_that_goes_on_has_a_lineage_of_its_own_before_hosts_write"
        ),
        says="assert",
    ),
    Exhibit(
        "O1134",
        "a takeover from another line of data supersedes this one",
        (
            swap(
                _REPLICATOR,
                "        if error.reason != GoodbyeReason.SUPERSEDED "
                "or told.fork.parent != lineage:\n",
                "        if error.reason != GoodbyeReason.SUPERSEDED:\n",
            ),
        ),
        tests(f"{_TESTS}test_a_site_that_went_on_from_elsewhere_supersedes_nobody"),
        says="assert",
    ),
    Exhibit(
        "O1135",
        "a site that is never received at says so to nobody",
        (
            swap(
                _REPLICATOR,
                "        if self._not_yet.waits_for_operator(now):\n",
                "        if not text:\n",
            ),
        ),
        tests(_NOT_YET),
        says="assert",
    ),
    Exhibit(
        "O1136",
        "a record forgets that an operator had this site go on",
        (
            swap(
                _RECORD,
                "        if state.reclaimed is not None:\n"
                '            record["reclaimed"] = _told_record(state.reclaimed)\n',
                "",
            ),
        ),
        tests(_KEEPS),
        says="assert",
    ),
    Exhibit(
        "O1137",
        "an earlier release goes on from a record of two lines of data",
        (
            swap(
                _RECORD,
                "    if (state.superseded, state.handing, state.reclaimed) "
                "!= (None, None, None):\n",
                "    if (state.superseded, state.handing) != (None, None):\n",
            ),
        ),
        tests(_KEEPS),
        says="assert",
    ),
    Exhibit(
        "O1138",
        "a cut is promised while the group is handed over",
        (
            swap(
                _REPLICATOR,
                "        if self.switchover.is_handing:\n            raise",
                "        if self.switchover.is_under_way:\n            raise",
            ),
        ),
        tests(f"{_TESTS}test_hosts_write_nothing_from_before_the_last_cut"),
        says="being handed over|Regex",
    ),
    Exhibit(
        "O1139",
        "a cut stands at a superseded site, and hosts preserve for it",
        (
            swap(
                _REPLICATOR,
                'self.cycles.abandon_here("the remote has taken over")',
                "self.cycles.withdraw()",
            ),
        ),
        tests(f"{_TESTS}test_no_cut_stands_at_a_superseded_site"),
        says="assert Cut",
    ),
    Exhibit(
        "O1140",
        "volumes come to a group that is another site's, or leave it",
        (
            swap(
                "primary_site/members.py",
                "        replicator.check_may_reshape()\n        if",
                "        if",
            ),
        ),
        tests(
            f"{_TESTS}test_volumes_neither_come_nor_leave_where_the_group_is_another_s"
        ),
        says="Regex|DID NOT RAISE",
    ),
    Exhibit(
        "O1141",
        "a session goes on without a volume that came",
        (
            swap(
                "primary_site/members.py",
                "        self._replicator.begin_anew()\n\n    # -- removing",
                "\n    # -- removing",
            ),
        ),
        tests(f"{_TESTS}test_the_remote_hears_of_a_volume_that_came_by_a_new_session"),
        says="it would go on without the volume",
    ),
)
