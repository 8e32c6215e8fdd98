"""Differences between what a track was at the cut before and what it is at this one.

Pure apart from zstd and the hashes; takes milliseconds: call it in a thread. A
track that is equal travels as two hashes, one that differs as its XOR with what
the remote holds or as it is, whichever is smaller.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import zstandard

from common.ports import Buffer
from common.replication.tracks import DeltaRun, RunData, run_hash

FEW_DIFFER = 1 / 8
"""At most this share of a track's 8-byte words differs: its XOR is nearly all
zeroes, and smaller than any track that is not."""

MOST_DIFFER = 15 / 16
"""More than this share of a track's bytes differs: they have nothing in common."""

CLEARLY_SMALLER = 3 / 4
"""Measured alone; among its neighbours a track as it is shrinks further, and its
difference has the hash of its base with it."""

SAMPLE_STEP = 13
"""Of bytes every so many are looked at: no record of a host has this length."""

_WORD_BYTES = 8
_EQUAL, _XOR, _RAW = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run of tracks as it is at this cut, and as it was at the one before.

    Both hold the same number of bytes: the last track of a volume is cut at its size.
    """

    first: int
    count: int
    data: Buffer
    base: Buffer


def differences(
    stretches: Sequence[Stretch], track_bytes: int
) -> Iterator[RunData | DeltaRun]:
    """Yield records that together say what the stretches hold, in their order."""
    if not stretches:
        return
    new = _joined([each.data for each in stretches], track_bytes)
    old = _joined([each.base for each in stretches], track_bytes)
    differing = np.bitwise_xor(new, old)
    kinds = _kinds(differing, new)
    at = 0
    for stretch in stretches:
        yield from _records(stretch, kinds[at : at + stretch.count], differing[at:])
        at += stretch.count


def apply_difference(base: Buffer, difference: Buffer) -> bytes:
    """Return what the base is with the difference: of equal length."""
    ours = np.frombuffer(base, np.uint8)
    return np.bitwise_xor(ours, np.frombuffer(difference, np.uint8)).tobytes()


def _joined(parts: Sequence[Buffer], track_bytes: int) -> npt.NDArray[np.uint8]:
    """Return one row a track; a last track that is cut short is filled with zeroes."""
    whole = b"".join(parts)
    spare = -len(whole) % track_bytes
    if spare:
        whole += bytes(spare)
    return np.frombuffer(whole, np.uint8).reshape(-1, track_bytes)


def _kinds(differing: npt.NDArray[np.uint8], new: npt.NDArray[np.uint8]) -> list[int]:
    """Return how each track is to travel: counted where that tells, else measured."""
    track_bytes = differing.shape[1]
    words = np.count_nonzero(differing.view(np.uint64), axis=1).tolist()
    few = FEW_DIFFER * track_bytes / _WORD_BYTES
    kinds = []
    unclear = []
    for track, count in enumerate(words):
        if not count:
            kinds.append(_EQUAL)
        elif count <= few:
            kinds.append(_XOR)
        else:
            kinds.append(_RAW)
            unclear.append(track)
    if unclear:
        _measure(unclear, differing, new, kinds)
    return kinds


def _measure(
    unclear: list[int],
    differing: npt.NDArray[np.uint8],
    new: npt.NDArray[np.uint8],
    kinds: list[int],
) -> None:
    """Compress both forms of tracks that have something in common with their base."""
    sample = differing[unclear, ::SAMPLE_STEP]
    counts = np.count_nonzero(sample, axis=1)
    alike = np.flatnonzero(counts <= MOST_DIFFER * sample.shape[1])
    compressor = zstandard.ZstdCompressor(level=1)
    for index in alike.tolist():
        track = unclear[index]
        as_difference = len(compressor.compress(differing[track].data))
        as_it_is = len(compressor.compress(new[track].data))
        if as_difference < CLEARLY_SMALLER * as_it_is:
            kinds[track] = _XOR


def _records(
    stretch: Stretch, kinds: Sequence[int], differing: npt.NDArray[np.uint8]
) -> Iterator[RunData | DeltaRun]:
    """Yield one record for each run of tracks of a kind."""
    if len(kinds) == 1 and kinds[0] == _RAW:  # nearly all, where writes are noise
        yield RunData(stretch.first, 1, stretch.data)
        return
    data, base = memoryview(stretch.data), memoryview(stretch.base)
    track_bytes = differing.shape[1]
    at = 0
    for kind, alike in itertools.groupby(kinds):
        count = sum(1 for _ in alike)
        start, end = at * track_bytes, min((at + count) * track_bytes, len(data))
        first, part = stretch.first + at, data[start:end]
        if kind == _RAW:
            yield RunData(first, count, part)
        else:
            result_hash = run_hash(part)
            if kind == _EQUAL:
                yield DeltaRun(first, count, b"", result_hash, result_hash)
            else:
                rows = differing[at : at + count].reshape(-1)[: end - start]
                old_hash = run_hash(base[start:end])
                yield DeltaRun(first, count, rows.data, old_hash, result_hash)
        at += count
