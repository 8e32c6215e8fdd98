"""Dangerous orders of our own, found where roles go round."""

from __future__ import annotations

from tests.museum.exhibit import Exhibit, Seeds, swap, tests

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "O910",
        "a sender does not carry what the other site changed itself before",
        (
            swap(
                "primary_site/exchange.py",
                "            volume.changes.compare_again(bitmap)\n",
                "            pass\n",
            ),
        ),
        Seeds("circles", 40),
        says="I1|I2",
        order="begin_receiving",
    ),
    Exhibit(
        "O911",
        "the journals of a fork go when points of its age do",
        (
            swap(
                "remote_site/store_state.py",
                "        return kept | {fork.number for fork in self.forks}\n",
                "        return kept\n",
            ),
        ),
        Seeds("circles", 40),
        says="I6: .*fork",
    ),
    Exhibit(
        "O912",
        "a group is handed over before that is recorded",
        (
            swap(
                "primary_site/switchover.py",
                "        await self._record_handing(fork)\n",
                "        group.state = replace(group.state, handing=fork)\n",
            ),
        ),
        Seeds("circles", 200),
        says="I8|I3",
    ),
    Exhibit(
        "O913",
        "an older copy of an old primary is believed what it has changed",
        (
            swap(
                "remote_site/roles.py",
                "    is_known = told.is_known and parted.changed is not None\n",
                "    is_known = parted.changed is not None\n",
            ),
        ),
        Seeds("circles", 120),
        says="I1",
    ),
    Exhibit(
        "O914",
        "what newer points have otherwise is not carried after a takeover",
        (
            swap(
                "remote_site/takeover_disk.py",
                "        bitmap.set_range(first, count)\n    return bitmap\n",
                "        pass\n    return bitmap\n",
            ),
        ),
        Seeds("takeover", 20),
        says="is not carried",
        order="prepare_sending",
    ),
    Exhibit(
        "O915",
        "an older copy is told of a line that has ended, and refuses the present one",
        (
            swap(
                "remote_site/sender_here.py",
                "    if told is not None and TAKEOVER in hello.features:\n"
                "        return _goes_on_otherwise(here, told.fork, asks)\n",
                "",
            ),
        ),
        tests(
            "unit/remote_site/test_sender_here.py::"
            "test_an_older_copy_is_told_the_line_that_is_sent_now"
        ),
        says="assert None is not None",
    ),
    Exhibit(
        "O916",
        "a common point that the sender has let go of parts the sites for good",
        (
            swap(
                "remote_site/store_state.py",
                "        return replace(self, divided=replace(divided, common=None))\n",
                "        return self\n",
            ),
        ),
        tests(
            "unit/remote_site/test_giving_up.py::"
            "test_what_is_common_is_let_go_of_for_a_sender_that_knows_no_point"
        ),
        says="PARTED",
    ),
    Exhibit(
        "O917",
        "what a site gave up passes for a point that its sender has",
        (
            swap(
                "remote_site/store_state.py",
                "self.takeover.fork.cycle.number > own\n",
                "own >= 0\n",
            ),
        ),
        tests(
            "unit/remote_site/test_giving_up.py::"
            "test_what_a_site_gave_up_is_no_point_of_its_senders"
        ),
        says="assert",
    ),
    Exhibit(
        "O918",
        "the open journal is sealed where a point is committed meanwhile",
        (
            swap(
                "remote_site/history.py",
                "                if journal.header.point_number >= newest:\n",
                "                if journal.header.point_number == newest:\n",
            ),
        ),
        tests(
            "unit/remote_site/test_history.py::"
            "test_a_point_committed_meanwhile_has_a_journal_that_stays_open"
        ),
        says="AssertionError",
    ),
)
