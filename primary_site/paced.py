"""Pacing of a group's links: the rate that holds now, and who waits for it.

The profile gives a rate; `bandwidth` overrides it, and `bandwidth_schedule` both while
one of its entries holds. All may change while a session runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref

from common.ports import Clock
from common.replication.link import Link
from common.replication.pacing import TokenBucket, frame_bytes
from common.replication.profiles import PROFILES
from common.service.bandwidth_schedule import Entry, entry_now
from common.service.config_link import LinkTable

LOOK_AGAIN_SECONDS = 10.0
"""How late a change of the schedule may be noticed by a frame that waits."""


class Pacing:
    """One group's. Links of all its sessions share a bucket, or have one each."""

    def __init__(self, config: LinkTable, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._shared = TokenBucket(None, clock.monotonic())
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()
        self._turns: weakref.WeakKeyDictionary[TokenBucket, asyncio.Lock] = (
            weakref.WeakKeyDictionary()
        )
        self._changed = asyncio.Event()
        self._rate: int | None = None
        self._each_link = False
        self._adjust()

    def apply(self, config: LinkTable) -> None:
        """Go on by another profile, bandwidth or schedule, from the next frame on."""
        self._config = config
        self._adjust()
        self._changed.set()
        self._changed = asyncio.Event()

    def pace(self, link: Link) -> None:
        """Have a new link's bytes count."""
        self._links.add(link)
        self._adjust()
        self._give_bucket(link)

    @property
    def rate(self) -> int | None:
        """Bytes a second now, of all links together or of each; None: no limit."""
        self._adjust()
        return self._rate

    @property
    def window_bytes(self) -> int:
        return PROFILES[self._config.profile].window_bytes

    def frame_bytes(self, most: int) -> int:
        """Return how many bytes a frame that is made now should have."""
        return frame_bytes(self.rate, most)

    async def free(self, link: Link) -> None:
        """Wait until bulk may be sent over a link; who asks first is served first."""
        self._adjust()
        bucket = link.bucket
        assert bucket is not None
        turn = self._turns.setdefault(bucket, asyncio.Lock())
        async with turn:
            while wait := bucket.seconds_until_free(self._clock.monotonic()):
                changed = self._changed
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(wait, LOOK_AGAIN_SECONDS)):
                        await changed.wait()
                self._adjust()

    def _adjust(self) -> None:
        """Put the rate that holds now into every bucket."""
        rate, each_link = self._now()
        if (rate, each_link) == (self._rate, self._each_link):
            return
        was_each, self._rate, self._each_link = self._each_link, rate, each_link
        now = self._clock.monotonic()
        self._shared.set_rate(rate, now)
        for link in self._links:
            if each_link != was_each:
                self._give_bucket(link)
            elif each_link and link.bucket is not None:
                link.bucket.set_rate(rate, now)

    def _give_bucket(self, link: Link) -> None:
        link.bucket = self._shared
        if self._each_link:
            link.bucket = TokenBucket(self._rate, self._clock.monotonic())

    def _now(self) -> tuple[int | None, bool]:
        config = self._config
        entry: Entry | None = None
        if config.bandwidth_schedule:
            entry = entry_now(config.bandwidth_schedule, self._clock.now_ns())
        if entry is not None:
            return entry.rate, False
        if config.bandwidth is not None:
            return config.bandwidth, False
        profile = PROFILES[config.profile]
        return profile.rate, profile.each_link
