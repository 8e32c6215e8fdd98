"""Daemons that are forked end as commands do, and with the test that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from common.errors import ConfigError
from tests.support.daemon import PATIENCE_SECONDS
from tests.support.forking import REPOSITORY, fork

LEFT_ALONE = """
import os, signal, sys
from pathlib import Path
from tests.support.forking import fork

folder = Path(sys.argv[1])
with (folder / "log").open("wb") as log:
    # A pipe that nobody writes to: whoever opens it to read waits for ever.
    config = str(folder / "primary.toml")
    print(fork("farshore-primary", ["--config", config], log=log, folder=folder).pid)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_ends_with_its_code_and_its_words_in_the_log(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        process = fork(
            "farshore-remote", ["--config", "absent.toml"], log=log, folder=tmp_path
        )
    assert process.wait(PATIENCE_SECONDS) == process.poll() == ConfigError.exit_code
    assert "absent.toml" in (tmp_path / "log").read_text()
    process.kill()  # what has ended is not killed again


def lives(pid: int) -> bool:
    """Tell whether a process is there, and no zombie that nobody waits for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_it_dies_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "primary.toml")
    left = subprocess.run(
        [sys.executable, "-c", LEFT_ALONE, tmp_path],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert left.returncode == -signal.SIGKILL
    deadline = time.monotonic() + PATIENCE_SECONDS
    while lives(int(left.stdout)):
        assert time.monotonic() < deadline, "the daemon lives on"
        time.sleep(0.01)
