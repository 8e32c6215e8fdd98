"""What a recovery point may hold: writes that say who they are, and a judge.

Every written sector is a stamp: little-endian 64-bit words (writer, sequence,
place, 61 words derived from those). Flip a bit, move a sector, mix two stamps:
it is no stamp any more. Zero sectors come from trims, zeroings or the beginning.

`History` numbers every submission and every acknowledgement with one counter.
An image is right if there is *one* instant T between the cut's request and its
answer such that, over all volumes together,

  * every write acknowledged before T is in, unless a later one overwrote it;
  * no write submitted after T is in;
  * a single write is in whole or not at all.

The judge is exact about what can be known: of two writes that were in flight
together NBD leaves the order open, sector by sector. It shares no code with
what it judges.
"""

from __future__ import annotations

import bisect
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

SECTOR_BYTES = 512
WORDS = SECTOR_BYTES // 8
NEVER = (1 << 62) - 1
"""The acknowledgement of a write still in flight."""

_FACTORS = np.array(
    [(0x9E3779B97F4A7C15 * (2 * i + 1)) % (1 << 64) | 1 for i in range(WORDS)],
    dtype=np.uint64,
)
_PLACE_BITS = 40
_CHECK_SECTORS = 4096
_LOOK_SECTORS = 1 << 16
"""Sectors compared, and looked at, at once: bounds the memory of a decode."""

Words = NDArray[np.uint64]
Numbers = NDArray[np.int64]


class CutViolationError(AssertionError):
    """The image is not that of the cut; the text says of which sector and write."""


@dataclass(slots=True)
class Op:
    """One change of a volume. Counter values: `submitted`, `acked`.

    `whole`: a cut may not divide it (a server may slice very long ones).
    `optional`: the server died with it in flight; it took effect before `acked`,
    wholly, partly or not at all.
    """

    sequence: int
    writer: int
    volume: int
    first: int
    count: int
    zeroes: bool
    submitted: int
    acked: int = NEVER
    whole: bool = True
    optional: bool = False

    def __str__(self) -> str:
        kind = "zeroing" if self.zeroes else "write"
        acked = "in flight" if self.acked == NEVER else f"acked at {self.acked}"
        return (
            f"{kind} {self.sequence} of writer {self.writer} "
            f"(volume {self.volume}, sectors {self.first}+{self.count}, "
            f"submitted at {self.submitted}, {acked})"
        )


@dataclass(frozen=True, slots=True)
class Window:
    """The cut was after event `first` and before event `last + 1`."""

    first: int
    last: int


class History:
    """Every change of every volume, in the order of submission."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self._moments_ns: list[int] = []

    def now(self) -> int:
        """Return the number of the newest event; events count from 1."""
        return len(self._moments_ns)

    def _event(self) -> int:
        newest = self._moments_ns[-1] if self._moments_ns else 0
        self._moments_ns.append(max(newest, time.time_ns()))
        return len(self._moments_ns)

    def submit(
        self,
        writer: int,
        volume: int,
        first: int,
        count: int,
        *,
        zeroes: bool = False,
        whole: bool = True,
    ) -> Op:
        """Record a change just before it is sent."""
        op = Op(
            len(self.ops) + 1,
            writer,
            volume,
            first,
            count,
            zeroes,
            self._event(),
            whole=whole,
        )
        self.ops.append(op)
        return op

    def ack(self, op: Op) -> None:
        """Record the reply, just after it came."""
        assert op.acked == NEVER
        op.acked = self._event()

    def crash(self) -> None:
        """Record the server's death: what was in flight took effect or will never."""
        event = self._event()
        for op in self.ops:
            if op.acked == NEVER:
                op.acked, op.optional, op.whole = event, True, False

    def window(self, requested: int, replied: int, cut_time: str) -> Window:
        """Narrow [requested, replied] by the moment the daemon says it cut at.

        Sites and test read one clock. `cut_time` is cut to a microsecond, so the
        cut was within the microsecond that it names.
        """
        since = datetime.fromisoformat(cut_time) - datetime(1970, 1, 1, tzinfo=UTC)
        seconds = since.days * 86400 + since.seconds
        cut_ns = seconds * 10**9 + since.microseconds * 1000
        first = bisect.bisect_left(self._moments_ns, cut_ns)
        last = bisect.bisect_right(self._moments_ns, cut_ns + 1000)
        window = Window(max(requested, first), min(replied, last))
        if window.first > window.last:
            raise CutViolationError(
                f"cut_time {cut_time} is not between the request and the answer"
            )
        return window


# -- stamps ---------------------------------------------------------------------------


def stamp(op: Op) -> bytes:
    """Return the bytes of a write: one stamp a sector."""
    assert not op.zeroes
    places = np.arange(op.first, op.first + op.count, dtype=np.uint64)
    places |= np.uint64(op.volume << _PLACE_BITS)
    shape = (op.count,)
    return _stamps(
        np.full(shape, op.writer, np.uint64),
        np.full(shape, op.sequence, np.uint64),
        places,
    ).tobytes()


def _stamps(writers: Words, sequences: Words, places: Words) -> Words:
    seed = writers * _FACTORS[0] ^ sequences * _FACTORS[1] ^ places * _FACTORS[2]
    seed ^= seed >> np.uint64(29)
    words: Words = np.multiply.outer(seed, _FACTORS)
    words ^= words >> np.uint64(32)
    words[:, 0], words[:, 1], words[:, 2] = writers, sequences, places
    return words


def sequences_of(image: bytes | bytearray, volume: int) -> Numbers:
    """Return each sector's write: its sequence, 0 for zeroes, -1 for neither."""
    assert len(image) % SECTOR_BYTES == 0
    words = np.frombuffer(image, np.uint64).reshape(-1, WORDS)
    found = np.zeros(len(words), np.int64)
    written = np.concatenate(
        [
            at + np.flatnonzero(words[at : at + _LOOK_SECTORS].any(axis=1))
            for at in range(0, len(words), _LOOK_SECTORS)
        ]
    )
    for at in range(0, len(written), _CHECK_SECTORS):
        places = written[at : at + _CHECK_SECTORS]
        part = words[places]
        expected = _stamps(
            part[:, 0],
            part[:, 1],
            places.astype(np.uint64) | np.uint64(volume << _PLACE_BITS),
        )
        is_stamp = (part == expected).all(axis=1)
        sequences = part[:, 1].astype(np.int64)
        found[places] = np.where(is_stamp & (sequences > 0), sequences, -1)
    return found


# -- the judge ------------------------------------------------------------------------


class _Volume:
    """What every image from now on must hold of one volume, a sector an element."""

    def __init__(self, sectors: int) -> None:
        self.newest_submit = np.full(sectors, -1, np.int64)
        """The latest submission among the writes that are surely in."""
        self.newest_zero_ack = np.zeros(sectors, np.int64)
        """The latest acknowledgement among the zeroings that are surely in."""

    def take(self, op: Op) -> None:
        span = slice(op.first, op.first + op.count)
        if not op.optional:
            newest = self.newest_submit[span]
            np.maximum(newest, op.submitted, out=newest)
        if op.zeroes:
            np.maximum(
                self.newest_zero_ack[span], op.acked, out=self.newest_zero_ack[span]
            )


@dataclass(slots=True)
class _Seen:
    """One volume of one image."""

    found: Numbers
    source_acked: Numbers
    """When what each sector holds was acknowledged, at the latest possible."""
    sole_zero: NDArray[np.bool_]
    """Zero sectors that only one zeroing can explain."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How much an image told: sectors with stamps, and of the writes in flight at
    the cut, how many are surely in and how many surely not."""

    stamped_sectors: int
    in_flight: int
    visible: int
    hidden: int


class CutJudge:
    """Judges the images of one group's cuts, which must come in order."""

    def __init__(self, sector_counts: Sequence[int]) -> None:
        self._volumes = [_Volume(count) for count in sector_counts]
        self._taken = 0
        self._open: list[Op] = []

    def check(
        self, images: Sequence[bytes | bytearray], window: Window, ops: Sequence[Op]
    ) -> Verdict:
        """Raise `CutViolationError` unless `images` is the group at one instant
        of `window`. `ops`: the whole history up to at least `window.last`."""
        assert len(images) == len(self._volumes)
        maybe = self._advance(window, ops)
        submitted = np.array([-1, *(op.submitted for op in ops)], np.int64)
        acked = np.array([0, *(op.acked for op in ops)], np.int64)
        seen = [
            self._look(index, image, window, maybe, submitted, acked, ops)
            for index, image in enumerate(images)
        ]
        visible, hidden = _sort_out(maybe, seen)
        _check_one_instant(window, visible, hidden)
        stamped = sum(int(np.count_nonzero(volume.found)) for volume in seen)
        return Verdict(stamped, len(maybe), len(visible), len(hidden))

    def _advance(self, window: Window, ops: Sequence[Op]) -> list[Op]:
        """Take in what is surely in from now on; return what may be."""
        new = itertools.takewhile(
            lambda op: op.submitted <= window.last,
            itertools.islice(ops, self._taken, None),
        )
        candidates = [*self._open, *new]
        self._taken = max([self._taken, *(op.sequence for op in candidates)])
        self._open = [op for op in candidates if op.acked > window.first]
        for op in candidates:
            if op.acked <= window.first:
                self._volumes[op.volume].take(op)
        return self._open

    def _look(
        self,
        index: int,
        image: bytes | bytearray,
        window: Window,
        maybe: Sequence[Op],
        submitted: Numbers,
        acked: Numbers,
        ops: Sequence[Op],
    ) -> _Seen:
        volume = self._volumes[index]
        found = sequences_of(image, index)
        if len(found) != len(volume.newest_submit):
            raise CutViolationError(f"volume {index}: {len(found)} sectors")
        _refuse(found == -1, index, "holds neither zeroes nor a stamp")
        _refuse(found >= len(submitted), index, "holds a write that was never made")
        late = submitted[found] > window.last
        _refuse(late, index, "holds a write from the future", found, ops)
        zero_acked = volume.newest_zero_ack.copy()
        zeroings = np.zeros(len(found), np.int64)
        for op in maybe:
            if op.zeroes and op.volume == index:
                span = slice(op.first, op.first + op.count)
                np.maximum(zero_acked[span], op.acked, out=zero_acked[span])
                zeroings[span] += 1
        source_acked = np.where(found > 0, acked[found], zero_acked)
        stale = source_acked < volume.newest_submit
        _refuse(stale, index, "lacks a write acknowledged before the cut", found, ops)
        older_zero_is_gone = volume.newest_zero_ack < volume.newest_submit
        sole_zero = (found == 0) & (zeroings == 1) & older_zero_is_gone
        return _Seen(found, source_acked, sole_zero)


def _refuse(
    wrong: NDArray[np.bool_],
    volume: int,
    what: str,
    found: Numbers | None = None,
    ops: Sequence[Op] = (),
) -> None:
    if not wrong.any():
        return
    sector = int(np.argmax(wrong))
    text = f"volume {volume}, sector {sector} (and {int(wrong.sum()) - 1} more) {what}"
    if found is not None:
        sequence = int(found[sector])
        text += f"; it holds {ops[sequence - 1] if sequence else 'zeroes'}"
        touching = [
            str(op)
            for op in ops
            if op.volume == volume and op.first <= sector < op.first + op.count
        ]
        text += "; last there: " + ", ".join(touching[-4:])
    raise CutViolationError(text)


def _sort_out(maybe: Sequence[Op], seen: Sequence[_Seen]) -> tuple[list[Op], list[Op]]:
    """Return which of the writes in flight are surely in, and surely not."""
    visible, hidden = [], []
    for op in maybe:
        volume = seen[op.volume]
        span = slice(op.first, op.first + op.count)
        if op.zeroes:
            is_in = bool(volume.sole_zero[span].any())
        else:
            is_in = bool((volume.found[span] == op.sequence).any())
        is_out = bool((volume.source_acked[span] < op.submitted).any())
        if is_in and is_out and op.whole:
            raise CutViolationError(f"torn: only a part is in of {op}")
        if is_in:
            visible.append(op)
        elif is_out:
            hidden.append(op)
    return visible, hidden


def _check_one_instant(
    window: Window, visible: Sequence[Op], hidden: Sequence[Op]
) -> None:
    """Some T must follow every visible submission and precede every hidden ack."""
    newest = max(visible, key=lambda op: op.submitted, default=None)
    oldest = min(hidden, key=lambda op: op.acked, default=None)
    if newest is not None and oldest is not None and oldest.acked < newest.submitted:
        raise CutViolationError(
            f"write order: {newest} is in, but not {oldest}, acknowledged before it"
        )
    assert newest is None or newest.submitted <= window.last
    assert oldest is None or oldest.acked > window.first


def known_image(
    size_bytes: int, volume: int, ops: Sequence[Op]
) -> tuple[bytes, NDArray[np.bool_]]:
    """Return what `ops`, all acknowledged, have made of an empty volume, and of
    which sectors that is known: not those last written by two ops at once."""
    image = bytearray(size_bytes)
    sectors = size_bytes // SECTOR_BYTES
    last_acked = np.zeros(sectors, np.int64)
    is_known = np.ones(sectors, np.bool_)
    for op in ops:
        assert op.acked != NEVER
        if op.volume != volume:
            continue
        span = slice(op.first, op.first + op.count)
        data: Any = bytes(op.count * SECTOR_BYTES) if op.zeroes else stamp(op)
        start = op.first * SECTOR_BYTES
        image[start : start + len(data)] = data
        # Known if this one follows all before it; a later, clean one mends it.
        is_known[span] = last_acked[span] < op.submitted
        np.maximum(last_acked[span], op.acked, out=last_acked[span])
    return bytes(image), is_known
