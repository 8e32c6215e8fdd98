"""Dangerous orders of our own, where a site that sent begins to receive."""

from __future__ import annotations

from tests.museum.exhibit import Exhibit, swap, tests

_GIVING_UP = "remote_site/giving_up.py"
_CRASHES = (
    "unit/remote_site/test_giving_up.py::"
    "test_a_crash_at_any_step_leaves_what_was_there_and_the_way_on"
)

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "O900",
        "a sender is welcome before what this site had is a point",
        (
            swap(
                _GIVING_UP,
                "        disk.bind(beginning.group_id, NO_LINEAGE, "
                "beginning.peer, beginning.volumes)\n",
                "        disk.bind(\n"
                "            beginning.group_id, beginning.lineage, "
                "beginning.peer, beginning.volumes\n"
                "        )\n",
            ),
        ),
        tests(_CRASHES),
        says="assert",
        order="begin_receiving",
    ),
    Exhibit(
        "O901",
        "what a site changed itself is not durable when a sender is welcome",
        (
            swap(
                _GIVING_UP,
                "        _write_changed(disk, beginning.changed)\n",
                "        pass\n",
            ),
        ),
        tests(_CRASHES),
        says="assert",
        order="begin_receiving",
    ),
)
