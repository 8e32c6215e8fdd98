"""fio writes through its NBD engine, and finds again what it wrote, also at the
remote; and a file system on a volume, with fio's verification on top."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.attached import fuse_file, loop_device, mounted
from tests.support.client_commands import MIB, attempt, run
from tests.support.sites import Pair

VERIFY = (
    "--name=verify",
    "--verify=crc32c",
    "--verify_state_save=0",  # or a failing run leaves a file where it ran
    "--verify_fatal=1",
    "--randseed=7",
)
LOADS = {
    "random 4 KiB": ["--rw=randwrite", "--bs=4k", "--iodepth=32"],
    "of any length": ["--rw=randwrite", "--bsrange=512-20k", "--iodepth=16"],
    "sequential": ["--rw=write", "--bs=128k", "--iodepth=8"],
    "1 MiB": ["--rw=write", "--bs=1M", "--iodepth=4"],
    "with trims": ["--rw=randtrimwrite", "--bs=8k", "--iodepth=8"],
    "mixed": ["--rw=randrw", "--rwmixread=30", "--bs=4k", "--iodepth=16"],
    "flushed": ["--rw=randwrite", "--bs=4k", "--iodepth=8", "--fsync=16"],
}


@pytest.mark.needs_package("fio")
@pytest.mark.parametrize("load", LOADS)
def test_fio_verifies_what_it_wrote(sites: Pair, tmp_path: Path, load: str) -> None:
    run(
        *("fio", *VERIFY, "--ioengine=nbd", f"--uri={sites.primary.uri('g/v')}"),
        *(*LOADS[load], f"--size={8 * MIB}"),
        f"--aux-path={tmp_path}",
    )


@pytest.mark.needs_package("fio")
def test_four_jobs_over_tcp(sites: Pair, tmp_path: Path) -> None:
    """Each has a connection and a part of the volume of its own."""
    run(
        *("fio", *VERIFY, "--ioengine=nbd", f"--uri={sites.tcp_uri('g/v')}"),
        *("--numjobs=4", f"--size={4 * MIB}", f"--offset_increment={4 * MIB}"),
        *("--rw=randwrite", "--bs=4k", "--iodepth=16", "--fsync=64"),
        *("--group_reporting", f"--aux-path={tmp_path}"),
    )


@pytest.mark.needs_package("fio", "qemu-io")
def test_a_point_has_what_fio_wrote_and_nothing_newer(
    sites: Pair, tmp_path: Path
) -> None:
    common = ("fio", *VERIFY, "--ioengine=nbd", f"--size={8 * MIB}", "--bs=4k")
    point = f"--uri={sites.remote.uri('g/v')}"
    uri = sites.primary.uri("g/v")
    written = ("--rw=randwrite", "--iodepth=32", f"--aux-path={tmp_path}")
    run(*common, *written, f"--uri={uri}")
    sites.cut_now()
    run("qemu-io", "-f", "raw", "-c", "write -P 9 1M 4k", uri)
    run(*common, "--rw=randread", "--iodepth=32", point)
    sites.cut_now()
    assert attempt(*common, "--rw=randread", "--iodepth=32", point).returncode != 0


@pytest.mark.needs_root
@pytest.mark.needs_package("fio", "nbdfuse", "losetup", "mkfs.ext4", "e2fsck")
def test_a_file_system_over_nbdfuse_holds_what_fio_wrote(
    sites: Pair, tmp_path: Path
) -> None:
    load = (
        *("fio", *VERIFY, "--ioengine=psync", "--nrfiles=8", "--size=16M"),
        *("--bsrange=512-32k", "--fsync=32", "--fallocate=none"),
    )
    with (
        fuse_file(tmp_path / "fuse", sites.primary.uri("g/fs")) as file,
        loop_device(file) as device,
    ):
        run("mkfs.ext4", "-q", device)
        with mounted(device, tmp_path / "mount", "-o", "discard") as directory:
            at_primary = f"--directory={directory}"
            run(*load, "--rw=randwrite", "--do_verify=1", at_primary)
        run("e2fsck", "-f", "-n", device)
    sites.cut_now()
    with (
        fuse_file(tmp_path / "point", sites.remote.uri("g/fs"), "--readonly") as file,
        loop_device(file, "--read-only") as device,
        mounted(device, tmp_path / "at-remote", "-o", "ro,noload") as directory,
    ):
        run(*load, "--rw=randread", f"--directory={directory}")
