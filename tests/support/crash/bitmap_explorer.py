"""A bitmap's durable copy: pages saved in rounds, each round flushed at its end.

Every page that recovery reads is as of the last flushed round, or as of one saved
since; bits saved under another tag count as clear. A save that a crash cut short may
come back until the next one of its page is flushed: the sectors of the next one can
make it whole. The region log makes up for that, as it names as hot all that was
written since; `primary_explorer` looks at the two together.
"""

from __future__ import annotations

from common.storage.bitmap_file import PAGE_BITS, PAGE_BYTES, BitmapFile
from tests.support.crash.disk import CrashDisk
from tests.support.crash.exploration import (
    Exploration,
    NothingToRecover,
    ViolationError,
)

PATH = "/state/data.changed"
PAGES = 3
TRACKS = 2 * PAGE_BITS + 1000
ROUNDS = 10

Page = tuple[bytes, bytes]
"""(tag, bits)."""

_EMPTY: Page = bytes(16), bytes(PAGE_BYTES)


class BitmapExploration(Exploration):
    """Rounds of saves, power cuts, rounds of saves."""

    COMPONENT = "bitmap"

    def explore(self) -> None:
        disk = self.new_disk()
        disk.make_directory("/state")
        self._is_named = False
        self._tag = bytes(16)
        self._durable = [_EMPTY] * PAGES
        self._saved: dict[int, Page] = {}
        self._cut_short: dict[int, list[Page]] = {}
        self.watch(disk)
        saved = self._opened(disk)
        saved.load(self._tag, when_damaged=True)
        disk.sync_directory("/state")
        self._is_named = True
        for _ in range(ROUNDS):
            if self.rng.random() < 0.2:
                self._tag = self.rng.randbytes(16)
            is_flushed = self._save(saved)
            if not is_flushed or self.rng.random() < 0.25:
                saved.close()
                self.watch(self.some_power_cut())
                saved = self._reopened()

    def _save(self, saved: BitmapFile) -> bool:
        """Save a round; False if power has to go before it is flushed."""
        numbers = self.rng.sample(range(PAGES), self.rng.randint(1, PAGES))
        pages = {number: self._bits(number) for number in numbers}
        self._saved = {number: (self._tag, bits) for number, bits in pages.items()}
        self.promised()
        saved.save(pages, self._tag)
        if self.rng.random() < 0.2:
            return False
        saved.datasync()
        for number, page in self._saved.items():
            self._durable[number] = page
            self._cut_short.pop(number, None)
        self._saved = {}
        self.promised()
        self.at_step("saved", PATH)
        return True

    def _bits(self, page: int) -> bytes:
        count = min(PAGE_BITS, TRACKS - page * PAGE_BITS)
        bits = bytearray(PAGE_BYTES)
        for _ in range(self.rng.choice((0, 1, 5, 400))):
            track = self.rng.randrange(count)
            bits[track >> 3] |= 1 << (track & 7)
        return bytes(bits)

    def _reopened(self) -> BitmapFile:
        """Start again: what is there counts from now on."""
        saved = self._opened(self.disk)
        found = saved.load(self._tag, when_damaged=True)
        for number in range(PAGES):
            bits = _page(found.data, number)
            others = self._pages(number)
            whole = [page for page in others if _shown(page, self._tag) == bits]
            self._durable[number] = whole[-1]
            self._cut_short[number] = others
        self._saved = {}
        self.promised()
        return saved

    def _pages(self, number: int) -> list[Page]:
        """Return all that a page may be, the newest last."""
        pages = [*self._cut_short.get(number, []), self._durable[number]]
        return [*pages, *filter(None, [self._saved.get(number)])]

    @staticmethod
    def _opened(disk: CrashDisk) -> BitmapFile:
        return BitmapFile.open(disk, PATH, TRACKS)

    def recover(self, disk: CrashDisk) -> None:
        if not disk.exists(PATH):
            if self._is_named:
                raise ViolationError("the file is gone")
            raise NothingToRecover
        for when_damaged in (True, False):  # either bitmap's answer to damage
            saved = self._opened(disk)
            found = saved.load(self._tag, when_damaged=when_damaged)
            saved.close()
            for number in range(PAGES):
                bits = _page(found.data, number)
                pages = [_shown(page, self._tag) for page in self._pages(number)]
                if bits not in pages:
                    raise ViolationError(f"page {number} is of no round it may be of")
            if not found.count == int.from_bytes(found.data).bit_count():
                raise ViolationError("bits are counted wrong")

    def go_on_from(self, disk: CrashDisk) -> None:
        """Save a page after the recovery, crashed in its turn."""
        saved = self._opened(disk)
        found = saved.load(self._tag, when_damaged=True)
        was = self._durable, self._saved, self._cut_short, self._is_named
        cut_short = {number: self._pages(number) for number in range(PAGES)}
        try:
            self._is_named, self._cut_short = False, cut_short
            self._durable = [
                (self._tag, _page(found.data, number)) for number in range(PAGES)
            ]
            page = self.cut_rng.randrange(PAGES)
            self._saved = {
                page: (self._tag, self.cut_rng.randbytes(8).ljust(PAGE_BYTES, b"\0"))
            }
            if page == PAGES - 1:
                self._saved[page] = self._tag, b"\x01" + bytes(PAGE_BYTES - 1)
            self.promised()
            saved.save({page: self._saved[page][1]}, self._tag)
            saved.datasync()
        finally:
            self._durable, self._saved, self._cut_short, self._is_named = was


def _shown(page: Page, tag: bytes) -> bytes:
    return page[1] if page[0] == tag else bytes(PAGE_BYTES)


def _page(data: bytearray, number: int) -> bytes:
    found = bytes(data[number * PAGE_BYTES : (number + 1) * PAGE_BYTES])
    return found.ljust(PAGE_BYTES, b"\0")
