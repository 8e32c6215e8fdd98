"""Power cuts: which subsets of what is unflushed a crash leaves, and the images.

All combinations of old, new, torn and trashed where they are few; else all subsets
of old and new where those are few; else some of each kind: everything up to an
instant, only one, all but one, and mixtures. Two cuts are always there: nothing of
it, all of it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.crash.disk import (
    BLOCK_BYTES,
    OLD,
    TORN,
    TRASHED,
    CrashDisk,
    Directory,
    Fate,
    Inode,
    assign,
    sector_digest,
)

GARBAGE = (
    random.Random("garbage").randbytes(BLOCK_BYTES),
    bytes(BLOCK_BYTES),
    b"\xff" * BLOCK_BYTES,
)
_MIXES = (
    # old, new, torn, trashed
    (1, 1, 0, 0),
    (1, 4, 0, 0),
    (4, 1, 0, 0),
    (2, 2, 1, 1),
    (0, 8, 1, 1),
    (8, 0, 1, 1),
    (0, 1, 0, 1),
    (4, 0, 0, 1),
)


@dataclass(slots=True)
class Unit:
    """One unflushed thing: a sector, a file's size or a directory's change.

    `versions` contents since the flush, the n-th of them from instant `times[n]` on.
    """

    owner: Inode | Directory
    place: int
    times: list[int]
    name: str

    @property
    def is_sector(self) -> bool:
        return self.place >= 0

    def at(self, when: int) -> int:
        """Return the fate of this unit had everything up to an instant been flushed."""
        return sum(time <= when for time in self.times)


_SIZE, _NAMES = -1, -2


def unflushed(disk: CrashDisk) -> list[Unit]:
    """Return all that a power cut may take, in the order it was first touched."""
    units: list[Unit] = []
    seen: set[int] = set()
    for path, directory in disk.directories.items():
        units += [
            Unit(directory, _NAMES, [when], f"{path}: {_told(change)}")
            for when, change in directory.changes
        ]
        inodes = {**directory.durable, **directory.names}
        for name, inode in inodes.items():
            if inode.number in seen or not inode.is_unflushed():
                continue
            seen.add(inode.number)
            where = f"{path}/{name}"
            units += [
                Unit(inode, sector, [v[2] for v in versions], f"{where}[{sector}]")
                for sector, versions in inode.versions.items()
            ]
            if inode.sizes:
                times = [when for _, when in inode.sizes]
                units.append(Unit(inode, _SIZE, times, f"{where} size"))
    units.sort(key=lambda unit: unit.times[0])
    return units


def _told(change: tuple[tuple[str, Inode | None], ...]) -> str:
    return ", ".join(f"{'+-'[inode is None]}{name}" for name, inode in change)


Cut = list[int]
"""A fate for each unit, in their order."""


def power_cuts(units: list[Unit], rng: random.Random, limit: int) -> Iterator[Cut]:
    """Yield at most `limit` cuts; those without a torn sector only once."""
    seen: set[tuple[int, ...]] = set()
    for cut in _cuts(units, rng, limit):
        fates = tuple(cut)
        if TORN in fates or fates not in seen:
            seen.add(fates)
            yield cut


def _cuts(units: list[Unit], rng: random.Random, limit: int) -> Iterator[Cut]:
    newest = [len(unit.times) for unit in units]
    yield [OLD] * len(units)
    if not units:
        return
    yield newest
    left = limit - 2
    if 4 ** len(units) <= left:
        fates = [
            (OLD, new, *((TORN, TRASHED) if unit.is_sector else ()))
            for unit, new in zip(units, newest, strict=True)
        ]
        every = [list(cut) for cut in itertools.product(*fates)]
        for cut in every:
            if any(cut) and cut != newest:
                left -= 1
                yield cut
    elif 2 ** len(units) - 2 <= left * 3 // 4:
        for mask in range(1, 2 ** len(units) - 1):
            left -= 1
            yield [new * (mask >> i & 1) for i, new in enumerate(newest)]
    else:
        for cut in _some(units, newest, rng, max(1, left // 6)):
            left -= 1
            yield cut
    for _ in range(left):
        yield _mixture(units, newest, rng)


def _some(
    units: list[Unit], newest: Cut, rng: random.Random, each: int
) -> Iterator[Cut]:
    times = sorted({time for unit in units for time in unit.times})[:-1]
    for when in rng.sample(times, min(each, len(times))):
        yield [unit.at(when) for unit in units]
    places = range(len(units))
    for place in rng.sample(places, min(each, len(units))):
        cut = [OLD] * len(units)
        cut[place] = newest[place]
        yield cut
    for place in rng.sample(places, min(each, len(units))):
        cut = list(newest)
        cut[place] = _other(units[place], rng)
        yield cut


def _other(unit: Unit, rng: random.Random) -> int:
    return rng.choice((OLD, TORN, TRASHED)) if unit.is_sector else OLD


def _mixture(units: list[Unit], newest: Cut, rng: random.Random) -> Cut:
    fates = rng.choices((OLD, 1, TORN, TRASHED), rng.choice(_MIXES), k=len(units))
    for i, fate in enumerate(fates):
        if fate == 1 and newest[i] > 1:
            fates[i] = newest[i] if rng.random() < 0.7 else rng.randint(1, newest[i])
        elif fate < 0 and not units[i].is_sector:
            fates[i] = rng.randint(OLD, newest[i])
    return fates


def image(
    disk: CrashDisk, units: list[Unit], cut: Cut, rng: random.Random
) -> CrashDisk:
    """Return the disk as this cut leaves it, nothing unflushed.

    Garbage is one of a few contents that never change: trashing a sector over and
    over makes few images that count as distinct.
    """
    fates: dict[int, dict[int, Fate]] = {}
    sizes: dict[int, int] = {}
    kept: set[int] = set()
    for unit, fate in zip(units, cut, strict=True):
        owner = unit.owner
        if fate == OLD:
            continue
        if isinstance(owner, Directory):
            kept.add(unit.times[0])
        elif unit.place == _SIZE:
            sizes[owner.number] = owner.sizes[fate - 1][0]
        else:
            found = _fate(owner, unit.place, fate, rng)
            fates.setdefault(owner.number, {})[unit.place] = found
    other = disk.like()
    images: dict[int, Inode] = {}
    for path, directory in disk.directories.items():
        copy = other.directories.setdefault(path, Directory())
        for name, inode in _names(directory, kept).items():
            number = inode.number
            if number not in images:
                size = sizes.get(number, len(inode.base))
                images[number] = inode.image(fates.get(number, {}), size)
            copy.durable[name] = images[number]
        copy.names = dict(copy.durable)
    return other


def _names(directory: Directory, kept: set[int]) -> dict[str, Inode]:
    """Return a directory's names after the changes of the instants in `kept`."""
    if not directory.changes:
        return directory.durable
    names = dict(directory.durable)
    for when, change in directory.changes:
        if when in kept:
            assign(names, change)
    return names


def _fate(inode: Inode, sector: int, fate: int, rng: random.Random) -> Fate:
    was, versions = inode.was[sector], inode.versions[sector]
    if fate > 0:
        content, digest, _ = versions[fate - 1]
        return Fate(content, digest - was)
    old = inode.base_sector(sector)
    if fate == TRASHED:
        garbage = rng.choice(GARBAGE)[: len(old)]
        return Fate(garbage, sector_digest(garbage, inode.number, sector) - was)
    one, other = versions[-1][0], rng.choice((old, old, versions[0][0]))
    if rng.random() < 0.5:
        one, other = other, one
    at = rng.randrange(1, len(old))
    torn = one[:at] + other[at:]
    return Fate(torn, sector_digest(torn, inode.number, sector) - was)


def describe(units: list[Unit], cut: Cut) -> str:
    """Say what became of each unflushed thing, those that are old left out."""
    told = {TORN: "torn", TRASHED: "trashed"}
    parts = [
        f"{unit.name} {told.get(fate) or f'new {fate} of {len(unit.times)}'}"
        for unit, fate in zip(units, cut, strict=True)
        if fate != OLD
    ]
    return f"of {len(units)} unflushed: " + ("; ".join(parts) or "all old")
