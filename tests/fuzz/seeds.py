"""Where fuzzing starts: whole conversations of every kind, and each of their parts."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import zstandard

from common.replication.codec import encode_meta
from common.replication.frame import encode_frame
from common.replication.gathered import gather
from common.replication.tracks import (
    DeltaRun,
    RunData,
    encode_records,
    headers_and_data,
    run_hash,
)
from tests.fuzz import sessions
from tests.fuzz.targets import FORMS, LIMITS
from tests.support import nbd_streams as streams
from tests.support import nbd_wire as wire
from tests.support.replication_messages import EXAMPLES

MUTATIONS_PER_SEED = 40


def negotiation() -> Iterator[bytes]:
    for head in (b"\0", b"\7", b"\x80", b"\x87"):
        for stream in streams.handshakes():
            yield head + stream
        for form in FORMS:
            yield (
                head
                + wire.CLIENT_FLAGS
                + wire.option(wire.STARTTLS)
                + streams.polite(form)[4:]
            )


def requests() -> Iterator[bytes]:
    for number in range(len(FORMS) * len(LIMITS)):
        form = FORMS[number % len(FORMS)]
        for at_once in (0, 0x80 - 0x80 % len(FORMS)):
            for seed in (0, 5):
                head = bytes([(number + at_once) % 256, seed])
                form = FORMS[head[0] % len(FORMS)]
                said = streams.commands(form)
                for ending in streams.endings(form):
                    yield head + b"".join(said) + ending
                yield from (head + one + said[0] for one in said)


def frames() -> Iterator[bytes]:
    whole = b""
    for message in EXAMPLES.values():
        kind, meta = encode_meta(message)
        payload = bytes(getattr(message, "payload", b""))
        frame = b"".join(encode_frame(kind, meta, payload))
        whole += frame
        yield b"\0" + frame
    yield b"\0" + whole
    yield b"\5" + whole


def messages() -> Iterator[bytes]:
    for message in EXAMPLES.values():
        kind, meta = encode_meta(message)
        payload = bytes(getattr(message, "payload", b""))[:255]
        yield bytes([kind, len(payload)]) + meta + payload


def records() -> Iterator[bytes]:
    held, wanted = bytes(range(32)), bytes(range(1, 33))
    difference = bytes(a ^ b for a, b in zip(held, wanted, strict=True))
    runs: list[RunData | DeltaRun] = [
        RunData(0, 2, wanted),
        RunData(2, 9, None),
        RunData(20, 1, wanted[:8]),
        DeltaRun(12, 2, difference, run_hash(held), run_hash(wanted)),
        DeltaRun(14, 2, b"", run_hash(held), run_hash(held)),
    ]
    for chosen in ([*runs], *([run] for run in runs)):
        payload, _ = encode_records(chosen, None)
        for head in range(4):
            yield bytes([head]) + payload[1:]
        packed, raw_bytes = encode_records(chosen, 1, gathered=True)
        if packed[0] == 2:
            unpacked = zstandard.decompress(packed[1:], max_output_size=raw_bytes)
            yield b"\x07" + unpacked
            yield b"\x06" + unpacked
        headers, parts = headers_and_data(chosen)
        for runs_named in ([(3, 1)], [(3, 1), (0, 2)]):
            named = gather([struct.pack("<QI", *each) for each in runs_named])
            head = named + gather(headers)
            yield b"\x08" + bytes([len(head) & 0xFF]) + head + b"".join(parts)


SEEDS = {
    "negotiation": negotiation,
    "requests": requests,
    "frames": frames,
    "messages": messages,
    "records": records,
    "receiver": sessions.receiver_seeds,
    "links": sessions.links_seeds,
}


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """Change a few bytes, or take out, double or swap a piece."""
    changed = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        if not changed:
            break
        at = chance.randrange(len(changed))
        stop = min(len(changed), at + chance.choice([1, 2, 4, 8, 16]))
        match chance.randrange(5):
            case 0:
                changed[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 1:
                changed[at] ^= 1 << chance.randrange(8)
            case 2:
                del changed[at:stop]
            case 3:
                changed[at:at] = changed[at:stop]
            case 4:
                changed[at:stop] = b"\xff" * (stop - at)
    return bytes(changed)
