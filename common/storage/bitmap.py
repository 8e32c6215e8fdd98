"""A bitmap of tracks: the shape every change record has.

Pure. Bit i of byte j is track 8j + i; spare bits are 0. Single bits and short
ranges are handled on the bytearray itself (the host path: a few hundred
nanoseconds); whole-bitmap work goes through numpy, which lets other threads run.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_POPCOUNT_CHUNK_WORDS = 1 << 16
_SCAN_BYTES = 1 << 16
_WINDOW_BITS = 512
"""Looked at as one integer first: most neighbours are near."""


class Bitmap:
    """`bit_count` bits, all clear at first. `count` of set bits is kept as it goes."""

    __slots__ = ("bit_count", "count", "data")

    def __init__(self, bit_count: int) -> None:
        self.bit_count = bit_count
        self.data = bytearray(-(-bit_count // 64) * 8)
        self.count = 0

    @classmethod
    def full(cls, bit_count: int) -> Bitmap:
        """Return a bitmap with every bit set."""
        bitmap = cls(bit_count)
        bitmap.set_range(0, bit_count)
        return bitmap

    def copy(self) -> Bitmap:
        return self.extended(self.bit_count)

    def extended(self, bit_count: int) -> Bitmap:
        """Return a copy of `bit_count` bits, the further ones clear."""
        assert bit_count >= self.bit_count
        other = Bitmap.__new__(Bitmap)
        other.bit_count = bit_count
        other.data = bytearray(self.data)
        other.data.extend(bytes(-(-bit_count // 64) * 8 - len(self.data)))
        other.count = self.count
        return other

    def test(self, index: int) -> bool:
        return bool(self.data[index >> 3] >> (index & 7) & 1)

    def set(self, index: int) -> None:
        byte, bit = index >> 3, 1 << (index & 7)
        if not self.data[byte] & bit:
            self.data[byte] |= bit
            self.count += 1

    def _window(self, first: int, count: int) -> tuple[int, int, int, int]:
        """Return (start byte, end byte, window as int, mask) of a bit range."""
        assert 0 <= first <= first + count <= self.bit_count
        start, end = first >> 3, (first + count + 7) >> 3
        window = int.from_bytes(self.data[start:end], "little")
        return start, end, window, ((1 << count) - 1) << (first & 7)

    def set_range(self, first: int, count: int) -> int:
        """Set the bits; return how many were clear before."""
        return self._change(first, count, on=True)

    def clear_range(self, first: int, count: int) -> int:
        """Clear the bits; return how many were set before."""
        return self._change(first, count, on=False)

    def _change(self, first: int, count: int, *, on: bool) -> int:
        changed = 0
        if count > 2 * _SCAN_BYTES:  # whole bytes in the middle, without huge ints
            assert first >= 0
            assert first + count <= self.bit_count
            head = -first & 7
            middle = (count - head) & ~7
            start, size = (first + head) >> 3, middle >> 3
            changed += self._change(first, head, on=on)
            was = _popcount(memoryview(self.data)[start : start + size])
            self.data[start : start + size] = (b"\xff" if on else b"\0") * size
            delta = middle - was if on else was
            self.count += delta if on else -delta
            changed += delta
            first, count = first + head + middle, count - head - middle
        start, end, window, mask = self._window(first, count)
        hit = (mask & ~window if on else mask & window).bit_count()
        if hit:
            new = window | mask if on else window & ~mask
            self.data[start:end] = new.to_bytes(end - start, "little")
            self.count += hit if on else -hit
        return changed + hit

    def count_range(self, first: int, count: int) -> int:
        """Return how many bits of the range are set."""
        total = 0
        end = first + count
        while first < end:
            step = min(end - first, 8 * _SCAN_BYTES)
            _, _, window, mask = self._window(first, step)
            total += (window & mask).bit_count()
            first += step
        return total

    def next_set(self, first: int, end: int | None = None) -> int:
        """Return the first set bit in [first, end), or `end` (the bit count)."""
        return self._next(first, self.bit_count if end is None else end, want=1)

    def next_clear(self, first: int, end: int | None = None) -> int:
        """Return the first clear bit in [first, end), or `end` (the bit count)."""
        return self._next(first, self.bit_count if end is None else end, want=0)

    def _next(self, first: int, end: int, *, want: int) -> int:
        assert end <= self.bit_count
        if first >= end:
            return end
        step = min(end - first, _WINDOW_BITS)
        _, _, window, mask = self._window(first, step)
        window = (window if want else ~window) & mask
        if window:
            return (first & ~7) + (window & -window).bit_length() - 1
        return self._skip(first + step, end, want=want)

    def _skip(self, first: int, end: int, *, want: int) -> int:
        """Look on by steps of 64 KiB: long stretches hold nothing wanted."""
        boring = 0 if want else 0xFF
        while first < end:
            byte, last = first >> 3, (end + 7) >> 3
            view = np.frombuffer(self.data, np.uint8, offset=byte)
            view = view[: min(_SCAN_BYTES, last - byte)]
            found = np.flatnonzero(view != boring)
            if found.size:
                # The byte found may hold only bits before `first` or past `end`.
                start = max(first, (byte + int(found[0])) << 3)
                if start >= end:
                    return end
                step = min(end - start, 8)
                _, _, window, mask = self._window(start, step)
                window = (window if want else ~window) & mask
                if window:
                    return (start & ~7) + (window & -window).bit_length() - 1
                first = start + step
            else:
                first = (byte + len(view)) << 3
        return end

    def runs(
        self, first: int = 0, end: int | None = None, *, longest: int | None = None
    ) -> Iterator[tuple[int, int]]:
        """Yield (first, count) of set runs, ascending, each at most `longest`.

        Bits may change between two runs: each is looked up when it is asked for.
        """
        end = self.bit_count if end is None else end
        while (first := self.next_set(first, end)) < end:
            limit = end if longest is None else min(end, first + longest)
            stop = self.next_clear(first, limit)
            yield first, stop - first
            first = stop

    def runs_now(self, first: int, end: int) -> list[tuple[int, int]]:
        """Return (first, count) of the set runs of a range as they are, ascending.

        Many at once cost a tenth of what `runs` does for each. It unpacks the range.
        """
        assert 0 <= first <= end <= self.bit_count
        start = first & ~7
        packed = np.frombuffer(
            self.data, np.uint8, (end + 7 >> 3) - (start >> 3), start >> 3
        )
        bits = np.unpackbits(packed, bitorder="little")[first - start : end - start]
        edges = np.flatnonzero(np.diff(bits, prepend=0, append=0))
        starts, stops = edges[::2], edges[1::2]
        return list(
            zip((starts + first).tolist(), (stops - starts).tolist(), strict=True)
        )

    def words(self) -> npt.NDArray[np.uint64]:
        """Return the bits as little-endian 64-bit words, sharing memory."""
        return np.frombuffer(self.data, dtype="<u8")

    def union_of(self, others: list[Bitmap]) -> Bitmap:
        """Return a new bitmap: this one and all `others`. Off the loop for big ones.

        One that was made before its volume was extended is shorter: what it does not
        know is clear.
        """
        result = self.copy()
        words = result.words()
        for other in others:
            assert other.bit_count <= self.bit_count
            known = other.words()
            part = words[: len(known)]
            np.bitwise_or(part, known, out=part)
            del part
        del words
        result.recount()
        return result

    def subtract(self, other: Bitmap) -> None:
        """Clear the bits that `other`, which may be shorter, has set.

        Off the loop for big ones.
        """
        assert other.bit_count <= self.bit_count
        known = other.words()
        words = self.words()[: len(known)]
        np.bitwise_and(words, ~known, out=words)
        del words
        self.recount()

    def recount(self) -> None:
        self.count = _popcount(memoryview(self.data))


def _popcount(data: memoryview) -> int:
    total = 0
    step = 8 * _POPCOUNT_CHUNK_WORDS
    for start in range(0, len(data), step):
        total += int.from_bytes(data[start : start + step], "little").bit_count()
    return total
