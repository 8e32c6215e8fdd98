"""Reload: which keys differ, who applies them, and that a refusal changes nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from common.service.config import load_primary
from common.service.config_primary import PrimaryConfig
from common.service.reload import Commit, Reloader, covers, differences

TEXT = """
[site]
name = "a"
[[group]]
name = "g"
hold_retries = {retries}
[group.link]
remotes = ["b:7420"]
peer = "b"
allow_plaintext_replication = true
compression = "{compression}"
[[group.volume]]
name = "v"
device = "v.img"
size = "1MiB"
"""


def config(
    folder: Path, *, retries: int = 5, compression: str = "auto", more: str = ""
) -> PrimaryConfig:
    path = folder / "primary.toml"
    path.write_text(TEXT.format(retries=retries, compression=compression) + more)
    return load_primary(str(path))


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a"]),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, ["a.c"]),
        ({"a": {}}, {"a": {"b": 1}}, ["a.b"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a"]),
        ({"a": None}, {"a": {"b": 1}}, ["a"]),
        ({"a": []}, {"a": [{"name": "x"}]}, ["a"]),
        (
            {"g": [{"name": "x", "k": 1}, {"name": "y", "k": 1}]},
            {"g": [{"name": "y", "k": 2}, {"name": "x", "k": 1}]},
            ["g[y].k"],
        ),
        (
            {"g": [{"name": "x"}, {"name": "y"}]},
            {"g": [{"name": "x"}, {"name": "z"}]},
            ["g[y]", "g[z]"],
        ),
    ],
)
def test_keys_that_differ_are_named(old: Any, new: Any, keys: list[str]) -> None:
    assert list(differences(old, new)) == keys


def test_a_registered_key_covers_what_lies_below_it_and_nothing_else() -> None:
    keys = ["group.link.tls", "nbd.tls"]

    assert covers(keys, "group[orders].link.tls")
    assert covers(keys, "group[orders].link.tls.ca")
    assert not covers(keys, "group[orders].link.tls_more")
    assert not covers(keys, "group[orders].link")
    assert not covers(keys, "group[orders]")


class Daemon:
    """A reloader, what it was given, and what registered parts made of it."""

    def __init__(self, first: PrimaryConfig) -> None:
        self.given: PrimaryConfig | None = first
        self.levels: list[object] = []
        self.refusal: str | None = None
        self.reloader = Reloader(first, self._load)
        self.reloader.register(("group.link.compression",), self._prepare)
        self.reloader.register(("nbd",), self._refuse)

    async def _load(self) -> PrimaryConfig:
        if self.given is None:
            raise ConfigError("primary.toml: mend it")
        return self.given

    async def _prepare(self, new: PrimaryConfig) -> Commit:
        return lambda: self.levels.append(new.groups[0].link.compression)

    async def _refuse(self, _: PrimaryConfig) -> Commit:
        if self.refusal is not None:
            raise ConfigError(self.refusal)
        return lambda: None


async def test_registered_keys_apply_and_others_wait_for_a_restart(
    tmp_path: Path,
) -> None:
    daemon = Daemon(config(tmp_path))
    daemon.given = config(tmp_path, compression="off", retries=6)
    found = await daemon.reloader.reload()

    assert found.applied == ("group[g].link.compression",)
    assert found.waiting == ("group[g].hold_retries",)
    assert daemon.levels == ["off"]


async def test_a_key_waits_until_it_is_what_the_daemon_started_with(
    tmp_path: Path,
) -> None:
    daemon = Daemon(config(tmp_path))
    for retries, waiting in ((6, 1), (6, 1), (5, 0)):
        daemon.given = config(tmp_path, retries=retries)
        assert len((await daemon.reloader.reload()).waiting) == waiting


async def test_an_applied_key_is_told_once(tmp_path: Path) -> None:
    daemon = Daemon(config(tmp_path))
    daemon.given = config(tmp_path, compression="off")
    assert (await daemon.reloader.reload()).applied
    assert not (await daemon.reloader.reload()).applied
    assert daemon.levels == ["off", "off"], "files that keys name may be new"


async def test_a_part_that_refuses_leaves_all_as_it_was(tmp_path: Path) -> None:
    daemon = Daemon(config(tmp_path))
    daemon.given = config(tmp_path, compression="off")
    daemon.refusal = "nbd.tls.cert: mend it"
    with pytest.raises(ConfigError, match="mend it"):
        await daemon.reloader.reload()
    assert daemon.levels == []
    daemon.refusal = None
    assert (await daemon.reloader.reload()).applied, "it had not been taken for old"


async def test_a_config_that_does_not_load_is_refused_and_the_next_one_taken(
    tmp_path: Path,
) -> None:
    daemon, asked = Daemon(config(tmp_path)), asyncio.Event()
    serving = asyncio.create_task(daemon.reloader.serve(asked))
    try:
        daemon.given = None
        asked.set()
        while asked.is_set():
            await asyncio.sleep(0)
        daemon.given = config(tmp_path, compression="off")
        asked.set()
        async with asyncio.timeout(20):
            while daemon.levels != ["off"]:
                await asyncio.sleep(0)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
