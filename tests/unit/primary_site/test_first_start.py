"""The first start of a group, cut short anywhere: the next one goes on."""

from __future__ import annotations

import random

import pytest

from common.errors import StateMismatchError
from common.service.config_primary import PrimaryGroup
from primary_site.opening import open_group
from tests.support.simulated_files import SimulatedFiles

STATE = "/state"
SIZE_BYTES = 1 << 20


def _config() -> PrimaryGroup:
    return PrimaryGroup.model_validate(
        {
            "name": "orders",
            "rpo": "5s",
            "link": {
                "remotes": ["dr:7420"],
                "peer": "dr",
                "allow_plaintext_replication": True,
            },
            "flashcopy": {"directory": "/flashcopy"},
            "volume": [{"name": "data", "device": "/devices/data.img", "size": "1MiB"}],
        }
    )


def _files() -> SimulatedFiles:
    files = SimulatedFiles()
    for path in ("/devices", STATE):
        files.make_directory(path)
    return files


def test_a_first_start_that_lost_power_anywhere_is_made_good_by_the_next() -> None:
    files, rng = _files(), random.Random(1)
    images: list[SimulatedFiles] = []
    files.hook = lambda *_: images.extend(files.crash_images(rng, 6))
    open_group(files, STATE, _config(), "primary.toml")
    empty = 0
    for image in images:
        at = "/devices/data.img"
        empty += image.exists(at) and image.open(at).size() == 0
        opened = open_group(image, STATE, _config(), "primary.toml")
        assert opened.volumes[0].device.size() == SIZE_BYTES
        assert opened.volumes[0].verdict.carried.count == SIZE_BYTES // 4096
    assert empty, "no image had the file without its size"


def test_a_device_that_became_empty_is_not_taken_for_a_new_one() -> None:
    files = _files()
    opened = open_group(files, STATE, _config(), "primary.toml")
    opened.volumes[0].device.truncate(0)
    with pytest.raises(StateMismatchError, match="has 0"):
        open_group(files.after_kill(), STATE, _config(), "primary.toml")
