"""The state that a site which took over sends with, as the sending role opens it."""

from __future__ import annotations

import random
from dataclasses import replace

from common.replication.lineage import CycleName
from common.service.config_primary import PrimaryGroup
from common.storage.bitmap import Bitmap
from common.storage.bitmap_file import PAGE_BITS, BitmapFile
from common.storage.geometry import Geometry
from common.storage.record import DurableRecord
from primary_site.group_state import from_record
from primary_site.opening import OpenedGroup, open_group
from primary_site.taking_over import SendingStart, StartingVolume, prepare_sending
from tests.support.simulated_files import SimulatedFiles

TRACKS = PAGE_BITS + 500
RECORD = "/state/sending/groups/orders/group.record"
GEOMETRY = Geometry(TRACKS * 4096, 4096, 4 << 20)
CONFIG = PrimaryGroup.model_validate(
    {
        "name": "orders",
        "link": {
            "remotes": ["a:1"],
            "peer": "a",
            "allow_plaintext_replication": True,
        },
        "flashcopy": {"directory": "/flashcopy"},
        "volume": [{"name": "data", "device": "/devices/data.img"}],
    }
)
START = SendingStart(
    group="orders",
    group_id=b"g" * 16,
    lineage=b"N" * 16,
    newest=CycleName(9, b"9" * 16),
    point=CycleName(7, b"7" * 16),
    cut_ns=70,
    current_as_of_ns=71,
    label="before",
    volumes=(),
)


def start(*runs: tuple[int, int]) -> SendingStart:
    carried = Bitmap(TRACKS)
    for first, count in runs:
        carried.set_range(first, count)
    volume = StartingVolume("data", b"v" * 16, GEOMETRY, carried)
    return replace(START, volumes=(volume,))


def device() -> SimulatedFiles:
    files = SimulatedFiles()
    for path in ("/devices", "/state"):
        files.make_directory(path)
    made = files.open("/devices/data.img", create=True)
    made.truncate(GEOMETRY.size_bytes)
    made.datasync()
    made.close()
    return files


def opened(files: SimulatedFiles) -> OpenedGroup:
    return open_group(files, "/state/sending", CONFIG, "remote.toml")


def runs_of(group: OpenedGroup) -> list[tuple[int, int]]:
    (volume,) = group.volumes
    return list(volume.verdict.carried.runs())


def test_the_sending_role_opens_what_was_prepared() -> None:
    files = device()
    runs = [(3, 2), (PAGE_BITS - 1, 5), (TRACKS - 1, 1)]
    prepare_sending(files, "/state/sending", start(*runs))
    group = opened(files)
    assert runs_of(group) == runs
    (volume,) = group.volumes
    # Much of it may be at the receiver already: it is asked by hashes.
    assert volume.verdict.suspect is not None
    assert list(volume.verdict.suspect.runs()) == runs
    assert not volume.verdict.full
    judged = group.state.judged()
    assert (judged.group_id, judged.lineage) == (b"g" * 16, b"N" * 16)
    assert judged.newest == CycleName(9, b"9" * 16)
    assert judged.committed == CycleName(7, b"7" * 16)
    assert (group.state.committed_cut_ns, group.state.current_as_of_ns) == (70, 71)
    assert group.state.volumes["data"].volume_id == b"v" * 16


def test_what_an_earlier_time_as_the_sender_left_counts_for_nothing() -> None:
    files = device()
    prepare_sending(files, "/state/sending", start((0, TRACKS)))
    earlier = opened(files)
    (volume,) = earlier.volumes
    for _ in range(4):  # a later sequence than any that is written first
        volume.durable.changed.save({0: b"\xff" * 100, 1: b"\xff" * 8})
        volume.durable.changed.datasync()
    volume.durable.log.write([1], set())
    volume.durable.close()
    volume.device.close()
    prepare_sending(files, "/state/sending", start((40, 2)))
    assert runs_of(opened(files)) == [(40, 2)]


def test_preparing_again_after_it_was_cut_short_is_the_same() -> None:
    files = device()
    wanted = start((5, 5))
    prepare_sending(files, "/state/sending", start((9, 9)))
    files.remove(RECORD)
    prepare_sending(files, "/state/sending", wanted)
    prepare_sending(files, "/state/sending", wanted)
    assert runs_of(opened(files)) == [(5, 5)]


def lineage_and_runs(files: SimulatedFiles) -> tuple[bytes, list[tuple[int, int]]]:
    """Return what the record and the bitmap beside it say, if there is a record."""
    found = DurableRecord(RECORD, files).load() if files.exists(RECORD) else None
    if found is None:
        return b"", []
    path = RECORD.replace("group.record", "data.changed")
    assert files.exists(path), "a record, and no bitmap"
    bitmap = BitmapFile.open(files, path, TRACKS)
    runs = list(bitmap.load(when_damaged=False).runs())
    bitmap.close()
    return from_record(found, RECORD).lineage, runs


def test_a_record_is_there_only_with_its_own_bitmaps_whatever_a_crash_leaves() -> None:
    """Whoever opens a part of it would begin as if little, or nothing, had changed."""
    files = device()
    rng = random.Random(5)
    earlier = b"E" * 16, [(0, TRACKS)]
    later = b"N" * 16, [(3, 2), (TRACKS - 1, 1)]
    prepare_sending(
        files, "/state/sending", replace(start(*earlier[1]), lineage=earlier[0])
    )
    assert lineage_and_runs(files.crash_image(rng, "lost")) == earlier
    seen = []

    def check(_operation: str, _path: str) -> None:
        seen.extend(lineage_and_runs(image) for image in files.crash_images(rng, 8))

    files.hook = check
    prepare_sending(files, "/state/sending", start(*later[1]))
    files.hook = None
    for each in (earlier, (b"", []), later):
        assert each in seen
        seen = [found for found in seen if found != each]
    assert not seen
    assert lineage_and_runs(files.crash_image(rng, "lost")) == later
