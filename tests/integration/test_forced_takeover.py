"""A takeover by force where the group has gone to and fro before."""

from __future__ import annotations

from pathlib import Path

from tests.support.exchanging_pair import ExchangingPair
from tests.support.sites import VolumeSpec, until


async def test_who_was_taken_over_from_is_superseded_and_speaks_of_no_split_brain(
    tmp_path: Path,
) -> None:
    with ExchangingPair(tmp_path, [VolumeSpec("v", 1 << 20)]) as pair:
        await pair.start()
        for gives, gets in (
            (pair.primary, pair.remote),
            (pair.remote, pair.primary),
        ):
            await pair.done(gives, "switchover", "g")
            await until(
                lambda gets=gets: (
                    gets.group()["role"] == "sending"
                    and gets.group()["link"]["state"] == "connected"
                ),
                "the roles are exchanged",
            )
        at_home = pair.primary.group()
        assert at_home["role_change"] is None, "there is nothing to go back to"

        await pair.done(pair.remote, "takeover", "g", "--force")
        await pair.reached(pair.primary, "it is told", state="superseded")

        told = pair.primary.group()
        names = {alarm["name"] for alarm in told["alarms"]}
        assert "superseded" in names
        assert "split_brain" not in names
        assert told["role_change"]["step"] == "superseded"

        def alarms() -> dict[str, str]:
            found = pair.remote.group()["alarms"]
            return {alarm["name"]: alarm["message"] for alarm in found}

        await until(
            lambda: "farshore failback g there" in alarms().get("refused", ""),
            "whoever took over is told what is left to do",
        )
        assert "split_brain" not in alarms()
        refused = await pair.command(pair.remote, "failback", "g", "--yes")
        assert refused.returncode == 8
        assert "there is nothing to fail back to" in refused.stderr
