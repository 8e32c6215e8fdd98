"""The line of `systemctl status`: what needs a look comes first."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from common.errors import DeviceError
from common.service.status import (
    AlarmStatus,
    GroupRole,
    GroupState,
    GroupStatus,
    LinkState,
    LinkStatus,
    ProgressStatus,
    RecoveryPointStatus,
    SiteStatus,
)
from common.service.status_line import GROUPS_MAX, StatusLine, site_text


def group(name: str, state: GroupState = GroupState.IDLE, **more: Any) -> GroupStatus:
    link = LinkStatus(state=LinkState.CONNECTED)
    return GroupStatus(
        name=name, role=GroupRole.SENDING, state=state, link=link, **more
    )


def site(*groups: GroupStatus) -> SiteStatus:
    return SiteStatus(site="a", role="primary", version="1", groups=groups)


POINT = RecoveryPointStatus(number=41, cut_ns=0, current_as_of_ns=0)
ALARM = AlarmStatus(name="link_down", message="no answer", since_ns=0)


@pytest.mark.parametrize(
    ("groups", "said", "line"),
    [
        ([], "", "no groups"),
        ([group("g")], "", "g: idle"),
        (
            [group("g", recovery_point=POINT, recovery_point_age_seconds=3.4)],
            "",
            "g: idle, point 41 3 s old",
        ),
        ([group("g", recovery_point=POINT)], "", "g: idle, point 41"),
        (
            [
                group(
                    "g",
                    GroupState.FIRST_COPY,
                    progress=ProgressStatus(
                        operation="first_copy", done_bytes=41, total_bytes=100
                    ),
                )
            ],
            "",
            "g: first_copy, first_copy 41 %",
        ),
        (
            [
                group("a"),
                group("b", GroupState.FAILED),
                group("c", alarms=(ALARM,)),
            ],
            "needs a restart to apply: nbd.listen",
            (
                "c: idle, alarm link_down; b: failed; a: idle; "
                "needs a restart to apply: nbd.listen"
            ),
        ),
        (
            [group(f"g{number}") for number in range(GROUPS_MAX + 2)],
            "",
            "; ".join(f"g{number}: idle" for number in range(GROUPS_MAX))
            + "; and 2 groups more",
        ),
    ],
)
def test_the_line_says_what_an_administrator_asks_first(
    groups: list[GroupStatus], said: str, line: str
) -> None:
    assert site_text(site(*groups), said) == line


async def test_it_is_sent_to_systemd(tmp_path: Path) -> None:
    async def status() -> SiteStatus:
        return site(group("g"))

    async def no_status() -> SiteStatus:
        raise DeviceError("g: the device is gone")

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20.0)
        environment = {"NOTIFY_SOCKET": str(systemd.getsockname())}
        await StatusLine(status, lambda: "", environment).send()
        assert systemd.recv(1000) == b"STATUS=g: idle"
        await StatusLine(no_status, lambda: "", environment).send()
        assert systemd.recv(1000) == b"STATUS=g: the device is gone"
