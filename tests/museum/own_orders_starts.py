"""Dangerous orders of our own, at a start and in the files that a start rests on."""

# ruff: noqa: E501 - sources are quoted as they are

from __future__ import annotations

from tests.museum.exhibit import Exhibit, Seeds, swap, tests

FILES = (
    Exhibit(
        "O200",
        "a new record gets its name before its bytes are flushed",
        (
            swap(
                "common/storage/record.py",
                '            file.write(0, first.ljust(2 * SLOT_BYTES, b"\\0"))\n'
                "            file.datasync()\n",
                '            file.write(0, first.ljust(2 * SLOT_BYTES, b"\\0"))\n',
            ),
        ),
        Seeds("record", 120),
        says="again:",
        order="store",
    ),
    Exhibit(
        "O201",
        "a record is trusted at a start without a flush",
        (
            swap(
                "common/storage/record.py",
                "            file.datasync()\n            file.drop_cache()",
                "            file.drop_cache()",
            ),
        ),
        Seeds("record", 120),
        says="again:",
    ),
    Exhibit(
        "O202",
        "a torn record passes for a whole one",
        (
            swap(
                "common/storage/record.py",
                "    if zlib.crc32(body, zlib.crc32(header)) != crc:\n",
                "    if zlib.crc32(header) == 1:\n",
            ),
        ),
        tests(
            "unit/storage/test_record.py::"
            "test_a_flipped_bit_anywhere_in_the_newest_slot_is_noticed"
        ),
        says="assert|Error",
    ),
    Exhibit(
        "O203",
        "a journal's header is not flushed",
        (
            swap(
                "common/storage/journal.py",
                "            file.write(0, format_header(header))\n"
                "            guard.datasync(file)\n",
                "            file.write(0, format_header(header))\n",
            ),
        ),
        Seeds("journal", 60),
        says="again:",
        order="commit_point",
    ),
    Exhibit(
        "O204",
        "a journal is trusted at a start without a flush",
        (
            swap(
                "common/storage/journal.py",
                "            guard.datasync(file)\n"
                "            file.drop_cache()  # a batch",
                "            file.drop_cache()  # a batch",
            ),
        ),
        Seeds("journal", 60),
        says="again:",
    ),
    Exhibit(
        "O205",
        "a torn batch of a journal passes for a whole one",
        (
            swap(
                "common/storage/journal_format.py",
                "    if zlib.crc32(body,"
                " zlib.crc32(_BATCH.pack(*fields, 0), seed)) != crc:\n"
                "        return None\n",
                "",
            ),
        ),
        Seeds("journal", 60),
        says="again:",
    ),
    Exhibit(
        "O206",
        "a bitmap is trusted at a start without a flush",
        (
            swap(
                "common/storage/bitmap_file.py",
                "        self._file.datasync()\n        self._file.drop_cache()",
                "        self._file.drop_cache()",
            ),
        ),
        Seeds("bitmap", 80),
        says="again:",
    ),
    Exhibit(
        "O207",
        "the region log's snapshot is written over the area in use",
        (
            swap(
                "common/storage/region_log.py",
                "        self._generation += 1\n        numbers",
                "        self._generation += 2\n        numbers",
            ),
        ),
        Seeds("region_log", 60),
        says="again:",
    ),
    Exhibit(
        "O208",
        "the region log is trusted at a start without a flush",
        (
            swap(
                "common/storage/region_log.py",
                "            log._file.datasync()\n            log._file.drop_cache()",
                "            log._file.drop_cache()",
            ),
        ),
        Seeds("region_log", 60),
        says="again:",
    ),
    Exhibit(
        "O209",
        "what a torn snapshot of the region log left is not wiped",
        (
            swap(
                "common/storage/region_log.py",
                "            log._wipe_remnants()\n",
                "",
            ),
        ),
        Seeds("region_log", 60),
        says="again:",
        order="RegionLog.open",
    ),
    Exhibit(
        "O210",
        "progress is told before the record knows of it",
        (
            swap(
                "remote_site/group_disk.py",
                "            self.record.store(replace(state, progress_count=count))\n",
                "            self.record.state = replace(state, progress_count=count)\n",
            ),
        ),
        Seeds("remote", 60),
        says="again:",
        order="flush",
    ),
    Exhibit(
        "O211",
        "the cycle's own tracks are not in the durable bitmap",
        (
            swap(
                "primary_site/changes.py",
                "(self.pprc, self.held_back) if b is not None]\n",
                "(self.held_back,) if b is not None]\n",
            ),
        ),
        tests("unit/primary_site/test_changes.py::test_long_lives_hold_it_too"),
        says="assert",
    ),
    Exhibit(
        "O212",
        "a flush is answered before it has ended",
        (
            swap(
                "primary_site/volume.py",
                "        self._flush.join(synced)\n",
                "        synced(None)\n",
            ),
        ),
        Seeds("simulation", 100),
        says="I3|I9",
    ),
    Exhibit(
        "O213",
        "the secondary device is called unsynced before it is written",
        (
            swap(
                "remote_site/applier.py",
                "    offset, length = volume.geometry.byte_range("
                "record.first, record.count)\n    try:\n",
                "    offset, length = volume.geometry.byte_range("
                "record.first, record.count)\n    volume.is_unsynced = True\n    try:\n",
            ),
            swap(
                "remote_site/applier.py",
                "        volume.is_unsynced = True"
                "  # a failed write may have changed something, too\n",
                "        pass\n",
            ),
        ),
        tests("unit/remote_site/test_applier.py"),
        says="assert",
        elsewhere="found here by the simulation",
    ),
    Exhibit(
        "O1230",
        "a device of any length is taken for a volume that is known",
        (
            swap(
                "primary_site/growth_opening.py",
                "    if size not in {saved.size_bytes, saved.growing_bytes} and not may_be_longer:\n",
                "    if size < 0 and not may_be_longer:\n",
            ),
        ),
        tests(
            "unit/primary_site/test_growing_volume.py::"
            "test_a_device_of_another_time_than_its_state_says_what_to_put_back"
        ),
        says="DID NOT RAISE",
    ),
)

_LOST = tests(
    "unit/storage/test_lost_pages.py::"
    "test_what_a_start_reads_is_what_a_power_loss_after_it_leaves"
)

CACHES = tuple(
    Exhibit(
        number,
        f"the page cache of {what} is trusted after a flush that failed",
        (swap(path, old, new),),
        caught_by,
        says="I3|assert|is not|was|[Dd]iffer|[Nn]o longer",
    )
    for number, what, caught_by, path, old, new in (
        (
            "O220",
            "the device",
            Seeds("faults of flushes", 400),
            "primary_site/opening.py",
            "        device.datasync()\n        device.drop_cache()\n",
            "        device.datasync()\n",
        ),
        (
            "O221",
            "the region log",
            _LOST,
            "common/storage/region_log.py",
            "            log._file.drop_cache()  # a block whose flush failed is in memory only\n",
            "",
        ),
        (
            "O222",
            "the bitmaps",
            _LOST,
            "common/storage/bitmap_file.py",
            "        self._file.drop_cache()  # a slot whose flush failed is in memory only\n",
            "",
        ),
        (
            "O223",
            "the record",
            _LOST,
            "common/storage/record.py",
            "            file.drop_cache()  # a slot whose flush failed is in memory only\n",
            "",
        ),
        (
            "O224",
            "a secondary device",
            _LOST,
            "remote_site/secondary_opening.py",
            "        device.drop_cache()\n",
            "",
        ),
    )
)

STARTS = (
    Exhibit(
        "O230",
        "names in the primary's state directory are not made durable",
        (
            # Each is enough in a first start: both, or nothing is broken.
            swap(
                "common/storage/record.py",
                "            self._files.rename(new, self._path)\n"
                "            self._files.sync_directory("
                "str(PurePath(self._path).parent))\n",
                "            self._files.rename(new, self._path)\n",
            ),
            swap(
                "primary_site/opening.py",
                "    files.sync_directory(directory)\n    if state",
                "    if state",
            ),
        ),
        tests(
            "unit/primary_site/test_names_outlive_power.py::"
            "test_every_file_of_a_group_outlives_a_power_loss_right_after_the_start"
        ),
        says="names are gone",
        order="open_group",
    ),
    Exhibit(
        "O231",
        "a device is trusted after a crash without a flush",
        (
            swap(
                "primary_site/opening.py",
                "        device.datasync()\n        device.drop_cache()\n    saved",
                "        device.drop_cache()\n    saved",
            ),
        ),
        Seeds("primary", 50),
        says="again:",
    ),
    Exhibit(
        "O232",
        "a start does not unset that the last stop was clean",
        (
            swap(
                "primary_site/opening.py",
                "    return replace(state, clean=False)\n",
                "    return state\n",
            ),
        ),
        tests(
            "unit/primary_site/test_told_and_durable.py::"
            "test_who_this_is_and_that_it_runs_is_durable_before_hosts_write"
        ),
        says="assert",
        order="open_group",
    ),
    Exhibit(
        "O233",
        "a device that is not there is made anew, empty",
        (
            swap(
                "primary_site/volume_devices.py",
                "    if saved is not None:\n        raise DeviceError(\n",
                "    if False:\n        raise DeviceError(\n",
            ),
        ),
        tests(
            "faults/test_starts_under_faults.py::"
            "test_a_device_of_a_known_group_is_not_made_anew"
        ),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O234",
        "names that a first start cut short has made are not made durable",
        (
            swap(
                "primary_site/opening.py",
                "    if state is None:\n        "
                "make_names_durable(files, config.volumes)\n",
                "",
            ),
        ),
        tests(
            "faults/test_starts_under_faults.py::"
            "test_names_made_by_a_first_start_cut_short_outlive_a_power_loss"
        ),
        says="assert|Error",
    ),
)

FAULTS = (
    Exhibit(
        "O240",
        "what is left of a torn batch is not cut off before the next",
        (
            swap(
                "common/storage/journal.py",
                "            file.truncate(self._stored.end)\n"
                "            self._tail_is_torn = False\n",
                "            self._tail_is_torn = False\n",
            ),
        ),
        tests(
            "unit/storage/test_journal.py::"
            "test_what_a_failed_append_left_is_cut_before_the_journal_is_finished"
        ),
        says="assert|Error",
    ),
    Exhibit(
        "O241",
        "a device that cannot be read ends replication until a restart",
        (
            swap(
                "primary_site/drain.py",
                "            if isinstance(error, StorageError):\n"
                "                raise CutUnreadableError(str(error)) from failed\n",
                "",
            ),
        ),
        Seeds("faults of reads", 400),
        says=".",
    ),
    Exhibit(
        "O242",
        "a record that fails fails the hosts",
        (
            swap(
                "primary_site/upkeep.py",
                "            with contextlib.suppress(StorageError):"
                "  # the record's: hosts go on\n"
                "                await self.end_full(volume)\n",
                "            try:\n"
                "                await self.end_full(volume)\n"
                "            except StorageError as error:\n"
                "                self._group.volume_failed(error)\n",
            ),
        ),
        Seeds("faults of flushes", 400),
        says=".",
    ),
)

EXHIBITS: tuple[Exhibit, ...] = (*FILES, *CACHES, *STARTS, *FAULTS)
