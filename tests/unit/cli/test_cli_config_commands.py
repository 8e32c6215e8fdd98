from __future__ import annotations

import json
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from common.replication.credentials import Credentials
from common.service.config import load_primary, load_remote

Farshore = Callable[..., Result]
ROOT = Path(__file__).parents[3]
VECTORS = ROOT / "tests/vectors/config"


def test_check_says_what_a_valid_file_is_and_how_to_start_it(
    farshore: Farshore,
) -> None:
    path = str(ROOT / "config/remote.toml")
    result = farshore("config", "check", path)
    as_json = farshore("config", "check", path, "--json")

    assert result.exit_code == 0
    assert "a valid remote config, volumes orders/data" in result.output
    assert f"farshore-remote --config {path}" in result.output
    assert json.loads(as_json.output)["kind"] == "remote"


def test_check_gives_the_sentence_and_exit_code_3(farshore: Farshore) -> None:
    path = VECTORS / "primary-unknown-key.toml"
    result = farshore("config", "check", str(path))

    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr == (
        f"farshore: {path}: group[orders].link.peeer: unknown key, did you mean "
        "'peer'?\n"
    )


def test_show_prints_defaults_too(farshore: Farshore) -> None:
    result = farshore("config", "show", str(VECTORS / "primary-valid.toml"))
    as_json = farshore("config", "show", "--json", str(VECTORS / "primary-valid.toml"))

    shown = tomllib.loads(result.output)
    assert shown["group"][0]["hold_max"] == "50ms"
    assert shown["group"][0]["flashcopy"]["directory"].endswith("primary/flashcopy")
    assert json.loads(as_json.output) == shown


def test_schema_is_that_of_the_kind(farshore: Farshore) -> None:
    primary = json.loads(farshore("config", "schema").output)
    remote = json.loads(farshore("config", "schema", "remote").output)

    assert primary == json.loads(farshore("config", "schema", "primary").output)
    assert "replication" in remote["required"]
    assert "replication" not in primary["required"]
    assert farshore("config", "schema", "both").exit_code == 2


@pytest.mark.needs_package("openssl")
def test_init_writes_a_pair_that_loads_and_matches(
    farshore: Farshore, tmp_path: Path
) -> None:
    folder = tmp_path / "new/folder"
    result = farshore("init", str(folder))

    assert result.exit_code == 0
    assert "farshore config check" in result.output
    primary = load_primary(str(folder / "primary.toml"))
    remote = load_remote(str(folder / "remote.toml"))
    assert primary.groups[0].link.peer == remote.site.name
    for tls in (primary.groups[0].link.tls, remote.replication.tls):
        assert tls is not None
        Credentials.read(tls.files(), "tls", is_server=True)
        assert Path(tls.key).stat().st_mode & 0o077 == 0
    mode = (folder / "primary.toml").stat().st_mode
    assert not stat.S_IMODE(mode) & 0o007


@pytest.mark.needs_package("openssl")
def test_init_gives_sites_the_names_that_are_asked_for(
    farshore: Farshore, tmp_path: Path
) -> None:
    result = farshore("init", str(tmp_path), "--primary", "oslo", "--remote", "rome-2")

    assert result.exit_code == 0
    primary = load_primary(str(tmp_path / "primary.toml"))
    remote = load_remote(str(tmp_path / "remote.toml"))
    assert (primary.site.name, primary.groups[0].link.peer) == ("oslo", "rome-2")
    assert (remote.site.name, remote.groups[0].peer) == ("rome-2", "oslo")
    assert remote.replication.tls is not None
    files = remote.replication.tls.files()
    assert Credentials.read(files, "tls", is_server=True).own.names == {"rome-2"}
    assert farshore("init", str(tmp_path / "x"), "--primary", "a/b").exit_code == 2


def test_init_overwrites_nothing(farshore: Farshore, tmp_path: Path) -> None:
    (tmp_path / "remote.toml").write_text("mine")
    result = farshore("init", str(tmp_path))

    assert result.exit_code == 1
    assert "exists: choose another folder" in result.stderr
    assert (tmp_path / "remote.toml").read_text() == "mine"
    assert not (tmp_path / "primary.toml").exists()


def test_init_in_an_impossible_place_is_one_sentence(
    farshore: Farshore, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    result = farshore("init", str(tmp_path / "file/below"))

    assert result.exit_code == 3
    assert "cannot be written" in result.stderr
