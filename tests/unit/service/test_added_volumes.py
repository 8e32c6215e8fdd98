"""Volumes that come to groups, as either kind of config has them, in either role."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import ConfigError, RefusedError
from common.service.added_volumes import AddedVolumes
from common.service.config import load_primary, load_remote
from common.service.config_roles import receiving_group, sending_group

PRIMARY = """
[site]
name = "a"
[[group]]
name = "g"
[group.link]
remotes = ["127.0.0.1:7"]
peer = "b"
allow_plaintext_replication = true
[[group.volume]]
name = "v"
device = "/dev/v"
"""
REMOTE = """
[site]
name = "b"
[replication]
listen = ["tcp:127.0.0.1:7"]
allow_plaintext_replication = true
[[group]]
name = "g"
peer = "a"
[[group.volume]]
name = "v"
device = "/dev/v"
"""
N = '[[group.volume]]\nname = "n"\ndevice = "/dev/n"\n'


async def test_both_roles_of_a_primary_know_what_came(tmp_path: Path) -> None:
    path = tmp_path / "primary.toml"
    path.write_text(PRIMARY)
    (group,) = load_primary(str(path)).groups
    added = AddedVolumes(str(path))
    assert (await added.find("g")).volume("n") is None
    assert "primary.toml has no [[group.volume]]" in added.absent_text("g", "n")
    path.write_text(PRIMARY + N + 'region_size = "8MiB"\n')
    found = await added.find("g")
    added.keep(found, {"n"})
    path.unlink()  # a change of roles needs it no more
    names = [volume.name for volume in added.to_sent(group).volumes]
    assert names == ["v", "n"]
    assert added.to_sent(group).volumes[1].region_bytes == 8 << 20
    received = added.to_received(receiving_group(group))
    assert [volume.device for volume in received.volumes] == ["/dev/v", "/dev/n"]
    with pytest.raises(ConfigError):
        await added.find("g")


async def test_both_roles_of_a_remote_know_what_came(tmp_path: Path) -> None:
    path = tmp_path / "remote.toml"
    path.write_text(REMOTE + N + "accept_existing = true\n")
    added = AddedVolumes(str(path))
    path.write_text(REMOTE)
    (group,) = load_remote(str(path)).groups
    path.write_text(REMOTE + N + "accept_existing = true\n")
    added.keep(await added.find("g"), {"n"})
    assert added.to_received(group).volumes[1].accept_existing
    assert added.to_sent(sending_group(group)).volumes[1].device == "/dev/n"
    path.write_text(REMOTE)
    added.keep(await added.find("g"), {"n"})  # its entry has gone again
    assert len(added.to_received(group).volumes) == 1
    assert added.sent("g", "n") is None
    with pytest.raises(RefusedError, match="has no group 'h'"):
        await added.find("h")


async def test_a_volume_that_a_group_has_stays_as_it_began(tmp_path: Path) -> None:
    path = tmp_path / "primary.toml"
    path.write_text(PRIMARY)
    (group,) = load_primary(str(path)).groups
    added = AddedVolumes(str(path))
    path.write_text(PRIMARY.replace("/dev/v", "/dev/elsewhere") + N)
    added.keep(await added.find("g"), {"n"})
    assert [v.device for v in added.to_sent(group).volumes] == ["/dev/v", "/dev/n"]
