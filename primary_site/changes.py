"""What one volume has changed, and what of it the remote has: the bitmaps.

Pure: the event loop owns it; `union` and `todo` may be computed by a thread from
bitmaps that nothing writes any more. I4 lives here: a track that differs from
the newest acknowledged recovery point is in

    FlashCopy bitmap  ∪  PPRC bitmap  ∪  carried bitmap

at every instant, and `acked` never covers a track that was marked since.

    transfer   FlashCopy ∪ carried -> PPRC, a fresh FlashCopy bitmap (in the hold)
    settle     the union, computed outside the hold, replaces its parts
    ack        PPRC tracks durable on the secondary volume
    complete   the point is committed: PPRC and acked are dropped
    abandon    PPRC joins carried; acked keeps what was not marked since
"""

from __future__ import annotations

from dataclasses import dataclass

from common.storage.bitmap import Bitmap
from common.storage.bitmap_file import PAGE_BITS, PAGE_BYTES, page_of
from common.storage.flashcopy import FlashCopyMap, Relation
from common.storage.geometry import Geometry


@dataclass(slots=True)
class Transfer:
    """The PPRC bitmap as the cut left it: its parts, until they are united."""

    parts: list[Bitmap]
    """The first is the FlashCopy bitmap of the cut: those tracks are not acked."""


@dataclass(frozen=True, slots=True)
class Room:
    """What `VolumeChanges.grow` puts in place of smaller bitmaps; see `make_room`."""

    fresh: Bitmap
    acked: Bitmap
    carried: Bitmap
    suspect: Bitmap | None


class VolumeChanges:
    """All change records of one volume."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.flashcopy = FlashCopyMap(geometry.track_count)
        self.carried: list[Bitmap] = []
        self.held_back: Bitmap | None = None
        """Of a joining volume: what no cycle has taken yet of its first copy."""
        self.suspect: Bitmap | None = None
        """Carried tracks that are only suspected to differ: they travel as hashes."""
        self.acked = Bitmap(geometry.track_count)
        self.told_of = b""
        """The remote's relation whose own changes are carried, or were, already."""
        self.pprc: Bitmap | None = None
        self.transferred: Transfer | None = None
        self.at_cut: list[Bitmap] = []
        """United: what the newest cut transferred, also once its cycle is complete."""
        self.whole = False
        """Tracks are carried, or in the cycle, of which no durable bitmap says so: all
        of them, or what the volume has grown by. The record does."""
        self.stale_pages: set[int] = set()
        """Pages whose durable copy holds bits that a commit has cleared."""

    # -- the cycle ---------------------------------------------------------------

    def has_changed(self) -> bool:
        """Tell whether a cut now would have anything to transfer."""
        return (
            bool(self.flashcopy.bitmap.count)
            or any(b.count for b in self.carried)
            or self.held_back is not None
        )

    def transfer(self, relation: Relation | None, fresh: Bitmap) -> Transfer:
        """Hand FlashCopy ∪ carried over to the PPRC bitmap: pointer swaps only.

        Within the hold. The previous cycle is complete (staggering, claim 8).
        """
        assert self.pprc is None, "staggering: the previous cycle is not complete"
        assert self.transferred is None
        old = self.flashcopy.establish(relation, fresh)
        self.transferred = Transfer([old, *self.carried])
        self.at_cut = self.transferred.parts
        self.carried = []
        return self.transferred

    def settle(self, pprc: Bitmap, acked: Bitmap) -> None:
        """Replace the parts of the transfer by their union (see `unite`)."""
        assert self.transferred is not None
        self.pprc, self.acked, self.transferred = pprc, acked, None
        self.at_cut = [pprc]

    def ack(self, first: int, count: int) -> None:
        """These PPRC tracks, as at the cut, are durable on the secondary volume."""
        assert self.pprc is not None
        self.acked.set_range(first, count)

    def complete(self) -> None:
        """The cycle's recovery point is committed and acknowledged."""
        assert self.pprc is not None
        assert self.acked.count >= self.pprc.count, "committed with tracks unsent"
        self.stale_pages |= pages_with_bits(self.pprc)
        self.pprc = None
        if self.held_back is None:
            self.suspect = None
        self.whole = False
        self.acked = Bitmap(self.geometry.track_count)

    def abandon(self) -> None:
        """Give the cycle up: nothing of its tracks is forgotten."""
        if self.transferred is not None:
            # The FlashCopy part was marked before the cut, after whatever acked
            # says of it: it may not stay acked.
            for first, count in self.transferred.parts[0].runs():
                self.acked.clear_range(first, count)
            self.carried.extend(self.transferred.parts)
            self.transferred = None
        if self.pprc is not None:
            self.carried.append(self.pprc)
            self.pprc = None

    def forget_acked(self) -> None:
        """The remote's relation is another one: nothing it acknowledged counts."""
        self.acked = Bitmap(self.geometry.track_count)

    def doubt_acked(self) -> None:
        """The remote may lack what it acknowledged: compare it instead."""
        if not self.acked.count:
            return
        doubted = [] if self.suspect is None else [self.suspect]
        self.suspect = self.acked.union_of(doubted)
        self.acked = Bitmap(self.geometry.track_count)

    def carry(self, bitmap: Bitmap) -> None:
        """Have these tracks sent with the next cycle, whatever hosts do."""
        self.carried.append(bitmap)

    def hold_back(self) -> None:
        """Have cycles take what is carried part by part: see `joining.py`."""
        self.held_back = Bitmap(self.geometry.track_count).union_of(self.carried)
        self.carried = []
        # No mark says of these pages that they are to be saved.
        self.stale_pages |= pages_with_bits(self.held_back)

    def take_part(self, part: Bitmap, rest: Bitmap | None) -> None:
        """Carry a part of what is held back with the next cut."""
        self.carried.append(part)
        self.held_back = rest

    def compare_again(self, bitmap: Bitmap) -> set[int]:
        """Have the next cycle compare these tracks, and send those that differ.

        Only between two cycles: the next to complete must be the one that takes them
        along. Returns the pages to be made durable before anybody is told.
        """
        assert self.pprc is None
        assert self.transferred is None
        self.carried.append(bitmap)
        self.suspect = bitmap.union_of([] if self.suspect is None else [self.suspect])
        self.acked.subtract(bitmap)
        return pages_with_bits(bitmap)

    def grow(self, geometry: Geometry, room: Room) -> tuple[Bitmap, Bitmap]:
        """Be as large as `geometry`, between two cycles; return (marked, acked) before.

        One step on the loop, with writes in flight: what they have marked joins
        carried, and nothing is preserved before the next cut. Of what was acked
        nothing counts until the caller puts back what was not marked since.
        """
        assert self.pprc is None, "a cut has one size"
        assert self.transferred is None
        self.flashcopy.withdraw()
        marked = self.flashcopy.replace(room.fresh)
        self.carried = [room.carried, marked]
        acked, self.acked = self.acked, room.acked
        self.suspect = room.suspect
        self.geometry = geometry
        self.whole = True
        return marked, acked

    # -- figures -----------------------------------------------------------------

    def changed_tracks(self) -> int:
        """Return |FlashCopy ∪ carried|, or an upper bound where they overlap."""
        total = self.flashcopy.bitmap.count + sum(b.count for b in self.carried)
        total += 0 if self.held_back is None else self.held_back.count
        return min(total, self.geometry.track_count)

    def out_of_sync_tracks(self) -> int:
        """Return |FlashCopy ∪ carried ∪ (PPRC less acked)|, or an upper bound."""
        total = self.changed_tracks()
        if self.transferred is not None:
            total += sum(b.count for b in self.transferred.parts)
        if self.pprc is not None:
            total += self.pprc.count
        total -= self.acked.count
        return max(0, min(total, self.geometry.track_count))

    # -- durable copies ------------------------------------------------------------

    def changed_page(self, page: int) -> bytes:
        """Return a page of FlashCopy ∪ PPRC ∪ carried, for the durable copy."""
        bits = 0
        for bitmap in self._changed_bitmaps():
            bits |= _page(bitmap, page)
        return bits.to_bytes(PAGE_BYTES, "little")

    def acked_page(self, page: int) -> bytes:
        """Return a page of what of `acked` a restart may rely on.

        That is acked less every track marked since its cut. A marked track is
        in the FlashCopy bitmap, or in the first part of an unsettled transfer.
        """
        bits = _page(self.acked, page) & ~_page(self.flashcopy.bitmap, page)
        if self.transferred is not None:
            bits &= ~_page(self.transferred.parts[0], page)
        return bits.to_bytes(PAGE_BYTES, "little")

    def _changed_bitmaps(self) -> list[Bitmap]:
        bitmaps = [self.flashcopy.bitmap, *self.carried]
        bitmaps += [b for b in (self.pprc, self.held_back) if b is not None]
        if self.transferred is not None:
            bitmaps.extend(self.transferred.parts)
        return bitmaps


def make_room(changes: VolumeChanges, geometry: Geometry) -> Room:
    """Return bitmaps for a larger volume; all that is new is carried. For a thread.

    From the old last track on, which may be longer now. No cycle is under way, and so
    nothing changes what is carried or suspected meanwhile.
    """
    tracks = geometry.track_count
    carried = Bitmap(tracks).union_of(changes.carried)
    first = changes.geometry.size_bytes // geometry.track_bytes
    carried.set_range(first, tracks - first)
    suspect = changes.suspect
    return Room(
        Bitmap(tracks),
        Bitmap(tracks),
        carried,
        None if suspect is None else suspect.extended(tracks),
    )


def unite(transfer: Transfer, acked: Bitmap) -> tuple[Bitmap, Bitmap]:
    """Return (PPRC bitmap, acked bitmap) of a transfer. For a thread: big bitmaps.

    Nothing else writes the parts or `acked` between the transfer and `settle`.
    """
    pprc = transfer.parts[0].union_of(transfer.parts[1:])
    kept = acked.copy()
    kept.subtract(transfer.parts[0])
    return pprc, kept


def still_to_send(pprc: Bitmap, acked: Bitmap) -> Bitmap:
    """Return PPRC less acked. For a thread."""
    todo = pprc.copy()
    todo.subtract(acked)
    return todo


def pages_of_tracks(first: int, count: int) -> range:
    return range(page_of(first), page_of(first + count - 1) + 1)


def pages_with_bits(bitmap: Bitmap) -> set[int]:
    """Return the pages that hold a set bit."""
    pages = set()
    track = bitmap.next_set(0)
    while track < bitmap.bit_count:
        page = page_of(track)
        pages.add(page)
        track = (
            bitmap.next_set((page + 1) * PAGE_BITS)
            if ((page + 1) * PAGE_BITS < bitmap.bit_count)
            else bitmap.bit_count
        )
    return pages


def _page(bitmap: Bitmap, page: int) -> int:
    return int.from_bytes(
        bitmap.data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES], "little"
    )
