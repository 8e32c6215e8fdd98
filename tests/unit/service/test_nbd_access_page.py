"""The commands and the config of the page on NBD access, as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from common.nbd.access import Access, Caller, access_to
from common.service.config import load_primary

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/operating/nbd-access.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


@pytest.mark.needs_package("openssl")
def test_the_certificates_that_the_page_makes_serve_its_config(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block("sh")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    text = (ROOT / "config/primary.toml").read_text()
    start, end = text.index("[nbd]"), text.index("# Volumes of a group")
    nbd = block("toml").replace("/etc/farshore/", f"{tmp_path}/")
    # The group of the page is made at installation.
    nbd = nbd.replace('group = "farshore"', f"# of number {os.getegid()}")
    config = tmp_path / "primary.toml"
    config.write_text(text[:start] + nbd + text[end:])

    security = load_primary(str(config)).nbd.security()

    assert security.tls is not None
    names = {name: frozenset({f"{name}.example.net"}) for name in ("host-1", "backup")}
    for export in ("orders/data", "orders/data@cut"):
        host = Caller(certificate_names=names["host-1"])
        backup = Caller(certificate_names=names["backup"])
        assert access_to(security.rules, export, host) is Access.READ_WRITE
        assert access_to(security.rules, export, backup) is Access.READ_ONLY
        assert access_to(security.rules, export, Caller(uid=1)) is None
