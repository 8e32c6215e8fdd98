"""What every crash test takes for granted: a sync of ours is one of the kernel's.

The disks of those tests are simulated, and lose what was not synced; here the real
calls are noted as they are made, and what a power cut would leave is told by them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from common.replication.session_messages import VolumeOffer
from common.service.config_primary import PrimaryGroup
from common.storage.files import SystemFiles
from primary_site.opening import open_group
from remote_site.applier import apply_tracks
from remote_site.group_disk import GroupDisk, StoreSettings
from remote_site.restoring import image_of, write_image
from tests.support.remote_store_group import BINDING, tracks_of

TRACK = 4096
OFFER = VolumeOffer("data", b"d" * 16, 16 * TRACK, TRACK)


class Kernel:
    """What it was asked to sync, in order, and each directory's names at that time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[tuple[str, str]] = []
        self.names: dict[str, set[str]] = {}
        for call in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, call, self._noting(call, getattr(os, call)))

    def _noting(self, call: str, ask: Callable[[int], None]) -> Callable[[int], None]:
        def noted(descriptor: int) -> None:
            ask(descriptor)
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            self.synced.append((call, path))
            if os.path.isdir(path):
                self.names[path] = set(os.listdir(path))

        return noted

    def lost(self, root: Path) -> list[str]:
        """Return what has a name below `root` that a power cut would take."""
        return [
            str(path)
            for path in sorted(root.rglob("*"))
            if path.name not in self.names.get(str(path.parent), set())
        ]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def test_a_datasync_is_the_kernel_s(kernel: Kernel, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    file = SystemFiles().open(path, create=True)
    file.write(0, b"x" * TRACK)
    assert kernel.synced == []
    file.datasync()
    assert kernel.synced == [("fdatasync", path)]
    file.close()


def test_a_directory_s_names_are_the_kernel_s_too(
    kernel: Kernel, tmp_path: Path
) -> None:
    files = SystemFiles()
    files.open(str(tmp_path / "old"), create=True).close()
    assert kernel.lost(tmp_path) == [str(tmp_path / "old")]
    files.rename(str(tmp_path / "old"), str(tmp_path / "new"))
    files.sync_directory(str(tmp_path))
    assert kernel.synced == [("fsync", str(tmp_path))]
    assert kernel.lost(tmp_path) == []


def test_every_directory_that_is_made_has_a_durable_name(
    kernel: Kernel, tmp_path: Path
) -> None:
    SystemFiles().make_directory(str(tmp_path / "a" / "b" / "c"))
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert kernel.lost(tmp_path) == []


def test_a_directory_that_a_killed_process_left_empty_gets_a_durable_name(
    kernel: Kernel, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.mkdir()
    SystemFiles().make_directory(str(path))
    assert kernel.synced == [("fsync", str(tmp_path))]
    kernel.synced.clear()
    (path / "file").touch()  # nobody puts one there before the name is durable
    SystemFiles().make_directory(str(path))
    assert kernel.synced == []


def test_all_that_a_primary_s_first_start_makes_has_a_durable_name(
    kernel: Kernel, tmp_path: Path
) -> None:
    (tmp_path / "devices").mkdir()
    config = PrimaryGroup.model_validate(
        {
            "name": "g",
            "link": {
                "remotes": ["b:1"],
                "peer": "b",
                "allow_plaintext_replication": True,
            },
            "flashcopy": {"directory": str(tmp_path)},
            "volume": [
                {
                    "name": "data",
                    "device": str(tmp_path / "devices" / "data.img"),
                    "size": f"{OFFER.size_bytes}B",
                    "track_size": "4KiB",
                    "region_size": "64KiB",
                }
            ],
        }
    )
    kernel.names[str(tmp_path)] = {"devices"}
    opened = open_group(SystemFiles(), str(tmp_path / "state"), config, "p.toml")
    assert kernel.lost(tmp_path) == []
    for volume in opened.volumes:
        volume.durable.close()
        volume.device.close()


def remote_store(directory: Path) -> GroupDisk:
    disk = GroupDisk(
        SystemFiles(),
        StoreSettings(
            group="g",
            state_directory=str(directory / "state" / "g"),
            journal_directory=str(directory / "journals" / "g"),
            devices={"data": str(directory / "devices" / "data.img")},
        ),
        lambda points: {point.number for point in points},
    )
    disk.open()
    return disk


def test_all_that_a_point_needs_has_a_durable_name(
    kernel: Kernel, tmp_path: Path
) -> None:
    (tmp_path / "devices").mkdir()
    kernel.names[str(tmp_path)] = {"devices"}
    disk = remote_store(tmp_path)
    disk.bind(**{**BINDING, "volumes": (OFFER,)})  # type: ignore[arg-type]
    assert kernel.lost(tmp_path) == []
    for number in range(1, 4):
        data = bytes([number]) * TRACK
        assert not apply_tracks(disk.volumes[0], [tracks_of(OFFER, 0, data)])
        disk.commit_point(number, bytes([number]) * 16, number, None)
        assert kernel.lost(tmp_path) == []
    target = tmp_path / "devices" / "written.img"
    for _ in write_image(image_of(disk, "data", 2), SystemFiles(), str(target)):
        pass
    assert target.read_bytes()[:TRACK] == bytes([2]) * TRACK
    assert kernel.lost(tmp_path) == []
    disk.close()
