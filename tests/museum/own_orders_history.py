"""Dangerous orders of our own, in the history of recovery points."""

# ruff: noqa: E501 - sources are quoted as they are

from __future__ import annotations

from tests.museum.exhibit import Exhibit, swap, tests

_HISTORY = "unit/remote_site/test_history.py::"
_MERGE = "test_a_power_cut_at_any_step_of_a_merge_leaves_each_point_whole"
_DISK = "remote_site/group_disk.py"
_MERGES = "remote_site/point_merges.py"
_SAYS = "assert|Assertion|DID NOT RAISE|CorruptStateError|StorageError|PointGoneError"

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "O800",
        "a record names merged journals whose names are not durable",
        (
            swap(
                _MERGES,
                "                disk.journals.sync_names()\n",
                "",
            ),
        ),
        tests(f"{_HISTORY}{_MERGE}"),
        says=_SAYS,
        order="replace_merged",
    ),
    Exhibit(
        "O801",
        "journals that were merged are deleted before the record lets go of them",
        (
            swap(
                _MERGES,
                "                disk.record.store(state.without(gone, into, size_bytes, relation_id))\n",
                """\
                for volume in disk.volumes:
                    for journal in volume.journals:
                        if journal.header.point_number in gone:
                            disk.files.remove(journal.path)
                disk.record.store(state.without(gone, into, size_bytes, relation_id))
""",
            ),
        ),
        tests(f"{_HISTORY}{_MERGE}"),
        says=_SAYS,
        order="replace_merged",
    ),
    Exhibit(
        "O802",
        "what a record still names is deleted when the oldest points go",
        (
            swap(
                _DISK,
                "            shorter = state.since(number)\n",
                """\
            shorter = state.since(number)
            for volume in self.volumes:
                for journal in volume.journals:
                    if journal.header.point_number < number:
                        self.files.remove(journal.path)
""",
            ),
        ),
        tests(
            f"{_HISTORY}test_a_power_cut_at_any_step_of_a_drop_leaves_each_point_whole"
        ),
        says=_SAYS,
        order="drop_before",
    ),
    Exhibit(
        "O803",
        "a record names a catalogue that is not on the disk",
        (
            swap(
                "remote_site/point_catalogue.py",
                "        guard.datasync(file)\n",
                "",
            ),
        ),
        tests(f"{_HISTORY}{_MERGE}"),
        says=_SAYS,
    ),
    Exhibit(
        "O804",
        "of merged journals the latest content wins",
        (
            swap(
                "common/storage/journal_merge.py",
                "            window.cover(self._sources, len(self._sources))\n",
                """\
            self._sources = self._sources[::-1]
            window.cover(self._sources, len(self._sources))
""",
            ),
        ),
        tests(f"{_HISTORY}test_a_merge_takes_points_away_and_their_journals_with_them"),
        says=_SAYS,
    ),
    Exhibit(
        "O805",
        "journals are deleted under a reader",
        (
            swap(
                "remote_site/leases.py",
                "        oldest = min(self._readers, default=self._generation)\n",
                "        oldest = self._generation\n",
            ),
        ),
        tests(
            f"{_HISTORY}"
            "test_who_has_a_point_open_reads_on_while_its_journals_are_merged"
        ),
        says=_SAYS,
    ),
    Exhibit(
        "O806",
        "after a record that may have landed the journals it names are deleted",
        (
            swap(
                "remote_site/history.py",
                "            if not is_unknown:\n",
                "            if is_unknown is not None:\n",
            ),
        ),
        tests(
            f"{_HISTORY}"
            "test_after_a_failed_flush_of_the_record_new_journals_are_left_alone"
        ),
        says=_SAYS,
    ),
    Exhibit(
        "O807",
        "a point that somebody has just opened is merged away",
        (
            swap(
                "remote_site/listed_points.py",
                "            is_free = not any(number in self._pins for number in numbers)\n",
                "            is_free = True\n",
            ),
        ),
        tests(f"{_HISTORY}test_a_point_that_is_opened_while_it_is_merged_away_stays"),
        says=_SAYS,
    ),
    Exhibit(
        "O808",
        "a point whose journals went shows something newer",
        (
            swap(
                "remote_site/recovery_point.py",
                "        if not chain or chain[0].header.point_number != self._number:\n",
                "        if not chain:\n",
            ),
        ),
        tests(
            f"{_HISTORY}test_the_limit_takes_the_oldest_then_pins_but_never_the_newest"
        ),
        says=_SAYS,
    ),
    Exhibit(
        "O809",
        "a map of where tracks lie outlives the merge of what it points to",
        (
            swap(
                "remote_site/point_map.py",
                "                if window.covered > common:",
                "                if window.covered > common + (1 << 30):",
            ),
        ),
        tests(f"{_HISTORY}test_a_map_made_before_a_merge_does_not_outlive_it"),
        says=_SAYS,
    ),
    Exhibit(
        "O810",
        "of a volume that has grown a merged point gets more than it had",
        (
            swap(
                "common/storage/journal_merge.py",
                "            if stored.encoding == Encoding.ZERO or stored.raw_bytes == length:\n",
                "            if stored is not None:\n",
            ),
        ),
        tests(f"{_HISTORY}test_a_point_from_before_a_growth_gets_no_more_than_it_had"),
        says=_SAYS,
    ),
)
