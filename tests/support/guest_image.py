"""A Linux kernel and an initial file system for a guest, from Debian packages.

Nothing is installed: the packages are downloaded and unpacked into a directory of
the caller's. The guest's tools are the host's own, with the libraries that they
are linked to, so what is tested is what `apt-get install nbd-client` gives.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

KERNEL_META_PACKAGE = "linux-image-cloud-amd64"
SHELL_PACKAGE = "busybox-static"
MODULES = ("virtio_pci", "virtio_net", "nbd", "ext4", "crc32c_generic")
"""Loaded at boot, where they are not part of the kernel already."""

TOOLS = ("nbd-client", "mkfs.ext4", "blkdiscard")
EXECUTABLE = 0o755
ALIGNMENT_BYTES = 4
LONGEST_DOWNLOAD_SECONDS = 300


class NotAvailableError(Exception):
    """The guest can't be made here; the text is one sentence for a person."""


@dataclass(frozen=True)
class GuestImage:
    """What QEMU boots."""

    kernel: Path
    initial_ram_disk: Path
    release: str


def _said(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=LONGEST_DOWNLOAD_SECONDS,
    )
    if done.returncode != 0:
        line = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise NotAvailableError(f"{command[0]} failed: {' '.join(line)}")
    return done.stdout


def _kernel_package() -> str:
    """Return the name of the kernel that the meta package stands for today."""
    depends = _said("apt-cache", "depends", "--important", KERNEL_META_PACKAGE)
    for line in depends.splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends" and name.startswith("linux-image-"):
            return name
    raise NotAvailableError(
        f"no package {KERNEL_META_PACKAGE} here; run apt-get update, on Debian amd64"
    )


def _unpacked(directory: Path) -> Path:
    """Download kernel and shell, once a directory; return where they lie."""
    for command in ("apt-get", "apt-cache", "dpkg"):
        if shutil.which(command) is None:
            raise NotAvailableError(f"no {command} here: the guest needs Debian's")
    packages = [_kernel_package(), SHELL_PACKAGE]
    root = directory / "-".join(packages)
    if root.exists():
        return root
    directory.mkdir(parents=True, exist_ok=True)
    fresh = directory / "unfinished"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    done = subprocess.run(
        ["apt-get", "download", "-q", *packages],
        cwd=fresh,
        capture_output=True,
        text=True,
        timeout=LONGEST_DOWNLOAD_SECONDS,
    )
    archives = sorted(fresh.glob("*.deb"))
    if done.returncode != 0 or len(archives) != len(packages):
        raise NotAvailableError(f"can't download {' and '.join(packages)} from Debian")
    for archive in archives:
        _said("dpkg", "-x", archive, fresh)
        archive.unlink()
    fresh.rename(root)
    return root


def _module_files(modules: Path) -> dict[str, Path]:
    """Return the file of each module, by its name with underscores."""
    found = {}
    for path in modules.rglob("*.ko*"):
        found[path.name.split(".ko")[0].replace("-", "_")] = path
    return found


def _module_bytes(path: Path) -> bytes:
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


def _needed_by(content: bytes) -> list[str]:
    """Return what a module says it depends on, in its .modinfo."""
    for entry in content.split(b"\0"):
        if entry.startswith(b"depends="):
            names = entry.removeprefix(b"depends=").decode()
            return [name for name in names.split(",") if name]
    return []


def _in_load_order(wanted: Iterable[str], files: dict[str, Path]) -> dict[str, bytes]:
    """Return the wanted modules after those that they depend on."""
    ordered: dict[str, bytes] = {}

    def take(name: str) -> None:
        key = name.replace("-", "_")
        if key in ordered or key not in files:
            return
        content = _module_bytes(files[key])
        for needed in _needed_by(content):
            take(needed)
        ordered[key] = content

    for name in wanted:
        take(name)
    return ordered


def _libraries(program: Path) -> Iterator[Path]:
    """Return what the loader would map for a program, the loader among it."""
    for line in _said("ldd", program).splitlines():
        for word in line.split():
            if word.startswith("/"):
                yield Path(word)


@dataclass
class Archive:
    """A cpio archive in the "newc" form, which the kernel unpacks at boot."""

    _entries: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def add(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Add a file, and the folders above it; `path` starts at the root."""
        for folder in reversed(PurePosixPath(path).parents):
            name = str(folder).strip("/")
            if name:
                self._entries.setdefault(name, (stat.S_IFDIR | EXECUTABLE, b""))
        self._entries[path.strip("/")] = (stat.S_IFREG | mode, content)

    def add_folder(self, path: str) -> None:
        self._entries.setdefault(path.strip("/"), (stat.S_IFDIR | EXECUTABLE, b""))

    def packed(self) -> bytes:
        parts = []
        entries = [*self._entries.items(), ("TRAILER!!!", (0, b""))]
        for number, (name, (mode, content)) in enumerate(entries, 1):
            encoded = name.encode() + b"\0"
            fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded))
            head = b"070701" + b"".join(b"%08x" % value for value in (*fields, 0))
            parts += [_padded(head + encoded), _padded(content)]
        return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT_BYTES)


def build(packages: Path, target: Path, init: str) -> GuestImage:
    """Make the image in `target`; `packages` keeps what was downloaded.

    `init` is the shell script that the kernel runs as its first process; the
    modules to load, in order, are in /modules/order.
    """
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise NotAvailableError(f"{tool} is not installed here")
    root = _unpacked(packages)
    (modules,) = (root / "lib" / "modules").iterdir()
    archive = Archive()
    for folder in ("/dev", "/proc", "/sys", "/tmp", "/mnt", "/run"):
        archive.add_folder(folder)
    shell = next(path for path in root.rglob("busybox") if path.parent.name == "bin")
    archive.add("/bin/busybox", shell.read_bytes(), EXECUTABLE)
    archive.add("/init", init.encode(), EXECUTABLE)
    loaded = _in_load_order(MODULES, _module_files(modules))
    for name, content in loaded.items():
        archive.add(f"/modules/{name}.ko", content)
    archive.add("/modules/order", "".join(f"{name}\n" for name in loaded).encode())
    for tool in TOOLS:
        program = Path(shutil.which(tool) or "")
        archive.add(f"/tools/{tool}", program.read_bytes(), EXECUTABLE)
        for library in _libraries(program):
            archive.add(str(library), library.read_bytes(), EXECUTABLE)
    initial_ram_disk = target / "initial-ram-disk.gz"
    initial_ram_disk.write_bytes(gzip.compress(archive.packed(), compresslevel=1))
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    return GuestImage(kernel, initial_ram_disk, modules.name)
