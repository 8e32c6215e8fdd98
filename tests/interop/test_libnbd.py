"""libnbd's own binding, with every command that it has, on a volume."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.client_commands import SYSTEM_PYTHON, attempt, run
from tests.support.sites import Pair

pytestmark = pytest.mark.needs_package("nbdsh")

COMMANDS = Path(__file__).with_name("libnbd_commands.py")
CHECKS = sorted(
    line.removeprefix("def check_").split("(")[0]
    for line in COMMANDS.read_text().splitlines()
    if line.startswith("def check_")
)
NBDSH = ("env", "PATH=/usr/bin:/bin", "nbdsh")
"""It takes the first python3 of the path, which has to be Debian's."""

EXTENDED_SINCE = (1, 18)
"""The version of libnbd that brought extended headers."""


def served_checks() -> list[str]:
    """Return the checks that the installed libnbd can make."""
    if shutil.which("nbdinfo") is None:
        return CHECKS
    said = run("nbdinfo", "--version").split("libnbd ")[-1].strip()
    version = tuple(int(number) for number in said.split(".")[:2])
    return [c for c in CHECKS if c != "extended_headers" or version >= EXTENDED_SINCE]


@pytest.mark.parametrize("check", served_checks())
@pytest.mark.parametrize("volume", ["v", "odd"])
def test_libnbd_gets_every_answer_it_expects(
    sites: Pair, volume: str, check: str
) -> None:
    run(SYSTEM_PYTHON, COMMANDS, sites.primary.uri(f"g/{volume}"), check)


def test_the_same_over_tcp(sites: Pair) -> None:
    for check in ("reads_and_writes", "many_requests_in_flight", "block_status"):
        run(SYSTEM_PYTHON, COMMANDS, sites.tcp_uri("g/v"), check)


def test_a_wrong_answer_would_be_seen(sites: Pair) -> None:
    """The checks fail where they should: a point takes no writes."""
    sites.cut_now()
    failed = attempt(
        SYSTEM_PYTHON, COMMANDS, sites.remote.uri("g/v"), "reads_and_writes"
    )
    assert failed.returncode != 0
    assert "EPERM" in failed.stderr


def test_nbdsh_speaks_to_a_point(sites: Pair) -> None:
    uri = sites.primary.uri("g/v")
    run(*NBDSH, "--uri", uri, "-c", "h.pwrite(b'to the point', 4096)")
    sites.cut_now()
    said = run(
        *(*NBDSH, "--uri", sites.remote.uri("g/v")),
        *("-c", "print(h.is_read_only(), h.pread(12, 4096))"),
    )
    assert said == "True bytearray(b'to the point')\n"
