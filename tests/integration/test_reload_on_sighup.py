"""SIGHUP: both daemons read their config again, say what became of it, and run on."""

from __future__ import annotations

import signal
from pathlib import Path

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
        pair.link_options = {**pair.link_options, "connections": 2}
        pair.write_configs()
        for daemon in pair.daemons:
            await told(daemon, "config_reloaded")
        waiting = [
            event["key"] for event in pair.primary.events("config_key_not_applied")
        ]
        assert waiting == ["group[g].link.connections"]
        (reloaded,) = pair.primary.events("config_reloaded")
        assert reloaded["applied"] == ["group[g].hold_retries"]
        assert not pair.remote.events("config_key_not_applied")
        await pair.cut()
        assert len(pair.remote.events("session_opened")) == 1


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
