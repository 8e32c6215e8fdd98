"""A bug of ours in a group's replication: told, tried again, and no host hurt by it."""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.sites import Pair, VolumeSpec, until

MIB = 1 << 20

BROKEN = """
import os
from primary_site.drain import CycleDrain

send = CycleDrain._send

async def broken(drain, unit):
    if os.path.exists(os.environ["BROKEN_WHILE"]) and drain._group.name == "g":
        raise ZeroDivisionError("injected")
    await send(drain, unit)

CycleDrain._send = broken
"""


class BrokenPrimary(Daemon):
    """A primary whose drains of group "g" fail as long as a file is there."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(
            "primary", pair.directory, Path(pair.primary.nbd_socket).parent
        )
        self.marker = pair.directory / "broken"
        self._injected = pair.directory / "injected"
        self._injected.mkdir()
        (self._injected / "sitecustomize.py").write_text(BROKEN)

    def prefix(self) -> list[str]:
        repository = Path(__file__).resolve().parent.parent.parent
        return [
            "env",
            f"PYTHONPATH={self._injected}:{repository}",
            f"BROKEN_WHILE={self.marker}",
        ]


def alarms(daemon: Daemon) -> set[str]:
    return {alarm["name"] for alarm in daemon.group()["alarms"]}


async def test_an_unforeseen_error_ends_a_cycle_and_nothing_else(
    tmp_path: Path,
) -> None:
    volumes, others = [VolumeSpec("v", 4 * MIB)], [VolumeSpec("w", MIB)]
    with Pair(tmp_path, volumes, others=others, group={"interval": "100ms"}) as pair:
        broken = pair.primary = BrokenPrimary(pair)
        await pair.start()
        await until(lambda: pair.committed("g") > 0, "a first copy")
        broken.marker.touch()
        host, other = await broken.nbd("g/v"), await broken.nbd("h/w")
        await host.write(MIB, b"during" * 1000)
        await until(lambda: len(broken.events("internal_error")) >= 2, "tried again")
        assert "internal_error" in alarms(broken)
        event = broken.events("internal_error")[0]
        assert event["group"] == "g"
        assert "ZeroDivisionError: injected" in event["exception"]
        assert "Traceback" in event["exception"]

        # Hosts of the group, and the other group, are served on.
        assert await host.read(MIB, 6000) == b"during" * 1000
        await host.write(2 * MIB, b"after" * 1000)
        reached = pair.committed("h")
        await other.write(0, b"other" * 100)
        await until(lambda: pair.committed("h") > reached, "the other group's commit")

        before = pair.committed("g")
        broken.marker.unlink()
        await until(lambda: pair.committed("g") > before, "a commit after the error")
        await until(lambda: "internal_error" not in alarms(broken), "the alarm's end")
        host.abort()
        other.abort()
        await pair.cut()
        assert (await pair.remote.read_whole("g/v"))[MIB : MIB + 6000] == (
            b"during" * 1000
        )
        await broken.stop()
        # It was meant: else no test may leave one.
        broken.log_path.write_text(broken.log_text().replace("Traceback", "(injected)"))
