"""Bugs that others met: changes that were not tracked, cuts that raced with writes."""

# ruff: noqa: E501 - sources are quoted as they are

from __future__ import annotations

from tests.museum.exhibit import Exhibit, Seeds, swap, tests

EXHIBITS = (
    Exhibit(
        "B7",
        "a cut lets writes go before it has taken the bitmaps",
        (
            swap(
                "primary_site/group.py",
                """\
            cut_ns = self._clock.now_ns()
            for volume, bitmap in zip(self.volumes, fresh, strict=True):
""",
                """\
            cut_ns = self._clock.now_ns()
            self.gate.release()
            for volume, bitmap in zip(self.volumes, fresh, strict=True):
""",
            ),
            swap(
                "primary_site/group.py",
                """\
            held = self._clock.monotonic() - began
            self.gate.release()
            ended.set_result(Cut(""",
                """\
            held = self._clock.monotonic() - began
            ended.set_result(Cut(""",
            ),
        ),
        Seeds("simulation", 100),
        says="I1|I2|I4|preserving",
        elsewhere=(
            "Ceph took a snapshot's map of dirty objects out of step with its data: "
            "incremental copies missed changes (ceph 52109, tracker 61616, 2023)"
        ),
    ),
    Exhibit(
        "B8",
        "a cut does not wait for the writes in flight",
        (
            swap(
                "primary_site/gate.py",
                """\
        self.held = True
        if self.in_flight == 0:
""",
                """\
        self.held = True
        if self.in_flight >= 0:
""",
            ),
        ),
        tests(
            "unit/primary_site/test_gate.py::"
            "test_the_cut_is_told_once_a_hold_and_only_with_nothing_in_flight"
        ),
        says="assert",
        elsewhere=(
            "DRBD's suspend-io returned before writes in flight had settled: "
            "snapshots of two nodes taken then differed (drbd 9.2.14)"
        ),
    ),
    Exhibit(
        "B9",
        "writes fall between the bitmap that is taken and the one that takes over",
        (
            swap(
                "primary_site/group.py",
                "        number = self.state.cycle_number + 1\n        await self.prepare_cut()\n",
                """\
        number = self.state.cycle_number + 1
        taken = [v.changes.flashcopy.bitmap.copy() for v in self.volumes]
        await self.prepare_cut()
""",
            ),
            swap(
                "primary_site/group.py",
                "            if cut is not None:\n                self.cut = cut\n",
                """\
            if cut is not None:
                for volume, bitmap in zip(self.volumes, taken, strict=True):
                    assert volume.changes.transferred is not None
                    volume.changes.transferred.parts[0] = bitmap
                self.cut = cut
""",
            ),
        ),
        Seeds("simulation", 100),
        says="I1|I2|I4",
        elsewhere=(
            "qemu's mirror let guests write between the release of the dirty bitmap "
            "and the switch of devices: lost in silence (qemu 176c36997fd4)"
        ),
    ),
    Exhibit(
        "B10",
        "acknowledgements of an older cycle count for the present one",
        (
            swap(
                "primary_site/drain.py",
                """\
    def on_progress(self, message: Progress) -> None:
        if message.cycle_id != self._cut.cycle_id:
            return
""",
                "    def on_progress(self, message: Progress) -> None:\n",
            ),
        ),
        tests(
            "unit/primary_site/test_drain_answers.py::"
            "test_answers_about_another_cycle_count_for_nothing"
        ),
        says="acked by an answer to another cycle",
        elsewhere=(
            "DRBD finished a resync while notices of older writes were still on their "
            "way: a block was never synced (drbd 415a2c408, 2025)"
        ),
    ),
    Exhibit(
        "B11",
        "a write is in the device before its track is marked",
        (
            swap(
                "common/storage/flashcopy.py",
                """\
            self.bitmap.set(first)
            claims[first] = owner
            return [(first, 1)]
        runs = self.clear_runs(first, count)
        self.bitmap.set_range(first, count)
""",
                """\
            claims[first] = owner
            return [(first, 1)]
        runs = self.clear_runs(first, count)
""",
            ),
            swap(
                "common/storage/flashcopy.py",
                "                del self._claims[track]\n",
                "                self.bitmap.set(track)\n"
                "                del self._claims[track]\n",
            ),
        ),
        tests(
            "unit/primary_site/test_volume_extents.py::"
            "test_a_write_is_called_changed_before_a_byte_of_it_is_there"
        ),
        says="assert",
        elsewhere=(
            "DRBD told its peer of a block out of sync before it had set the bit "
            "itself; the peer synced first, and the bit stuck (drbd cb1ce8a99, 2025)"
        ),
    ),
    Exhibit(
        "B12a",
        "a commit clears bits that were set since its cut",
        (
            swap(
                "primary_site/changes.py",
                """\
        self.stale_pages |= pages_with_bits(self.pprc)
        self.pprc = None
""",
                """\
        self.stale_pages |= pages_with_bits(self.pprc)
        self.flashcopy.bitmap.subtract(self.pprc)
        self.pprc = None
""",
            ),
        ),
        tests("unit/primary_site/test_changes.py::test_long_lives_hold_it_too"),
        says="a change in no bitmap",
        elsewhere=(
            "DRBD tested a bit and cleared a flag later: a bit set in between was "
            "lost, and no resync came (drbd 3d0668819, 2026)"
        ),
    ),
    Exhibit(
        "B12b",
        "a region cools although it was written while its bitmap was saved",
        (
            swap(
                "primary_site/regions.py",
                "            if region.pins == 0 and region.marked_at == marked_at:\n",
                "            if region.pins == 0:\n",
            ),
        ),
        tests(
            "unit/primary_site/test_cooling_order.py::"
            "test_a_region_that_is_written_while_it_cools_stays_hot"
        ),
        says="assert",
        elsewhere="DRBD, as B12a",
        order="RegionHeat._make_cool",
    ),
    Exhibit(
        "B13",
        "a write at the place that is being read for the remote is not seen",
        (
            swap(
                "primary_site/cut_reader.py",
                "        preserved = self._preserved(runs)\n",
                "        preserved: list[Runs] = [[] for _ in runs]\n",
            ),
        ),
        tests(
            "unit/primary_site/test_volume.py::"
            "test_writes_in_flight_together_mark_and_keep_every_track"
        ),
        says="assert",
        elsewhere=(
            "md: a write begun just before a recovery skipped its region, because "
            "'needs recovery' was not yet set (Linux, 'md: flush writes before "
            "starting a recovery', 2014)"
        ),
    ),
    Exhibit(
        "B14",
        "a first copy that was cut short counts as whole after a restart",
        (
            swap(
                "primary_site/group_state.py",
                "    carried = Bitmap.full(tracks) if saved.full else changed\n",
                "    carried = changed\n",
            ),
        ),
        tests(
            "unit/primary_site/test_group_state.py::"
            "test_a_full_copy_that_was_cut_short_stays_full_less_what_is_acked"
        ),
        says="assert",
        elsewhere=(
            "md took a device back whose recovery was not complete as if it were in "
            "sync (Linux, 'md: fix bug with re-adding of partially recovered device')"
        ),
    ),
    Exhibit(
        "B15",
        "while no FlashCopy stands, changes are not marked",
        (
            swap(
                "common/storage/flashcopy.py",
                """\
        if not self.stands:
            self.bitmap.set_range(first, count)
            return []
""",
                """\
        if not self.stands:
            return []
""",
            ),
        ),
        tests("unit/primary_site/test_changes.py::test_long_lives_hold_it_too"),
        says="assert",
        elsewhere=(
            "VMware's changed block tracking missed what was written while a snapshot "
            "was consolidated (KB 2136854)"
        ),
    ),
    Exhibit(
        "B16",
        "tracks beyond a boundary of the durable bitmap are not saved",
        (
            swap(
                "primary_site/changes.py",
                "    return range(page_of(first), page_of(first + count - 1) + 1)\n",
                "    return range(page_of(first), page_of(first) + 1)\n",
            ),
        ),
        tests(
            "unit/primary_site/test_changes.py::"
            "test_pages_are_told_from_tracks_and_from_bits"
        ),
        says="assert",
        elsewhere=(
            "VMware's changed block tracking told nonsense of disks grown beyond "
            "128 GB (KB 2090639); growing itself comes with volumes that grow"
        ),
    ),
    Exhibit(
        "B21a",
        "a small write does not wait for another that preserves its track",
        (
            swap(
                "primary_site/threaded_writes.py",
                "        if self._flashcopy.busy and self._must_wait(pinned):\n",
                "        if False:\n",
            ),
        ),
        tests(
            "unit/primary_site/test_volume.py::"
            "test_an_overlapping_write_waits_for_the_track_being_preserved"
        ),
        says="assert",
        elsewhere=(
            "Longhorn copied whole units while smaller writes to them ran: every "
            "sixteenth or so clone had another checksum (longhorn 4354, 2022)"
        ),
    ),
    Exhibit(
        "B21b",
        "of a small write only its own bytes are preserved, not its track",
        (
            swap(
                "primary_site/preserving.py",
                "                offset, length = self._geometry.byte_range(first, count)\n",
                """\
                offset, length = self._geometry.byte_range(first, count)
                if count == 1:
                    length = min(length, 512)
""",
            ),
        ),
        tests(
            "unit/primary_site/test_volume.py::"
            "test_writes_in_flight_together_mark_and_keep_every_track"
        ),
        says="assert",
        elsewhere="Longhorn, as B21a",
    ),
    Exhibit(
        "B34a",
        "two notions of changed: a cut looks at one of them only",
        (
            swap(
                "primary_site/changes.py",
                "            or any(b.count for b in self.carried)\n",
                "",
            ),
        ),
        tests("unit/primary_site/test_changes.py"),
        says="has_changed",
        elsewhere=(
            "ZFS looked at two signs of a dirty object, one after the other; readers "
            "that skip holes saw holes in fresh data (openzfs 30d581121b, 2023)"
        ),
    ),
    Exhibit(
        "B34b",
        "a hole is told where a write has been answered meanwhile",
        (
            swap(
                "primary_site/extents.py",
                "        elif look.written:\n",
                "        elif False:\n",
            ),
        ),
        tests(
            "unit/primary_site/test_volume_extents.py::"
            "test_no_answer_is_older_than_a_write_that_has_its_reply"
        ),
        says="assert",
        elsewhere="ZFS, as B34a",
    ),
)
