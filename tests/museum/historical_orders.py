"""Bugs that others met: what was made durable, or told, in the wrong order."""

# ruff: noqa: E501 - sources are quoted as they are

from __future__ import annotations

from tests.museum.exhibit import Exhibit, Seeds, swap, tests

EXHIBITS = (
    Exhibit(
        "B1",
        "the copied old content is not flushed before its track is overwritten",
        (
            swap(
                "common/storage/journal.py",
                """\
        file.write(stored.end, batch)
        self._guard.datasync(file)
""",
                """\
        file.write(stored.end, batch)
""",
            ),
        ),
        tests(
            "unit/remote_site/test_applier.py::"
            "test_the_journal_is_durable_before_the_device_changes"
        ),
        says="datasync",
        elsewhere=(
            "dm-thin committed its metadata before the data device's cache was "
            "flushed: after a power loss copied blocks were garbage that nobody had "
            "written (Linux 694cfe7f31db, 2019)"
        ),
        order="append",
    ),
    Exhibit(
        "B2a",
        "tracks are acknowledged before the secondary device is flushed",
        (
            swap(
                "remote_site/finishing.py",
                "        count = await self._store.flush()\n",
                "        count = 1\n",
            ),
            swap(
                "remote_site/finishing.py",
                "            await self._send("
                "Progress(epoch, applied.cycle_id, pairs, count))\n",
                "            await self._send("
                "Progress(epoch, applied.cycle_id, pairs, count))\n"
                "        await self._store.flush()\n",
            ),
        ),
        tests(
            "unit/remote_site/test_receiving_group.py::"
            "test_nothing_is_acknowledged_before_it_is_flushed"
        ),
        says="assert",
        elsewhere=(
            "dm-clone told a region to be valid before the destination's data was "
            "flushed, even for a FLUSH of the user's (Linux 8b3fd1f53af3, 2019)"
        ),
        order="flush",
    ),
    Exhibit(
        "B2b",
        "a point is recorded before its devices are flushed",
        (
            swap(
                "remote_site/group_disk.py",
                """\
                volume.datasync()
                for journal in self._open_journals(volume, state):
""",
                """\
                for journal in self._open_journals(volume, state):
""",
            ),
        ),
        Seeds("remote", 60),
        says="mixture",
        elsewhere="dm-clone, as B2a",
        order="commit_point",
    ),
    Exhibit(
        "B3",
        "a second write to a heating region does not wait for the log",
        (
            swap(
                "primary_site/regions.py",
                """\
        if region is None or region.heat is not Heat.HOT:
            return None
""",
                """\
        if region is None or region.heat is Heat.COOLING:
            return None
""",
            ),
        ),
        tests(
            "unit/primary_site/test_volume.py::"
            "test_every_writer_of_a_heating_region_waits_for_the_log"
        ),
        says="assert",
        elsewhere=(
            "dm-era set the bit in memory before it was committed, so a second write "
            "to the block skipped the wait and was answered; a crash lost the bit "
            "(Linux 2099b145d77c, 2021)"
        ),
        order="RegionLog.write",
    ),
    Exhibit(
        "B4a",
        "what was hot at a crash is not carried at the start",
        (
            swap(
                "primary_site/opening.py",
                "hot={region for region in log.hot if region < geometry.region_count}",
                "hot=set()",
            ),
        ),
        Seeds("primary", 50),
        says="differs",
        elsewhere=(
            "dm-era did not load the committed set of writes after a crash, and the "
            "next era began over it (Linux de89afc1e40f, 2021)"
        ),
    ),
    Exhibit(
        "B4b",
        "an acked bit of a region that was hot at a crash is still trusted",
        (
            swap(
                "primary_site/group_state.py",
                "        acked.clear_range(first, count)\n",
                "",
            ),
        ),
        tests(
            "unit/primary_site/test_group_state.py::"
            "test_after_a_crash_hot_regions_join_and_all_of_it_is_only_suspected"
        ),
        says="assert",
        elsewhere="dm-era, as B4a",
    ),
    Exhibit(
        "B5a",
        "a cycle commits before all of its frames are durable",
        (
            swap(
                "remote_site/receiver.py",
                "            and self.durable_count == self._end.frame_count\n",
                "",
            ),
        ),
        tests("unit/remote_site/test_receiver.py"),
        says="assert",
        elsewhere=(
            "etcd 3.5 kept its progress marker outside the transaction of the data; "
            "a commit in between and a crash skipped entries for ever"
        ),
    ),
    Exhibit(
        "B5b",
        "the point is recorded before the journals that it relies on exist",
        (
            swap(
                "remote_site/group_disk.py",
                """\
            relation_id = self.new_identity()
            journals = self.journals.create(
""",
                """\
            relation_id = self.new_identity()
            early = Point(number, cycle_id, cut_ns, cut_ns, label)
            self.record.store(state.with_point(early, relation_id))
            journals = self.journals.create(
""",
            ),
        ),
        Seeds("remote", 60),
        says="missing",
        elsewhere="etcd 3.5, as B5a",
        order="commit_point",
    ),
    Exhibit(
        "B6a",
        "a record's rename is not made durable",
        (
            swap(
                "common/storage/record.py",
                """\
            self._files.rename(new, self._path)
            self._files.sync_directory(str(PurePath(self._path).parent))
""",
                """\
            self._files.rename(new, self._path)
""",
            ),
        ),
        tests(
            "unit/storage/test_record.py::"
            "test_a_power_cut_at_any_step_leaves_the_old_or_the_new_record"
        ),
        says="assert",
        elsewhere=(
            "litestream renamed a file into place and did not fsync its directory "
            "(litestream eeba874, 2026)"
        ),
        order="store",
    ),
    Exhibit(
        "B6b",
        "the names of new journals are not made durable",
        (
            swap(
                "remote_site/group_journals.py",
                """\
            self._guard.sync_directory(self._files, self._directory)
        except BaseException:
""",
                """\
        except BaseException:
""",
            ),
        ),
        Seeds("remote", 60),
        says="missing",
        elsewhere="litestream, as B6a",
        order="commit_point",
    ),
    Exhibit(
        "B29a",
        "a new session does not wait for the threads of the old one",
        (
            swap(
                "remote_site/session.py",
                """\
        await asyncio.gather(*self._workers)
        self.closed.set()
""",
                "        self.closed.set()\n",
            ),
            swap(
                "remote_site/group.py",
                """\
            return await self._bind(hello)
        await self.store.settled()
""",
                "            return await self._bind(hello)\n",
            ),
        ),
        tests(
            "unit/remote_site/test_receiving_group.py::"
            "test_the_new_epoch_waits_for_the_threads_of_the_old"
        ),
        says="assert",
        elsewhere=(
            "NVMe over TCP replayed a timed-out write on a new path while the old one "
            "ran on and landed on newer data; the specification got a time to wait "
            "for (linux-nvme, 2024 and 2025)"
        ),
        order="open_session",
    ),
    Exhibit(
        "B29b",
        "frames of an older session, or of one that has ended, are taken",
        (
            swap(
                "remote_site/receiver.py",
                "        return not self._closed and epoch == self.epoch\n",
                "        return True\n",
            ),
        ),
        tests(
            "unit/remote_site/test_receiver.py::"
            "test_frames_of_another_session_or_cycle_are_dropped",
            "unit/remote_site/test_receiver.py::"
            "test_a_closed_machine_takes_nothing_more",
        ),
        says="assert",
        elsewhere="NVMe over TCP, as B29a",
    ),
    Exhibit(
        "B29c",
        "writes that a dead host left run beside those of its next connection",
        (
            swap(
                "common/nbd/precedence.py",
                """\
            self.followers.append(newer)
            newer._waits_for.add(self)
""",
                "            self.followers.append(newer)\n",
            ),
        ),
        tests(
            "unit/nbd/test_nbd_server.py::TestEndings::"
            "test_no_write_of_a_dead_connection_lands_on_those_of_a_new_one"
        ),
        says="assert",
        elsewhere="NVMe over TCP, as B29a",
    ),
    Exhibit(
        "B30",
        "a receive buffer is used again while a write still looks into it",
        (
            swap(
                "common/nbd/receive_buffers.py",
                "            if buffer.users == 0:\n",
                "            if buffer.users >= 0:\n",
            ),
        ),
        tests(
            "unit/nbd/test_nbd_server.py::TestLimitsInFlight::"
            "test_payloads_stay_untouched_until_their_writes_complete"
        ),
        says="assert",
        elsewhere=(
            "SPDK reused buffers that a zero-copy send still referred to "
            "(spdk issue 3760)"
        ),
    ),
    Exhibit(
        "B31a",
        "a flush is answered by an fdatasync that had begun before it",
        (
            swap(
                "primary_site/shared_flush.py",
                """\
        self._next.append(synced)
        if not self._running:
            self._start()
""",
                """\
        if self._running:
            self._now.append(synced)
            return
        self._next.append(synced)
        self._start()
""",
            ),
            swap(
                "primary_site/shared_flush.py",
                "        self._running = True\n",
                "        self._running = True\n        self._now = waiting\n",
            ),
        ),
        tests(
            "unit/primary_site/test_volume.py::"
            "test_a_flush_is_an_fdatasync_begun_after_it_was_asked_for"
        ),
        says="assert",
        elsewhere=(
            "DRBD acknowledged a barrier while earlier, conflicting writes were still "
            "held back (drbd 15f2580ae, 2022)"
        ),
    ),
    Exhibit(
        "B31b",
        "what is applied while a flush runs is acknowledged with it",
        (
            swap(
                "remote_site/finishing.py",
                """\
        applied = self._receiver.take_applied()
        self._unflushed_bytes = 0
        if applied is None:
            return
        count = await self._store.flush()
""",
                """\
        self._unflushed_bytes = 0
        count = await self._store.flush()
        applied = self._receiver.take_applied()
        if applied is None:
            return
""",
            ),
        ),
        tests(
            "unit/remote_site/test_applied_during_a_flush.py::"
            "test_what_is_applied_while_a_flush_runs_waits_for_the_next"
        ),
        says="had begun before it",
        elsewhere="DRBD, as B31a",
        order="flush",
    ),
    Exhibit(
        "B32a",
        "the primary flushes on after a flush that failed",
        (
            swap(
                "primary_site/shared_flush.py",
                """\
            self.fail(error)
            self._on_failure(error)
        for synced in waiting:
            synced(self._failed)
""",
                """\
            for synced in waiting:
                synced(error)
            waiting = []
        for synced in waiting:
            synced(self._failed)
""",
            ),
        ),
        tests(
            "unit/primary_site/test_volume.py::"
            "test_after_a_failed_flush_nothing_is_acknowledged_again"
        ),
        says="assert",
        elsewhere=(
            "PostgreSQL tried fsync again after EIO, Linux said that all was well, and "
            "the checkpoint moved on over lost data; since then it panics "
            "(fsyncgate, 2018; Rebello and others, ATC 2020)"
        ),
    ),
    Exhibit(
        "B32b",
        "the remote flushes on after a flush that failed",
        (
            swap(
                "common/storage/flush_guard.py",
                "            self.failed = error\n            raise\n",
                "            raise\n",
                2,
            ),
        ),
        tests(
            "unit/remote_site/test_store.py::"
            "test_after_a_failed_flush_nothing_is_acknowledged"
        ),
        says="DID NOT RAISE|assert",
        elsewhere="fsyncgate, as B32a",
    ),
    Exhibit(
        "B32c",
        "a record is stored on after a store that failed",
        (
            swap(
                "common/storage/record.py",
                """\
        except StorageError as error:
            self.failed = error
            raise
        finally:
""",
                "        finally:\n",
            ),
        ),
        tests(
            "unit/storage/test_record.py::test_nothing_is_stored_after_a_failed_flush"
        ),
        says="DID NOT RAISE|assert",
        elsewhere="fsyncgate, as B32a",
    ),
    Exhibit(
        "B33",
        "what changed is kept in memory and written at a clean stop only",
        (
            swap(
                "primary_site/regions.py",
                "        await self._threads.run(self.durable.log.write, heating, cooled)\n"
                "        for number in heating:\n",
                "        for number in heating:\n",
            ),
        ),
        Seeds("primary", 50),
        says="differs",
        elsewhere=(
            "QEMU's persistent bitmaps live in memory and are stored when the image is "
            "closed; after a kill they are unusable (qmpbackup 25 and 32)"
        ),
        order="RegionLog.write",
    ),
)
