"""`farshore init`: what is told or asked is what the configs say, and devices are
looked at first."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from common.cli.site_pair import PairPlan, VolumePlan, check_address
from common.service.config import load_primary, load_remote
from demo.attached import loop_device

Farshore = Callable[..., Result]
ROOT = Path(__file__).parents[3]

TOLD = (
    *("--primary", "dr", "--remote", "amsterdam", "--address", "[fd00::2]:7777"),
    *("--group", "shop", "--volume", "db=1GiB", "--volume", "log=64MiB"),
    *("--rpo", "10s", "--no-certificates"),
)


def check_pair(folder: Path) -> None:
    """The pair that TOLD asks for; its sites bear each other's name of the sample."""
    primary = load_primary(str(folder / "primary.toml"))
    remote = load_remote(str(folder / "remote.toml"))
    (group,), (received,) = primary.groups, remote.groups
    assert (primary.site.name, remote.site.name) == ("dr", "amsterdam")
    assert (group.link.peer, received.peer) == ("amsterdam", "dr")
    assert [str(address) for address in group.link.remotes] == ["tcp:[fd00::2]:7777"]
    assert [str(each) for each in remote.replication.listen] == ["tcp:0.0.0.0:7777"]
    assert group.name == received.name == "shop"
    assert group.rpo_seconds == 10.0
    sizes = [(volume.name, volume.size_bytes) for volume in group.volumes]
    assert sizes == [("db", 1 << 30), ("log", 64 << 20)]
    devices = [(volume.name, volume.device) for volume in received.volumes]
    assert devices == [(name, f"/var/lib/farshore/{name}.img") for name, _ in sizes]


def test_options_say_what_the_pair_is(farshore: Farshore, tmp_path: Path) -> None:
    result = farshore("init", str(tmp_path), *TOLD)

    assert result.exit_code == 0, result.output
    check_pair(tmp_path)
    assert "volume db: /var/lib/farshore/db.img will be made" in result.stderr
    *_, bring, remote, primary = result.stdout.splitlines()
    assert bring == f"  scp {tmp_path}/remote.toml root@[fd00::2]:"
    assert remote.split("#")[0].strip() == "farshore-remote --config remote.toml"
    assert f"farshore-primary --config {tmp_path}/primary.toml " in primary


def test_on_a_terminal_it_asks_what_is_not_told(tmp_path: Path) -> None:
    """Wrong answers are asked for again; Return takes what is offered."""
    answers = ("dr", "amsterdam", "no address:x", "[fd00::2]:7777", "s/hop", "shop")
    answers += ("soon", "10s", "db", "db=1GiB", "log=64MiB", "")
    master, terminal = pty.openpty()
    command = [sys.executable, "-m", "common.cli.main", "init", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--no-certificates"],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        os.close(terminal)
        os.write(master, "".join(f"{line}\n" for line in answers).encode())
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert process.returncode == 0, output.decode()
    check_pair(tmp_path)
    assert b"Name of the primary site [amsterdam]" in output


@pytest.mark.needs_package("openssl")
def test_the_remote_s_files_are_packed_for_it(
    farshore: Farshore, tmp_path: Path
) -> None:
    assert farshore("init", str(tmp_path), "--no-device-check").exit_code == 0
    with tarfile.open(tmp_path / "dr.tar") as packed:
        entries = {entry.name: entry for entry in packed.getmembers()}
        remote = packed.extractfile("remote.toml")
        assert remote is not None
        assert remote.read() == (tmp_path / "remote.toml").read_bytes()
    assert set(entries) == {"remote.toml", "replication-ca.pem", "dr.pem", "dr.key"}
    assert entries["dr.key"].mode == 0o600
    assert {entry.uname for entry in entries.values()} == {"root"}
    assert (tmp_path / "dr.tar").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("volume", "sentence"),
    [
        ("data", "neither NAME=SIZE nor NAME=/dev/DEVICE"),
        ("data=", "is not a size"),
        ("a/b=1GiB", "is not a name"),
        ("data=1GB", "1GB"),
    ],
)
def test_a_volume_that_says_nothing_is_a_usage_error(
    farshore: Farshore, tmp_path: Path, volume: str, sentence: str
) -> None:
    result = farshore("init", str(tmp_path), "--volume", volume)

    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("absent", "attach the device"),
        ("folder", "neither a file nor a block device"),
        ("odd", "a multiple of 512 was wanted"),
        ("empty", "a multiple of 512 was wanted"),
    ],
)
def test_a_device_that_cannot_be_used_ends_it_before_anything_is_written(
    farshore: Farshore, tmp_path: Path, what: str, sentence: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "odd").write_bytes(b"x" * 513)
    (tmp_path / "empty").touch()
    folder = tmp_path / "new"
    result = farshore("init", str(folder), "--volume", f"data={tmp_path / what}")

    assert result.exit_code == 4
    assert "volume data: " in result.stderr
    assert sentence in result.stderr
    assert not folder.exists()


def test_a_file_there_is_keeps_its_size(farshore: Farshore, tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(8192))
    volume = f"data={tmp_path / 'disk.img'}"
    result = farshore("init", str(tmp_path), "--volume", volume, "--no-certificates")

    assert result.exit_code == 0, result.output
    assert "a file of 8.00 KiB; what it holds is kept" in result.stderr
    (group,) = load_primary(str(tmp_path / "primary.toml")).groups
    assert group.volumes[0].device == str(tmp_path / "disk.img")
    assert group.volumes[0].size_bytes is None


@pytest.mark.needs_root
def test_a_block_device_is_used_unless_something_else_does(
    farshore: Farshore, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    with loop_device(image) as device:
        told = ("--volume", f"data={device}", "--no-certificates")
        result = farshore("init", str(tmp_path / "free"), *told)
        assert result.exit_code == 0, result.output
        assert "a block device of 8.00 MiB" in result.stderr
        assert f"DeviceAllow={device} rw" in result.stderr

        held = os.open(device, os.O_RDONLY | os.O_EXCL)
        try:
            result = farshore("init", str(tmp_path / "held"), *told)
        finally:
            os.close(held)
        assert result.exit_code == 4
        assert "unmount it" in result.stderr


def test_with_nothing_told_the_pair_is_the_samples() -> None:
    plan = PairPlan()

    assert plan.primary_text() == (ROOT / "config/primary.toml").read_text()
    assert plan.remote_text() == (ROOT / "config/remote.toml").read_text()


def test_an_address_has_a_port_or_gets_one() -> None:
    assert check_address("dr.example.net") == "dr.example.net:7420"
    assert check_address("dr.example.net:1") == "dr.example.net:1"
    assert check_address("[fd00::2]") == "[fd00::2]:7420"
    assert VolumePlan.parse("v=1MiB").secondary == "/var/lib/farshore/v.img"
