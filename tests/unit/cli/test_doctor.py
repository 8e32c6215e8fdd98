"""What the doctor makes of files, devices, limits and folders, without daemons."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.cli.doctor import host, storage
from common.cli.doctor.access import check_control_socket, check_file
from common.cli.doctor.findings import Verdict
from common.cli.doctor.host import files_needed
from common.cli.doctor.mounts import all_mounts, mount_of, users_of
from common.cli.doctor.storage import bitmap_bytes, check_device, check_room
from common.service.config import load_primary
from common.service.config_primary import PrimaryConfig

MIB = 1 << 20
SAMPLE = Path(__file__).parents[3] / "config/primary.toml"


@pytest.fixture
def config() -> PrimaryConfig:
    return load_primary(str(SAMPLE))


def verdicts(device: Path, size: int | None = None) -> dict[Verdict, str]:
    found = check_device("g/v", str(device), size, is_served=False)
    return {each.verdict: each.text for each in found}


def test_a_file_of_the_size_that_the_config_says_is_fine(tmp_path: Path) -> None:
    (tmp_path / "v.img").write_bytes(bytes(MIB))

    assert Verdict.WARNING not in verdicts(tmp_path / "v.img", MIB)
    assert "the config says" in verdicts(tmp_path / "v.img", 2 * MIB)[Verdict.WARNING]


def test_what_is_neither_file_nor_block_device_is_not(tmp_path: Path) -> None:
    assert "neither" in verdicts(tmp_path)[Verdict.FAILED]
    assert "neither" in verdicts(Path("/dev/null"))[Verdict.FAILED]
    assert "does not exist" in verdicts(Path("/dev/farshore-none"))[Verdict.FAILED]
    assert "does not exist" in verdicts(tmp_path / "no" / "v.img", 1)[Verdict.FAILED]
    assert "will be made" in verdicts(tmp_path / "v.img", MIB)[Verdict.OK]


def test_a_disk_that_is_mounted_is_in_use() -> None:
    places = [m.place for m in all_mounts() if not m.device.startswith("0:")]

    # Of a file the disk is meant that it lies on: any file of the mount stands for it.
    assert [place for place in places if place not in users_of(Path(place))] == []


def test_a_file_is_in_the_innermost_mount_above_it() -> None:
    found = mount_of(Path("/proc/sys/there/is/no/such/file"))

    assert found is not None
    assert found.place in {"/proc", "/proc/sys"}
    assert found.kind == "proc"


def test_needs_grow_with_the_config(config: PrimaryConfig) -> None:
    (group,) = config.groups
    twice = config.model_copy(update={"groups": (group, group)})

    assert files_needed(twice) > files_needed(config) > 300
    assert bitmap_bytes(config) == 100 * 2**30 // 4096 // 8
    assert bitmap_bytes(twice) == 2 * bitmap_bytes(config)


def test_too_little_room_is_a_warning_with_what_is_advised(
    config: PrimaryConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (group,) = config.groups
    here = group.flashcopy.model_copy(update={"directory": str(tmp_path / "fc")})
    site = config.site.model_copy(update={"state_directory": str(tmp_path / "state")})
    groups = (group.model_copy(update={"flashcopy": here}),)
    placed = config.model_copy(update={"groups": groups, "site": site})

    monkeypatch.setattr(storage, "ROOM_SHARE_MIN", 1e9)
    found = {each.subject: each for each in check_room(placed)}

    assert found["orders flashcopy"].verdict == Verdict.WARNING
    assert found["orders flashcopy"].remedy
    assert found["state_dir"].verdict == Verdict.OK


def test_a_file_that_everybody_may_write_lets_them_act_as_the_daemon(
    tmp_path: Path,
) -> None:
    file = tmp_path / "primary.toml"
    file.touch(mode=0o640)
    assert check_file("config", file).verdict == Verdict.OK

    file.chmod(0o642)
    assert check_file("config", file).verdict == Verdict.FAILED
    file.chmod(0o640)
    tmp_path.chmod(0o777)
    assert check_file("config", file).verdict == Verdict.FAILED
    tmp_path.chmod(0o1777)
    assert check_file("config", file).verdict == Verdict.OK


def test_a_socket_that_everybody_may_use_is_told(tmp_path: Path) -> None:
    socket = tmp_path / "control.sock"
    assert check_control_socket(str(socket)).verdict == Verdict.UNKNOWN
    socket.touch(mode=0o660)
    assert check_control_socket(str(socket)).verdict == Verdict.OK
    socket.chmod(0o666)
    assert check_control_socket(str(socket)).verdict == Verdict.FAILED


def test_the_clock_is_as_the_kernel_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = host.check_clock()

    assert found.verdict in {Verdict.OK, Verdict.WARNING}
    monkeypatch.setattr(host, "TIME_ERROR", -2)
    monkeypatch.setattr(host, "CLOCK_ERROR_SECONDS_MAX", -1.0)
    (late,) = host.check_clock()
    assert late.verdict == Verdict.WARNING
    assert late.remedy
