"""A certificate that expires under a session ends it; a new one lets it go on."""

from __future__ import annotations

import datetime as dt
import signal
from pathlib import Path

import pytest

from common.certificates import TlsFiles
from tests.support.certificates import Certificates
from tests.support.sites import Daemon, Pair, VolumeSpec, until

VOLUMES = [VolumeSpec("v", 64 << 10)]
LIVES_SECONDS = (8, 30, 120)
"""The first that is long enough for this machine to connect both sites within it."""


async def start_within(pair: Pair, seconds: float) -> bool:
    """Start both; tell whether they got connected before `seconds` were over."""
    ends = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    for daemon in pair.daemons:
        await daemon.start()

    def is_decided() -> bool:
        return bool(pair.primary.events("link_connected")) or (
            dt.datetime.now(dt.UTC) > ends
        )

    await until(is_decided, "the sites are connected, or too late")
    return bool(pair.primary.events("link_connected"))


async def reload(daemon: Daemon) -> None:
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    await until(lambda: daemon.events("config_reloaded"), "it is reloaded")


def put_in_place(fresh: TlsFiles, old: TlsFiles) -> None:
    for name in ("cert", "key"):
        Path(getattr(fresh, name)).replace(getattr(old, name))


def group(daemon: Daemon) -> dict[str, object]:
    return dict(daemon.call("status")["groups"][0])


def alarms(daemon: Daemon) -> dict[str, str]:
    found = daemon.call("status")["groups"][0]["alarms"]
    return {alarm["name"]: alarm["message"] for alarm in found}


@pytest.mark.parametrize(
    "whose", ["primary", pytest.param("remote", marks=pytest.mark.hunt)]
)
async def test_a_session_ends_with_a_certificate_and_goes_on_with_the_next(
    tmp_path: Path, whose: str
) -> None:
    index = ("primary", "remote").index(whose)
    made = Certificates(tmp_path)
    for attempt, seconds in enumerate(LIVES_SECONDS):
        ends = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
        both = [made.site("a"), made.site("b")]
        both[index] = made.site("ab"[index], folder=f"short-{attempt}", not_after=ends)
        folder = tmp_path / str(attempt)
        folder.mkdir()
        links: dict[str, object] = {"connections": 2}
        with Pair(folder, VOLUMES, link=links, link_tls=(both[0], both[1])) as pair:
            if not await start_within(pair, seconds):
                continue
            await check_expiry(pair, index)
            put_in_place(made.site("ab"[index], folder="fresh"), both[index])
            await reload(pair.daemons[index])
            await pair.connected()
            await pair.cut()
            assert "refused" not in alarms(pair.primary)
            assert len(pair.remote.events("session_opened")) > 1
            return
    pytest.fail(f"not connected within {LIVES_SECONDS[-1]} s")


async def check_expiry(pair: Pair, index: int) -> None:
    """The session ends by itself, and who would go on is refused, with an alarm."""
    expiring = pair.daemons[index]

    def is_refused() -> bool:
        return group(pair.primary)["link"]["state"] == "refused"  # type: ignore[index]

    await until(is_refused, "no session goes on without a certificate")
    assert "expired" in alarms(pair.primary)["refused"]
    assert "certificate_expires" in alarms(expiring)
    # The first of two links that dies says why; the session may end with the other.
    ends = [
        str(event["reason"])
        for daemon in (pair.primary, pair.remote)
        for name in ("link_died", "link_lost", "session_ended")
        for event in daemon.events(name)
    ]
    assert any("site's certificate expired" in reason for reason in ends)
    await until(lambda: group(pair.remote)["link"]["peers"] == [], "no link is left")  # type: ignore[index]
    client = await pair.primary.nbd("g/v")
    await client.write(0, b"x" * 4096, fua=True)
    await client.disconnect()
