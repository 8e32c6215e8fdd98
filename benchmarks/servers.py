"""The peers: one way each to export an image file, over a Unix socket or TCP.

Each is run as its own documentation runs it for a writable file in the page cache,
with as many connections allowed as a job opens.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.processes import (
    START_SECONDS_MAX,
    daemonized,
    free_port,
    listens,
    listens_tcp,
    process,
    wait_until,
)

TRANSPORTS = ("unix", "tcp")
CONNECTIONS_MAX = 8
COPY_CLUSTER_BYTES = 64 << 10
"""What copy-before-write copies at least (BLOCK_COPY_CLUSTER_SIZE_DEFAULT in QEMU)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one server of one run keeps its things, and how it is reached."""

    folder: Path
    transport: str
    image_bytes: int


class Endpoint:
    """A server that answers: its URI, its image file, and what surrounds a job."""

    def __init__(self, uri: str, image: Path | None) -> None:
        self.uri = uri
        self.image = image

    def refresh(self) -> None:
        """Before a job that preserves: nothing is preserved yet, everything will be."""

    def settle(self) -> None:
        """After a job: wait until the server does nothing any more."""

    def preserved_bytes(self) -> int | None:
        """Return what was copied aside since `refresh`; None: it never copies."""
        return None


class Serve(Protocol):
    def __call__(self, place: Place) -> AbstractContextManager[Endpoint]: ...


def fill(image: Path, size_bytes: int) -> None:
    """Write data that does not compress: nobody gains by holes or zeroes."""
    with image.open("w+b") as out:
        for _ in range(size_bytes >> 20):
            out.write(os.urandom(1 << 20))
        out.flush()
        os.fsync(out.fileno())


def _image(place: Place) -> Path:
    image = place.folder / "image"
    if not image.exists():
        fill(image, place.image_bytes)
    return image


class _Listener:
    """An address of its own for a server, in the forms that URIs and options take."""

    def __init__(self, place: Place) -> None:
        self.path = place.folder / "s"
        self.port = free_port() if place.transport == "tcp" else None

    def uri(self, export: str = "") -> str:
        if self.port is None:
            return f"nbd+unix:///{export}?socket={self.path}"
        return f"nbd://127.0.0.1:{self.port}/{export}"

    def wait(self, what: str) -> None:
        if self.port is None:
            wait_until(lambda: listens(self.path), what, START_SECONDS_MAX)
        else:
            port = self.port
            wait_until(lambda: listens_tcp(port), what, START_SECONDS_MAX)


def qemu_nbd(aio: str) -> Serve:
    """`qemu-nbd --cache=writeback` with this kind of asynchronous I/O."""

    @contextmanager
    def serve(place: Place) -> Iterator[Endpoint]:
        image, at = _image(place), _Listener(place)
        command = ["qemu-nbd", "-f", "raw", "--cache=writeback", f"--aio={aio}"]
        command += ["--discard=unmap", "-e", str(CONNECTIONS_MAX), "-t", "-x", ""]
        if at.port is None:
            command += ["-k", str(at.path)]
        else:
            command += ["-b", "127.0.0.1", "-p", str(at.port)]
        with process([*command, str(image)], place.folder / "log"):
            at.wait("qemu-nbd")
            yield Endpoint(at.uri(), image)

    return serve


def qemu_has_io_uring(folder: Path) -> bool:
    """Tell whether this build, on this kernel, serves with aio=io_uring."""
    image, path = folder / "probe.img", folder / "probe.sock"
    image.write_bytes(bytes(1 << 20))
    command = ["qemu-nbd", "-f", "raw", "--aio=io_uring", "-t", "-k", str(path)]
    with process([*command, str(image)], folder / "probe.log") as started:
        wait_until(
            lambda: listens(path) or started.poll() is not None,
            "qemu-nbd --aio=io_uring",
            START_SECONDS_MAX,
        )
        return started.poll() is None


@contextmanager
def nbdkit_file(place: Place) -> Iterator[Endpoint]:
    image = _image(place)
    with _nbdkit(place, ["file", str(image)]) as uri:
        yield Endpoint(uri, image)


@contextmanager
def nbdkit_null(place: Place) -> Iterator[Endpoint]:
    with _nbdkit(place, ["null", f"size={place.image_bytes}"]) as uri:
        yield Endpoint(uri, None)


@contextmanager
def nbdkit_memory(place: Place) -> Iterator[Endpoint]:
    with _nbdkit(place, ["memory", f"size={place.image_bytes}"]) as uri:
        yield Endpoint(uri, None)


@contextmanager
def _nbdkit(place: Place, plugin: list[str]) -> Iterator[str]:
    at = _Listener(place)
    where = ["-U", str(at.path)]
    if at.port is not None:
        where = ["-i", "127.0.0.1", "-p", str(at.port)]
    with process(["nbdkit", "-f", *where, *plugin], place.folder / "log"):
        at.wait("nbdkit")
        yield at.uri()


@contextmanager
def nbd_server(place: Place) -> Iterator[Endpoint]:
    """The reference server: a process for each connection."""
    image, at = _image(place), _Listener(place)
    listen = f"unixsock = {at.path}"
    if at.port is not None:
        listen = f"listenaddr = 127.0.0.1\nport = {at.port}"
    config, pid = place.folder / "config", place.folder / "pid"
    config.write_text(
        f"[generic]\n{listen}\n[bench]\nexportname = {image}\n"
        "flush = true\nfua = true\ntrim = true\n"
    )
    command = ["nbd-server", "-C", str(config), "-p", str(pid)]
    with daemonized(command, pid, place.folder / "log"):
        at.wait("nbd-server")
        yield Endpoint(at.uri("bench"), image)


class CopyBeforeWrite(Endpoint):
    """qemu-storage-daemon that copies a cluster aside before it is first written."""

    def __init__(self, place: Place) -> None:
        self._at = _Listener(place)
        super().__init__(self._at.uri("bench"), _image(place))
        self._place = place
        self._target = place.folder / "target"
        self._running: AbstractContextManager[object] | None = None

    def refresh(self) -> None:
        """A fresh target and a fresh node: the next write to each cluster copies."""
        self.close()
        self._target.unlink(missing_ok=True)
        with self._target.open("wb") as target:
            target.truncate(self._place.image_bytes)
        self._at.path.unlink(missing_ok=True)
        self._running = process(self._command(), self._place.folder / "log")
        self._running.__enter__()
        self._at.wait("qemu-storage-daemon")

    def close(self) -> None:
        if self._running is not None:
            running, self._running = self._running, None
            running.__exit__(None, None, None)

    def preserved_bytes(self) -> int:
        return self._target.stat().st_blocks * 512

    def _command(self) -> list[str]:
        server = f"addr.type=unix,addr.path={self._at.path}"
        if self._at.port is not None:
            server = f"addr.type=inet,addr.host=127.0.0.1,addr.port={self._at.port}"
        file = "driver=file,cache.direct=off,aio=threads"
        nodes = (
            f"{file},node-name=device-file,filename={self.image}",
            "driver=raw,node-name=device,file=device-file",
            f"{file},node-name=target-file,filename={self._target}",
            "driver=raw,node-name=target,file=target-file",
            "driver=copy-before-write,node-name=filter,file=device,target=target",
        )
        command = ["qemu-storage-daemon"]
        for node in nodes:
            command += ["--blockdev", node]
        command += ["--nbd-server", f"{server},max-connections={CONNECTIONS_MAX}"]
        export = "nbd,id=export,node-name=filter,name=bench,writable=on"
        return [*command, "--export", export]


@contextmanager
def copy_before_write(place: Place) -> Iterator[Endpoint]:
    endpoint = CopyBeforeWrite(place)
    endpoint.refresh()
    try:
        yield endpoint
    finally:
        endpoint.close()


PEER_VERSIONS = {
    "qemu-nbd": ["qemu-nbd", "--version"],
    "qemu-storage-daemon": ["qemu-storage-daemon", "--version"],
    "nbdkit": ["nbdkit", "--version"],
    "nbd-server": ["nbd-server", "-V"],
    "nbdcopy": ["nbdcopy", "--version"],
    "fio": ["fio", "--version"],
}


def describe_machine() -> dict[str, object]:
    """Return what a reader needs to place the absolute figures."""
    versions = {
        name: subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.splitlines()[0]
        for name, command in PEER_VERSIONS.items()
    }
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "kernel": os.uname().release,
        "memory_gib": round(memory_bytes / 2**30),
        **versions,
    }
