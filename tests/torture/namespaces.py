"""Two network namespaces with a link between them, gone when this process is."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import os
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.daemon import DIE_WITH_PARENT
from tests.torture.mounts import run

APPEAR_SECONDS = 10.0
POLL_SECONDS = 0.01
TABLE = "inet farshore_torture"
_CLONE_NEWNET = 0x40000000
# From linux/if_tun.h.
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_PACKET_BYTES = 65536
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network of its own, held open by a process that sleeps in it."""

    def __init__(self) -> None:
        command = [*DIE_WITH_PARENT, "unshare", "--net", "--", "sleep", "infinity"]
        self._holder = subprocess.Popen(command)
        self.path = Path(f"/proc/{self._holder.pid}/ns/net")
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        own = os.stat("/proc/self/ns/net").st_ino
        deadline = time.monotonic() + APPEAR_SECONDS
        while self.path.stat().st_ino == own:
            assert self._holder.poll() is None, "unshare --net failed"
            assert time.monotonic() < deadline, "the namespace never came to be"
            time.sleep(POLL_SECONDS)
        self.run("ip", "link", "set", "lo", "up")

    @property
    def process_id(self) -> int:
        return self._holder.pid

    @property
    def prefix(self) -> list[str]:
        """Words that start a command in this namespace."""
        return ["nsenter", f"--net={self.path}", "--"]

    def run(self, *words: object, data: str | None = None) -> str:
        return run(*self.prefix, *words, data=data)

    def rules(self, *rules: str) -> None:
        """Have nftables judge all that arrives here by these rules, and no others."""
        self.no_rules()
        chain = "type filter hook input priority 0;"
        lines = [f"table {TABLE} {{", "chain arriving {", chain, *rules, "}", "}"]
        self.run("nft", "-f", "-", data="\n".join(lines) + "\n")

    def no_rules(self) -> None:
        self.run("nft", "add", "table", *TABLE.split())
        self.run("nft", "delete", "table", *TABLE.split())

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


@contextlib.contextmanager
def two_namespaces() -> Iterator[tuple[Namespace, Namespace]]:
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(2):
            found.append(Namespace())
            stack.callback(found[-1].close)
        yield found[0], found[1]


def join_by_veth(
    one: Namespace, other: Namespace, addresses: tuple[str, str]
) -> tuple[str, str]:
    """Join two namespaces by a cable; return the names of its ends."""
    names = "farshore-a", "farshore-b"
    words = ("ip", "link", "add", names[0], "netns", one.process_id, "type", "veth")
    run(*words, "peer", "name", names[1], "netns", other.process_id)
    for namespace, name, address in zip((one, other), names, addresses, strict=True):
        namespace.run("ip", "address", "add", f"{address}/24", "dev", name)
        namespace.run("ip", "link", "set", name, "up")
    return names


class TunLink:
    """A slow cable: each packet takes `delay_seconds`, or until `release`.

    A thread of this process carries the packets between a TUN device in each of two
    namespaces. With a rate they leave one after the other in each direction, and what
    would wait for longer than `queue_seconds` is lost, as at a router.
    """

    def __init__(
        self, one: Namespace, other: Namespace, addresses: tuple[str, str], delay: float
    ) -> None:
        self.delay_seconds = delay
        self.bytes_per_second: float | None = None
        """Of packets with their IP headers; may be changed at any time."""
        self.queue_seconds = 0.05
        self.packets = 0
        self.dropped = 0
        self.carried_bytes = [0, 0]
        """Delivered to the one, and to the other."""
        self._free_at = [0.0, 0.0]
        self._ends = [
            _tun(namespace, address)
            for namespace, address in zip((one, other), addresses, strict=True)
        ]
        self._held: list[tuple[int, bytes]] = []
        self._is_held = False
        self._lock = threading.Lock()
        self._wake_reader, self._wake_writer = os.pipe()
        self._stopped = False
        self._thread = threading.Thread(target=self._carry, name="tun-link")
        self._thread.start()

    def hold(self) -> None:
        """Let nothing through from now on, and lose nothing."""
        with self._lock:
            self._is_held = True

    def release(self) -> int:
        """Deliver all that was held back, stale as it is; return how many packets."""
        with self._lock:
            self._is_held = False
            count = len(self._held)
        os.write(self._wake_writer, b".")
        return count

    def close(self) -> None:
        self._stopped = True
        os.write(self._wake_writer, b".")
        self._thread.join()
        for descriptor in (*self._ends, self._wake_reader, self._wake_writer):
            os.close(descriptor)

    def _carry(self) -> None:
        order = itertools.count()
        under_way: list[tuple[float, int, int, bytes]] = []
        while not self._stopped:
            now = time.monotonic()
            wait = max(0.0, under_way[0][0] - now) if under_way else None
            ready, _, _ = select.select([*self._ends, self._wake_reader], [], [], wait)
            if self._wake_reader in ready:
                os.read(self._wake_reader, 1)
            now = time.monotonic()
            arrivals = [each for end in (0, 1) for each in self._received(end)]
            with self._lock:
                if self._is_held:
                    self._held += arrivals
                    arrivals = []
                else:
                    arrivals, self._held = self._held + arrivals, []
            for to, packet in arrivals:
                due = self._due(to, len(packet), now)
                if due is not None:
                    heapq.heappush(under_way, (due, next(order), to, packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, to, packet = heapq.heappop(under_way)
                self.packets += 1
                self.carried_bytes[to] += len(packet)
                with contextlib.suppress(OSError):  # the queue is full: a lost packet
                    os.write(self._ends[to], packet)

    def _due(self, to: int, size_bytes: int, now: float) -> float | None:
        """Return when a packet arrives; None: there is no room for it."""
        if self.bytes_per_second is None:
            return now + self.delay_seconds
        free_at = max(self._free_at[to], now)
        if free_at - now > self.queue_seconds:
            self.dropped += 1
            return None
        self._free_at[to] = free_at + size_bytes / self.bytes_per_second
        return self._free_at[to] + self.delay_seconds

    def _received(self, end: int) -> Iterator[tuple[int, bytes]]:
        with contextlib.suppress(BlockingIOError):
            while True:
                yield 1 - end, os.read(self._ends[end], _PACKET_BYTES)


def _tun(namespace: Namespace, address: str) -> int:
    """Make a TUN device in a namespace; only this thread goes there, and back."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(namespace.path, os.O_RDONLY)
    try:
        _set_namespace(there)
        try:
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            request = struct.pack("16sH22x", b"farshore-tun", _IFF_TUN | _IFF_NO_PI)
            fcntl.ioctl(device, _TUNSETIFF, request)
        finally:
            _set_namespace(home)
    finally:
        os.close(home)
        os.close(there)
    name = "farshore-tun"
    namespace.run("ip", "address", "add", f"{address}/24", "dev", name)
    namespace.run("ip", "link", "set", name, "up", "mtu", "1500")
    return device


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
