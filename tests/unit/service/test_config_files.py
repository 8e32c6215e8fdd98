"""Every sample loads; every invalid file fails with its own sentence.

A vector's first line says what is expected, after the file's name; its name
begins with the kind of config that it is loaded as.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from common.cli.sample_configs import PRIMARY_TOML, REMOTE_TOML
from common.errors import ConfigError
from common.service.config import load_any, load_primary, load_remote
from common.service.config_refused import PRIMARY_REFUSED, REMOTE_REFUSED
from common.service.config_text import config_text

ROOT = Path(__file__).parents[3]
VECTORS = sorted((ROOT / "tests/vectors/config").glob("*.toml"))
INVALID = [path for path in VECTORS if not path.stem.endswith("-valid")]
SAMPLES = [ROOT / "config/primary.toml", ROOT / "config/remote.toml"]
LOADERS = {"primary": load_primary, "remote": load_remote}


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_an_invalid_file_fails_with_its_own_sentence(path: Path) -> None:
    expected = path.read_text().splitlines()[0].removeprefix("# expect: ")

    with pytest.raises(ConfigError) as caught:
        LOADERS[path.stem.split("-")[0]](str(path))

    assert str(caught.value) == f"{path}: {expected}"


def test_no_two_invalid_files_expect_the_same_words_without_reason() -> None:
    sentences = [path.read_text().splitlines()[0] for path in INVALID]

    assert all(sentence.startswith("# expect: ") for sentence in sentences)
    assert len(INVALID) > 50


def test_every_refused_key_has_a_vector() -> None:
    names = {path.stem for path in INVALID}
    for kind, refused in (("primary", PRIMARY_REFUSED), ("remote", REMOTE_REFUSED)):
        for key in refused:
            name = key.path.replace(".", "-").replace("_", "-")
            assert f"{kind}-refused-{name}" in names


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_loads_and_names_no_key_that_is_refused(path: Path) -> None:
    config = LOADERS[path.stem](str(path))

    assert load_any(str(path)) == config
    assert config.groups[0].volumes[0].device == "/var/lib/farshore/data.img"


def test_the_samples_match_each_other_and_what_init_writes() -> None:
    primary, remote = load_primary(str(SAMPLES[0])), load_remote(str(SAMPLES[1]))

    assert primary.groups[0].link.peer == remote.site.name
    assert remote.groups[0].peer == primary.site.name
    assert remote.groups[0].name == primary.groups[0].name
    assert SAMPLES[0].read_text() == PRIMARY_TOML
    assert SAMPLES[1].read_text() == REMOTE_TOML


@pytest.mark.parametrize("line", ["rpo", "hold_max", "track_size", "compression"])
def test_the_samples_show_a_key_with_its_default_as_a_comment(
    line: str, tmp_path: Path
) -> None:
    """Uncommenting a commented key changes nothing."""
    path = tmp_path / "primary.toml"
    shutil.copy(SAMPLES[0], path)
    before = load_primary(str(path))
    path.write_text(path.read_text().replace(f"# {line} =", f"{line} ="))

    assert load_primary(str(path)) == before


@pytest.mark.parametrize(
    "path", [*SAMPLES, *(p for p in VECTORS if p not in INVALID)], ids=str
)
def test_the_effective_config_loads_again_to_the_same(
    path: Path, tmp_path: Path
) -> None:
    config = load_any(str(path))
    written = tmp_path / "written.toml"
    written.write_text(config_text(config))

    assert load_any(str(written)) == config
