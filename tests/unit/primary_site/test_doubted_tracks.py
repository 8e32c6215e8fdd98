"""Acked tracks of a remote that was put back: compared, and their old bits void."""

from __future__ import annotations

from common.storage.bitmap import Bitmap
from common.storage.bitmap_file import BitmapFile
from common.storage.geometry import Geometry
from primary_site.changes import VolumeChanges
from tests.support.simulated_files import SimulatedFiles

TRACKS = 64


def changes_with(acked: list[int], suspect: list[int] | None) -> VolumeChanges:
    changes = VolumeChanges(Geometry(TRACKS * 4096, 4096, 4096))
    for track in acked:
        changes.acked.set_range(track, 1)
    if suspect is not None:
        changes.suspect = Bitmap(TRACKS)
        for track in suspect:
            changes.suspect.set_range(track, 1)
    return changes


def test_doubted_tracks_join_those_only_suspected() -> None:
    changes = changes_with([1, 2, 3], [3, 4])
    before = changes.suspect
    changes.doubt_acked()
    assert changes.acked.count == 0
    assert changes.suspect is not None
    assert list(changes.suspect.runs()) == [(1, 4)]
    assert before is not None
    assert before.count == 2, "the carried bitmap may be the same one"


def test_with_nothing_acked_nothing_is_suspected() -> None:
    changes = changes_with([], None)
    changes.doubt_acked()
    assert changes.suspect is None


def test_a_page_remembers_the_progress_that_its_bits_rely_on() -> None:
    files = SimulatedFiles()
    files.make_directory("/state")
    pages = BitmapFile.open(files, "/state/v.acked", 3 * 8 * 4056)
    pages.load(b"t" * 16, when_damaged=False)
    pages.save({0: b"\1"}, b"t" * 16, 5)
    pages.save({1: b"\1"}, b"t" * 16, 9)
    pages.save({2: b"\1"}, b"u" * 16, 70)
    pages.datasync()
    again = BitmapFile.open(files, "/state/v.acked", 3 * 8 * 4056)
    assert again.load(b"t" * 16, when_damaged=False).count == 2
    assert again.stamp == 9, "pages of another tag say nothing"
    assert again.load(b"v" * 16, when_damaged=False).count == 0
    assert again.stamp == 0
