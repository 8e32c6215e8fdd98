"""`farshore grow`: what it asks the daemon for, and says of the answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from common.errors import FarshoreError, NotCommittedError, RefusedError
from tests.support.control_daemon import Daemon

Farshore = Callable[..., Result]

GROWN = {"volume": "data", "before_bytes": 1 << 20, "size_bytes": 2 << 20}
NO_LINK = "group orders has no link to its remote now (down); see farshore status"


def fails(error: FarshoreError) -> Callable[[Any], Any]:
    def reply(_: Any) -> Any:
        raise error

    return reply


def test_a_growth_alone_asks_for_no_cut(daemon: Daemon, farshore: Farshore) -> None:
    daemon.replies["grow"] = lambda _: GROWN
    result = farshore("grow", "orders/data", "2MiB", "--socket", daemon.path)
    assert result.exit_code == 0, result.output
    assert "grown from 1048576 to 2097152 bytes" in result.stdout
    asked = {"group": "orders", "volume": "data", "size_bytes": 2 << 20}
    assert daemon.received == [("grow", asked)]


def test_a_bare_number_is_bytes_and_a_volume_has_a_group(
    daemon: Daemon, farshore: Farshore
) -> None:
    daemon.replies["grow"] = lambda _: {**GROWN, "before_bytes": 2 << 20}
    result = farshore("grow", "orders/data", "2097152", "--socket", daemon.path)
    assert "has 2097152 bytes (2.00 MiB) already" in result.stdout
    for volume in ("data", "/data", "orders/"):
        result = farshore("grow", volume, "2MiB", "--socket", daemon.path)
        assert result.exit_code == 2
        assert "name a volume as GROUP/VOLUME" in result.stderr


@pytest.mark.parametrize("error", [RefusedError(NO_LINK), NotCommittedError(NO_LINK)])
@pytest.mark.parametrize("as_json", [True, False])
def test_a_growth_whose_point_does_not_come_has_grown_all_the_same(
    daemon: Daemon, farshore: Farshore, error: FarshoreError, as_json: bool
) -> None:
    daemon.replies |= {"grow": lambda _: GROWN, "cut": fails(error)}
    options = ["--json"] if as_json else []
    result = farshore(
        *("grow", "orders/data", "2MiB", "--wait", *options, "--socket", daemon.path)
    )
    assert result.exit_code == NotCommittedError.exit_code
    assert "orders/data: grown, but no recovery point" in result.stderr
    assert NO_LINK in result.stderr
    if as_json:
        assert json.loads(result.stdout) == {"group": "orders", **GROWN, "point": None}
    else:
        assert "grown from 1048576 to 2097152 bytes" in result.stdout


def test_a_growth_that_is_refused_is_no_growth(
    daemon: Daemon, farshore: Farshore
) -> None:
    daemon.replies["grow"] = fails(RefusedError("data has 4 bytes: it can't shrink"))
    result = farshore("grow", "orders/data", "2MiB", "--wait", "--socket", daemon.path)
    assert result.exit_code == RefusedError.exit_code
    assert "grown" not in result.output
    assert [command for command, _ in daemon.received] == ["grow"]
