"""Dangerous orders of our own, at the sending site."""

# ruff: noqa: E501 - sources are quoted as they are

from __future__ import annotations

from tests.museum.exhibit import Exhibit, Seeds, swap, tests

_CHANGES = "unit/primary_site/test_changes.py::test_long_lives_hold_it_too"

CUTS = (
    Exhibit(
        "O1",
        "the remote commits before the devices here are flushed",
        (
            swap(
                "primary_site/group_cycles.py",
                "        await asyncio.shield(self._destage)\n",
                "",
            ),
        ),
        tests(
            "unit/primary_site/test_group.py::"
            "test_the_remote_may_commit_only_what_is_destaged"
        ),
        says="CycleEnd",
        order="destage",
    ),
    Exhibit(
        "O2",
        "the destage flushes nothing",
        (
            swap(
                "primary_site/group.py",
                "        await asyncio.gather(*(volume.flush() for volume in self.volumes))\n",
                "        await asyncio.sleep(0)\n",
            ),
        ),
        tests(
            "unit/primary_site/test_told_and_durable.py::"
            "test_a_destage_is_a_flush_begun_after_the_cut"
        ),
        says="nothing was flushed",
        order="destage",
    ),
    Exhibit(
        "O3",
        "the volumes of a group have a gate each",
        (
            swap(
                "primary_site/volume_making.py",
                "        threads,\n        gate,\n        changes,\n",
                "        threads,\n"
                '        gate if opened.name == "data" else Gate(),\n'
                "        changes,\n",
            ),
        ),
        Seeds("simulation", 100),
        says="I1|I2|I4|I5|preserving",
    ),
    Exhibit(
        "O4",
        "the volumes of a group are cut one after the other",
        (
            swap(
                "primary_site/group.py",
                """\
            for volume, bitmap in zip(self.volumes, fresh, strict=True):
                marked = volume""",
                """\
            for volume, bitmap in zip(self.volumes, fresh, strict=True):
                if volume is self.volumes[-1] is not self.volumes[0]:
                    self.gate.release()
                    self.gate.held = True
                marked = volume""",
            ),
        ),
        Seeds("simulation", 100),
        says="I1|I2|I4|I5|preserving",
    ),
    Exhibit(
        "O5",
        "a write does not count as in flight",
        (
            swap(
                "primary_site/threaded_writes.py",
                "        self._gate.enter(len(pinned.requests))\n",
                "",
            ),
            swap(
                "primary_site/threaded_writes.py",
                "            self._gate.leave(len(pinned.requests))\n",
                "            pass\n",
            ),
        ),
        tests(
            "unit/primary_site/test_volume.py::"
            "test_a_cut_waits_for_the_threads_of_writes_under_way"
        ),
        says="assert",
    ),
    Exhibit(
        "O6",
        "a write on the loop passes a held gate",
        (
            swap(
                "primary_site/volume.py",
                "        if not (self._gate.held or self._threaded.hops.overdue or self.failed):\n",
                "        if not (self._threaded.hops.overdue or self.failed):\n",
            ),
        ),
        tests("unit/primary_site/test_at_once.py::test_no_write_passes_a_held_gate"),
        says="assert",
    ),
    Exhibit(
        "O7",
        "the number of an abandoned cut is used again",
        (
            swap(
                "primary_site/group.py",
                "        self.state = replace("
                "self.state, cycle_number=cut.number, cycle_id=cut.cycle_id)\n"
                "        self.cut = None\n        self.withdraw()\n",
                "        self.cut = None\n        self.withdraw()\n",
            ),
        ),
        tests(
            "unit/primary_site/test_group.py::test_the_number_of_an_abandoned_cut_is_spent"
        ),
        says="assert",
    ),
    Exhibit(
        "O8",
        "bitmaps forget a cycle before the record names its point",
        (
            swap(
                "primary_site/group.py",
                """\
        await self.change(
            lambda state: replace(
                all_joined(state),
                committed_number=cut.number,
""",
                """\
        for volume in self.volumes:
            volume.changes.complete()
        self.remote_relation.tag_acked(relation_id)
        await self.change(
            lambda state: replace(
                all_joined(state),
                committed_number=cut.number,
""",
            ),
            swap(
                "primary_site/group.py",
                """\
        assert self.cut is cut
        for volume in self.volumes:
            volume.changes.complete()
        self.remote_relation.tag_acked(relation_id)
""",
                "        assert self.cut is cut\n",
            ),
        ),
        Seeds("primary", 50),
        says="differs",
        order="complete_cycle",
    ),
    Exhibit(
        "O9",
        "a commit whose answer was lost is forgotten",
        (
            swap(
                "primary_site/reconciling.py",
                "        await complete(receiver.relation_id)"
                "  # only its answer was lost\n",
                "        group.abandon_cycle()\n",
            ),
        ),
        tests(
            "unit/primary_site/test_group.py::"
            "test_a_commit_whose_answer_was_lost_completes_the_cycle"
        ),
        says="assert",
    ),
    Exhibit(
        "O10",
        "that everything is suspected is not recorded",
        (
            swap(
                "primary_site/remote_relation.py",
                "        await self._group.change(suspected)\n",
                "        self._group.state = suspected(self._group.state)\n",
            ),
        ),
        tests(
            "unit/primary_site/test_told_and_durable.py::"
            "test_that_everything_is_suspected_is_durable_at_once"
        ),
        says="assert",
        order="suspect_everything",
    ),
    Exhibit(
        "O11",
        "two who change the record at once undo each other",
        (
            swap(
                "primary_site/group.py",
                """\
        async with self._record_lock:
            record = to_record(change(self.state))
""",
                """\
        async with asyncio.Lock():
            changed = change(self.state)
            record = to_record(changed)
""",
            ),
            swap(
                "primary_site/group.py",
                "                raise\n            self.state = change(self.state)\n",
                "                raise\n            self.state = changed\n",
            ),
        ),
        tests(
            "unit/primary_site/test_group.py::"
            "test_changes_of_the_state_at_once_do_not_undo_one_another"
        ),
        says="assert",
    ),
    Exhibit(
        "O12",
        "a record's store goes on beside the next one when its caller is cancelled",
        (
            swap(
                "primary_site/group.py",
                "        await to_its_end(self._change(change))\n",
                "        await self._change(change)\n",
            ),
        ),
        tests(
            "unit/primary_site/test_group.py::"
            "test_a_cancelled_store_ends_before_the_next_one_begins"
        ),
        says="its thread still writes",
    ),
    Exhibit(
        "O13",
        "what a start has found and decided is not stored before hosts write",
        (
            swap(
                "primary_site/opening.py",
                "    record.load()\n    record.store(to_record(state))\n",
                "    record.load()\n",
            ),
        ),
        tests(
            "unit/primary_site/test_told_and_durable.py::"
            "test_who_this_is_and_that_it_runs_is_durable_before_hosts_write"
        ),
        says="assert",
        order="open_group",
    ),
)

PRESERVING = (
    Exhibit(
        "O20",
        "old content is preserved after the device was written",
        (
            swap(
                "primary_site/preserving.py",
                """\
        if self._runs:
            self._preserve()
        for request in self.requests:
            try:
                self._write(request)
            except StorageError as error:
                request.error = error.errno
""",
                """\
        for request in self.requests:
            try:
                self._write(request)
            except StorageError as error:
                request.error = error.errno
        if self._runs:
            self._preserve()
""",
            ),
        ),
        tests(
            "unit/primary_site/test_volume.py::"
            "test_writes_in_flight_together_mark_and_keep_every_track"
        ),
        says="assert",
        order="HostWriteBatch.run",
    ),
    Exhibit(
        "O21",
        "a preserve that fails leaves the relation valid",
        (
            swap(
                "primary_site/preserving.py",
                """\
        except StorageError as error:
            standing.relation.invalidate(str(error))

    def _write(""",
                """\
        except StorageError:
            pass

    def _write(""",
            ),
        ),
        tests(
            "unit/primary_site/test_volume.py::"
            "test_a_failed_preserve_invalidates_before_the_device_is_written"
        ),
        says="assert",
        order="HostWriteBatch.run",
    ),
    Exhibit(
        "O22",
        "no room to preserve fails the host's write",
        (
            swap(
                "primary_site/preserving.py",
                """\
        except StorageError as error:
            standing.relation.invalidate(str(error))

    def _write(""",
                """\
        except StorageError as error:
            standing.relation.invalidate(str(error))
            raise

    def _write(""",
            ),
        ),
        tests(
            "unit/primary_site/test_volume.py::"
            "test_a_failed_preserve_invalidates_before_the_device_is_written"
        ),
        says="assert",
    ),
    Exhibit(
        "O23",
        "the room that preserving took is not given back before a host sees ENOSPC",
        (
            swap(
                "primary_site/preserving.py",
                "            if not error.is_out_of_space or self._standing is None:\n",
                "            if not error.is_out_of_space or self._standing:\n",
            ),
        ),
        tests(
            "unit/primary_site/test_volume.py::"
            "test_room_that_preserving_took_is_given_back_before_a_host_sees_enospc"
        ),
        says="assert",
    ),
    Exhibit(
        "O24",
        "on the loop a target that fails leaves the relation valid",
        (
            swap(
                "primary_site/at_once.py",
                """\
        except StorageError as error:
            # Before the device is written: the torn image must never be readable.
            standing.relation.invalidate(str(error))
""",
                """\
        except StorageError:
            pass
""",
            ),
        ),
        tests(
            "unit/primary_site/test_at_once.py::"
            "test_a_full_target_ends_the_relation_before_the_device_is_written"
        ),
        says="assert",
    ),
    Exhibit(
        "O25",
        "on the loop old content is not preserved",
        (
            swap(
                "primary_site/at_once.py",
                """\
                if not (standing.blank and is_zero(data)):
                    standing.target.write(at, data)
""",
                """\
                if at < 0:
                    standing.target.write(at, data)
""",
            ),
        ),
        tests(
            "unit/primary_site/test_at_once.py::"
            "test_old_content_is_kept_and_every_track_marked"
        ),
        says="assert",
    ),
    Exhibit(
        "O26",
        "on the loop a track is written without a mark",
        (
            swap(
                "primary_site/at_once.py",
                "                flashcopy.bitmap.set_range(first, count)\n"
                "            elif not self._preserve(first, count):\n",
                "                pass\n"
                "            elif not self._preserve(first, count):\n",
            ),
        ),
        tests(
            "unit/primary_site/test_at_once.py::"
            "test_without_a_relation_tracks_are_marked_and_nothing_is_kept"
        ),
        says="assert",
    ),
    Exhibit(
        "O27",
        "a track that is being preserved is read as if it were preserved",
        (
            swap(
                "primary_site/cut_reader.py",
                "        await self._settled(runs)\n",
                "",
            ),
        ),
        Seeds("simulation", 100),
        says="I1|I2|I6",
    ),
    Exhibit(
        "O73",
        "a frame made at once counts, whatever hosts overwrote meanwhile",
        (
            swap(
                "primary_site/cut_reader.py",
                "            if self._preserved(runs) == before:\n                return made\n",
                "            return made\n",
            ),
        ),
        Seeds("simulation", 100),
        says="I1|I2|I6",
    ),
    Exhibit(
        "O28",
        "a target is given to another cut while a thread reads it",
        (
            swap(
                "primary_site/preserving.py",
                "            await quiet(self._used_by[side])\n",
                "",
            ),
        ),
        tests(
            "unit/primary_site/test_target_readers.py::"
            "test_a_target_is_not_given_to_another_cut_while_a_thread_reads_it"
        ),
        says="taken over while a thread reads it",
    ),
    Exhibit(
        "O29",
        "the image of a cut is read on after the next cut took its target",
        (
            swap(
                "common/storage/flashcopy.py",
                "        return self.valid and not self.withdrawn\n",
                "        return self.valid\n",
            ),
        ),
        tests(
            "unit/primary_site/test_cut_volume.py::"
            "test_no_answer_is_given_once_the_relation_has_ended"
        ),
        says="assert",
    ),
    Exhibit(
        "O30",
        "what was read from a target counts though its relation ended meanwhile",
        (
            swap(
                "primary_site/preserving.py",
                "    if not standing.relation.readable:\n        raise StorageError(\n",
                "    if standing.target is None:\n        raise StorageError(\n",
            ),
        ),
        tests(
            "unit/primary_site/test_target_readers.py::"
            "test_what_is_read_from_a_target_counts_only_if_its_cut_still_stands"
        ),
        says="DID NOT RAISE",
    ),
)

TRACKING = (
    Exhibit(
        "O40",
        "the region log is not flushed",
        (
            swap(
                "common/storage/region_log.py",
                "        self._file.datasync()\n        self.hot = hot\n",
                "        self.hot = hot\n",
            ),
        ),
        tests("unit/storage/test_region_log.py"),
        says="assert",
        order="RegionLog.write",
    ),
    Exhibit(
        "O41",
        "regions cool before the pages of their bitmaps are flushed",
        (
            swap(
                "primary_site/durable_bitmaps.py",
                "        self.changed.datasync()\n        self.acked.datasync()\n",
                "        pass\n",
            ),
        ),
        tests(
            "unit/primary_site/test_cooling_order.py::"
            "test_a_region_cools_after_the_device_and_both_bitmaps_are_flushed"
        ),
        says="C",
        order="RegionHeat._make_cool",
    ),
    Exhibit(
        "O42",
        "regions cool before the device is flushed",
        (
            swap(
                "primary_site/regions.py",
                "        await self.save(pages, sync_device=bool(regions or left_hot))\n",
                "        await self.save(pages, sync_device=False)\n",
            ),
        ),
        tests(
            "unit/primary_site/test_cooling_order.py::"
            "test_a_region_cools_after_the_device_and_both_bitmaps_are_flushed"
        ),
        says="C",
        order="RegionHeat._make_cool",
    ),
    Exhibit(
        "O43",
        "a region cools after a flush that failed",
        (
            swap(
                "primary_site/regions.py",
                "            if self._failed is not None:\n                raise self._failed\n",
                "",
                2,
            ),
            swap(
                "primary_site/regions.py",
                "                await self._flush.done()\n",
                "                pass\n",
            ),
            swap(
                "primary_site/upkeep.py",
                "            if volume.failed is not None:\n                return\n",
                "",
            ),
        ),
        tests(
            "unit/primary_site/test_volume.py::"
            "test_after_a_failed_flush_nothing_is_acknowledged_again"
        ),
        says="a region cooled by a lying fdatasync",
    ),
    Exhibit(
        "O44",
        "the tracks of an abandoned cycle are forgotten",
        (
            swap(
                "primary_site/changes.py",
                "            self.carried.append(self.pprc)\n",
                "",
            ),
        ),
        tests(_CHANGES),
        says="a change in no bitmap",
    ),
    Exhibit(
        "O45",
        "carried tracks are left out of a transfer",
        (
            swap(
                "primary_site/changes.py",
                "        self.transferred = Transfer([old, *self.carried])\n",
                "        self.transferred = Transfer([old])\n",
            ),
        ),
        tests(_CHANGES),
        says="a change in no bitmap|committed, but not the cut",
    ),
    Exhibit(
        "O46",
        "tracks written since they were acked stay acked over a cut",
        (
            swap(
                "primary_site/changes.py",
                "    kept.subtract(transfer.parts[0])\n",
                "",
            ),
        ),
        tests(_CHANGES),
        says="assert",
    ),
    Exhibit(
        "O47",
        "a durable acked bit outlives a write to its track",
        (
            swap(
                "primary_site/changes.py",
                "        bits = _page(self.acked, page)"
                " & ~_page(self.flashcopy.bitmap, page)\n",
                "        bits = _page(self.acked, page)\n",
            ),
        ),
        tests(_CHANGES),
        says="assert",
    ),
    Exhibit(
        "O48",
        "a device that was written behind the daemon's back is trusted",
        (
            swap(
                "primary_site/group_state.py",
                "        return known != found\n",
                "        return known is None\n",
            ),
        ),
        tests("unit/primary_site/test_group_state.py"),
        says="assert",
    ),
    Exhibit(
        "O49",
        "a clean stop is recorded while regions are hot",
        (
            swap(
                "primary_site/group.py",
                "            await volume.heat.cool_idle(all_regions=True)\n"
                "            await self.upkeep.end_full(volume)\n"
                "            await volume.flush()\n",
                "            volume.heat.durable.log.write("
                "[], set(volume.heat.durable.log.hot))\n"
                "            await volume.flush()\n",
            ),
        ),
        tests(
            "unit/primary_site/test_volume.py::"
            "test_a_clean_stop_is_known_as_one_and_an_altered_device_is_suspect",
        ),
        says="assert",
        order="close",
    ),
    Exhibit(
        "O50",
        "hosts wait for ever when more regions are wanted than may be hot",
        (
            swap(
                "primary_site/regions.py",
                "            if self._room() > 0:\n"
                "                return  # none is hot and idle: some of those that wait fit all the same\n",
                "",
            ),
        ),
        tests("unit/primary_site/test_region_pressure.py"),
        says="Timeout",
        elsewhere="found here by the exploration of crashes",
    ),
)

HOSTS = (
    Exhibit(
        "O60",
        "FUA is answered without a flush",
        (
            swap(
                "primary_site/volume.py",
                "        synced = [r for r in requests if r.fua and not r.error]\n",
                "        synced: list[HostRequest] = []\n",
            ),
        ),
        Seeds("simulation", 100),
        says="I3",
    ),
    Exhibit(
        "O61",
        "FUA of a write on the loop is answered without a flush",
        (
            swap(
                "primary_site/volume.py",
                "            synced = [request for request in written if request.fua]\n",
                "            synced: list[HostRequest] = []\n",
            ),
        ),
        tests(
            "unit/primary_site/test_at_once.py::"
            "test_fua_is_answered_after_a_sync_begun_after_the_write"
        ),
        says="assert",
    ),
    Exhibit(
        "O62",
        "a client's proof of life from before the newest connection counts",
        (
            swap(
                "common/nbd/liveness.py",
                "        elif life is Life.PROVED and self._is_renewed:\n",
                "        elif life is Life.UNKNOWN and self._is_renewed:\n",
            ),
        ),
        tests(
            "unit/nbd/test_liveness.py::"
            "test_a_proof_from_before_the_newest_connection_does_not_do"
        ),
        says="TimeoutError",
        elsewhere="NVMe over TCP, as B29a",
    ),
)

DRAIN = (
    Exhibit(
        "O70",
        "tracks that the remote wants whole count as acked with their hashes",
        (
            swap(
                "primary_site/drain.py",
                "        for first, count in without(unit.runs, unit.excluded):\n",
                "        for first, count in unit.runs:\n",
            ),
        ),
        tests(
            "unit/primary_site/test_drain_answers.py::"
            "test_tracks_that_the_remote_wants_whole_are_not_acked_with_their_hashes"
        ),
        says="assert",
    ),
    Exhibit(
        "O71",
        "checksums of frames sent at once are lost from the digest",
        (
            swap(
                "primary_site/drain.py",
                "            checksum = await self._session.send_bulk(message)\n"
                "        self._ledger.note_sent(unit, checksum)\n",
                "            self._ledger.digest ^= "
                "await self._session.send_bulk(message)\n",
            ),
        ),
        tests(
            "unit/primary_site/test_drain_answers.py::test_the_end_tells_of_every_frame"
        ),
        says="assert",
    ),
    Exhibit(
        "O72",
        "a hole made since the cut is sent as one of the cut",
        (
            swap(
                "primary_site/drain_plan.py",
                "        if flashcopy.bitmap.count_range("
                "hole_first, hole_end - hole_first):\n            continue\n",
                "",
            ),
        ),
        tests(
            "unit/primary_site/test_drain_plan.py::"
            "test_holes_at_the_cut_cost_no_reading_and_those_made_since_do"
        ),
        says="a hole of after the cut",
    ),
)

HOOKS = (
    Exhibit(
        "O74",
        "a hook has run before it is noted that it is about to",
        (
            swap(
                "primary_site/cut_hooks.py",
                "            if self._table.after_cut is not None:\n"
                "                await self._store_note(token)\n"
                "            end = await self._run(\n",
                "            end = await self._run(\n",
            ),
        ),
        tests(
            "unit/primary_site/test_cut_hooks.py::"
            "test_what_a_killed_daemon_left_is_ended_and_undone_once"
        ),
        says="never happened: .*after  recovered",
        order="CutHooks.around",
    ),
)

EXHIBITS: tuple[Exhibit, ...] = (*CUTS, *PRESERVING, *TRACKING, *HOSTS, *DRAIN, *HOOKS)
