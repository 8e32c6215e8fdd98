"""The tree of hashes by which two sites compare a volume without sending it.

Pure. A root is the BLAKE2b-128 of a piece, a run of tracks; a leaf is that of one
track. Roots travel; where two differ, so do the leaves of one side. A root is made of
the bytes, not of leaves: one call that needs no interpreter in place of one a track.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from common.ports import Buffer
from common.replication.cycle_messages import HASH_BYTES
from common.replication.tracks import track_hash

Runs = list[tuple[int, int]]

_ZEROES = bytes(1 << 20)


def leaves_of(data: Buffer, track_bytes: int) -> list[bytes]:
    """Return a hash for each track of `data`; the last track may be cut short."""
    view = memoryview(data)
    return [
        track_hash(view[at : at + track_bytes])
        for at in range(0, len(view), track_bytes)
    ]


def leaves_of_zeroes(length_bytes: int, track_bytes: int) -> list[bytes]:
    """Return `leaves_of` so many zeroes, without making them."""
    whole, rest = divmod(length_bytes, track_bytes)
    leaves = [_zero_leaf(track_bytes)] * whole
    return [*leaves, _zero_leaf(rest)] if rest else leaves


@lru_cache(maxsize=64)
def _zero_leaf(length_bytes: int) -> bytes:
    return track_hash(bytes(length_bytes))


def root_of(parts: Iterable[Buffer]) -> bytes:
    """Return the hash of a piece, whose bytes are these parts one after the other."""
    state = hashlib.blake2b(digest_size=HASH_BYTES)
    for part in parts:
        state.update(part)
    return state.digest()


@lru_cache(maxsize=64)
def root_of_zeroes(length_bytes: int) -> bytes:
    """Return the hash of a piece of zeroes; milliseconds for a long one at first."""
    return root_of(zero_parts(length_bytes))


def zero_parts(length_bytes: int) -> Iterator[Buffer]:
    """Yield zeroes, so many in all."""
    chunk = memoryview(_ZEROES)
    for at in range(0, length_bytes, len(chunk)):
        yield chunk[: min(len(chunk), length_bytes - at)]


def differing(
    first: int, mine: Sequence[bytes], theirs: Sequence[bytes]
) -> list[tuple[int, int]]:
    """Return the runs of tracks, from `first` on, whose leaves are not the same."""
    runs: Runs = []
    for track, (a, b) in enumerate(zip(mine, theirs, strict=True), first):
        if a == b:
            continue
        if runs and sum(runs[-1]) == track:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((track, 1))
    return runs
