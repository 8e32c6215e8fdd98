"""What dpkg is told of the package."""

from __future__ import annotations

import hashlib
from pathlib import Path

_CONTROL = """\
Package: farshore
Version: {version}
Architecture: {architecture}
Maintainer: the farshore authors <farshore@localhost>
Installed-Size: {size_kib}
Depends: {needs}
Recommends: nbd-client, libnbd-bin
Suggests: prometheus, bash-completion, man-db
Section: admin
Priority: optional
Description: asynchronous two-site replication of block volumes
 farshore keeps a crash-consistent copy of block volumes at a second site, seconds
 behind the first, and never makes the application wait for the link. Hosts attach
 by NBD; two daemons in user space do the rest.
 .
 Everything it needs beside Python is in /opt/farshore. Nothing is enabled: write
 the configs with "farshore init".
"""


def control(
    version: str, architecture: str, python: tuple[int, int], size_bytes: int
) -> str:
    """Return DEBIAN/control; compiled parts fit one minor version of Python."""
    major, minor = python
    pythons = f"python3 (>= {major}.{minor})", f"python3 (<< {major}.{minor + 1})"
    return _CONTROL.format(
        version=version,
        architecture=architecture,
        size_kib=-(-size_bytes // 1024),
        needs=", ".join((*pythons, "libc6 (>= 2.28)", "openssl", "passwd")),
    )


def file_sums(stage: Path) -> str:
    """Return DEBIAN/md5sums, which `dpkg --verify` compares with."""
    lines = []
    for path in sorted(stage.rglob("*")):
        if path.is_file() and not path.is_symlink():
            # dpkg knows this one alone; it guards against decay, not against people.
            digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            lines.append(f"{digest}  {path.relative_to(stage)}\n")
    return "".join(lines)
