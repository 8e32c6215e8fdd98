"""Of the host: its clock, limits, memory, and what farshore runs on."""

from __future__ import annotations

import ctypes
import os
import platform
import ssl
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from common.cli.display import seconds_text, size_text
from common.cli.doctor.findings import Finding, fine, unknown, warning
from common.service.config_primary import PrimaryConfig
from common.service.config_remote import RemoteConfig
from common.service.version import farshore_version

TIME_ERROR = 5
"""What adjtimex(2) returns while nothing keeps the clock."""

TIMEX_BYTES = 208
MAX_ERROR_OFFSET = 24
"""Of struct timex, in microseconds; longs are 8 bytes on all 64-bit systems."""

CLOCK_ERROR_SECONDS_MAX = 1.0
"""Ages of points are told to the tenth of a second, and compared with an RPO."""

OTHER_FILES = 64
FILES_A_VOLUME = 10
FILES_A_LINK = 2
"""Open files: sockets, logs and locks; of a volume its device, targets, bitmaps, region
log, journals; of a link its socket."""

KERNEL_MIN = (5, 10)
"""That of Debian 11, the oldest that was tried."""

LIBRARIES = ("msgpack", "pydantic", "uvloop", "xxhash", "zstandard")

Config = PrimaryConfig | RemoteConfig


def check_clock() -> Iterator[Finding]:
    """Ask the kernel whether something keeps its clock, as `timedatectl` does."""
    buffer = ctypes.create_string_buffer(TIMEX_BYTES)
    state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    if state < 0:
        yield unknown("clock", "host", "the kernel does not tell how it keeps time")
        return
    error_us = int.from_bytes(buffer.raw[MAX_ERROR_OFFSET:][:8], sys.byteorder)
    error = error_us / 1e6
    if state == TIME_ERROR:
        yield warning(
            "clock",
            "host",
            "nothing keeps the clock right: ages of points are wrong by as much",
            "run chrony or systemd-timesyncd at both sites; timedatectl shows it",
        )
    elif error > CLOCK_ERROR_SECONDS_MAX:
        yield warning(
            "clock",
            "host",
            f"the clock may be wrong by {seconds_text(error)}",
            "see chronyc tracking, or timedatectl timesync-status",
        )
    else:
        yield fine("clock", "host", f"kept, right to {seconds_text(error)} at least")


def files_needed(config: Config) -> int:
    """Return how many files a daemon of this config may have open at once."""
    volumes = sum(len(group.volumes) for group in config.groups)
    links = sum(
        len(group.link.remotes) * group.link.connections
        for group in config.groups
        if group.link is not None
    )
    limits = config.nbd.limits
    hosts = limits.connections_max + limits.handshakes_max
    return OTHER_FILES + FILES_A_VOLUME * volumes + FILES_A_LINK * links + hosts


def check_files(config: Config, pid: int | None) -> Iterator[Finding]:
    """Compare the limit of open files with what the config may need.

    `pid` is the daemon's; without one the limit of this shell tells nothing of it.
    """
    needed = files_needed(config)
    if pid is None:
        yield unknown("limits", "open files", f"up to {needed} may be needed")
        return
    try:
        text = Path(f"/proc/{pid}/limits").read_text()
    except OSError as error:
        yield unknown(
            "limits",
            "open files",
            f"those of the daemon can't be read ({error.strerror})",
            "run this as root",
        )
        return
    line = next(line for line in text.splitlines() if line.startswith("Max open files"))
    soft = line.split()[3]
    limit = None if soft == "unlimited" else int(soft)
    if limit is not None and limit < needed:
        yield warning(
            "limits",
            "open files",
            f"the daemon may open {limit}, and may need {needed}",
            f"LimitNOFILE={needed} or more in its unit, or lower nbd.limits",
        )
    else:
        yield fine("limits", "open files", f"{soft} allowed, {needed} may be needed")


def check_memory(needed_bytes: int) -> Iterator[Finding]:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    text = f"{size_text(needed_bytes)} may be needed, the host has {size_text(total)}"
    if needed_bytes > total:
        yield warning(
            "limits",
            "memory",
            text,
            "lower nbd.limits.daemon_bytes_in_flight_max, or raise track_size of new "
            "volumes; docs/operating/sizing.md has the formula",
        )
    else:
        yield fine("limits", "memory", text)


def check_versions() -> Iterator[Finding]:
    kernel = platform.release()
    numbers = tuple(int(part) for part in kernel.split("-")[0].split(".")[:2])
    if numbers < KERNEL_MIN:
        yield warning(
            "version",
            "kernel",
            f"Linux {kernel} is older than any that farshore was tried on",
            "run it on a distribution that is still kept",
        )
    else:
        yield fine("version", "kernel", f"Linux {kernel}")
    yield fine(
        "version",
        "farshore",
        f"{farshore_version()} on Python {platform.python_version()}, "
        f"{ssl.OPENSSL_VERSION}",
    )
    found = (f"{name} {metadata.version(name)}" for name in LIBRARIES)
    yield fine("version", "libraries", ", ".join(found))
