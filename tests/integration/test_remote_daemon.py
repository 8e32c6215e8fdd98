"""The real farshore-remote process, driven by a scripted sender over TCP."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import PeerRefusedError, RefusedError
from common.replication.cycle_messages import Committed, CycleBegin
from common.replication.lineage import CycleName
from common.replication.session_messages import GoodbyeReason
from common.replication.stream import Address, connect
from common.replication.tracks import RunData
from common.service.control_client import CommandFailedError
from tests.support.nbd_client import OptionRefusedError
from tests.support.scripted_sender import ScriptedSender, hello_for
from tests.support.sites import Daemon, check_log, free_port, toml, until

TRACK = 4096
SIZES = {"v": 64 * TRACK, "w": 9 * TRACK + 512}
HELLO = hello_for("g", list(SIZES.items()))
C1, C2, C3 = b"1" * 16, b"2" * 16, b"3" * 16


class Remote(Daemon):
    """A remote daemon with a config of its own and nothing at the other end."""

    def __init__(self, directory: Path, sockets: Path) -> None:
        super().__init__("remote", directory, sockets)
        self.port = free_port()
        self.directory = directory
        self.last: ScriptedSender | None = None
        self.write_config()

    def write_config(self, **changes: str) -> None:
        """Write remote.toml; `changes` are of "site", "group", "peer", "volume"."""
        names = {"site": "b", "group": "g", "peer": "a", "volume": "v", **changes}
        site = {
            "name": names["site"],
            "state_dir": str(self.state_directory),
            "control_socket": self.control_socket,
        }
        replication: dict[str, object] = {
            "listen": [f"tcp:127.0.0.1:{self.port}"],
            "allow_plaintext_replication": True,
        }
        text = "[site]\n" + toml(site)
        text += "[nbd]\n" + toml({"listen": [self.nbd_address]})
        text += "[replication]\n" + toml(replication)
        text += "[[group]]\n" + toml({"name": names["group"], "peer": names["peer"]})
        for name in (names["volume"], "w"):
            device = str(self.directory / f"{name}.img")
            text += "[[group.volume]]\n" + toml({"name": name, "device": device})
        self.config_path.write_text(text)

    async def sender(self) -> ScriptedSender:
        hello = HELLO if self.last is None else self.last.hello_again()
        self.last = await ScriptedSender.open(self.port, hello)
        return self.last

    def files(self) -> dict[str, bytes]:
        """Return all it keeps on disk."""
        found = [*self.state_directory.rglob("*"), *self.directory.glob("*.img")]
        return {str(path): path.read_bytes() for path in found if path.is_file()}


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncIterator[Remote]:
    sockets = Path(tempfile.mkdtemp(prefix="farshore-"))
    daemon = Remote(tmp_path, sockets)
    try:
        await daemon.start()
        yield daemon
    finally:
        daemon.reap()
        shutil.rmtree(sockets, ignore_errors=True)
        print(daemon.tail())
    check_log(daemon)


class Images:
    """What the volumes hold at the sending site, and what a cycle has to send."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.now = {name: bytearray(size) for name, size in SIZES.items()}

    def change(self, count: int) -> list[tuple[int, RunData]]:
        """Overwrite tracks; return (volume, run) of each changed one, once."""
        changed: dict[tuple[int, int], RunData] = {}
        for _ in range(count):
            volume = self._random.randrange(2)
            image = self.now["vw"[volume]]
            track = self._random.randrange(-(-len(image) // TRACK))
            length = min(TRACK, len(image) - track * TRACK)
            data = self._random.randbytes(length)
            image[track * TRACK : track * TRACK + length] = data
            changed[volume, track] = RunData(track, 1, data)
        return [(volume, run) for (volume, _), run in changed.items()]

    def copies(self) -> dict[str, bytes]:
        return {name: bytes(image) for name, image in self.now.items()}


async def send_all(sender: ScriptedSender, changed: list[tuple[int, RunData]]) -> None:
    for volume, run in changed:
        await sender.tracks(volume, [run])
    await sender.all_durable()


async def one_cycle(
    sender: ScriptedSender, number: int, cycle_id: bytes, images: Images
) -> dict[str, bytes]:
    await sender.begin(number, cycle_id)
    await send_all(sender, images.change(30))
    await sender.commit()
    return images.copies()


async def points_read(remote: Remote, suffix: str = "") -> dict[str, bytearray]:
    return {name: await remote.read_whole(f"g/{name}{suffix}") for name in SIZES}


async def test_a_first_copy_is_read_back_by_a_recovery_host(remote: Remote) -> None:
    images = Images(1)
    sender = await remote.sender()
    with pytest.raises(OptionRefusedError):
        await remote.nbd("g/v")
    expected = await one_cycle(sender, 1, C1, images)
    assert await points_read(remote) == expected
    assert await points_read(remote, "@1") == expected
    with pytest.raises(OptionRefusedError):
        await remote.nbd("g/v@2")
    status = remote.group()
    assert status["state"] == "idle"
    assert status["recovery_point"]["number"] == 1
    (point,) = remote.call("points", group="g")
    assert (point["number"], point["pinned"]) == (1, False)
    await sender.close()


async def test_a_connection_keeps_its_point_while_newer_ones_commit(
    remote: Remote,
) -> None:
    images = Images(2)
    sender = await remote.sender()
    first = await one_cycle(sender, 1, C1, images)
    client = await remote.nbd("g/v")
    second = await one_cycle(sender, 2, C2, images)
    third = await one_cycle(sender, 3, C3, images)
    assert first["v"] != second["v"] != third["v"]
    assert await client.read(0, SIZES["v"]) == first["v"]
    assert await remote.read_whole("g/v") == third["v"]
    assert await remote.read_whole("g/v@1") == first["v"]
    assert remote.call("points", group="g")[-1]["pinned"]
    await client.disconnect()
    await sender.close()


async def test_a_kill_in_mid_cycle_leaves_the_point_and_the_cycle_resumes(
    remote: Remote,
) -> None:
    images = Images(3)
    sender = await remote.sender()
    point = await one_cycle(sender, 1, C1, images)
    await sender.close()
    sender = await remote.sender()
    relation = sender.welcome.receiver.relation_id
    changed = images.change(40)
    half = len(changed) // 2
    await sender.begin(2, C2)
    await send_all(sender, changed[:half])
    for volume, run in changed[half:-2]:
        await sender.tracks(volume, [run])
    remote.kill()
    await sender.ended()
    await sender.close()

    await remote.start()
    assert await points_read(remote) == point, "applied tracks show in the point"
    sender = await remote.sender()
    assert sender.welcome.receiver.committed == CycleName(1, C1)
    assert sender.welcome.receiver.relation_id == relation, "acked is void"
    await sender.begin(2, C2)
    await send_all(sender, changed[half:])
    await sender.commit()
    assert await points_read(remote) == images.copies(), "acked tracks were lost"
    await sender.close()


async def test_a_kill_right_after_a_commit_loses_nothing(remote: Remote) -> None:
    images = Images(4)
    for number, cycle_id in enumerate((C1, C2, C3), start=1):
        sender = await remote.sender()
        expected = await one_cycle(sender, number, cycle_id, images)
        remote.kill()
        await sender.close()
        await remote.start()
        assert await points_read(remote) == expected
        again = await remote.sender()
        assert again.epoch == sender.epoch + 1
        await again.send(CycleBegin(again.epoch, number, cycle_id, 0, None))
        committed = await again.answer(Committed)
        assert (committed.cycle_number, committed.cycle_id) == (number, cycle_id)
        await again.close()


async def test_a_newer_session_supersedes_the_older(remote: Remote) -> None:
    images = Images(5)
    old = await remote.sender()
    await old.begin(1, C1)
    await send_all(old, images.change(3))
    new = await remote.sender()
    error = await old.ended()
    assert isinstance(error, PeerRefusedError)
    assert error.reason == GoodbyeReason.SUPERSEDED_SESSION
    assert new.epoch > old.epoch
    whole = [
        (index, RunData(0, -(-size // TRACK), bytes(images.now[name])))
        for index, (name, size) in enumerate(SIZES.items())
    ]
    await new.begin(1, C1)
    await send_all(new, whole)
    await new.commit()
    assert await points_read(remote) == images.copies()
    await new.close()
    await old.close()


async def test_garbage_costs_one_line_of_log(remote: Remote) -> None:
    images = Images(6)
    sender = await remote.sender()
    for index, garbage in enumerate((b"\x00" * 100, b"SSH-2.0-x\r\n", b"FSR1" * 20)):
        stream = await connect(Address("127.0.0.1", remote.port), 10.0)
        await stream.write([garbage])
        count = index + 1
        await until(
            lambda count=count: (  # type: ignore[misc]
                len(remote.events("replication_connection_refused")) == count
            ),
            "the refusal is logged",
        )
        stream.abort()
    await one_cycle(sender, 1, C1, images)
    assert len(remote.events("replication_connection_refused")) == 3
    await sender.close()


async def test_what_belongs_to_the_sender_is_refused_here(remote: Remote) -> None:
    for command in ("cut", "suspend", "resume"):
        with pytest.raises(CommandFailedError, match="at the sending site") as refused:
            await asyncio.to_thread(remote.call, command, group="g")
        assert refused.value.exit_code == RefusedError.exit_code
    with pytest.raises(CommandFailedError, match="this site has: g"):
        await asyncio.to_thread(remote.call, "points", group="other")


async def test_a_mismatching_peer_is_told_why_and_leaves_no_trace(
    remote: Remote,
) -> None:
    sender = await remote.sender()
    await one_cycle(sender, 1, C1, Images(7))
    await sender.close()
    before = remote.files()
    known = sender.hello_again()
    grown = replace(known.volumes[0], size_bytes=SIZES["v"] + 512)
    for hello, words in (
        (replace(known, site="x"), "group.peer"),
        (replace(known, sender=replace(known.sender, group_id=b"x" * 16)), "state_dir"),
        (replace(known, sender=replace(known.sender, lineage=b"x" * 16)), "lineage"),
        (replace(known, volumes=(grown, known.volumes[1])), "group.volume.size"),
    ):
        with pytest.raises(PeerRefusedError, match=words):
            await ScriptedSender.open(remote.port, hello)
    assert remote.files() == before
    assert remote.group()["link"]["state"] == "refused"
    assert remote.group()["alarms"][0]["name"] == "peer_refused"
    await (await remote.sender()).close()
    assert remote.group()["alarms"] == []


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"site": "c"}, "site.name"),
        ({"peer": "c"}, "group.peer"),
        ({"volume": "x"}, "group.volume"),
    ],
)
async def test_a_state_directory_of_another_config_is_refused(
    remote: Remote, changes: dict[str, str], key: str
) -> None:
    sender = await remote.sender()
    await one_cycle(sender, 1, C1, Images(8))
    await sender.close()
    await remote.stop()
    before = remote.files()
    remote.write_config(**changes)
    remote.spawn()
    assert await remote.ended() == 6
    (sentence,) = [line for line in remote.tail().splitlines() if key in line]
    assert str(remote.state_directory) in sentence
    assert "state_dir" in sentence
    assert remote.files() == before


async def test_two_daemons_never_share_a_state_directory(remote: Remote) -> None:
    second = Remote.__new__(Remote)
    second.__dict__.update(remote.__dict__)
    second.process = None
    second.spawn()
    assert await second.ended() == 5
    assert "in use by another daemon" in remote.tail()
    sender = await remote.sender()
    await one_cycle(sender, 1, C1, Images(9))
    await sender.close()
