"""The commands and the configs of the page on replication, as they are printed."""

from __future__ import annotations

import re
import ssl
import subprocess
from pathlib import Path

import pytest

from common.certificates import Certificate
from common.replication.credentials import Credentials
from common.service.config import load_primary, load_remote
from primary_site.sending_groups import read_credentials as primary_credentials
from remote_site.receiving_groups import read_credentials as remote_credentials

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/operating/replication-security.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def written(folder: Path, kind: str, table: str) -> str:
    """Write the sample config of a site with the page's table instead of its own."""
    text = (ROOT / f"config/{kind}.toml").read_text()
    name = table.splitlines()[0]
    start = text.index(name)
    end = text.index("\n[", start + 1)
    own = table.replace("/etc/farshore/", f"{folder}/")
    (folder / f"{kind}.toml").write_text(text[:start] + own + text[end:])
    return str(folder / f"{kind}.toml")


@pytest.mark.needs_package("openssl")
def test_the_certificates_that_the_page_makes_serve_its_configs(
    tmp_path: Path,
) -> None:
    (commands,) = blocks("sh")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    at_primary, at_remote = blocks("toml")
    primary = load_primary(written(tmp_path, "primary", at_primary))
    remote = load_remote(written(tmp_path, "remote", at_remote))

    sends = primary_credentials(primary.groups[0])
    receives = remote_credentials(remote.replication)

    assert sends is not None
    assert receives is not None
    assert primary.groups[0].link.peer in receives.own.names
    assert remote.groups[0].peer in sends.own.names
    assert shaken_hands(sends, receives) == (receives.own, sends.own)


def shaken_hands(
    client: Credentials, server: Credentials
) -> tuple[Certificate, Certificate]:
    """Return what each side sees of the other, over memory."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.context.wrap_bio(to_client, to_server),
        server.context.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    seen = [Certificate.of(end.getpeercert() or {}) for end in ends]
    return seen[0], seen[1]
