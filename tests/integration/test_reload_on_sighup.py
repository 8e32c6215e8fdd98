"""SIGHUP: both daemons read their config again, say what became of it, and run on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.nbd_client import OptionRefusedError
from tests.support.sites import Daemon, Pair, VolumeSpec, until

VOLUMES = [VolumeSpec("v", 1 << 20)]


async def told(daemon: Daemon, event: str, count: int = 1) -> None:
    """Send SIGHUP; return once the event has been logged so often in all."""
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    await until(lambda: len(daemon.events(event)) >= count, event)


async def test_a_reload_names_what_needs_a_restart_and_no_session_ends(
    tmp_path: Path,
) -> None:
    with Pair(tmp_path, VOLUMES) as pair:
        await pair.start()
        await pair.cut()
        pair.group_options = {**pair.group_options, "hold_retries": 7}
        pair.link_options = {**pair.link_options, "seed": "checksum"}
        pair.write_configs()
        for daemon in pair.daemons:
            await told(daemon, "config_reloaded")
        waiting = [
            event["key"] for event in pair.primary.events("config_key_not_applied")
        ]
        assert waiting == ["group[g].link.seed"]
        (reloaded,) = pair.primary.events("config_reloaded")
        assert reloaded["applied"] == ["group[g].hold_retries"]
        assert not pair.remote.events("config_key_not_applied")
        await pair.cut()
        assert len(pair.remote.events("session_opened")) == 1


async def retriggered(pair: Pair, trigger: dict[str, object]) -> None:
    """Have the primary cut by another trigger; return once it does, and says so."""
    keys = {f"group[g].{key}" for key in {**pair.group_options, **trigger}}
    count = len(pair.primary.events("config_reloaded")) + 1
    pair.group_options = trigger
    pair.write_configs()
    await told(pair.primary, "config_reloaded", count)
    assert set(pair.primary.events("config_reloaded")[-1]["applied"]) == keys


def target_seconds(pair: Pair) -> float | None:
    forecast = pair.group("g")["forecast"]
    return forecast["target_seconds"] if forecast else None


async def test_another_trigger_holds_at_once_and_no_cut_is_made_for_nothing(
    tmp_path: Path,
) -> None:
    with Pair(tmp_path, VOLUMES, group={"rpo": "1d"}) as pair:
        await pair.start()
        await until(lambda: target_seconds(pair) == 86400, "a day is promised")
        host = await pair.primary.nbd("g/v")

        def cycles() -> int:
            return len(pair.primary.events("cycle_committed"))

        async def one_more(why: str) -> None:
            before = cycles()
            await host.write(4096 * before, b"x" * 4096)
            if why:
                await until(lambda: cycles() > before, why)

        assert cycles() == 1, "the first copy"
        await one_more("")
        await retriggered(pair, {"rpo": "500ms"})
        await until(lambda: target_seconds(pair) == 0.5, "the new target is shown")
        await until(lambda: cycles() == 2, "a point that is too old by it is followed")
        await retriggered(pair, {"schedule": "0 0 29 2 *"})
        await until(lambda: target_seconds(pair) is None, "nothing is promised")
        await one_more("")
        await retriggered(pair, {"interval": "100ms"})
        await until(lambda: cycles() == 3, "many intervals are overdue")
        await retriggered(pair, {"changed": "4KiB"})
        await one_more("enough has changed")
        await retriggered(pair, {"manual": True})
        await one_more("")
        await pair.cut()
        await host.disconnect()
        assert cycles() == 5
        assert not pair.primary.events("config_key_not_applied")
        assert len(pair.remote.events("session_opened")) == 1


async def test_other_access_rules_count_for_clients_to_come(tmp_path: Path) -> None:
    somebody_else = {"exports": ["g/v"], "users": [os.getuid() + 1], "allow": "rw"}
    with Pair(tmp_path, VOLUMES) as pair:
        await pair.start()
        host = await pair.primary.nbd("g/v")
        pair.nbd_options = {"access": [somebody_else]}
        pair.write_configs()
        await told(pair.primary, "config_reloaded")
        assert pair.primary.events("config_reloaded")[0]["applied"] == ["nbd.access"]
        with pytest.raises(OptionRefusedError):
            await pair.primary.nbd("g/v")
        await host.write(0, b"x" * 4096)  # who is there keeps it
        pair.nbd_options = {}
        pair.write_configs()
        await told(pair.primary, "config_reloaded", 2)
        await (await pair.primary.nbd("g/v")).disconnect()
        await host.disconnect()


async def test_an_invalid_config_is_refused_and_the_daemon_runs_on(
    tmp_path: Path,
) -> None:
    with Pair(tmp_path, VOLUMES) as pair:
        await pair.start()
        for daemon in pair.daemons:
            daemon.config_path.write_text("[site]\nnam = 'a'\n")
            await told(daemon, "config_reload_refused")
            reason = daemon.events("config_reload_refused")[0]["reason"]
            assert str(daemon.config_path) in reason
        await pair.cut()
        pair.write_configs()
        for daemon in pair.daemons:
            await told(daemon, "config_reloaded")
        await pair.cut()
