"""Clients from Debian packages against the NBD server.

The server runs on the test's loop, the clients as processes; whatever they write
is compared with the volume's memory.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.memory_volume import MemoryVolume
from tests.support.nbd_server import Serving, serving, until

MIB = 1 << 20
SIZE = 16 * MIB + 512
ODD_SIZE = 3 * MIB + 77
CLIENT_SECONDS = 120
"""How long one client may run on a busy machine."""


@dataclass(frozen=True)
class Finished:
    code: int
    output: str
    errors: str


async def attempt(*command: str | Path) -> Finished:
    """Run a client to its end, whatever its exit code."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(CLIENT_SECONDS):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Finished(process.returncode, output.decode(), errors.decode())


async def run(*command: str | Path) -> str:
    """Run a client that has to succeed; return what it printed."""
    finished = await attempt(*command)
    assert finished.code == 0, (command, finished.output, finished.errors)
    return finished.output


def pattern(size: int, seed: int = 1) -> bytes:
    """Return data with long runs of zeroes, so that clients see holes."""
    source = random.Random(seed)
    content = bytearray(size)
    for _ in range(40):
        start = source.randrange(size)
        length = min(source.randrange(1, 200_000), size - start)
        content[start : start + length] = source.randbytes(length)
    return bytes(content)


def fill(volume: MemoryVolume, content: bytes) -> None:
    """Put content into a volume, with holes where it is zero."""
    volume.content[:] = content
    block = volume.BLOCK_BYTES
    for n in range(len(volume.allocated)):
        volume.allocated[n] = any(content[n * block : (n + 1) * block])


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Serving]:
    volumes = {
        "g/v": MemoryVolume(SIZE, description="the first volume"),
        "g/odd": MemoryVolume(ODD_SIZE),
        "g/v@cut": MemoryVolume(SIZE, read_only=True),
    }
    async with serving(tmp_path, volumes) as started:
        yield started


def volume(served: Serving, name: str) -> MemoryVolume:
    return served.exports.volumes[name]


@pytest.mark.needs_package("nbdinfo")
class TestNbdinfo:
    async def test_it_sees_what_an_export_can_do(self, served: Serving) -> None:
        found = json.loads(await run("nbdinfo", "--json", served.uri("g/v")))
        (export,) = found["exports"]
        assert found["protocol"] == "newstyle-fixed"
        assert found["structured"]
        assert export["description"] == "the first volume"
        assert export["export-size"] == SIZE
        assert export["contexts"] == ["base:allocation"]
        able = {key for key, value in export.items() if value is True}
        assert able == {
            "can_cache",
            "can_df",
            "can_flush",
            "can_fua",
            "can_multi_conn",
            "can_trim",
            "can_zero",
        }
        sizes = ["minimum", "preferred", "maximum"]
        assert [export[f"block_size_{s}"] for s in sizes] == [1, 4096, 32 * MIB]

    async def test_it_sees_that_an_export_is_read_only(self, served: Serving) -> None:
        found = json.loads(await run("nbdinfo", "--json", served.uri("g/v@cut")))
        assert found["exports"][0]["is_read_only"]

    async def test_it_lists_all_exports(self, served: Serving) -> None:
        found = json.loads(await run("nbdinfo", "--json", "--list", served.uri("")))
        names = [export["export-name"] for export in found["exports"]]
        assert names == ["g/v", "g/odd", "g/v@cut"]
        assert served.exports.all_released()

    async def test_its_map_tells_holes_from_data(self, served: Serving) -> None:
        fill(volume(served, "g/v"), bytes(MIB) + b"d" * MIB + bytes(SIZE - 2 * MIB))
        output = await run("nbdinfo", "--json", "--map", served.uri("g/v"))
        found = [(e["offset"], e["length"], e["type"]) for e in json.loads(output)]
        assert found == [(0, MIB, 3), (MIB, MIB, 0), (2 * MIB, SIZE - 2 * MIB, 3)]

    async def test_an_unknown_export_is_refused(self, served: Serving) -> None:
        finished = await attempt("nbdinfo", served.uri("g/none"))
        assert finished.code != 0
        assert "for export: g/none" in finished.errors


@pytest.mark.needs_package("nbdcopy")
class TestNbdcopy:
    @pytest.mark.parametrize("export", ["g/v", "g/odd"])
    async def test_it_copies_out(
        self, served: Serving, tmp_path: Path, export: str
    ) -> None:
        source = volume(served, export)
        fill(source, pattern(source.size_bytes))
        target = tmp_path / "copy"
        await run("nbdcopy", served.uri(export), target)
        assert target.read_bytes() == source.content

    @pytest.mark.parametrize("export", ["g/v", "g/odd"])
    async def test_it_copies_in_over_several_connections(
        self, served: Serving, tmp_path: Path, export: str
    ) -> None:
        target = volume(served, export)
        fill(target, b"\xff" * target.size_bytes)
        content = pattern(target.size_bytes)
        source = tmp_path / "source"
        source.write_bytes(content)
        four = ["--connections=4", "--threads=4"]
        await run("nbdcopy", "--flush", *four, source, served.uri(export))
        assert target.content == content
        assert target.flush_count > 0
        assert target.opened_count >= 4

    async def test_it_copies_between_two_exports(self, served: Serving) -> None:
        content = pattern(SIZE)
        fill(volume(served, "g/v@cut"), content)
        fill(volume(served, "g/v"), b"\xff" * SIZE)
        await run("nbdcopy", served.uri("g/v@cut"), served.uri("g/v"))
        assert volume(served, "g/v").content == content


@pytest.mark.needs_package("qemu-io", "qemu-img")
class TestQemu:
    async def test_qemu_io_reads_back_what_it_writes(self, served: Serving) -> None:
        commands = [
            "write -P 0x11 0 64k",
            "write -f -P 0x22 1000 3000",
            "aio_write -P 0x33 128k 1M",
            "aio_flush",
            "write -z 8k 5000",
            "write -zu 200k 64k",
            "discard 512k 64k",
            "flush",
            "read -P 0x11 0 1000",
            "read -P 0x22 1000 3000",
            "read -P 0 8k 5000",
            "read -P 0x33 128k 72k",
            "read -P 0 200k 64k",
            "read -P 0 512k 64k",
        ]
        arguments = [part for command in commands for part in ("-c", command)]
        output = await run("qemu-io", "-f", "raw", *arguments, served.uri())
        assert "failed" not in output
        assert volume(served, "g/v").content[1000:4000] == b"\x22" * 3000
        assert volume(served, "g/v").fua_count + volume(served, "g/v").flush_count > 0

    async def test_a_read_only_export_can_not_be_written(self, served: Serving) -> None:
        finished = await attempt(
            "qemu-io", "-f", "raw", "-c", "write 0 4k", served.uri("g/v@cut")
        )
        assert finished.code != 0
        await run(
            "qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", served.uri("g/v@cut")
        )

    @pytest.mark.parametrize("export", ["g/v", "g/odd"])
    async def test_qemu_img_converts_both_ways_and_compares(
        self, served: Serving, tmp_path: Path, export: str
    ) -> None:
        subject = volume(served, export)
        content = pattern(subject.size_bytes)
        fill(subject, content)
        image, raw = tmp_path / "image.qcow2", tmp_path / "raw"
        uri = served.uri(export)
        await run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri, image)
        await run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", uri, image)
        fill(subject, b"\xff" * subject.size_bytes)
        convert = ["qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw"]
        if export == "g/odd":
            # qemu thinks in sectors of 512 bytes and pads the image to one.
            await run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw)
            assert raw.read_bytes()[: len(content)] == content
            return
        await run(*convert, image, uri)
        assert subject.content == content
        differing = await attempt(
            "qemu-img", "compare", "-f", "raw", "-F", "raw", uri, served.uri("g/v@cut")
        )
        assert differing.code == 1

    async def test_qemu_img_maps_holes(self, served: Serving) -> None:
        fill(volume(served, "g/v"), bytes(MIB) + b"d" * MIB + bytes(SIZE - 2 * MIB))
        command = ["qemu-img", "map", "--output=json", "-f", "raw", served.uri()]
        extents = json.loads(await run(*command))
        found = [(e["start"], e["length"], e["data"], e["zero"]) for e in extents]
        assert found == [
            (0, MIB, False, True),
            (MIB, MIB, True, False),
            (2 * MIB, SIZE - 2 * MIB, False, True),
        ]


@pytest.mark.needs_package("fio")
@pytest.mark.parametrize(
    ("pattern_name", "block", "depth"),
    [("randwrite", "4k", 32), ("randwrite", "512-20k", 16), ("write", "128k", 8)],
)
async def test_fio_verifies_what_it_wrote(
    served: Serving, tmp_path: Path, pattern_name: str, block: str, depth: int
) -> None:
    sizes = "bsrange" if "-" in block else "bs"
    await run(
        "fio",
        "--name=verify",
        "--ioengine=nbd",
        f"--uri={served.uri()}",
        f"--rw={pattern_name}",
        f"--{sizes}={block}",
        f"--iodepth={depth}",
        f"--size={8 * MIB}",
        "--verify=crc32c",
        "--verify_state_save=0",  # or a failing run leaves a file where it ran
        "--verify_fatal=1",
        "--randseed=7",
        "--blockalign=512",
        f"--aux-path={tmp_path}",
    )
    assert any(volume(served, "g/v").content)


NBDSH = """
import nbd, sys
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
assert h.get_size() == int(sys.argv[2])
assert h.get_structured_replies_negotiated()
h.pwrite(b"unaligned", 4093, nbd.CMD_FLAG_FUA)
assert h.pread(9, 4093) == b"unaligned"
h.zero(3, 4094, nbd.CMD_FLAG_NO_HOLE)
h.trim(1, 4093, nbd.CMD_FLAG_FUA)
assert h.pread(9, 4093) == b"\\0\\0\\0\\0igned"
h.cache(4096, 0)
h.flush()
seen = []
def extent(name, offset, entries, error):
    seen.append((name, offset, entries))
h.block_status(65536, 0, extent, nbd.CMD_FLAG_REQ_ONE)
assert seen == [("base:allocation", 0, [8192, 0])], seen
chunks = []
def chunk(data, offset, status, error):
    chunks.append((len(data), offset, status))
h.pread_structured(1000, 7, chunk)
h.pread_structured(1000, 7, chunk, nbd.CMD_FLAG_DF)
assert chunks == [(1000, 7, nbd.READ_DATA)] * 2, chunks
h.set_strict_mode(0)
import errno
for call, number in [
    (lambda: h.pread(2, int(sys.argv[2]) - 1), errno.EINVAL),
    (lambda: h.pwrite(b"xx", int(sys.argv[2]) - 1), errno.ENOSPC),
    (lambda: h.zero(2, int(sys.argv[2]) - 1), errno.ENOSPC),
    (lambda: h.trim(2, int(sys.argv[2]) - 1), errno.EINVAL),
    (lambda: h.zero(2, 0, nbd.CMD_FLAG_FAST_ZERO), errno.EINVAL),
]:
    try:
        call()
    except nbd.Error as error:
        assert error.errnum == number, (error, number)
    else:
        raise AssertionError("not refused")
cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([n]) * 777), n * 777)
           for n in range(200)]
while cookies:
    cookies = [c for c in cookies if not h.aio_command_completed(c)]
    if cookies:
        h.poll(-1)
for n in range(200):
    assert h.pread(777, n * 777) == bytes([n]) * 777
h.shutdown()
"""


@pytest.mark.needs_package("nbdsh")
@pytest.mark.parametrize("export", ["g/v", "g/odd"])
async def test_libnbd_gets_every_answer_it_expects(
    served: Serving, tmp_path: Path, export: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(NBDSH)
    size = volume(served, export).size_bytes
    # Debian's Python has the binding, ours may not.
    await run("/usr/bin/python3", script, served.uri(export), str(size))
    assert any(volume(served, export).content)


@pytest.mark.needs_package("nbdkit", "nbdcopy")
async def test_nbdkit_passes_an_export_on(served: Serving, tmp_path: Path) -> None:
    content = pattern(ODD_SIZE)
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(content)
    fill(volume(served, "g/odd"), b"\xff" * ODD_SIZE)
    passing = ["nbdkit", "-U", "-", "nbd", served.uri("g/odd"), "--run"]
    await run(*passing, f'nbdcopy {source} "$uri" && nbdcopy "$uri" {copy}')
    assert volume(served, "g/odd").content == content
    assert copy.read_bytes() == content


@pytest.mark.needs_package("nbd-client")
async def test_nbd_client_lists_exports(tmp_path: Path) -> None:
    async with serving(tmp_path, {"g/v": MemoryVolume(SIZE)}) as served:
        finished = await attempt("nbd-client", "-unix", served.socket_path, "-l")
        assert "g/v" in finished.output, finished
        await until(lambda: served.server.connection_count == 0)


@pytest.mark.needs_package("qemu-io")
async def test_a_client_killed_in_mid_write_leaves_nothing_behind(
    served: Serving,
) -> None:
    held = volume(served, "g/v")
    held.held = True
    process = await asyncio.create_subprocess_exec(
        "qemu-io",
        "-f",
        "raw",
        "-c",
        "aio_write -P 1 0 1M",
        "-c",
        "aio_flush",
        served.uri(),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await until(lambda: bool(held.waiting))
    process.kill()
    await process.wait()
    await until(lambda: held.released_count == held.opened_count - 1)
    while held.waiting:
        held.step()
    await until(served.exports.all_released)
    held.held = False
