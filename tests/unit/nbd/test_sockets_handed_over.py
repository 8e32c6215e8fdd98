"""What the environment says of sockets that systemd handed over."""

from __future__ import annotations

import os

import pytest

from common.nbd.systemd_sockets import VARIABLES, SystemdSockets


def told(**changed: str) -> dict[str, str]:
    """An environment as systemd makes it, with `changed`."""
    told_by_systemd = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"}
    return {**told_by_systemd, "LISTEN_FDNAMES": "hosts", **changed, "HOME": "/"}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": "", "LISTEN_FDS": "1"},
        {"LISTEN_FDS": "-1"},
        {"LISTEN_FDS": "many"},
        {"LISTEN_FDS": "²"},
    ],
)
def test_what_is_meant_for_another_process_or_for_none_is_not_taken(
    changed: dict[str, str],
) -> None:
    environment = told(**changed)
    assert SystemdSockets.of(environment).names == []
    assert not set(environment) & set(VARIABLES)
    assert environment == {"HOME": "/"}
