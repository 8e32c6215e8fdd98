"""Who gets the versions of a volume across, and how many bytes each step took.

Each starts with a copy of the first version at the other side, and ends with the last
one there, compared byte for byte. Bytes are counted both ways.
"""

from __future__ import annotations

import filecmp
import itertools
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.counting_proxy import CountingProxy, counting
from benchmarks.farshore_sites import Pair, connected, idle
from benchmarks.jobs import SYSTEM_PYTHON
from benchmarks.processes import (
    free_port,
    listens,
    listens_tcp,
    process,
    wait_until,
)
from benchmarks.wan_images import ZSTD_LEVEL

WRITES = Path(__file__).with_name("wan_writes.py")
SECONDS_MAX = 300.0
STILL_SECONDS = 0.3
BITMAP = {"granularity": 4096}
"""As fine as farshore's tracks; QEMU copies clusters of 64 KiB all the same."""

RSYNC = ["rsync", "--inplace", "-z", "--no-whole-file", "--ignore-times", "--stats"]
RSYNC_SAYS = re.compile(r"^Total bytes (?:sent|received): ([\d,]+)", re.MULTILINE)


def farshore(images: list[Path], where: Path, *, delta: bool) -> list[int]:
    """One cut a step; `delta` off: whole tracks, compressed as hard."""
    where.mkdir()
    size = images[0].stat().st_size
    pair = Pair(where, f"{size}B", "manual = true")
    shutil.copyfile(images[0], pair.image)
    keys = f"compression = {ZSTD_LEVEL}\ndelta = {str(delta).lower()}"
    sizes = []
    with counting(pair.replication_port) as proxy:
        pair.link_through(proxy.port, keys)
        with connected(pair) as site:
            site.call("cut", group="bench", wait=True, label=None)
            wait_until(lambda: idle(site), "first copy", SECONDS_MAX)
            for before, after in itertools.pairwise(images):
                write_version(pair.uri, before, after)
                passed = passed_when_still(proxy)
                site.call("cut", group="bench", wait=True, label=None)
                sizes.append(passed_when_still(proxy) - passed)
    _compare(where / "remote.img", images[-1])
    return sizes


def qemu(images: list[Path], where: Path) -> list[int]:
    """QEMU's incremental backup by dirty bitmap to a remote NBD target."""
    where.mkdir()
    source, target = where / "source.img", where / "target.img"
    shutil.copyfile(images[0], source)
    shutil.copyfile(images[0], target)
    port = free_port()
    serve = ["qemu-nbd", "-t", "-f", "raw", "-x", "t", "-b", "127.0.0.1"]
    serve += ["-p", str(port), "--discard=unmap", str(target)]
    sizes = []
    with process(serve, where / "target.log"), counting(port) as proxy:
        wait_until(lambda: listens_tcp(port), "qemu-nbd", SECONDS_MAX)
        with _storage_daemon(source, proxy.port, where) as (uri, monitor):
            monitor.call("block-dirty-bitmap-add", node="src", name="b", **BITMAP)
            for number, pair in enumerate(itertools.pairwise(images)):
                write_version(uri, *pair)
                passed = passed_when_still(proxy)
                monitor.back_up(f"job{number}")
                sizes.append(passed_when_still(proxy) - passed)
    _compare(target, images[-1])
    return sizes


def rsync(images: list[Path], where: Path) -> list[int]:
    """`rsync --inplace -z` of the whole image, with what it says of its bytes."""
    where.mkdir()
    target = where / "target.img"
    shutil.copyfile(images[0], target)
    sizes = []
    for image in images[1:]:
        said = subprocess.run(
            [*RSYNC, str(image), str(target)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        found = RSYNC_SAYS.findall(said)
        assert len(found) == 2, said
        sizes.append(sum(int(each.replace(",", "")) for each in found))
    _compare(target, images[-1])
    return sizes


class _Monitor:
    """QMP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(SECONDS_MAX)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile()
        self._lines.readline()
        self.call("qmp_capabilities")

    def call(self, command: str, **arguments: object) -> Any:
        text = json.dumps({"execute": command, "arguments": arguments})
        self._socket.sendall(text.encode() + b"\n")
        answer = self._until(lambda said: "return" in said or "error" in said)
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def back_up(self, job: str) -> None:
        """Run an incremental backup to its end; the bitmap is clear afterwards."""
        arguments = {"job-id": job, "device": "src", "target": "tgt"}
        self.call("blockdev-backup", **arguments, sync="incremental", bitmap="b")
        while True:  # ends with the job, or with the socket's time
            jobs = {each["id"]: each for each in self.call("query-jobs")}
            if job not in jobs:
                return
            assert not jobs[job].get("error"), jobs[job]
            time.sleep(0.02)

    def _until(self, wanted: Any) -> Any:
        while True:  # ends with the answer, or with the socket's time
            said = json.loads(self._lines.readline())
            if wanted(said):
                return said

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


@contextmanager
def _storage_daemon(
    source: Path, target_port: int, where: Path
) -> Iterator[tuple[str, _Monitor]]:
    monitor_path, nbd_path = where / "qmp.sock", where / "nbd.sock"
    command = ["qemu-storage-daemon"]
    command += ["--blockdev", f"driver=file,filename={source},node-name=file"]
    command += ["--blockdev", "driver=raw,file=file,node-name=src"]
    target = "driver=nbd,node-name=tgt,export=t,server.type=inet"
    target += f",server.host=127.0.0.1,server.port={target_port}"
    command += ["--blockdev", target]
    command += ["--chardev", f"socket,id=qmp,path={monitor_path},server=on,wait=off"]
    command += ["--monitor", "chardev=qmp"]
    command += ["--nbd-server", f"addr.type=unix,addr.path={nbd_path}"]
    command += ["--export", "type=nbd,id=e,node-name=src,name=src,writable=on"]
    with process(command, where / "source.log"):
        wait_until(lambda: monitor_path.exists() and listens(nbd_path), "qemu", 30)
        monitor = _Monitor(monitor_path)
        try:
            yield f"nbd+unix:///src?socket={nbd_path}", monitor
        finally:
            monitor.close()


def write_version(uri: str, before: Path, after: Path) -> None:
    words = [SYSTEM_PYTHON, str(WRITES), uri, str(before), str(after)]
    subprocess.run(words, check=True)


def passed_when_still(proxy: CountingProxy) -> int:
    """Return the count once nothing but heartbeats has passed for a moment."""
    while True:  # ends: nobody writes meanwhile
        before = proxy.passed_bytes
        time.sleep(STILL_SECONDS)
        if proxy.passed_bytes - before < 1024:
            return proxy.passed_bytes


def _compare(found: Path, wanted: Path) -> None:
    if not filecmp.cmp(found, wanted, shallow=False):
        raise RuntimeError(f"{found} is not what {wanted} is")
