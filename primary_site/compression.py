"""How hard frames are compressed: by link speed and processor, off where it is idle.

Pure; time comes in as durations. Owned by the event loop of the group, but for
`pack`, which takes milliseconds and is for a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from common.replication.referenced import Reference, encode_referenced
from common.replication.tracks import DeltaRun, RunData, encode_records

LEVELS = (1, 3, 6, 9)
"""Each costs about twice the time of the one before."""

WINDOW_FRAMES = 16
"""Looked at together: one frame says little of the next."""

FASTER_LINK = 1.0
SLOWER_LINK = 3.0
"""Seconds of sending for each of compressing: below the one a lower level, unless that
would send so much more that it takes as long; above the other a higher one, which then
takes two thirds of what was idle."""

PLAIN_LINK = 0.75
"""Of the seconds that the lowest level takes: a link that takes whole tracks as they
are in less gets them so, which is several Gbit/s."""

SAVES_LITTLE = 0.97
"""Compressed to more than this share, a window of whole tracks was not worth it."""

SHRINKS_MUCH = 0.5
SHARE_WEIGHT = 0.2
"""Where the last frames shrank to less than this, larger ones shrink further."""

PLAIN_FRAMES = 256
"""Whole tracks go uncompressed for so many frames, before a window is tried again."""


@dataclass(slots=True)
class Window:
    """What frames of one level took together."""

    frames: int = 0
    raw_bytes: int = 0
    packed_bytes: int = 0
    seconds: float = 0.0
    send_seconds: float = 0.0
    whole_raw_bytes: int = 0
    whole_packed_bytes: int = 0
    whole_seconds: float = 0.0

    @property
    def send_seconds_per_byte(self) -> float:
        return self.send_seconds / max(self.packed_bytes, 1)

    @property
    def saves_little(self) -> bool:
        return self.whole_packed_bytes > SAVES_LITTLE * self.whole_raw_bytes

    @property
    def is_slower_than_plain(self) -> bool:
        """Tell whether whole tracks would be through sooner as they are."""
        plain_seconds = self.send_seconds_per_byte * self.whole_raw_bytes
        return plain_seconds < PLAIN_LINK * self.whole_seconds

    def takes_longer_than(self, lower: Window) -> bool:
        """Tell whether what this one packed would have been through sooner as `lower`
        did it, over the link as it is now."""
        share = self.raw_bytes / max(lower.raw_bytes, 1)
        sending = self.send_seconds_per_byte * lower.packed_bytes
        return self.seconds > share * max(lower.seconds, sending)


@dataclass(frozen=True, slots=True)
class Packed:
    """A payload and what it took; `level` None: it was not compressed.

    `is_whole`: of whole tracks only. These may be of a kind that never shrinks;
    differences are mostly zeroes.
    """

    payload: bytes
    raw_bytes: int
    level: int | None
    is_whole: bool
    seconds: float


class Compression:
    """One group's, as `group.link.compression` says: "off", a level, or "auto"."""

    def __init__(self, setting: str | int, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic
        self._is_auto = setting == "auto"
        self._fixed = setting if isinstance(setting, int) else None
        self._index = 0
        self._plain_left = 0
        self._share = 1.0
        self._window = Window()
        self._before: dict[int, Window] = {}
        """By index of the level: the last whole window."""

    def level(self, *, is_whole: bool) -> int | None:
        """Return the level of the next frame; None: leave it as it is."""
        if not self._is_auto:
            return self._fixed
        return None if is_whole and self._plain_left else LEVELS[self._index]

    @property
    def has_time(self) -> bool:
        """Tell whether the link is slow enough for work that spares it bytes.

        A fixed level is taken for a link that is, "off" for one that is not.
        """
        return self._index > 0 if self._is_auto else self._fixed is not None

    @property
    def gains_by_size(self) -> bool:
        """Tell whether larger frames are worth it: less would be sent."""
        return self.has_time and self._share < SHRINKS_MUCH

    def pack(
        self, records: Sequence[RunData | DeltaRun], *, gathered: bool = False
    ) -> Packed:
        """Encode a frame's records, in a thread; see `encode_records`."""
        is_whole = not any(isinstance(each, DeltaRun) for each in records)
        level = self.level(is_whole=is_whole)
        began = self.monotonic()
        payload, raw_bytes = encode_records(records, level, gathered=gathered)
        return Packed(payload, raw_bytes, level, is_whole, self.monotonic() - began)

    def pack_against(
        self, records: Sequence[RunData | DeltaRun], reference: Reference, plain: Packed
    ) -> Packed | None:
        """Encode a frame's records against what the remote has elsewhere, in a thread.

        None where that is not smaller than they are without: `plain`.
        """
        assert plain.level is not None
        began = self.monotonic()
        payload, raw_bytes = encode_referenced(records, reference, plain.level)
        seconds = self.monotonic() - began
        if len(payload) >= len(plain.payload):
            return None
        return replace(
            plain,
            payload=payload,
            raw_bytes=raw_bytes,
            seconds=plain.seconds + seconds,
        )

    def sent(self, packed: Packed, send_seconds: float) -> None:
        """Take note of a frame that the link has taken, and how long that took."""
        if packed.level is None:
            self._plain_left = max(0, self._plain_left - 1)
            return
        share = len(packed.payload) / packed.raw_bytes
        self._share += SHARE_WEIGHT * (share - self._share)
        window = self._window
        window.frames += 1
        window.raw_bytes += packed.raw_bytes
        window.packed_bytes += len(packed.payload)
        window.seconds += packed.seconds
        window.send_seconds += send_seconds
        if packed.is_whole:
            window.whole_raw_bytes += packed.raw_bytes
            window.whole_packed_bytes += len(packed.payload)
            window.whole_seconds += packed.seconds
        if window.frames == WINDOW_FRAMES:
            self._choose(window)
            self._window = Window()

    def _choose(self, window: Window) -> None:
        index = self._index
        self._before[index] = window
        if window.saves_little or (not index and window.is_slower_than_plain):
            self._plain_left = PLAIN_FRAMES
        if window.send_seconds > SLOWER_LINK * window.seconds:
            self._index = min(len(LEVELS) - 1, index + 1)
        elif index and window.send_seconds < FASTER_LINK * window.seconds:
            lower = self._before.get(index - 1)
            if lower is None or window.takes_longer_than(lower):
                self._index = index - 1
