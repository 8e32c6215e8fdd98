"""Dangerous orders of our own, at the receiving site and between the two."""

# ruff: noqa: E501 - sources are quoted as they are

from __future__ import annotations

from tests.museum.exhibit import Exhibit, Seeds, swap, tests

SESSIONS = (
    Exhibit(
        "O100",
        "a new session begins beside the old one",
        (
            swap(
                "remote_site/group.py",
                "                await self._supersede(hello)\n",
                "",
            ),
        ),
        tests(
            "unit/remote_site/test_receiving_group.py::"
            "test_a_new_session_ends_the_old_one_and_says_so"
        ),
        says="Timeout",
        order="open_session",
    ),
    Exhibit(
        "O101",
        "a cycle begins while threads of the one before still write",
        (
            swap(
                "remote_site/session_control.py",
                "                await self._applying.idle.wait()\n",
                "",
            ),
        ),
        tests(
            "unit/remote_site/test_receiving_group.py::"
            "test_a_begin_waits_for_the_threads_of_the_cycle_before"
        ),
        says="assert",
    ),
    Exhibit(
        "O102",
        "a store is told to be settled while a thread of it runs",
        (
            swap(
                "remote_site/store.py",
                "        while self._in_flight:\n",
                "        while self._in_flight < 0:\n",
            ),
        ),
        tests(
            "unit/remote_site/test_store.py::"
            "test_a_cancelled_commit_still_takes_effect_and_can_be_waited_for"
        ),
        says="assert",
    ),
    Exhibit(
        "O103",
        "frames that do not match the digest are committed",
        (
            swap(
                "remote_site/receiver.py",
                "            and self.digest == self._end.digest\n",
                "",
            ),
            swap(
                "remote_site/receiver.py",
                "            self.digest != end.digest or",
                "            self.received.count < 0 or",
            ),
        ),
        tests("unit/remote_site/test_receiver.py::test_a_wrong_digest_never_commits"),
        says="DID NOT RAISE|assert",
        elsewhere=(
            "ZFS failed an incremental receive in silence, because looking ahead "
            "consumed the record that ends it (openzfs da19d919a8)"
        ),
    ),
    Exhibit(
        "O104",
        "two frames with the same track are applied in any order",
        (
            swap(
                "remote_site/batches.py",
                "        if first < end:\n            return False\n",
                "",
            ),
        ),
        tests("unit/remote_site/test_batches.py"),
        says="assert",
    ),
    Exhibit(
        "O105",
        "a frame that comes in pieces is put together wrongly",
        (
            swap(
                "common/replication/frame.py",
                "        start = self._filled_bytes\n        body[start",
                "        start = min(self._filled_bytes, len(body) - count)\n"
                "        start -= start % 8\n        body[start",
            ),
            swap(
                "common/replication/frame.py",
                "        if xxhash.xxh3_64_intdigest(body) != self._checksum:\n",
                "        if self._filled_bytes < 0:\n",
            ),
        ),
        tests(
            "unit/replication/test_replication_frame.py::"
            "test_byte_by_byte_gives_the_same_frames"
        ),
        says="assert",
        elsewhere="DRBD corrupted chunks when it put them together again (drbd 9.2.17)",
    ),
    Exhibit(
        "O106",
        "a bit that flips on the wire is not noticed",
        (
            swap(
                "common/replication/frame.py",
                "        if xxhash.xxh3_64_intdigest(body) != self._checksum:\n",
                "        if self._filled_bytes < 0:\n",
            ),
        ),
        tests(
            "unit/replication/test_replication_frame.py::test_any_flipped_bit_is_noticed"
        ),
        says="DID NOT RAISE|assert",
    ),
)

STORE = (
    Exhibit(
        "O120",
        "a track is overwritten before its old content is in the journal",
        (
            swap(
                "remote_site/applier.py",
                """\
        if volume.journals:
            _preserve(volume, volume.journals[-1], _united(records))
        for record in records:
            _overwrite(volume, record)
""",
                """\
        for record in records:
            _overwrite(volume, record)
        if volume.journals:
            _preserve(volume, volume.journals[-1], _united(records))
""",
            ),
        ),
        tests(
            "unit/remote_site/test_applier.py::"
            "test_the_journal_is_durable_before_the_device_changes"
        ),
        says="assert",
        order="apply_tracks",
    ),
    Exhibit(
        "O121",
        "readers see a journal's entries before they are durable",
        (
            swap(
                "common/storage/journal.py",
                "        file.write(stored.end, batch)\n"
                "        self._guard.datasync(file)\n",
                "        file.write(stored.end, batch)\n"
                "        index.add(entries)\n"
                "        self._guard.datasync(file)\n",
            ),
            swap(
                "common/storage/journal.py",
                "        self._sequence += 1\n        index.add(entries)\n",
                "        self._sequence += 1\n",
            ),
        ),
        tests(
            "unit/storage/test_journal.py::test_nothing_shows_after_a_flush_that_failed"
        ),
        says="assert",
        order="append",
    ),
    Exhibit(
        "O122",
        "the torn tail of a journal is kept at a start",
        (
            swap(
                "common/storage/journal.py",
                """\
            if file.size() != whole.end:
                file.truncate(whole.end)
                guard.datasync(file)
""",
                "",
            ),
        ),
        tests(
            "unit/storage/test_journal.py::test_a_torn_tail_of_any_length_is_cut_off"
        ),
        says="assert",
    ),
    Exhibit(
        "O123",
        "what a failed append left stays in a finished journal",
        (
            swap(
                "remote_site/group_disk.py",
                """\
                for journal in self._open_journals(volume, state):
                    journal.finish()
""",
                "",
            ),
        ),
        tests(
            "unit/remote_site/test_store.py::"
            "test_a_journal_is_whole_once_finished_though_its_last_append_failed"
        ),
        says="AssertionError",
        order="commit_point",
    ),
    Exhibit(
        "O124",
        "a journal's page cache is trusted after a flush that failed",
        (
            swap(
                "common/storage/journal.py",
                "            file.drop_cache()"
                "  # a batch whose flush failed is in memory only\n",
                "",
            ),
        ),
        tests(
            "unit/storage/test_journal.py::"
            "test_what_a_failed_flush_left_in_memory_is_not_trusted_by_a_restart"
        ),
        says="assert",
    ),
    Exhibit(
        "O125",
        "a restart forgets what the open journal has preserved",
        (
            swap(
                "common/storage/journal.py",
                "                for first, count, _ in entries:\n"
                "                    journal.preserved.set_range(first, count)\n",
                "",
            ),
        ),
        Seeds("remote", 60),
        says="mixture|preserved twice",
    ),
    Exhibit(
        "O126",
        "a journal record that has rotted is handed out",
        (
            swap(
                "common/storage/journal_format.py",
                "        or zlib.crc32(stored,"
                " zlib.crc32(_RECORD.pack(*described, 0), seed)) != crc\n",
                "",
            ),
        ),
        tests(
            "unit/storage/test_journal.py::"
            "test_a_record_that_rots_is_reported_when_it_is_read"
        ),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O127",
        "a reader of a point does not look at the journal again after the device",
        (
            swap(
                "remote_site/recovery_point.py",
                """\
        if runs:
            # Look again: what was preserved meanwhile comes from the journal.
            pieces += self._resolve(runs)[0]
""",
                "",
            ),
        ),
        tests(
            "unit/remote_site/test_recovery_point.py::"
            "test_a_track_overwritten_between_the_look_and_the_read_is_the_point_s"
        ),
        says="assert",
    ),
    Exhibit(
        "O128",
        "a point's holes are told without a second look",
        (
            swap(
                "remote_site/recovery_point.py",
                "        _, holes = self._resolve(sorted(holes))\n",
                "",
            ),
        ),
        tests(
            "unit/remote_site/test_recovery_point.py::"
            "test_a_track_overwritten_between_the_look_and_the_read_is_the_point_s"
        ),
        says="assert",
    ),
    Exhibit(
        "O129",
        "a point goes while a connection reads it",
        (
            swap(
                "remote_site/listed_points.py",
                "            oldest = min([oldest, *pinned])\n",
                "            oldest = min([oldest, *pinned[:0]])\n",
            ),
        ),
        tests(
            "unit/remote_site/test_store.py::"
            "test_a_pinned_point_stays_while_newer_ones_commit"
        ),
        says="assert|Assertion",
    ),
    Exhibit(
        "O130",
        "a record is written over the newest one",
        (
            swap(
                "common/storage/record.py",
                "            self._replace(((self._sequence + 1) & 1) * SLOT_BYTES, slot)\n",
                "            self._replace((self._sequence & 1) * SLOT_BYTES, slot)\n",
            ),
        ),
        tests(
            "unit/storage/test_record.py::"
            "test_a_store_never_touches_the_slot_of_the_newest_record"
        ),
        says="assert",
        order="store",
    ),
    Exhibit(
        "O131",
        "a record is visible before it is durable",
        (
            swap(
                "common/storage/record.py",
                "            file.write(offset, slot)\n            file.datasync()\n",
                "            file.write(offset, slot)\n",
            ),
        ),
        tests(
            "unit/storage/test_record.py::"
            "test_a_power_cut_at_any_step_leaves_the_old_or_the_new_record"
        ),
        says="assert",
        order="store",
    ),
    Exhibit(
        "O132",
        "devices that a killed process wrote are not flushed at a start",
        (
            swap(
                "remote_site/secondary_opening.py",
                "        volume.is_unsynced = True  # by a process that was killed\n",
                "",
            ),
        ),
        Seeds("remote", 60),
        says="mixture",
    ),
    Exhibit(
        "O133",
        "the record names devices whose names are not durable",
        (
            swap(
                "remote_site/secondary_device.py",
                "        sync_name(files, path, guard)\n",
                "",
            ),
        ),
        Seeds("remote", 60),
        says="img",
        order="bind",
    ),
    Exhibit(
        "O134",
        "a write during a flush passes for flushed",
        (
            swap(
                "remote_site/secondary.py",
                "                self.is_unsynced = False\n"
                "                self.guard.datasync(self.device)\n",
                "                self.guard.datasync(self.device)\n"
                "                self.is_unsynced = False\n",
            ),
        ),
        tests(
            "unit/remote_site/test_applier.py::"
            "test_a_write_during_a_flush_needs_another_flush"
        ),
        says="assert",
    ),
    Exhibit(
        "O135",
        "a flush does not wait for the one that takes care of its writes",
        (
            swap(
                "remote_site/secondary.py",
                "        with self._flushing:\n            self.guard.check()\n",
                "        with threading.Lock():\n            self.guard.check()\n",
            ),
        ),
        tests(
            "unit/remote_site/test_applier.py::"
            "test_a_second_flush_waits_for_the_first_that_covers_its_writes"
        ),
        says="assert",
    ),
    Exhibit(
        "O136",
        "a page of a bitmap is written over its newest slot",
        (
            swap(
                "common/storage/bitmap_file.py",
                "            self._file.write((2 * page + (sequence & 1)) * SLOT_BYTES, slot)\n",
                "            self._file.write(2 * page * SLOT_BYTES, slot)\n",
            ),
        ),
        tests(
            "unit/storage/test_bitmap_file.py::"
            "test_after_power_loss_each_page_is_as_last_flushed_or_as_saved_since"
        ),
        says="assert",
    ),
    Exhibit(
        "O137",
        "the region log is appended to behind a block that a crash may have torn",
        (
            swap(
                "common/storage/region_log.py",
                """\
        self._generation, self.hot = max(areas, key=lambda found: found[0])
""",
                """\
        self._generation, self.hot = max(areas, key=lambda found: found[0])
        if self._generation:
            self._next_block = self._snapshot_blocks = 1
            self._next_block += 1
""",
            ),
        ),
        tests("unit/storage/test_region_log.py"),
        says="assert",
    ),
)

EXHIBITS: tuple[Exhibit, ...] = (*SESSIONS, *STORE)
