"""Where content stands already, wherever in its track: by windows of 24 bytes.

Pure. The windows that begin at each 64th byte of what is known are remembered by
their hash. Of what is looked for four stripes in each piece of 4 KiB are tried at
every byte: one that is as long as two windows' distance meets a remembered one if
its content is known. So what is found may stand at another alignment, in a record
with others around it, and a tenth of the bytes are looked at. A hash that two
windows share costs a reference in vain, nothing else.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from common.ports import Buffer
from common.replication.referenced import PIECE_BYTES, Pieces

GRID_BYTES = 64
STRIPES = 4
STRIPE_BYTES = 144
_TRIED = STRIPE_BYTES - 3 * 8
"""Offsets in a stripe at which a whole window of three words lies: more than 64."""

PAGE_PIECES = 2
"""What is found is named in whole pages of 8 KiB: databases write no less, and what
stands beside content that was found is likely to be wanted too."""

VOTES_MIN = 2
"""Windows of a page that have to be found: one alone is chance."""

_GRID_COUNT = PIECE_BYTES // GRID_BYTES
_FACTORS = tuple(
    np.uint64(factor)
    for factor in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
)

_Words = npt.NDArray[np.uint64]


class PieceIndex:
    """What at most so many pieces hold; 24 bytes of memory for each 64 of them."""

    def __init__(self, pieces_max: int) -> None:
        entries = pieces_max * _GRID_COUNT
        bits = max(entries.bit_length(), 10)
        self._shift = np.uint64(64 - bits)
        self._table = np.full(1 << bits, -1, np.int32)
        self._tags = np.zeros(entries, np.uint32)
        self._numbers = np.zeros(pieces_max, np.int64)
        self._count = 0

    def add(self, numbers: npt.NDArray[np.int64], content: Buffer) -> None:
        """Remember pieces, by number, of which `content` is all the bytes."""
        count, began = len(numbers), self._count
        assert began + count <= len(self._numbers)
        words = np.frombuffer(content, "<u8").reshape(count, _GRID_COUNT, -1)
        slots, tags, is_telling = self._hashes(
            words[:, :, 0], words[:, :, 1], words[:, :, 2]
        )
        first = began * _GRID_COUNT
        self._numbers[began : began + count] = numbers
        self._tags[first : first + count * _GRID_COUNT] = tags.ravel()
        telling = np.flatnonzero(is_telling)
        self._table[slots.ravel()[telling]] = telling + first
        self._count += count

    def find(self, content: Buffer, pieces_max: int) -> Pieces:
        """Return the pages in which some of whole pieces stands, those met most."""
        rows = np.frombuffer(content, np.uint8).reshape(-1, STRIPES, _STRIPE_STEP)
        stripes = np.ascontiguousarray(rows[:, :, :STRIPE_BYTES])
        words: _Words = np.ndarray(
            shape=(rows.shape[0] * STRIPES, STRIPE_BYTES - 7),
            dtype="<u8",
            buffer=stripes,
            strides=(STRIPE_BYTES, 1),
        )
        slots, tags, is_telling = self._hashes(
            words[:, :_TRIED], words[:, 8 : _TRIED + 8], words[:, 16 : _TRIED + 16]
        )
        entries = self._table[slots]
        met = np.flatnonzero(is_telling & (entries >= 0))
        entries = entries.ravel()[met]
        entries = entries[self._tags[entries] == tags.ravel()[met]]
        pages, votes = np.unique(
            self._numbers[entries // _GRID_COUNT] // PAGE_PIECES, return_counts=True
        )
        pages, votes = pages[votes >= VOTES_MIN], votes[votes >= VOTES_MIN]
        most = pieces_max // PAGE_PIECES
        if len(pages) > most:
            pages = np.sort(pages[np.argsort(-votes, kind="stable")[:most]])
        return [(page * PAGE_PIECES, PAGE_PIECES) for page in pages.tolist()]

    def _hashes(
        self, one: _Words, two: _Words, three: _Words
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32], npt.NDArray[np.bool_]]:
        """Return places in the table, tags, and which windows are not one letter."""
        mixed = one * _FACTORS[0]
        mixed ^= mixed >> np.uint64(29)
        mixed += two
        mixed *= _FACTORS[1]
        mixed ^= mixed >> np.uint64(31)
        mixed += three
        mixed *= _FACTORS[2]
        is_telling = (one != two) | (two != three)
        return (
            mixed >> self._shift,
            (mixed >> np.uint64(8)).astype(np.uint32),
            is_telling,
        )


_STRIPE_STEP = PIECE_BYTES // STRIPES
