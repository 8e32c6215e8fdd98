"""docs/quickstart.md as a new user types it: two machines with their own systemd, one
cable, every code block word for word."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.machine import Machine, wire
from tests.support.sites import REPOSITORY

pytestmark = [
    pytest.mark.hunt,
    pytest.mark.needs_root,
    pytest.mark.needs_package("dpkg-deb", "mkfs.ext4", "nbdcopy", "openssl"),
]

PAGE = (REPOSITORY / "docs/quickstart.md").read_text()
HOME = "/root"
BROUGHT = "/etc/farshore/dr.tar"
"""What the page has brought to the other host by scp, between two blocks."""


def blocks() -> list[tuple[list[str], str]]:
    """Return each block with the hosts that the paragraph before it names."""
    found = re.findall(r"\n(At \*\*[^\n]*:)\n\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert len(found) == PAGE.count("```sh"), "a block that is at no host"
    return [(re.findall(r"\*\*(\w+)\*\*", where), text) for where, text in found]


def test_two_new_hosts_come_to_a_recovery_point(package: Path, tmp_path: Path) -> None:
    with (
        Machine("amsterdam", tmp_path) as amsterdam,
        Machine("dr", tmp_path) as dr,
        wire(amsterdam, dr) as (_, address),
    ):
        machines = {"amsterdam": amsterdam, "dr": dr}
        for machine in machines.values():
            place = machine.path(HOME) / package.name
            place.write_bytes(package.read_bytes())
        with amsterdam.path("/etc/hosts").open("a") as hosts:
            hosts.write(f"{address} dr.example.net\n")
        said = {}
        for where, text in blocks():
            for name in where:
                said[text] = machines[name].shell(text)
            if "farshore init" in text:
                tar = amsterdam.path(BROUGHT).read_bytes()
                (dr.path(HOME) / "dr.tar").write_bytes(tar)
                _the_page_follows_what_init_said(said[text])

        (group,) = json.loads(amsterdam.run("farshore", "status", "--json"))["groups"]
        assert group["link"]["state"] == "connected"
        assert group["link"]["encrypted"]
        copy, disk = dr.path(HOME) / "copy.img", amsterdam.path(HOME) / "disk.img"
        assert copy.read_bytes() == disk.read_bytes()


def _the_page_follows_what_init_said(said: str) -> None:
    """The three commands that it prints are the ones that the page goes on with."""
    bring, remote, primary = [line.split("    #")[0] for line in said.splitlines()[-3:]]
    typed = "".join(text for _, text in blocks())
    assert bring.strip() in PAGE
    for command in (*remote.strip().split(" && "), primary.strip()):
        assert f"{command}\n" in typed
