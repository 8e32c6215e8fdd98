"""Own orders and guards of links and of who may open them, each broken once."""

# ruff: noqa: E501 - sources are quoted as they are

from __future__ import annotations

from tests.museum.exhibit import Exhibit, swap, tests

SENDER = "unit/primary_site/test_session_links.py::"
DRAIN = "unit/primary_site/test_drain_answers.py::"
SETTLED = "unit/remote_site/test_links_settled.py::"
GROUP = "unit/remote_site/test_receiving_group.py::"
LIFE = "unit/replication/test_link_life.py::"
RECEIVER = "unit/remote_site/test_receiver.py::"

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "O500",
        "a dead link is settled while its reader still takes frames in",
        (
            swap(
                "remote_site/links.py",
                "            if reader := self._readers.get(dead):\n                await asyncio.wait([reader])\n",
                "",
            ),
        ),
        tests(
            SETTLED
            + "test_a_frame_that_a_dead_link_s_reader_still_has_counts_as_received"
        ),
        says="answered before the reader has ended",
    ),
    Exhibit(
        "O501",
        "what a dead link did deliver is sent again",
        (
            swap(
                "primary_site/session_links.py",
                "            lost.difference_update(covered(lost, arrived))\n",
                "            assert arrived\n",
            ),
        ),
        tests(
            SENDER
            + "test_of_a_dead_link_s_frames_only_those_that_did_not_arrive_go_again"
        ),
        says=r"assert \[0, 1, 2, 3, 4\] ==",
    ),
    Exhibit(
        "O502",
        "what went down with a dead link passes for sent",
        (
            swap(
                "primary_site/session_links.py",
                "        return self._cycle_id, sorted(lost)\n",
                "        return self._cycle_id, []\n",
            ),
        ),
        tests(
            SENDER
            + "test_of_a_dead_link_s_frames_only_those_that_did_not_arrive_go_again"
        ),
        says=r"assert \[\] == \[1, 2, 4\]",
    ),
    Exhibit(
        "O503",
        "control messages go on over another link before both agree on where",
        (
            swap(
                "primary_site/session_links.py",
                "            self.control.hold()\n",
                "            self.control.go_on(self.control_link, self.control._next)\n",
            ),
        ),
        tests(
            SENDER
            + "test_control_messages_go_on_only_once_the_remote_has_said_what_it_has"
        ),
        says="assert",
    ),
    Exhibit(
        "O504",
        "a control message that went down with its link is never sent again",
        (
            swap(
                "common/replication/control.py",
                "        self._next = peer_count\n",
                "",
            ),
        ),
        tests(
            SENDER
            + "test_control_messages_go_on_only_once_the_remote_has_said_what_it_has"
        ),
        says="assert",
    ),
    Exhibit(
        "O505",
        "an answer about links lost earlier settles one lost since",
        (
            swap(
                "primary_site/session_links.py",
                "        if answer.turn != self._turn:\n            return self._cycle_id, []\n",
                "",
            ),
        ),
        tests(SENDER + "test_an_answer_to_an_older_turn_settles_nothing"),
        says=r"assert \[.*\] == ",
    ),
    Exhibit(
        "O506",
        "a link that was given up is taken in once its number arrives",
        (
            swap(
                "remote_site/links.py",
                "        if number in self._gone:\n",
                "        if number in self._numbered:\n",
            ),
        ),
        tests(SETTLED + "test_a_link_given_up_before_its_number_came_is_refused"),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O507",
        "a frame that goes again is in the digest twice",
        (
            swap(
                "primary_site/frame_ledger.py",
                "            self.digest ^= unit.checksum\n",
                "",
            ),
        ),
        tests(
            DRAIN
            + "test_frames_that_went_down_with_a_link_go_again_under_their_numbers"
        ),
        says="assert",
    ),
    Exhibit(
        "O508",
        "a frame found lost while it is being sent leaves its checksum behind",
        (
            swap(
                "primary_site/frame_ledger.py",
                "        if not unit.is_lost:  # else it goes again, and its checksum then counts\n",
                "        if unit.sequence is not None:\n",
            ),
        ),
        tests(DRAIN + "test_a_frame_found_lost_while_it_is_being_sent_counts_once"),
        says="assert",
    ),
    Exhibit(
        "O509",
        "a frame that goes again pays its credit twice",
        (
            swap(
                "primary_site/drain.py",
                "            self._credit += unit.cost_bytes\n",
                "",
            ),
        ),
        tests(
            DRAIN
            + "test_frames_that_went_down_with_a_link_go_again_under_their_numbers"
        ),
        says="assert",
    ),
    Exhibit(
        "O510",
        "tracks count as acked once they are sent",
        (
            swap(
                "primary_site/drain.py",
                "        self._ledger.note_sent(unit, checksum)\n",
                "        self._ledger.note_sent(unit, checksum)\n"
                "        self._ack(unit)\n",
            ),
        ),
        tests(DRAIN + "test_answers_about_another_cycle_count_for_nothing"),
        says="acked by an answer to another cycle",
    ),
    Exhibit(
        "O511",
        "credit comes back for what is applied and not durable",
        (
            swap(
                "remote_site/receiver.py",
                "            self._applied_bytes += credit_cost(message)\n",
                "            self._returned_bytes += credit_cost(message)\n",
            ),
        ),
        tests(RECEIVER + "test_credit_comes_back_once_a_frame_is_durable"),
        says="assert",
    ),
    Exhibit(
        "O512",
        "a frame that comes twice counts twice",
        (
            swap(
                "remote_site/receiver.py",
                "        if sequence < self._next or sequence in self._ahead:\n",
                "        if sequence < 0:\n",
            ),
        ),
        tests(RECEIVER + "test_a_frame_that_comes_twice_is_refused"),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O513",
        "a link joins the session there is, whichever it means",
        (
            swap(
                "remote_site/group.py",
                " or session.epoch != epoch:\n",
                ":\n",
            ),
        ),
        tests(GROUP + "test_a_link_joins_by_token_only"),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O514",
        "a link joins without the session's token",
        (
            swap(
                "remote_site/group.py",
                "        return session if secrets.compare_digest(session.token, token) else None\n",
                "        return session\n",
            ),
        ),
        tests(GROUP + "test_a_link_joins_by_token_only"),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O515",
        "answers of an earlier session count in the next",
        (
            swap(
                "primary_site/session_links.py",
                '            if getattr(message, "epoch", self._welcome.epoch) == self._welcome.epoch:\n',
                "            if message is not None:\n",
            ),
        ),
        tests(SENDER + "test_what_a_link_brings_of_another_session_counts_for_nothing"),
        says="assert",
    ),
    Exhibit(
        "O516",
        "a link that comes again takes the number of another one",
        (
            swap(
                "primary_site/session_links.py",
                "            link.number = self._new_number()\n            await",
                "            link.number = len(self.living)\n            await",
            ),
        ),
        tests(
            SENDER
            + "test_a_link_that_comes_again_is_of_this_session_and_has_a_new_number"
        ),
        says="assert",
    ),
    Exhibit(
        "O517",
        "tracks are taken from a link that can't be told lost",
        (
            swap(
                "remote_site/links.py",
                "                if self._outlives and link.number is None:\n",
                "                if self._outlives and link.number is False:\n",
            ),
        ),
        tests(SETTLED + "test_a_link_given_up_before_its_number_came_is_refused"),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O518",
        "heartbeats and commits queue behind tracks",
        (
            swap(
                "common/replication/link.py",
                "        else:\n            await self._write(frame)\n",
                "        else:\n            await self.send_bulk(frame)\n",
            ),
        ),
        tests(
            "unit/replication/test_replication_link.py::test_control_overtakes_bulk_that_waits_for_a_slow_peer"
        ),
        says="Timeout|assert",
    ),
    Exhibit(
        "O519",
        "a remote that floods keeps hosts from their turns",
        (
            swap(
                "primary_site/session_links.py",
                "            if not count % MESSAGES_A_TURN:\n",
                "            if not count:\n",
            ),
        ),
        tests(SENDER + "test_a_remote_that_floods_lets_others_have_their_turns"),
        says="assert",
    ),
    Exhibit(
        "O520",
        "a peer has messages forgotten that it has yet to be sent again",
        (
            swap(
                "common/replication/control.py",
                "        if not self._outlives or count > self._next:\n",
                "        if not self._outlives or count > self._first + len(self._kept):\n",
            ),
        ),
        tests(
            "unit/replication/test_control_channel.py::test_a_peer_has_not_received_more_than_it_said_when_its_link_died"
        ),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O530",
        "a link outlives the certificates it was made with",
        (
            swap(
                "common/replication/link_life.py",
                "            if found.seconds_left(now_ns) <= 0:\n",
                "            if not found.names:\n",
            ),
        ),
        tests(LIFE + "test_the_certificate_that_expires_first_ends_it"),
        says="assert",
    ),
    Exhibit(
        "O531",
        "a link lasts as long as it likes, and a revocation is never met",
        (
            swap(
                "common/replication/link_life.py",
                "        if now >= self.until:\n",
                "        if not self.until:\n",
            ),
        ),
        tests(LIFE + "test_a_day_ends_it_whatever_the_certificates_say"),
        says="assert",
    ),
    Exhibit(
        "O532",
        "a session is opened by whoever has a certificate of the CA",
        (
            swap(
                "remote_site/admission.py",
                "    if certificate is None or peer in certificate.names:\n",
                "    if certificate is None or certificate.names:\n",
            ),
        ),
        tests("integration/test_replication_strangers.py::test_a_certificate"),
        says="assert",
    ),
    Exhibit(
        "O533",
        "a link may be joined by another site than the session's",
        (
            swap(
                "remote_site/listener.py",
                "            refused = certificate_refusal(certificate, group.name, group.config.peer)\n            if refused is not None:\n                return refused\n            if len",
                "            if len",
            ),
        ),
        tests(
            "integration/test_replication_strangers.py::test_a_join_with_another_identity"
        ),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O534",
        "what zstd says of its size is believed",
        (
            swap(
                "common/replication/unpacking.py",
                "        if stated.content_size != raw_bytes:\n",
                "        if stated.content_size < raw_bytes:\n",
            ),
        ),
        tests(
            "unit/replication/test_replication_tracks.py::test_a_decompression_bomb_allocates_nothing"
        ),
        says="DID NOT RAISE|Regex pattern did not match",
    ),
)
