"""`farshore doctor` beside real daemons: those that run, and those that do not."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
from pathlib import Path

import pytest

from tests.support.certificates import Certificates
from tests.support.sites import Daemon, Pair, VolumeSpec, run_cli, until

MIB = 1 << 20
VOLUMES = [VolumeSpec("v", MIB)]

Findings = list[dict[str, str]]


async def doctor(daemon: Daemon, *, exit_code: int) -> Findings:
    """Run it with the daemon's config; return what it found."""
    done = await asyncio.to_thread(
        run_cli, "doctor", "--config", str(daemon.config_path), "--json"
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    found: Findings = json.loads(done.stdout)
    assert all(each["remedy"] for each in found if each["verdict"] == "failed")
    return found


def of(found: Findings, topic: str, verdict: str) -> list[str]:
    return [
        each["text"]
        for each in found
        if each["topic"] == topic and each["verdict"] == verdict
    ]


def round_trip(pair: Pair) -> float | None:
    found: float | None = pair.group("g")["link"]["peers"][0]["round_trip_seconds"]
    return found


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def test_a_pair_that_is_well_has_nothing_to_mend(
    tmp_path: Path, certificates: Certificates
) -> None:
    both = certificates.site("a"), certificates.site("b")
    with Pair(tmp_path, VOLUMES, link_tls=both) as pair:
        await pair.start()
        await pair.cut()
        await until(lambda: round_trip(pair) is not None, "a round trip was measured")
        for daemon in pair.daemons:
            found = await doctor(daemon, exit_code=0)
            assert of(found, "device", "ok")
            assert "expires" not in str(of(found, "certificate", "warning"))
            assert any("connected over 1" in text for text in of(found, "link", "ok"))
        primary = await doctor(pair.primary, exit_code=0)
        assert any("round trip" in text for text in of(primary, "link", "ok"))
        assert any("clock differs" in text for text in of(primary, "clock", "ok"))


async def test_without_a_daemon_the_remote_is_visited_and_not_disturbed(
    tmp_path: Path, certificates: Certificates
) -> None:
    both = certificates.site("a"), certificates.site("b")
    with Pair(tmp_path, VOLUMES, link_tls=both) as pair:
        await pair.remote.start()

        found = await doctor(pair.primary, exit_code=0)

        (text,) = of(found, "link", "ok")
        assert re.search(r"round trip .* at most \(connected in .*, answered in ", text)
        assert "it is b, TLS in " in text
        (rate,) = of(found, "link", "unknown")
        assert "rate not measured" in rate
        assert pair.remote.group()["alarms"] == []
        assert pair.remote.events("session_opened") == []
        assert not pair.device("v").exists(), "the doctor makes nothing"
        assert not pair.primary.state_directory.exists()


async def test_another_site_at_the_address_is_told_by_its_name(
    tmp_path: Path, certificates: Certificates
) -> None:
    both = certificates.site("a"), certificates.site("elsewhere")
    with Pair(tmp_path, VOLUMES, link_tls=both) as pair:
        await pair.remote.start()

        found = await doctor(pair.primary, exit_code=15)

        (text,) = of(found, "link", "failed")
        assert "names itself elsewhere, not b" in text


@pytest.mark.hunt
async def test_a_remote_that_does_not_know_us_is_told(
    tmp_path: Path, certificates: Certificates
) -> None:
    both = certificates.site_of_other_ca("a"), certificates.site("b")
    with Pair(tmp_path, VOLUMES, link_tls=both) as pair:
        await pair.remote.start()

        found = await doctor(pair.primary, exit_code=15)

        assert of(found, "link", "failed")


async def test_what_is_broken_is_named_with_its_remedy(
    tmp_path: Path, certificates: Certificates
) -> None:
    over = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    both = certificates.site("a", not_after=over), certificates.site("b")
    hooks = {"before_cut": [str(tmp_path / "missing.sh")]}
    with Pair(
        tmp_path, VOLUMES, link_tls=both, group={"manual": True, "hooks": hooks}
    ) as pair:
        pair.primary.config_path.chmod(0o666)

        found = await doctor(pair.primary, exit_code=15)

        assert any("expired" in text for text in of(found, "certificate", "failed"))
        access = of(found, "access", "failed")
        assert any("missing.sh can't be run" in text for text in access)
        assert any("everybody may write" in text for text in access)
        assert any("127.0.0.1" in text for text in of(found, "link", "failed"))


@pytest.mark.hunt
async def test_an_alarm_of_the_daemon_is_a_finding(tmp_path: Path) -> None:
    failing = {"before_cut": ["/bin/false"], "on_failure": "skip"}
    with Pair(tmp_path, VOLUMES, group={"manual": True, "hooks": failing}) as pair:
        await pair.start()
        socket = ("--socket", pair.primary.control_socket)
        assert (await asyncio.to_thread(run_cli, "cut", "g", *socket)).returncode == 9

        found = await doctor(pair.primary, exit_code=15)

        assert any(
            "alarm hook_failed" in text for text in of(found, "daemon", "failed")
        )


async def test_a_config_that_is_wrong_is_a_finding_and_the_host_is_looked_at(
    tmp_path: Path,
) -> None:
    with Pair(tmp_path, VOLUMES) as pair:
        pair.primary.config_path.write_text("[site]\nnmae = 'a'\n")

        found = await doctor(pair.primary, exit_code=15)

        assert of(found, "config", "failed")
        assert of(found, "version", "ok")
