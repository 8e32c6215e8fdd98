"""What a start relies on has a durable name before a host can write."""

from __future__ import annotations

import random

from common.storage.record import DurableRecord
from primary_site.opening import open_group
from tests.support.primary_explorer import CONFIG, STATE
from tests.support.simulated_files import SimulatedFiles


def test_every_file_of_a_group_outlives_a_power_loss_right_after_the_start() -> None:
    """A region log that is gone would be made anew, and name no region as hot."""
    files = SimulatedFiles()
    for directory in ("/devices", STATE):
        files.make_directory(directory)
    open_group(files, STATE, CONFIG, "primary.toml")
    directory = f"{STATE}/groups/{CONFIG.name}"
    made = files.list(directory)
    image = files.crash_image(random.Random(0), "lost")
    assert image.list(directory) == made, "names are gone"
    assert image.list("/devices") == files.list("/devices")
    assert DurableRecord(f"{directory}/group.record", image).load() is not None
