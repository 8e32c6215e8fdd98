"""Keys that systemd hands over: named in a config, found where they are, and judged by
who may read them."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from common.certificates import credential_path, load
from common.errors import ConfigError
from common.service.config import load_primary
from tests.support.certificates import Certificates

TEXT = """
[site]
name = "a"
[[group]]
name = "g"
[group.link]
remotes = ["b:7420"]
peer = "b"
tls = {{ ca = "ca.pem", cert = "a.pem", key = "{key}" }}
[[group.volume]]
name = "v"
device = "{device}"
size = "1MiB"
"""
NAMED = "$CREDENTIALS_DIRECTORY/keys_a.key"


def key_of(folder: Path, key: str, device: str = "v.img") -> tuple[str, str]:
    path = folder / "primary.toml"
    path.write_text(TEXT.format(key=key, device=device))
    (group,) = load_primary(str(path)).groups
    assert group.link.tls is not None
    return group.link.tls.key, group.volumes[0].device


def test_a_name_is_looked_up_where_systemd_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x.service")
    key, device = key_of(tmp_path, NAMED, device=NAMED)

    assert key == "/run/credentials/x.service/keys_a.key"
    assert device == f"{tmp_path}/{NAMED}", "a volume is no credential"
    assert key_of(tmp_path, "a.key")[0] == f"{tmp_path}/a.key"


def test_without_systemd_a_config_can_still_be_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)

    assert key_of(tmp_path, NAMED)[0] == NAMED


@pytest.mark.parametrize("name", ["", ".", "..", "../a.key", "a/b"])
def test_a_name_does_not_lead_out_of_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the name of one credential"):
        credential_path(f"$CREDENTIALS_DIRECTORY/{name}")
    with pytest.raises(ConfigError, match="the name of one credential"):
        key_of(tmp_path, f"$CREDENTIALS_DIRECTORY/{name}")


def test_a_daemon_outside_systemd_is_told_who_has_the_key(tmp_path: Path) -> None:
    files = Certificates(tmp_path).site("a")
    missing = type(files)(files.ca, files.cert, NAMED)

    with pytest.raises(ConfigError, match=r"LoadCredential= has it, and root: be root"):
        load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), missing, "tls")


@pytest.mark.parametrize(
    ("mode", "is_credential", "is_taken"),
    [
        (0o400, False, True),
        (0o440, False, False),
        (0o440, True, True),  # the mask of the list that names the daemon's user
        (0o444, True, False),
    ],
)
def test_the_group_s_bits_of_a_credential_are_no_group(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: int,
    is_credential: bool,
    is_taken: bool,
) -> None:
    files = Certificates(tmp_path).site("a")
    key = Path(files.key)
    key.chmod(mode)
    folder = key.parent if is_credential else tmp_path / "elsewhere"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if is_taken:
        load(context, files, "tls")
        return
    with pytest.raises(ConfigError, match="chmod 600"):
        load(context, files, "tls")
