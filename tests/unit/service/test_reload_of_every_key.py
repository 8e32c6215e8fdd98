"""Every key of both config files is either applied at a reload or named as waiting,
and the page for operators says which."""

from __future__ import annotations

import asyncio
import copy
import re
from pathlib import Path
from typing import Any

import pytest

from common.service.config import ConfigKind, load_primary, load_remote
from common.service.config_nbd import NBD_ACCESS_KEYS, NBD_TLS_KEYS
from common.service.config_reference import key_tables
from common.service.reload import compare
from primary_site.daemon import PrimaryDaemon
from remote_site.daemon import RemoteDaemon

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/operating/install.md").read_text()


def all_keys(kind: ConfigKind) -> list[str]:
    return [
        f"{table.heading.strip('[]')}.{row.key}"
        for table in key_tables(kind)
        for row in table.rows
    ]


KEYS = [(kind, key) for kind in ("primary", "remote") for key in all_keys(kind)]


def sample(kind: str) -> dict[str, Any]:
    load = load_primary if kind == "primary" else load_remote
    config = load(str(ROOT / f"config/{kind}.toml"))
    plain: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    return plain


def applied_keys(kind: str) -> list[str]:
    """What the real daemon registers before it serves, and once it does."""
    path, asked = str(ROOT / f"config/{kind}.toml"), asyncio.Event()
    if kind == "primary":
        keys = PrimaryDaemon(load_primary(path), path, asked).reloader.keys
    else:
        keys = RemoteDaemon(load_remote(path), path, asked).reloader.keys
    return [*keys, *NBD_TLS_KEYS, *NBD_ACCESS_KEYS]


def changed(plain: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a config with another value of one key, in the first of its tables."""
    after = copy.deepcopy(plain)
    *tables, last = key.split(".")
    table: Any = after
    for name in tables:
        if table.get(name) is None:
            table[name] = {}
        table = table[name]
        if isinstance(table, list):
            if not table:
                table.append({})
            table = table[0]
    assert table.get(last) != "another"
    table[last] = "another"
    return after


@pytest.mark.parametrize(("kind", "key"), KEYS)
async def test_a_changed_key_is_applied_or_said_to_wait(kind: str, key: str) -> None:
    before = sample(kind)
    found = compare(before, before, changed(before, key), applied_keys(kind))
    told = {re.sub(r"\[[^\]]*\]", "", name) for name in found.applied + found.waiting}

    if key.endswith(".name") and key != "site.name":
        # Another name is another group or volume: the old and the new one are named.
        assert told == {key.removesuffix(".name")}
        assert len(found.waiting) == 2
        return
    assert len(told) == 1, "one change, told once"
    (name,) = told
    # A table, or a list of tables without names, that was not there is named itself.
    assert key == name or key.startswith(f"{name}.")
    if name in applied_keys(kind):
        assert found.applied
    else:
        assert found.waiting


@pytest.mark.parametrize("kind", ["primary", "remote"])
async def test_the_page_lists_what_needs_no_restart(kind: ConfigKind) -> None:
    section = PAGE.split("## Change the config of a running daemon")[1].split("\n## ")[
        0
    ]
    listed = set(re.findall(r"^\| `([\w.]+)`", section, re.MULTILINE))
    registered = set(applied_keys(kind))

    assert registered <= listed
    tables = {key.rpartition(".")[0] for key in all_keys(kind)}
    assert registered <= set(all_keys(kind)) | tables, "a key that no config has"
    assert listed <= set(applied_keys("primary")) | set(applied_keys("remote"))
