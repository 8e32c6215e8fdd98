"""A group on a loop of its own, and what is said when that loop hangs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.errors import ConnectionLostError, DeviceBusyError
from common.replication.link import Link
from common.service.clock import SystemClock
from common.service.config_primary import PrimaryGroup
from common.service.runner import make_loop
from common.service.status import GroupState
from common.storage.files import SystemFiles
from common.storage.threads import WorkerThreads
from primary_site.hosted_group import GroupStalledError, HostedGroup
from primary_site.sending_groups import SendingGroups
from tests.support.primary_host_site import RuledFiles, Stopped


def config(directory: Path) -> PrimaryGroup:
    return PrimaryGroup.model_validate(
        {
            "name": "orders",
            "manual": True,
            "link": {
                "remotes": ["dr:7420"],
                "peer": "dr",
                "allow_plaintext_replication": True,
            },
            "flashcopy": {"directory": str(directory / "fc")},
            "volume": [
                {
                    "name": "data",
                    "device": str(directory / "data.img"),
                    "size": "1MiB",
                    "track_size": "4KiB",
                }
            ],
        }
    )


async def no_link(address: str) -> Link:
    raise ConnectionLostError(f"{address}: nobody there")


async def open_group(directory: Path) -> HostedGroup:
    return await HostedGroup.open(
        config(directory),
        "primary.toml",
        str(directory / "state"),
        "amsterdam",
        SystemFiles(),
        lambda name: WorkerThreads(name, 2),
        no_link,
        SystemClock(),
        make_loop,
    )


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[HostedGroup]:
    group = await open_group(tmp_path)
    yield group
    await group.close()


def group_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if "orders" in t.name]


def hang(group: HostedGroup) -> threading.Event:
    """Have the group's loop wait for a device; set what is returned to end it."""
    device, waiting = threading.Event(), threading.Event()

    def wait() -> None:
        waiting.set()
        device.wait(30)

    group.volumes[0].loop.call_soon_threadsafe(wait)
    assert waiting.wait(5)
    return device


async def test_the_group_lives_on_its_own_loop(group: HostedGroup) -> None:
    assert group.volumes[0].loop is not asyncio.get_running_loop()
    status = await group.status()
    assert (status.name, status.state) == ("orders", GroupState.DISCONNECTED)


async def test_a_group_that_hangs_says_so_and_keeps_nobody_waiting(
    group: HostedGroup,
) -> None:
    await group.status()
    device = hang(group)
    status = await group.status()
    assert status.state == GroupState.FAILED
    assert [alarm.name for alarm in status.alarms] == ["group_stalled"]
    again = await group.status()
    assert again.alarms[0].since_ns == status.alarms[0].since_ns
    ran = []

    async def operation() -> None:
        ran.append(1)

    with pytest.raises(GroupStalledError, match="orders"):
        await group.ask(operation)
    device.set()
    while (status := await group.status()).alarms:
        pass  # ends with the loop's turn
    assert status.state == GroupState.DISCONNECTED
    assert not ran, "a request that was refused ran later"


async def test_a_running_group_follows_a_later_config_but_for_some_keys(
    group: HostedGroup,
) -> None:
    before = group.replicator.group.config
    link = before.link.model_copy(update={"compression": 9, "peer": "elsewhere"})
    new = before.model_copy(
        update={"hold_max_seconds": 0.123, "volumes": (), "link": link}
        | {"manual": False, "rpo_seconds": 9.0}
    )
    group.follow(new)

    async def config() -> PrimaryGroup:
        return group.replicator.group.config

    after = await group.ask(config)
    assert after.hold_max_seconds == 0.123
    assert (after.manual, after.rpo_seconds) == (False, 9.0)
    assert after.link.compression == 9
    assert after.link.peer == before.link.peer, "it takes a restart"
    assert after.volumes == before.volumes, "they take a restart"
    keeper = group.replicator.cycles.keeper
    assert keeper is not None
    assert keeper.target == 9.0

    group.follow(before)
    assert await group.ask(config) == before
    assert group.replicator.cycles.keeper is None


async def test_a_reload_that_comes_while_a_group_is_opened_is_followed(
    tmp_path: Path,
) -> None:
    """As after a change of roles: it is in no table of open groups yet."""
    files, stopped = RuledFiles(), Stopped("write", "group.record.new")
    files.rules.append(stopped)
    groups = SendingGroups("amsterdam", "primary.toml", SystemClock())
    before = config(tmp_path)
    opening = asyncio.create_task(
        groups.open(before, str(tmp_path / "state"), files, has_link=False)
    )
    assert await asyncio.to_thread(stopped.reached.wait, 10)
    new = before.model_copy(update={"hold_max_seconds": 0.123})
    groups.prepare_following([new])()
    stopped.go()
    hosted = await opening

    async def hold_max() -> float:
        return hosted.replicator.group.config.hold_max_seconds

    assert await hosted.ask(hold_max) == 0.123
    await groups.close_all()


async def test_closing_ends_the_cycles_first(tmp_path: Path) -> None:
    group = await open_group(tmp_path)
    replicating = asyncio.create_task(group.replicate())
    while group.replicator.link_state != "down":
        await asyncio.sleep(0)
    replicating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await replicating
    await group.close()
    assert group._replicating is not None
    assert group._replicating.done()
    assert not group_threads()


async def test_a_group_that_cannot_be_opened_leaves_no_thread(tmp_path: Path) -> None:
    group = await open_group(tmp_path)
    before = group_threads()
    with pytest.raises(DeviceBusyError):
        await open_group(tmp_path)
    assert group_threads() == before
    await group.close()
    assert not group_threads()
