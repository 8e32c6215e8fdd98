"""Dangerous orders of our own, in what the two sites know of each other."""

from __future__ import annotations

from tests.museum.exhibit import Exhibit, swap, tests

_COPIES = "lineage/test_copies_put_back.py::"
_SAYS = "assert|DID NOT RAISE|Error|Timeout"

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "O300",
        "what a remote had acknowledged before it was put back is trusted",
        (
            swap(
                "common/replication/lineage.py",
                "        return Verdict.COMPARE_ACKED\n",
                "        return Verdict.GO_ON\n",
            ),
        ),
        tests(f"{_COPIES}test_what_a_restored_remote_had_acknowledged_is_compared"),
        says=_SAYS,
    ),
    Exhibit(
        "O301",
        "an older primary whose newest cycle is the remote's point is let on",
        (
            swap(
                "common/replication/lineage.py",
                "        or is_noting_forgotten\n",
                "",
            ),
        ),
        tests(
            f"{_COPIES}"
            "test_a_primary_put_back_into_its_newest_cycle_is_refused_once_it_was_noted"
        ),
        says=_SAYS,
    ),
    Exhibit(
        "O302",
        "another lineage is let on",
        (
            swap(
                "common/replication/lineage.py",
                "    if receiver.lineage not in (None, sender.lineage):\n",
                "    if False:\n",
            ),
        ),
        tests("unit/remote_site/test_admission.py"),
        says=_SAYS,
    ),
    Exhibit(
        "O303",
        "acked bits that are doubted keep their tag",
        (
            swap(
                "primary_site/remote_relation.py",
                "        tag = secrets.token_bytes(16)\n        self.tag_acked(tag)\n"
                "        await self._group.update(acked_tag=tag)\n",
                "",
            ),
        ),
        tests(
            f"{_COPIES}test_what_is_acked_after_a_doubt_is_told_from_what_was_before"
        ),
        says=_SAYS,
        order="doubt_acked",
    ),
    Exhibit(
        "O304",
        "the primary does not count the progress that it was told of",
        (
            swap(
                "primary_site/drain.py",
                "        self._group.remote_relation.note_progress(message.count)\n",
                "",
            ),
        ),
        tests(f"{_COPIES}test_what_a_restored_remote_had_acknowledged_is_compared"),
        says=_SAYS,
    ),
    Exhibit(
        "O305",
        "tracks are applied of a cycle that is not recorded",
        (
            swap(
                "remote_site/group_disk.py",
                "            state = replace(state, begun=cycle)\n",
                "",
            ),
        ),
        tests(
            f"{_COPIES}"
            "test_a_primary_put_back_to_before_a_cycle_that_is_under_way_is_refused"
        ),
        says=_SAYS,
        order="begin_cycle",
    ),
    Exhibit(
        "O306",
        "a receipt is never taken as shown",
        (
            swap(
                "remote_site/store_state.py",
                "            shown_epoch=self.epoch,\n            shown=self.given,\n",
                "",
            ),
        ),
        tests(f"{_COPIES}test_of_two_primaries_from_one_copy_one_is_refused"),
        says=_SAYS,
    ),
    Exhibit(
        "O307",
        "a remote that was put back uses numbers of sessions again",
        (
            swap(
                "remote_site/store_state.py",
                "        epoch = max(self.epoch, sender.epoch) + 1\n",
                "        epoch = self.epoch + 1\n",
            ),
        ),
        tests(f"{_COPIES}test_a_copy_older_by_a_session_is_known_by_the_receipt"),
        says=_SAYS,
    ),
    Exhibit(
        "O308",
        "a session is not recorded before anything is said in it",
        (
            swap(
                "primary_site/reconciling.py",
                "    await group.record_session(welcome.epoch, welcome.receipt)\n",
                "",
            ),
        ),
        tests(f"{_COPIES}test_a_primary_that_was_killed_sends_nothing_twice"),
        says=_SAYS,
        order="reconcile",
    ),
    Exhibit(
        "O309",
        "sessions that a remote has counted pass for those that it was shown",
        (
            swap(
                "remote_site/store_state.py",
                "            shown_epoch=sender.epoch,\n",
                "            shown_epoch=epoch,\n",
            ),
        ),
        tests(
            "lineage/test_sessions_of_copies.py::"
            "test_a_primary_that_was_not_put_back_is_never_refused"
        ),
        says=_SAYS,
    ),
)
