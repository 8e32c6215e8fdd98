"""Dangerous orders of our own, in a takeover."""

from __future__ import annotations

from tests.museum.exhibit import Exhibit, Seeds, swap, tests

_DISK = "remote_site/takeover_disk.py"

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "O700",
        "a takeover is decided in memory only",
        (
            swap(
                _DISK,
                "    disk.replace_volumes(intended)\n"
                "    assert disk.state is not None\n",
                "    assert disk.state is not None\n"
                "    disk.record.state = intended(disk.state)\n",
            ),
        ),
        Seeds("takeover", 20),
        says="forgotten|nothing to send",
        order="intend",
    ),
    Exhibit(
        "O701",
        "the end of a takeover is recorded before the devices are flushed",
        (
            swap(
                _DISK,
                "    for volume in volumes:\n        volume.datasync()\n",
                "",
            ),
        ),
        Seeds("takeover", 20),
        says="is lost|is not point",
        order="roll_back",
    ),
    Exhibit(
        "O702",
        "hosts may write before the devices are back at the point",
        (
            swap(
                _DISK,
                "takeover=Takeover(fork))\n",
                "takeover=Takeover(fork, True))\n",
            ),
        ),
        Seeds("takeover", 20),
        says="is lost|nothing to send",
        order="finish",
    ),
    Exhibit(
        "O703",
        "a sender begins with bitmaps that are not on the disk yet",
        (
            swap(
                "primary_site/taking_over.py",
                "        opened.datasync()\n",
                "",
            ),
        ),
        Seeds("takeover", 20),
        says="is not carried",
        order="prepare_sending",
    ),
    Exhibit(
        "O704",
        "what an earlier time as the sender left is taken for this one's",
        (
            swap(
                "primary_site/taking_over.py",
                '            files.remove(f"{directory}/{name}")\n',
                "            pass\n",
            ),
        ),
        tests(
            "unit/primary_site/test_taking_over.py::"
            "test_what_an_earlier_time_as_the_sender_left_counts_for_nothing"
        ),
        says="assert",
    ),
    Exhibit(
        "O705",
        "hosts overwrite what is not preserved yet",
        (
            swap(
                "remote_site/preserving_device.py",
                "        self._preserve(offset, len(data))\n"
                "        self._device.write(offset, data)\n",
                "        self._device.write(offset, data)\n"
                "        self._preserve(offset, len(data))\n",
            ),
        ),
        Seeds("takeover", 20),
        says="mixture",
        order="PreservingDevice.write",
    ),
    Exhibit(
        "O706",
        "only what was overwritten since the newest point counts as changed",
        (
            swap(
                _DISK,
                "    journals = [j for j in volume.journals "
                "if j.header.point_number >= number]\n",
                "    journals = list(volume.journals[-1:])\n",
            ),
        ),
        Seeds("takeover", 20),
        says="is not point|is lost|is not carried",
    ),
    Exhibit(
        "O707",
        "the old sender commits a point after the intent to take over",
        (
            swap(
                "remote_site/group_record.py",
                "        if state.takeover is not None:\n            raise Proto",
                "        if False:\n            raise Proto",
            ),
        ),
        Seeds("takeover", 20),
        says="takes effect",
    ),
    Exhibit(
        "O708",
        "a session goes on while its site is taken over",
        (
            swap(
                "remote_site/group.py",
                "                await session.stop(farewell)\n"
                "                self.session_ended(session)\n"
                "            await self.store.settled()\n",
                "                pass\n",
            ),
        ),
        tests(
            "unit/remote_site/test_group_takeover.py::"
            "test_a_takeover_ends_the_session_and_tells_the_next_hello_where"
        ),
        says="assert|Timeout|Error",
        order="GroupTakeover.take_over",
    ),
    Exhibit(
        "O709",
        "who takes over in the middle of a growth takes its device for another one",
        (
            swap(
                "remote_site/sending.py",
                "                begun_growth(volume),\n",
                "                None,\n",
            ),
        ),
        tests(
            "unit/remote_site/test_growing_secondary.py::"
            "test_a_growth_that_was_cut_short_is_finished_by_who_takes_over"
        ),
        says="StateMismatchError",
    ),
)
