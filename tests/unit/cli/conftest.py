"""A daemon to talk to, and the command to do it with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from common.cli.main import cli
from common.errors import EXIT_INTERNAL
from tests.support.control_daemon import Daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(str(tmp_path / "control.sock")) as running:
        yield running


@pytest.fixture
def farshore(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `farshore ARGUMENTS...`; a bug's traceback fails the test.

    `answer`: what there is to read, at what is no terminal.
    """
    monkeypatch.delenv("FARSHORE_SOCKET", raising=False)

    def run(*arguments: str, answer: str | None = None, **environment: str) -> Result:
        result = CliRunner(env=environment).invoke(
            cli, arguments, input=answer, prog_name="farshore"
        )
        assert result.exit_code != EXIT_INTERNAL, result.stderr
        return result

    return run
