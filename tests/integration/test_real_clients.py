"""What operators have: clients from Debian write at the primary, and read the
recovery point at the remote with the same tools."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.support.sites import PATIENCE_SECONDS, Pair, VolumeSpec, until

MIB = 1 << 20
SIZE_BYTES = 24 * MIB + 512 * 3
FILE_SYSTEM_BYTES = 64 * MIB
COMMAND_SECONDS = 60.0


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    volumes = [VolumeSpec("v", SIZE_BYTES), VolumeSpec("fs", FILE_SYSTEM_BYTES)]
    with Pair(tmp_path, volumes) as made:
        await made.start()
        yield made


def command(*arguments: object, codes: tuple[int, ...] = (0,)) -> str:
    """Run a command; return what it said. Other exit codes fail the test."""
    done = subprocess.run(
        [str(a) for a in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        timeout=COMMAND_SECONDS,
        text=True,
    )
    text = f"{arguments[0]} ended with {done.returncode}:\n{done.stdout}"
    assert done.returncode in codes, text
    return done.stdout


async def run(*arguments: object, codes: tuple[int, ...] = (0,)) -> str:
    return await asyncio.to_thread(command, *arguments, codes=codes)


def random_file(path: Path, size: int, *, holes: bool) -> Path:
    chance = random.Random(size)
    with path.open("wb") as file:
        for at in range(0, size, MIB):
            if not holes or chance.random() < 0.5:
                file.seek(at)
                file.write(chance.randbytes(min(MIB, size - at)))
        file.truncate(size)
    return path


@pytest.mark.needs_package("qemu-io")
async def test_qemu_io_patterns_arrive_at_the_point(pair: Pair) -> None:
    async def qemu_io(uri: str, *commands: str, options: tuple[str, ...] = ()) -> None:
        lines = [part for line in commands for part in ("-c", line)]
        said = await run("qemu-io", *options, "-f", "raw", *lines, uri)
        assert "fail" not in said.lower(), said

    uri = pair.primary.uri("g/v")
    await qemu_io(
        uri,
        "write -P 0x11 0 1M",
        "write -P 0x22 512 3584",
        "write -f -P 0x33 2M 64k",
        "write -z 192k 64k",
        "discard 512k 128k",
        f"write -P 0x44 {SIZE_BYTES - 512} 512",
        "aio_write -P 0x55 4M 256k",
        "aio_flush",
        "flush",
    )
    await pair.cut()
    await qemu_io(uri, "write -P 0x99 0 3M", f"write -P 0x99 {SIZE_BYTES - 512} 512")
    await qemu_io(
        pair.remote.uri("g/v"),
        "read -P 0x11 0 512",
        "read -P 0x22 512 3584",
        "read -P 0x11 4k 188k",
        "read -P 0 192k 64k",
        "read -P 0x11 256k 256k",
        "read -P 0 512k 128k",
        "read -P 0x33 2M 64k",
        f"read -P 0x44 {SIZE_BYTES - 512} 512",
        "read -P 0x55 4M 256k",
        options=("-r",),
    )


@pytest.mark.needs_package("qemu-img")
async def test_qemu_img_converts_in_and_compares_at_the_remote(
    pair: Pair, tmp_path: Path
) -> None:
    source = random_file(tmp_path / "source", SIZE_BYTES, holes=True)
    primary, remote = pair.primary.uri("g/v"), pair.remote.uri("g/v")
    raw = ("-f", "raw")
    await run("qemu-img", "convert", "-n", *raw, "-O", "raw", source, primary)
    await pair.cut()
    await run("qemu-io", *raw, "-c", "write -P 1 1M 64k", primary)
    compare = ("qemu-img", "compare", *raw, "-F", "raw", source)
    assert "identical" in await run(*compare, remote)
    assert "mismatch" in await run(*compare, primary, codes=(1,))
    copy = tmp_path / "copy"
    await run("qemu-img", "convert", *raw, "-O", "raw", remote, copy)
    assert copy.read_bytes() == source.read_bytes()


@pytest.mark.needs_package("nbdinfo", "nbdcopy")
async def test_nbdcopy_copies_through_both_sites(pair: Pair, tmp_path: Path) -> None:
    source = random_file(tmp_path / "source", SIZE_BYTES, holes=True)
    copy = tmp_path / "copy"
    await run("nbdcopy", "--flush", source, pair.primary.uri("g/v"))
    await pair.cut()
    await run("nbdcopy", pair.remote.uri("g/v"), copy)
    assert copy.read_bytes() == source.read_bytes()
    for daemon, read_only in ((pair.primary, False), (pair.remote, True)):
        told = json.loads(await run("nbdinfo", "--json", daemon.uri("g/v")))
        (export,) = told["exports"]
        assert export["export-size"] == SIZE_BYTES
        assert export["is_read_only"] is read_only
    listed = json.loads(await run("nbdinfo", "--list", "--json", pair.remote.uri("")))
    names = {export["export-name"] for export in listed["exports"]}
    assert {"g/v", "g/fs"} <= names


@pytest.mark.needs_package("fio")
async def test_fio_verifies_at_the_remote_what_it_wrote(pair: Pair) -> None:
    common = (
        "--name=job",
        "--ioengine=nbd",
        "--size=16M",
        "--bs=4k",
        "--iodepth=16",
        "--verify=crc32c",
        "--verify_state_save=0",  # or a failing run leaves a file where it ran
        "--verify_fatal=1",
        "--randseed=7",
    )
    primary = f"--uri={pair.primary.uri('g/v')}"
    remote = f"--uri={pair.remote.uri('g/v')}"
    await run("fio", *common, "--rw=randwrite", "--do_verify=1", primary)
    await pair.cut()
    await run("fio", *common, "--rw=randread", remote)
    await run("qemu-io", "-f", "raw", "-c", "write -P 9 1M 4k", pair.primary.uri("g/v"))
    await pair.cut()
    await run("fio", *common, "--rw=randread", remote, codes=(1,))


# -- a file system


@contextlib.contextmanager
def block_device(directory: Path, uri: str, *, read_only: bool) -> Iterator[str]:
    """Attach an export as a loop device over nbdfuse; detach whatever happens."""
    directory.mkdir()
    with contextlib.ExitStack() as undo:
        file = attach_fuse(undo, directory, uri, read_only=read_only)
        yield attach_loop(undo, file, read_only=read_only)


def attach_fuse(
    undo: contextlib.ExitStack, directory: Path, uri: str, *, read_only: bool
) -> Path:
    options = ["--readonly"] if read_only else []
    nbdfuse = subprocess.Popen(["nbdfuse", *options, str(directory), uri])
    undo.callback(end_process, nbdfuse)
    undo.callback(quietly, "fusermount3", "-u", "-z", directory)
    file = directory / "nbd"
    for _ in range(int(PATIENCE_SECONDS * 100)):
        if file.exists():
            return file
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = nbdfuse.wait(0.01)
            pytest.fail(f"nbdfuse ended with {code}")
    pytest.fail("nbdfuse never mounted")


def attach_loop(
    undo: contextlib.ExitStack, file: Path, *, read_only: bool = False
) -> str:
    options = ["--read-only"] if read_only else []
    device = command("losetup", *options, "--find", "--show", file).strip()
    undo.callback(quietly, "losetup", "--detach", device)
    return device


@contextlib.contextmanager
def mounted(device: str, directory: Path, *options: str) -> Iterator[Path]:
    directory.mkdir()
    command("mount", *options, device, directory)
    try:
        yield directory
    finally:
        quietly("umount", directory)


def end_process(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


def quietly(*arguments: object) -> None:
    """Undo something, as far as it goes: what comes next must be undone too."""
    with contextlib.suppress(subprocess.SubprocessError, OSError):
        subprocess.run(
            [str(a) for a in arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
        )


class BusyFiles:
    """Creates, rewrites and deletes files in a thread; every file says if it is whole.

    A file is digest + content, written under another name, fsynced, then renamed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.synced: list[str] = []
        """Names that were durable, in this order, and are not deleted."""
        self.error: OSError | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        chance = random.Random(3)
        number = 0
        try:
            while not self._stop.is_set():
                number += 1
                self._write(number % 40, chance.randbytes(chance.randint(1, 60_000)))
        except OSError as error:
            self.error = error

    def _write(self, number: int, content: bytes) -> None:
        new = self._directory / f"new{number}"
        with new.open("wb") as file:
            file.write(hashlib.sha256(content).digest() + content)
            file.flush()
            os.fsync(file.fileno())
        new.rename(self._directory / f"file{number}")
        descriptor = os.open(self._directory, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        self.synced.append(f"file{number}")


def check_files(directory: Path, names: set[str]) -> None:
    for name in names:
        content = (directory / name).read_bytes()
        assert hashlib.sha256(content[32:]).digest() == content[:32], name


needs_file_system = [
    pytest.mark.needs_root,
    pytest.mark.needs_package(
        "nbdfuse",
        "fusermount3",
        "losetup",
        "mkfs.ext4",
        "fsfreeze",
        "e2fsck",
        "nbdcopy",
    ),
]


class TestExt4:
    pytestmark = needs_file_system

    async def test_a_point_cut_while_frozen_is_a_clean_file_system(
        self, pair: Pair, tmp_path: Path
    ) -> None:
        uri = pair.primary.uri("g/fs")
        with block_device(tmp_path / "fuse", uri, read_only=False) as device:
            await run("mkfs.ext4", "-q", device)
            with mounted(device, tmp_path / "mount") as directory:
                with BusyFiles(directory) as busy:
                    await until(lambda: len(busy.synced) > 30, "files are written")
                    names = await self._cut_frozen(pair, directory, busy)
                    await until(lambda: len(busy.synced) > len(names), "it goes on")
                assert busy.error is None
                await self._look(pair, tmp_path, names)

    async def _cut_frozen(
        self, pair: Pair, directory: Path, busy: BusyFiles
    ) -> set[str]:
        await run("fsfreeze", "--freeze", directory)
        try:
            names = set(busy.synced)
            await pair.cut()
        finally:
            quietly("fsfreeze", "--unfreeze", directory)
        return names

    async def _look(self, pair: Pair, tmp_path: Path, names: set[str]) -> None:
        point = pair.remote.uri("g/fs")
        with block_device(tmp_path / "point", point, read_only=True) as device:
            said = await run("e2fsck", "-f", "-n", device)
            assert "recover" not in said, said
            options = ("-o", "ro,noload")
            with mounted(device, tmp_path / "at-remote", *options) as directory:
                check_files(directory, names)

    async def test_a_point_cut_while_busy_recovers_with_every_synced_file(
        self, pair: Pair, tmp_path: Path
    ) -> None:
        uri = pair.primary.uri("g/fs")
        with block_device(tmp_path / "fuse", uri, read_only=False) as device:
            await run("mkfs.ext4", "-q", device)
            with mounted(device, tmp_path / "mount") as directory:
                with BusyFiles(directory) as busy:
                    for number in range(3):
                        count = len(busy.synced) + 20
                        await until(
                            lambda: len(busy.synced) >= count,  # noqa: B023
                            "files are written",
                        )
                        names = set(busy.synced)
                        await pair.cut()
                        copy = tmp_path / f"copy{number}"
                        await run("nbdcopy", pair.remote.uri("g/fs"), copy)
                        await self._recover(copy, tmp_path / f"at{number}", names)
                assert busy.error is None

    async def _recover(self, copy: Path, directory: Path, names: set[str]) -> None:
        said = await run("e2fsck", "-f", "-y", copy, codes=(0, 1))
        assert "recovering journal" in said, "it was busy: there is a journal"
        await run("e2fsck", "-f", "-n", copy)
        with contextlib.ExitStack() as undo:
            device = attach_loop(undo, copy, read_only=True)
            with mounted(device, directory, "-o", "ro,noload") as files:
                check_files(files, names)


@pytest.mark.needs_root
@pytest.mark.needs_package("losetup", "qemu-io", "qemu-img")
async def test_block_devices_serve_at_both_sites(tmp_path: Path) -> None:
    pair = Pair(tmp_path, [VolumeSpec("v", 16 * MIB)])
    with contextlib.ExitStack() as undo:
        for place in (pair.device("v"), pair.secondary("v")):
            backing = place.with_suffix(".backing")
            with backing.open("wb") as file:
                file.truncate(16 * MIB)
            place.symlink_to(attach_loop(undo, backing))
        with pair:
            await pair.start()
            near, far = pair.primary.uri("g/v"), pair.remote.uri("g/v")
            lines = ["write -P 7 0 1M", "write -P 9 5000 3000", "write -z 256k 64k"]
            lines += ["discard 768k 128k", "write -f -P 3 15M 1M"]
            await run(
                "qemu-io",
                "-f",
                "raw",
                *[p for line in lines for p in ("-c", line)],
                near,
            )
            await pair.cut()
            await run("qemu-img", "compare", "-f", "raw", "-F", "raw", near, far)
