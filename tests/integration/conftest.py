"""What tests of installed farshore share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machine import Machine
from tests.support.sites import REPOSITORY


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package of these sources, as `make deb` builds it."""
    folder = tmp_path_factory.mktemp("package")
    subprocess.run(
        [sys.executable, "-m", "release.deb", "--output", folder],
        cwd=REPOSITORY,
        check=True,
    )
    (found,) = folder.glob("farshore_*.deb")
    return found


@pytest.fixture(scope="module")
def machine(
    package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A machine that has the package."""
    with Machine("amsterdam", tmp_path_factory.mktemp("machine")) as booted:
        booted.path("/srv/farshore.deb").write_bytes(package.read_bytes())
        booted.run("dpkg", "--install", "/srv/farshore.deb")
        yield booted
