"""Dangerous orders of our own, where hosts' connections go to another process."""

from __future__ import annotations

from tests.museum.exhibit import Exhibit, swap, tests

_TRANSMISSION = "common/nbd/transmission.py"
_KEPT = "unit/nbd/test_kept_connections.py::"

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "O1200",
        "a connection is given away before its replies are sent",
        (
            swap(
                _TRANSMISSION,
                "        if transport.get_write_buffer_size():\n            return\n",
                "",
            ),
        ),
        tests(_KEPT + "test_replies_that_the_client_has_not_taken_are_sent_before"),
        says="assert|Error",
        order="_keep_if_quiet",
    ),
    Exhibit(
        "O1201",
        "what was received and not run does not go along",
        (
            swap(
                _TRANSMISSION,
                "            unread + self._early,\n",
                '            b"",\n',
            ),
        ),
        tests(_KEPT + "test_what_was_read_beyond_a_limit_is_run_by_the_next_and_once"),
        says="Timeout|assert",
    ),
    Exhibit(
        "O1202",
        "a connection is given away without a flush of what it wrote",
        (
            swap(
                _TRANSMISSION,
                "        if not departure.is_flushed:\n",
                "        if departure.is_flushed:\n",
            ),
        ),
        tests(_KEPT + "test_whose_last_flush_fails_loses_the_connection"),
        says="Timeout|assert",
        order="_keep_if_quiet",
    ),
    Exhibit(
        "O1203",
        "a kept connection runs its requests before it knows of newer ones",
        (
            swap(
                "common/nbd/connections.py",
                "        for start in "
                "[await self._arrive(handed) for handed in kept]:\n"
                "            start()\n",
                "        for handed in kept:\n"
                "            (await self._arrive(handed))()\n",
            ),
        ),
        tests(
            _KEPT + "test_an_old_write_does_not_land_on_newer_ones_in_the_next_server"
        ),
        says="assert",
        order="take_up",
    ),
    Exhibit(
        "O1204",
        "kept connections are gone on with before the manager has let go of them",
        (
            swap(
                "common/nbd/kept_connection.py",
                "    is_ours_alone = not stored or "
                "(store is not None and store.forget(list(stored)))\n",
                "    is_ours_alone = not stored or store is not None\n",
            ),
        ),
        tests(_KEPT + "test_a_manager_that_does_not_let_go_has_all_connections_ended"),
        says="Timeout|assert",
        order="take_back",
    ),
    Exhibit(
        "O1205",
        "the next process trusts a client whom this one doubted",
        (
            swap(
                _TRANSMISSION,
                "            self._precedence.doubt is not None,\n",
                "            False,\n",
            ),
        ),
        tests(
            _KEPT + "test_a_doubt_whether_a_client_is_there_goes_on_in_the_next_server"
        ),
        says="assert",
    ),
)
