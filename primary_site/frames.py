"""What a drain's frames hold: tracks as at the cut, whole, as differences or as hashes.

Owned by the event loop of the group; reading, comparing and compressing is done in the
volume's threads.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.replication.tracks import DeltaRun, RunData, track_hash
from primary_site.base import CycleBase, has_few_differences, runs_of
from primary_site.compression import Compression, Packed
from primary_site.cut_reader import CutReader
from primary_site.drain_plan import Unit
from primary_site.drain_waits import DrainWaits, Stage
from primary_site.likeness import Habit, Likeness, unlike

Records = list[RunData | DeltaRun]


class FrameMaker:
    """Of one cycle over one session; `readers` are those of its volumes, in order."""

    def __init__(
        self,
        readers: Sequence[CutReader],
        compression: Compression,
        waits: DrainWaits,
        *,
        delta: bool,
        habit: Habit | None,
    ) -> None:
        """`delta`, `habit`: as `CycleDrain` has them. Waiting is added to `waits`."""
        self.tracks_differenced = 0
        self._readers = readers
        self._compression = compression
        self._waits = waits
        self._delta = delta
        self._habit = habit if delta and habit is not None and habit.begin() else None
        self._likenesses: dict[int, Likeness] = {}

    def refuse_references(self, volume: int) -> None:
        """The remote's newest point is not what references of this volume say."""
        self._likenesses[volume].stop()

    async def packed(self, unit: Unit) -> Packed:
        """Return a unit's payload, of differences where there is a base.

        Raises as `CutReader.read` does.
        """
        runs = await self._runs(unit)
        with self._waits.during(Stage.ENCODE, self._compression.monotonic):
            return await self._encoded(unit, runs)

    async def hashes(self, unit: Unit) -> bytes:
        """Return the hashes of a unit's tracks. Raises as `CutReader.read` does."""
        reader = self._readers[unit.volume]
        (run,) = await self._runs(unit)
        return await reader.volume.threads.run(_hash_tracks, reader, run)

    async def _runs(self, unit: Unit) -> list[RunData]:
        if unit.zero:
            return [RunData(first, count, None) for first, count in unit.runs]
        with self._waits.during(Stage.READ, self._compression.monotonic):
            return await self._readers[unit.volume].read(unit.runs)

    async def _encoded(self, unit: Unit, runs: list[RunData]) -> Packed:
        volume = self._readers[unit.volume].volume
        base = volume.preserver.base() if self._delta and not unit.whole else None
        if base is None or unit.zero:
            return await volume.threads.run(
                self._compression.pack, runs, gathered=self._delta
            )

        def pack() -> tuple[Records, Packed]:
            records = base.against(runs)
            packed = self._compression.pack(records, gathered=True)
            if self._compression.has_time and has_few_differences(records):
                whole = self._compression.pack(runs, gathered=True)
                if len(whole.payload) < len(packed.payload):
                    return list(runs), whole
            return records, packed

        records, packed = await base.run(volume.threads, pack)
        unit.based = runs_of(records)
        self.tracks_differenced += sum(count for _, count in unit.based)
        referred = await self._referred(unit, base, records, packed)
        if referred is None:
            return packed
        unit.based, unit.referred = unit.runs, True
        return referred

    async def _referred(
        self, unit: Unit, base: CycleBase, records: Records, plain: Packed
    ) -> Packed | None:
        """Return a payload that a reference makes smaller, None if none does."""
        if self._habit is None or not self._compression.has_time:
            return None
        reader = self._readers[unit.volume]
        likeness = self._likenesses.get(unit.volume)
        if likeness is None:
            likeness = Likeness(reader, base, self._habit)
            self._likenesses[unit.volume] = likeness
        alone = unlike(records)
        if not likeness.is_worth(plain, alone):
            return None
        reference = await likeness.reference(alone)
        if reference is None:
            return None
        return await reader.volume.threads.run(
            self._compression.pack_against, records, reference, plain
        )


def _hash_tracks(reader: CutReader, run: RunData) -> bytes:
    geometry = reader.volume.geometry
    _, total = geometry.byte_range(run.first, run.count)
    data = memoryview(bytes(total) if run.data is None else run.data)
    step = geometry.track_bytes
    return b"".join(track_hash(data[at : at + step]) for at in range(0, total, step))
