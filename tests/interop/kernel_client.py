"""Linux's own NBD client, in a virtual machine, on the real daemons.

`make interop-kernel` runs this, before a release; its name keeps it out of
`make test`. It needs qemu-system-x86_64 and Debian's package archive.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.guest_image import GuestImage, NotAvailableError, build
from tests.support.kernel_guest import HOST_ADDRESS, INIT, Guest, require_emulator
from tests.support.service_manager import ServiceManager
from tests.support.sites import REPOSITORY, Pair, VolumeSpec

MIB = 1 << 20
SIZE_BYTES = 64 * MIB
PACKAGES = REPOSITORY / "run" / "interop-kernel"
DEVICE = "/dev/nbd0"
CONNECTIONS = 4
E2FSCK_REPAIRED_BY_JOURNAL = 1
COMMAND_SECONDS = 60

WRITER = """
record=0
while true; do
  record=$((record + 1))
  echo "record $record" >/mnt/record-$record
  sync /mnt/record-$record || break
  echo $record >/tmp/acknowledged.new
  mv /tmp/acknowledged.new /tmp/acknowledged
done
echo $record >/tmp/refused
"""
"""Writes small files for ever, and says which is the last that is durable."""


@pytest.fixture(scope="session")
def image() -> Iterator[GuestImage]:
    folder = Path(tempfile.mkdtemp(prefix="farshore-guest-"))
    try:
        require_emulator()
        yield build(PACKAGES, folder, INIT)
    except NotAvailableError as error:
        pytest.exit(f"make interop-kernel can't run: {error}", returncode=1)
    finally:
        shutil.rmtree(folder)


@dataclass
class Host:
    """A guest that uses the primary's volume, and both sites."""

    guest: Guest
    pair: Pair
    directory: Path

    async def attach(self, *options: str) -> str:
        """Connect the device, as docs/operating/clients.md tells."""
        return await self.guest.run(
            f"nbd-client {HOST_ADDRESS} {self.pair.tcp_port} {DEVICE} -N g/v "
            f"-C {CONNECTIONS} -t 300 {' '.join(options)}"
        )

    async def make_file_system(self) -> None:
        await self.guest.run(f"mkfs.ext4 -q {DEVICE}; mount -t ext4 {DEVICE} /mnt")

    async def start_writer(self) -> None:
        """Let the guest write until it is refused, and return once it has begun."""
        await self.guest.run(f"cat >/tmp/writer <<'END'\n{WRITER}\nEND")
        await self.guest.run("sh /tmp/writer >/tmp/writer.log 2>&1 &")
        await self.guest.run("while [ ! -e /tmp/acknowledged ]; do sleep 0.1; done")

    async def acknowledged(self) -> int:
        """Return the last record that the guest knows to be durable."""
        return int(await self.guest.run("cat /tmp/acknowledged"))

    async def point(self) -> Path:
        """Copy the newest recovery point to a file, and check its file system.

        The journal of a copy that was made under load is replayed first, as a
        mount would.
        """
        copy = self.directory / "point.img"
        await command("nbdcopy", self.pair.remote.uri("g/v"), copy)
        repaired = {0, E2FSCK_REPAIRED_BY_JOURNAL}
        await command("e2fsck", "-fp", copy, codes=repaired)
        await command("e2fsck", "-fn", copy)
        return copy


async def command(*words: object, codes: set[int] | None = None) -> str:
    done = await asyncio.to_thread(
        subprocess.run,
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        timeout=COMMAND_SECONDS,
        text=True,
    )
    assert done.returncode in (codes or {0}), (words, done.returncode, done.stdout)
    return done.stdout


async def file_in(image_path: Path, path: str, target: Path) -> bytes:
    """Return a file of an ext4 image, without mounting it."""
    await command("debugfs", "-R", f"dump {path} {target}", image_path)
    return target.read_bytes() if target.exists() else b""


@pytest.fixture
async def host(image: GuestImage, tmp_path: Path) -> AsyncIterator[Host]:
    short = Path(tempfile.mkdtemp(prefix="farshore-guest-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, short)
        pair = stack.enter_context(
            Pair(tmp_path, [VolumeSpec("v", SIZE_BYTES)], tcp=True)
        )
        await pair.start()
        async with Guest.booted(image, short) as guest:
            yield Host(guest, pair, tmp_path)


async def test_a_point_is_what_was_written_through_four_connections(
    host: Host,
) -> None:
    await host.attach()
    queues = await host.guest.run("ls /sys/block/nbd0/mq")
    assert len(queues.split()) == CONNECTIONS, "each connection has a queue"
    await host.make_file_system()
    digest = await host.guest.run(
        "dd if=/dev/urandom of=/mnt/random bs=1M count=16 2>/dev/null; sync\n"
        "mkdir /mnt/many; for n in $(seq 200); do echo $n >/mnt/many/$n; done\n"
        "rm /mnt/many/7; sha256sum </mnt/random; umount /mnt"
    )
    await host.pair.cut()
    at_primary, at_remote = await asyncio.gather(
        host.pair.images(host.pair.primary), host.pair.images(host.pair.remote)
    )
    assert at_primary == at_remote
    point = await host.point()
    dumped = host.directory / "dumped"
    await file_in(point, "/random", dumped)
    assert (await command("sha256sum", dumped)).split()[0] == digest.split()[0]
    assert await file_in(point, "/many/8", host.directory / "eight") == b"8\n"
    assert await file_in(point, "/many/7", host.directory / "seven") == b""
    await host.guest.run(f"nbd-client -d {DEVICE}")


async def test_a_point_cut_under_load_has_all_that_was_synced(host: Host) -> None:
    await host.attach()
    await host.make_file_system()
    await host.start_writer()
    for _ in range(3):
        before = await host.acknowledged()
        await host.pair.cut()
        point = await host.point()
        found = await file_in(point, f"/record-{before}", host.directory / "record")
        assert found == f"record {before}\n".encode()
    assert await host.acknowledged() > before, "the host went on all the time"


async def test_discarded_and_zeroed_ranges_read_as_zeroes_at_both_sites(
    host: Host,
) -> None:
    await host.attach()
    await host.guest.run(
        f"tr '\\0' x </dev/zero | dd of={DEVICE} bs=1M count=24 iflag=fullblock"
        " conv=fsync 2>/dev/null"
    )
    await host.pair.cut()
    device = host.pair.device("v")
    before = device.stat().st_blocks
    # This kernel has no WRITE_ZEROES: for -z it writes zeroes itself.
    await host.guest.run(
        f"/tools/blkdiscard -f -o 1M -l 8M {DEVICE}\n"
        f"/tools/blkdiscard -f -z -o 12M -l 1M {DEVICE}\n"
        f"/tools/blkdiscard -f -o 23552 -l 512 {DEVICE}; sync"
    )
    await host.pair.cut()
    assert device.stat().st_blocks < before, "a discard gives space back"
    expected = bytearray(b"x" * 24 * MIB + bytes(SIZE_BYTES - 24 * MIB))
    expected[MIB : 9 * MIB] = bytes(8 * MIB)
    expected[12 * MIB : 13 * MIB] = bytes(MIB)
    expected[23552:24064] = bytes(512)
    assert await host.pair.images(host.pair.remote) == [expected]
    assert await host.pair.images(host.pair.primary) == [expected]


async def test_what_was_synced_survives_the_hosts_power_failure(host: Host) -> None:
    await host.attach()
    await host.make_file_system()
    await host.start_writer()
    last = await host.acknowledged()
    await host.guest.cut_power()
    await host.pair.cut()
    point = await host.point()
    found = await file_in(point, f"/record-{last}", host.directory / "record")
    assert found == f"record {last}\n".encode()


async def test_a_restart_under_a_service_manager_costs_nothing(host: Host) -> None:
    """The manager keeps the connections, and the kernel does nothing but wait."""
    with ServiceManager(host.directory) as manager:
        await host.pair.primary.stop()
        host.pair.primary.manager = manager
        await host.pair.primary.start()
        await host.attach()
        await host.make_file_system()
        await host.start_writer()
        for _ in range(3):
            before = await host.acknowledged()
            await host.pair.primary.stop()
            assert len(manager.store) == CONNECTIONS
            await host.pair.primary.start()
            await host.guest.run(
                f"while [ $(cat /tmp/acknowledged) -le {before + 1} ]; do\n"
                "sleep 0.1; done"
            )
        assert "I/O error" not in await host.guest.run("dmesg")
        await host.guest.attempt("test ! -e /tmp/refused")
        await host.pair.connected()
        last = await host.acknowledged()
        await host.pair.cut()
        point = await host.point()
        found = await file_in(point, f"/record-{last}", host.directory / "record")
        assert found == f"record {last}\n".encode()
        await host.pair.primary.stop()
        manager.drop()
        await host.pair.primary.start()


async def test_a_killed_primary_costs_the_mount_and_no_synced_file(
    host: Host,
) -> None:
    await host.attach()
    await host.make_file_system()
    await host.start_writer()
    await asyncio.to_thread(host.pair.primary.kill)
    # The kernel has nowhere to send to, and refuses what waits and what comes.
    await host.guest.run("while [ ! -e /tmp/refused ]; do sleep 0.1; done")
    last = await host.acknowledged()
    await host.guest.attempt("umount /mnt")
    await host.guest.run(f"nbd-client -d {DEVICE}")
    await host.pair.primary.start()
    await host.pair.connected()
    await host.attach()
    await host.guest.run(f"mount -t ext4 {DEVICE} /mnt")
    assert await host.guest.run(f"cat /mnt/record-{last}") == f"record {last}\n"
    await host.guest.run("echo again >/mnt/again; umount /mnt")
    await host.pair.cut()
    point = await host.point()
    assert await file_in(point, "/again", host.directory / "again") == b"again\n"
