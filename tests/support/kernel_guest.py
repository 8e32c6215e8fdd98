"""A virtual machine that runs a Linux kernel, without hardware virtualisation.

    async with Guest.booted(image, directory) as guest:
        await guest.run("nbd-client 10.0.2.2 10809 /dev/nbd0 -N g/v")

QEMU emulates every instruction (TCG), so no /dev/kvm is needed, or touched. The
host's loopback is 10.0.2.2 inside. Commands go in and answers come out through a
serial port that is a Unix socket here; another one carries the kernel's log.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.support.guest_image import GuestImage, NotAvailableError

EMULATOR = "qemu-system-x86_64"
HOST_ADDRESS = "10.0.2.2"
BOOT_SECONDS = 120.0
COMMAND_SECONDS = 120.0
MEMORY_MIB = 384
PROCESSORS = 4
"""The kernel gives a connection a queue of its own only if it has a processor."""
ANSWER_BYTES_MAX = 1 << 22
LOG_TAIL_BYTES = 4000

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/tools:/bin
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
while read -r module; do insmod "/modules/$module.ko"; done </modules/order
ip link set lo up; ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
echo ready >&3
# One line in: a script, in base64. One line out: its exit code and what it said.
while read -r line <&3; do
  echo "$line" | base64 -d >/tmp/script
  sh /tmp/script >/tmp/said 2>&1 </dev/null
  echo "$? $(base64 -w 0 /tmp/said)" >&3
done
"""


class GuestCommandError(AssertionError):
    """A command in the guest ended with another exit code than 0."""


@dataclass(frozen=True)
class Ended:
    """How a command in the guest ended."""

    code: int
    said: str


class Guest:
    """A running guest. One command at a time; it may leave others behind it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        log_path: Path,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._log_path = log_path

    @classmethod
    @contextlib.asynccontextmanager
    async def booted(cls, image: GuestImage, directory: Path) -> AsyncIterator[Self]:
        """Boot; at the end pull the plug. `directory` must have a short path."""
        socket, log = directory / "guest.sock", directory / "guest.log"
        server_ready = asyncio.get_running_loop().create_future()

        def connected(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            server_ready.set_result((reader, writer))

        server = await asyncio.start_unix_server(
            connected, socket, limit=ANSWER_BYTES_MAX
        )
        async with server:
            process = await _emulator(image, socket, log)
            guest = None
            try:
                async with asyncio.timeout(BOOT_SECONDS):
                    reader, writer = await server_ready
                    guest = cls(process, reader, writer, log)
                    while await reader.readline() != b"ready\n":
                        pass
                yield guest
            finally:
                print(f"--- end of the guest's log\n{_tail(log)}")
                if guest is not None:
                    guest._writer.close()
                if process.returncode is None:
                    process.kill()
                await process.wait()

    async def attempt(self, script: str, *, seconds: float = COMMAND_SECONDS) -> Ended:
        """Run a shell script in the guest, and return how it ended."""
        self._writer.write(base64.b64encode(script.encode()) + b"\n")
        try:
            async with asyncio.timeout(seconds):
                line = await self._reader.readuntil(b"\n")
        except TimeoutError:
            log = _tail(self._log_path)
            raise GuestCommandError(f"no end of: {script}\n{log}") from None
        code, _, said = line.decode().strip().partition(" ")
        return Ended(int(code), base64.b64decode(said).decode(errors="replace"))

    async def run(self, script: str, *, seconds: float = COMMAND_SECONDS) -> str:
        """Run a script that has to succeed; return what it said."""
        ended = await self.attempt(f"set -e\n{script}", seconds=seconds)
        if ended.code != 0:
            log = _tail(self._log_path)
            raise GuestCommandError(f"{script}\n{ended.code}: {ended.said}\n{log}")
        return ended.said

    async def cut_power(self) -> None:
        """End the machine between two instructions, as a power failure does."""
        self._process.kill()
        await self._process.wait()

    def log(self) -> str:
        """Return what the kernel has said."""
        return self._log_path.read_text(errors="replace")


def require_emulator() -> None:
    """Raise `NotAvailableError` where there is no QEMU."""
    if shutil.which(EMULATOR) is None:
        raise NotAvailableError(f"no {EMULATOR} here: apt-get install qemu-system-x86")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-LOG_TAIL_BYTES:] if log.exists() else ""


async def _emulator(
    image: GuestImage, socket: Path, log: Path
) -> asyncio.subprocess.Process:
    require_emulator()
    return await asyncio.create_subprocess_exec(
        *["setpriv", "--pdeathsig", "KILL", "--"],  # not to outlive a killed test
        EMULATOR,
        *["-accel", "tcg", "-m", str(MEMORY_MIB), "-smp", str(PROCESSORS)],
        *["-nodefaults", "-display", "none", "-no-reboot"],
        *["-kernel", str(image.kernel), "-initrd", str(image.initial_ram_disk)],
        *["-append", "console=ttyS0 panic=-1 loglevel=6"],
        *["-serial", f"file:{log}"],
        *["-chardev", f"socket,id=commands,path={socket}"],
        *["-serial", "chardev:commands"],
        *["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="],
        stdin=asyncio.subprocess.DEVNULL,
    )
