"""Bugs that others met: data of the wrong line trusted, holes and sizes mistaken."""

# ruff: noqa: E501 - sources are quoted as they are

from __future__ import annotations

from tests.museum.exhibit import Exhibit, Missing, Seeds, swap, tests

EXHIBITS = (
    Exhibit(
        "B18a",
        "trims are not marked as changes",
        (
            swap(
                "primary_site/threaded_writes.py",
                "            runs = claim(first, count, pinned)\n",
                "            runs = claim(first, count, pinned) if request.data else []\n",
            ),
        ),
        tests(
            "unit/primary_site/test_volume.py::test_zeroes_are_changes_like_any_other"
        ),
        says="assert",
        elsewhere=(
            "ZFS forgot when holes were born: incremental sends left them out, and the "
            "other side kept old bytes (openzfs 4809, 4050, 4023 and 4996, 2015)"
        ),
    ),
    Exhibit(
        "B18b",
        "the remote takes zeroes for nothing to do",
        (
            swap(
                "remote_site/applier.py",
                """\
            if not is_hole:
                volume.device.write_zeroes(""",
                """\
            if False:
                volume.device.write_zeroes(""",
            ),
        ),
        tests(
            "unit/remote_site/test_applier.py::"
            "test_frames_that_overlap_preserve_each_track_once_and_the_last_wins"
        ),
        says="assert",
        elsewhere="ZFS, as B18a",
    ),
    Exhibit(
        "B19",
        "zeroes take room at the remote that was given back at the primary",
        (
            swap(
                "remote_site/applier.py",
                "            volume.device.write_zeroes(start, size, punch=True)\n",
                "            volume.device.write_zeroes(start, size, punch=False)\n",
            ),
        ),
        tests(
            "unit/remote_site/test_applier.py::"
            "test_holes_are_preserved_unread_and_zeroes_leave_holes_alone"
        ),
        says="assert",
        elsewhere=(
            "Ceph's snapshot mirroring does not carry discards over (ceph 52358)"
        ),
    ),
    Exhibit(
        "B20",
        "a hole smaller than a track is taken for the whole track",
        (
            swap(
                "remote_site/secondary.py",
                "            start = -(-offset // track_bytes)\n"
                "            end = (offset + size) // track_bytes\n",
                "            start = offset // track_bytes\n"
                "            end = -(-(offset + size) // track_bytes)\n",
            ),
        ),
        tests(
            "unit/remote_site/test_applier.py::"
            "test_only_a_track_without_a_byte_of_data_is_a_hole"
        ),
        says="assert",
        elsewhere=(
            "DRBD corrupted data where the granularity of discards was not that of "
            "its peers (drbd 9.2.13, tests/resync-discard)"
        ),
    ),
    Exhibit(
        "B22",
        "sites that have each gone on from a common past are put together",
        (
            swap(
                "common/replication/lineage.py",
                """\
    if _have_parted(sender, receiver):
        return Verdict.PARTED
""",
                "",
            ),
        ),
        tests(
            "lineage/test_verdicts.py::"
            "test_every_combination_is_judged_as_the_page_says"
        ),
        says="rule",
        elsewhere=(
            "Ceph: after a forced promotion the old primary went on to replay instead "
            "of telling of a split brain (ceph 17979)"
        ),
    ),
    Exhibit(
        "B23",
        "the older of two sites overwrites the newer one by itself",
        (
            swap(
                "common/replication/lineage.py",
                """\
    if _is_sender_older(sender, receiver):
        return Verdict.SENDER_OLDER
""",
                """\
    if _is_sender_older(sender, receiver):
        return Verdict.COMPARE_ALL
""",
            ),
        ),
        tests(
            "unit/primary_site/test_group.py::"
            "test_a_remote_that_knows_a_later_cycle_is_refused"
        ),
        says="DID NOT RAISE",
        elsewhere=(
            "Ceph CSI took a passing report of split brain for a reason to resync, "
            "from the stale side (ceph-csi 3209, 2022)"
        ),
    ),
    Exhibit(
        "B24",
        "old journals go before the record that replaces their point",
        (
            swap(
                "remote_site/group_disk.py",
                "                self.record.store(durable)\n",
                """\
                for volume in self.volumes:
                    for old in volume.journals:
                        self.journals.remove(old)
                self.record.store(durable)
""",
            ),
        ),
        Seeds("remote", 60),
        says="missing",
        elsewhere=(
            "rbd-mirror pruned a snapshot that was still in use after a crash between "
            "its creation and its copy (ceph 39155 and 39432, 2021)"
        ),
        order="commit_point",
    ),
    Exhibit(
        "B25",
        "a point that the remote has lost is made up for by the bitmap alone",
        (
            swap(
                "primary_site/reconciling.py",
                "        await _compare_everything(group, welcome, alarms)\n",
                "        pass\n",
            ),
        ),
        tests(
            "unit/primary_site/test_group.py::"
            "test_a_point_the_remote_lost_is_suspected_once_not_at_each_session"
        ),
        says="assert",
        elsewhere=(
            "DRBD resolved a split brain by a partial sync from a bitmap that did not "
            "go back far enough; the result passed for identical (drbd 1353dab53, 2024)"
        ),
    ),
    Exhibit(
        "B26a",
        "what another relation of the remote acknowledged still counts",
        (
            swap(
                "primary_site/remote_relation.py",
                """\
            volume.changes.forget_acked()
        self.tag_acked(relation_id)
""",
                """\
            pass
        self.tag_acked(relation_id)
""",
            ),
        ),
        tests(
            "unit/primary_site/test_group.py::"
            "test_another_relation_of_the_remote_forgets_what_it_acknowledged"
        ),
        says="assert",
        elsewhere=(
            "DRBD left a stale generation in an unused slot: an old peer came back, "
            "had '0 dirty bits', and was trusted (drbd d8c4159c6, 2026)"
        ),
    ),
    Exhibit(
        "B26b",
        "durable acked bits of another relation are loaded",
        (
            swap(
                "common/storage/bitmap_file.py",
                "            if found_tag == tag:\n",
                "            if found_tag is not None:\n",
            ),
        ),
        tests(
            "unit/storage/test_bitmap_file.py::"
            "test_bits_under_another_tag_count_as_clear"
        ),
        says="assert",
        elsewhere="DRBD, as B26a",
    ),
    Exhibit(
        "B27a",
        "the peer hears of a cycle's number before it is durable",
        (
            swap(
                "primary_site/group.py",
                "        await self.change(settled)\n",
                "        self.state = settled(self.state)\n",
            ),
        ),
        tests(
            "unit/primary_site/test_told_and_durable.py::"
            "test_the_remote_hears_of_a_cycle_once_its_number_is_durable"
        ),
        says="told before it is durable",
        elsewhere=(
            "DRBD primaries made generations that their peer never received: the data "
            "diverged in silence (drbd 9.2.18, 9.2.19 and 9.3.3, 2026)"
        ),
        order="settle_cut",
    ),
    Exhibit(
        "B27b",
        "an epoch is told before it is durable",
        (
            swap(
                "remote_site/group_disk.py",
                "            self.record.store(self.record.bound().met(sender, self.new_identity()))\n",
                "            self.record.state = self.record.bound().met(sender, self.new_identity())\n",
            ),
        ),
        tests("unit/remote_site/test_store.py::test_an_epoch_is_never_used_twice"),
        says="assert",
        elsewhere="DRBD, as B27a",
        order="open_session",
    ),
    Exhibit(
        "B28a",
        "the remote's point is known by its number, not by its identity",
        (
            swap(
                "common/replication/lineage.py",
                "    if receiver.committed != sender.committed:\n",
                "    if _number(receiver.committed) != _number(sender.committed):\n",
            ),
        ),
        tests(
            "lineage/test_verdicts.py::"
            "test_every_combination_is_judged_as_the_page_says"
        ),
        says="rule",
        elsewhere=(
            "litestream's replica was ahead after a restore, and new data passed for "
            "replicated already (litestream e728813 and 783, 2025)"
        ),
    ),
    Exhibit(
        "B28c",
        "an older copy of the primary's state is not known by its session",
        (
            swap(
                "common/replication/lineage.py",
                "        _is_session_unknown(sender, receiver)\n        or _number",
                "        _number",
            ),
        ),
        tests(
            "lineage/test_verdicts.py::"
            "test_every_combination_is_judged_as_the_page_says"
        ),
        says="rule",
        elsewhere="litestream, as B28a",
    ),
    Exhibit(
        "B28b",
        "the remote takes a cycle that is not newer than its point",
        (
            swap(
                "remote_site/receiver.py",
                "        if newest is not None and message.cycle_number <= newest:\n",
                "        if False:\n",
            ),
        ),
        tests(
            "unit/remote_site/test_receiver.py::"
            "test_a_cycle_that_is_not_newer_than_the_committed_is_refused"
        ),
        says="DID NOT RAISE",
        elsewhere="litestream, as B28a",
    ),
    Exhibit(
        "B17a",
        "after a growth the bitmaps have no place for what is new",
        (
            swap(
                "common/storage/bitmap_file.py",
                "        self._file.allocate(page_count * 2 * SLOT_BYTES)\n"
                "        self._file.datasync()\n"
                "        self._bit_count",
                "        self._bit_count",
            ),
        ),
        tests(
            "unit/storage/test_bitmap_file.py::"
            "test_an_extended_file_keeps_its_pages_and_has_room_for_the_new_ones"
        ),
        says="assert",
        elsewhere="DRBD 9.2.8 to 9.2.14 (drbd 9.2.15, ChangeLog)",
    ),
    Exhibit(
        "B17b",
        "a start forgets that what a volume grew by was never sent",
        (
            swap(
                "primary_site/group_state.py",
                "        with_grown_by(carried, geometry, saved)\n",
                "",
            ),
        ),
        tests(
            "unit/primary_site/test_growing_volume.py::"
            "test_what_is_new_is_carried_over_a_crash_at_any_step"
        ),
        says="assert",
        elsewhere="DRBD, as B17a",
    ),
    Exhibit(
        "B17c",
        "the device is extended before the record has the intent",
        (
            swap(
                "primary_site/growing.py",
                "    await group.change(lambda state: "
                "_growing(state, volume.name, size_bytes))\n",
                "",
            ),
        ),
        tests(
            "unit/primary_site/test_growing_volume.py::"
            "test_what_is_new_is_carried_over_a_crash_at_any_step"
        ),
        says="farshore grow to make it longer",
        elsewhere="DRBD, as B17a",
        order="grow",
    ),
    Exhibit(
        "B17d",
        "a point is taken to be as large as its volume has become",
        (
            swap(
                "remote_site/store_state.py",
                "        return (point.sizes or self.sizes)[index]\n",
                "        return self.sizes[index]\n",
            ),
        ),
        tests(
            "unit/remote_site/test_growing_secondary.py::"
            "test_points_keep_their_sizes_over_a_crash_at_any_step"
        ),
        says="not the journal that the group's record names",
        elsewhere="DRBD, as B17a",
    ),
)

MISSING: tuple[Missing, ...] = ()
