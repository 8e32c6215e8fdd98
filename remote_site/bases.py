"""Differences against what the secondary volume holds, made into whole tracks.

Synchronous; runs in threads. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from common.errors import CorruptStateError, ProtocolError
from common.replication.cycle_messages import Encoding
from common.replication.delta import apply_difference
from common.replication.referenced import PIECE_BYTES, Pieces
from common.replication.tracks import TrackRecord, run_hash
from remote_site.recovery_point import PointImage
from remote_site.secondary import SecondaryVolume

Run = tuple[int, int]
Runs = list[Run]


@dataclass(slots=True)
class Resolved:
    """What to apply, and what to ask for whole: its base is not here.

    A record of neither is applied already: the volume holds its result.
    """

    records: list[TrackRecord] = field(default_factory=list)
    refused: Runs = field(default_factory=list)


def resolve(volume: SecondaryVolume, records: Sequence[TrackRecord]) -> Resolved:
    """Return records that need no base, each verified against its hash.

    The volume's lock is held, and is until they are applied. A cycle that is sent
    again meets its own results: those count as applied, for the newest point's
    content was preserved before they were written. Raises `StorageError`, and
    `ProtocolError` where the base is right and the result is not.
    """
    resolved = Resolved()
    for record in records:
        if record.encoding == Encoding.XOR:
            _resolve(volume, record, resolved)
        else:
            resolved.records.append(record)
    return resolved


def held_pieces(volume: SecondaryVolume, pieces: Pieces) -> bytes | None:
    """Return what the newest point has in some pieces; None if it has not all of them.

    From a thread; needs no lock, for no point ever changes, whatever is overwritten.
    Raises `StorageError`.
    """
    if not volume.journals:
        return None
    image = PointImage(volume, volume.journals[-1].header.point_number)
    end = image.geometry.size_bytes // PIECE_BYTES
    if pieces[-1][0] + pieces[-1][1] > end:
        return None
    try:
        parts = [
            image.read(first * PIECE_BYTES, count * PIECE_BYTES)
            for first, count in pieces
        ]
    except CorruptStateError:
        return None  # the whole tracks do as well; a scrub tells of the journal
    return b"".join(parts)


def _resolve(volume: SecondaryVolume, record: TrackRecord, resolved: Resolved) -> None:
    run = record.first, record.count
    held = volume.device.read(*volume.geometry.byte_range(*run))
    held_hash = run_hash(held)
    if held_hash == record.result_hash:
        return
    if held_hash != record.base_hash or record.data is None:
        resolved.refused.append(run)
        return
    result = apply_difference(held, record.data)
    if run_hash(result) != record.result_hash:
        raise ProtocolError(
            f"TRACKS: run {record.first}+{record.count} with its difference fails "
            "its hash"
        )
    resolved.records.append(
        TrackRecord(*run, Encoding.RAW, memoryview(result), record.result_hash)
    )
