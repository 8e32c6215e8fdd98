"""docs/internals/protocol.md and disk-formats.md say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from common.replication.frame import HEADER_BYTES, META_BYTES_MAX, PAYLOAD_BYTES_MAX
from common.replication.messages import MessageType
from common.replication.session_messages import GoodbyeReason
from common.storage import bitmap_file, journal_format, journal_index, region_log
from common.storage import record as durable_record
from remote_site.receiver import TRANSITIONS, CycleState, Event

DOCUMENTS = Path(__file__).resolve().parents[2] / "docs" / "internals"
PROTOCOL = (DOCUMENTS / "protocol.md").read_text()
DISK = (DOCUMENTS / "disk-formats.md").read_text()

# What a peer can never cause: ENDING is left by the shell alone.
DROPPED = "–"
BROKEN = "·"


def rows(text: str) -> list[list[str]]:
    """Return the cells of every table row of a page."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith("|-")
    ]


def test_every_message_is_listed_with_its_number() -> None:
    listed = {
        row[1]: int(row[0])
        for row in rows(PROTOCOL)
        if row[0].isdigit() and re.fullmatch(r"[A-Z_]+", row[1])
    }
    assert listed == {kind.name: int(kind) for kind in MessageType}


def test_every_reason_of_a_goodbye_is_listed() -> None:
    section = PROTOCOL.partition("## Reasons of GOODBYE")[2]
    listed = {
        row[1].upper().replace(" ", "_"): (int(row[0]), row[2])
        for row in rows(section)
        if row[0].isdigit()
    }
    assert {n: number for n, (number, _) in listed.items()} == {
        reason.name: int(reason) for reason in GoodbyeReason
    }
    for reason in GoodbyeReason:
        again = listed[reason.name][1] == "yes"
        assert again is not reason.is_permanent, reason


def test_the_receivers_table_is_the_machine_s() -> None:
    states = {state.name: state for state in CycleState}
    table = {row[0]: row[1:] for row in rows(PROTOCOL) if row[0] in states}
    assert table.keys() == states.keys()
    for text, state in states.items():
        for cell, event in zip(table[text], Event, strict=True):
            after = TRANSITIONS[state].get(event)
            if after is None:
                assert cell in {DROPPED, BROKEN}, (text, event)
            else:
                assert cell == after.name, (text, event)


def test_limits_of_a_frame_are_the_documented_ones() -> None:
    assert f"at most {META_BYTES_MAX:,}" in PROTOCOL
    assert f"at most {PAYLOAD_BYTES_MAX:,}" in PROTOCOL
    assert f"| {HEADER_BYTES} | *m* |" in PROTOCOL


def test_every_magic_on_disk_is_documented() -> None:
    for magic in (
        durable_record.MAGIC,
        region_log.MAGIC,
        bitmap_file.MAGIC,
        journal_format.HEADER_MAGIC,
        journal_format.BATCH_MAGIC,
        journal_index.INDEX_MAGIC,
    ):
        assert f"`{magic.decode()}`" in DISK or f"magic `{magic.decode()}`" in DISK
