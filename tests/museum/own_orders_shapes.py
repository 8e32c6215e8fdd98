"""Guards of our own, where a group's volumes or its role change: who is let in, what is
recorded before what, and what a state says of volumes that come and go."""

from __future__ import annotations

from tests.museum.exhibit import Exhibit, swap, tests

_MEMBERS = "primary_site/members.py"
_TRANSITIONS = "remote_site/member_transitions.py"
_ADMISSION = "remote_site/admission.py"
_TAKING = "primary_site/taking_over.py"
_STATE = "remote_site/store_state.py"
_HANDING_TESTS = "unit/primary_site/test_handing_over.py::"
_STATE_TESTS = "unit/remote_site/test_store_state.py::"
_REFUSED = tests(
    "unit/remote_site/test_admission.py::"
    "test_who_does_not_is_told_both_values_the_key_and_the_remedy"
)
_WHOLE = tests(
    "unit/primary_site/test_taking_over.py::"
    "test_a_record_is_there_only_with_its_own_bitmaps_whatever_a_crash_leaves"
)

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "O1240",
        "a volume comes that the remote does not take",
        (
            swap(
                _MEMBERS,
                "            await self._ask_remote("
                "session, volume.name, volume_id, geometry)\n",
                "",
            ),
        ),
        tests(f"{_HANDING_TESTS}test_a_volume_that_the_remote_does_not_take_stays_out"),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O1241",
        "volumes come and go with a remote that can't follow",
        (
            swap(
                _MEMBERS,
                "        if MEMBERS not in session.features:\n",
                "        if False:\n",
            ),
        ),
        tests(
            f"{_HANDING_TESTS}test_a_remote_of_an_earlier_release_is_offered_no_volume"
        ),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O1242",
        "a device that may be longer is forgotten as another volume comes",
        (
            swap(
                _TRANSITIONS,
                "growing=(*state.growing, *(0 for _ in new)) if state.growing else (),",
                "growing=(),",
            ),
        ),
        tests(
            "unit/remote_site/test_member_transitions.py::"
            "test_a_volume_that_comes_leaves_what_is_known_of_the_others"
        ),
        says="a device may be longer",
    ),
    Exhibit(
        "O1243",
        "a first copy counts as whole by the word of another cycle",
        (
            swap(
                "remote_site/member_session.py",
                "return whole if told == cycle_id else frozenset()",
                "return whole",
            ),
        ),
        tests(
            "unit/remote_site/test_member_session.py::"
            "test_a_first_copy_is_whole_by_the_cycle_that_says_so_and_by_no_other"
        ),
        says="assert",
    ),
    Exhibit(
        "O1244",
        "a group is bound to some of the volumes that its config has",
        (
            swap(
                _ADMISSION,
                "    if expected.volumes and MEMBERS in hello.features:\n",
                "    if MEMBERS in hello.features:\n",
            ),
        ),
        _REFUSED,
        says="assert",
    ),
    Exhibit(
        "O1245",
        "one volume is received under two numbers",
        (
            swap(
                _ADMISSION,
                "set(offered) <= set(here) and len(set(offered)) == len(offered)",
                "set(offered) <= set(here)",
            ),
        ),
        _REFUSED,
        says="assert",
    ),
    Exhibit(
        "O1246",
        "a session ends for a takeover from before a volume came",
        (
            swap(
                "remote_site/takeover_plan.py",
                "    if state is not None:\n"
                "        check_has_all(state, found.point)\n",
                "",
            ),
        ),
        tests(
            "unit/remote_site/test_takeover_plan.py::"
            "test_a_point_of_before_a_volume_came_is_refused_before_anything_ends"
        ),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O1247",
        "a takeover that was decided is decided anew, from another point",
        (
            swap(
                "remote_site/takeover_disk.py",
                "            check_same_point(state.group, state.takeover, number)\n",
                "",
            ),
        ),
        tests(
            "unit/remote_site/test_membership.py::"
            "test_a_takeover_from_before_a_volume_came_is_refused"
        ),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O1248",
        "the record of an earlier time as the sender outlives its bitmaps",
        (
            swap(
                _TAKING,
                "        files.remove(record_path)\n"
                "        files.sync_directory(directory)\n",
                "        files.remove(record_path)\n",
            ),
        ),
        _WHOLE,
        says="a record, and no bitmap|assert",
        order="prepare_sending",
    ),
    Exhibit(
        "O1249",
        "a sender's record is there before the names of its bitmaps",
        (
            swap(
                _TAKING,
                "volume.carried)\n    files.sync_directory(directory)\n",
                "volume.carried)\n",
            ),
        ),
        _WHOLE,
        says="a record, and no bitmap|assert",
        order="prepare_sending",
    ),
    Exhibit(
        "O1250",
        "a sender's record is there before what its bitmaps say",
        (
            swap(
                _TAKING,
                "        opened.datasync()\n    finally:\n",
                "        pass\n    finally:\n",
            ),
        ),
        _WHOLE,
        says="assert",
        order="prepare_sending",
    ),
    Exhibit(
        "O1251",
        "a record is trusted whose name a power cut can still take",
        (
            swap(
                "common/storage/record.py",
                "        self._files.sync_directory(str(PurePath(self._path).parent))\n"
                "        file = self._files.open(self._path)\n",
                "        file = self._files.open(self._path)\n",
            ),
        ),
        tests(
            "unit/storage/test_record.py::"
            "test_a_name_that_a_killed_process_gave_outlives_a_power_cut_once_loaded"
        ),
        says="assert",
    ),
    Exhibit(
        "O1252",
        "an earlier release opens a record of merged journals",
        (
            swap(
                _STATE,
                '        record["version"] = FORMAT_VERSION_HISTORY\n',
                "",
            ),
        ),
        tests(
            f"{_STATE_TESTS}test_a_record_is_refused_by_releases_that_would_misread_it"
        ),
        says="assert",
    ),
    Exhibit(
        "O1253",
        "an earlier release opens a record of volumes that left",
        (
            swap(
                _STATE,
                '        record["version"] = FORMAT_VERSION_MEMBERS\n',
                "",
            ),
        ),
        tests(
            f"{_STATE_TESTS}test_a_record_is_refused_by_releases_that_would_misread_it"
        ),
        says="assert",
    ),
    Exhibit(
        "O1254",
        "a point is shown to be as current as no record says",
        (
            swap(
                "remote_site/group_disk.py",
                "            self.record.store("
                "replace(state, points=(*state.points[:-1], newest)))\n"
                "            self.listed.replace((*self.points[:-1], newest))\n",
                "            self.listed.replace((*self.points[:-1], newest))\n"
                "            self.record.store("
                "replace(state, points=(*state.points[:-1], newest)))\n",
            ),
        ),
        tests(f"{_STATE_TESTS}test_what_was_not_recorded_is_not_shown"),
        says="assert",
    ),
    Exhibit(
        "O1255",
        "the torn end of a journal is cut in memory only as it is finished",
        (
            swap(
                "common/storage/journal.py",
                "            self._cut_tail(file)\n"
                "            self._guard.datasync(file)\n",
                "            self._cut_tail(file)\n",
            ),
        ),
        tests(
            "unit/storage/test_journal.py::"
            "test_what_a_failed_append_left_is_cut_before_the_journal_is_finished"
        ),
        says="not whole",
        order="finish",
    ),
    Exhibit(
        "O1256",
        "the header of an index vouches for pages that are not on the disk",
        (
            swap(
                "common/storage/journal_index.py",
                "        file.datasync()\n        fields = ",
                "        fields = ",
            ),
        ),
        tests(
            "unit/storage/test_journal_index.py::"
            "test_an_index_that_a_power_cut_left_answers_right_or_not_at_all"
        ),
        says="assert",
    ),
    Exhibit(
        "O1257",
        "a record of a later release is read as one of this",
        (
            swap(
                _STATE, "    if version not in VERSIONS:\n", "    if version is None:\n"
            ),
        ),
        tests(f"{_STATE_TESTS}test_a_record_of_a_version_that_is_not_known_is_refused"),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O1258",
        "what the other site says that it has changed is believed beyond the volume",
        (
            swap(
                "primary_site/exchange.py",
                "        _check(answer, index, first, tracks)\n",
                "",
            ),
        ),
        tests(
            "unit/primary_site/test_carrying_told_changes.py::"
            "test_what_goes_beyond_the_volume_or_back_is_no_answer"
        ),
        says="DID NOT RAISE|assert|IndexError",
    ),
)
