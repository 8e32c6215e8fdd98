"""Reload: what a SIGHUP changes in a daemon that runs on.

`Reloader` reads the config again. What can be applied to a running daemon is applied
by whoever registered for it; every other key that changed is named in the log with
"needs a restart"; a config that does not load, or that one of those registered
refuses, changes nothing at all.

To take part, register the dotted keys you apply and a function that prepares them:

    async def prepare(new: PrimaryConfig) -> Commit:
        context = await threads.run(load_certificates, new)   # may refuse: raise
        return lambda: use(context)                            # may not

    reloader.register(("group.link.tls",), prepare)

`prepare` is called at every reload, also if no key changed: a file that a key names
may have another content. It must change nothing, and raises a `FarshoreError` to
refuse the whole reload. The function that it returns is called, on the same loop, once
everybody has prepared; it must be quick, can't fail, and finds nothing to do where
nothing is new. A key covers what lies below it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog

from common.errors import FarshoreError
from common.service.config_common import Table
from common.service.notify import notify_ready, notify_reloading

Config = TypeVar("Config", bound=Table)

Commit = Callable[[], None]

_NAMED = re.compile(r"\[[^\]]*\]")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload found: keys that now hold, and keys that need a restart."""

    applied: tuple[str, ...]
    waiting: tuple[str, ...]


class Reloader(Generic[Config]):
    """Of one daemon; everything happens on its main loop, one reload at a time."""

    def __init__(self, started: Config, load: Callable[[], Awaitable[Config]]) -> None:
        """`started` is the config that the daemon runs with; `load` reads it again
        and raises `ConfigError`."""
        self._started = self._applied = started
        self._load = load
        self._keys: list[str] = []
        self._prepares: list[Callable[[Config], Awaitable[Commit]]] = []
        self._said = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that need no restart; what lies below them neither."""
        return tuple(self._keys)

    def said(self) -> str:
        """Return what the last reload left to an operator; empty: nothing."""
        return self._said

    def register(
        self, keys: Sequence[str], prepare: Callable[[Config], Awaitable[Commit]]
    ) -> None:
        """Have `prepare` called at every reload; `keys` then need no restart."""
        self._keys += keys
        self._prepares.append(prepare)

    async def serve(self, asked: asyncio.Event) -> None:
        """Reload whenever `asked` is set, until cancelled."""
        while True:  # ends with the daemon
            await asked.wait()
            asked.clear()
            notify_reloading()
            try:
                await self.reload()
            except FarshoreError as error:
                self._said = f"config refused: {error}"
                log.error(  # noqa: TRY400 - for an operator, no bug of ours
                    "config_reload_refused", reason=str(error)
                )
            notify_ready(self._said or "config reloaded")

    async def reload(self) -> Reloaded:
        """Read the config and apply what can be; raises what refused it."""
        new = await self._load()
        commits = [await prepare(new) for prepare in self._prepares]
        for commit in commits:
            commit()
        found = compare(
            _plain(self._started), _plain(self._applied), _plain(new), self._keys
        )
        self._applied = new
        log.info("config_reloaded", applied=list(found.applied))
        for key in found.waiting:
            log.warning("config_key_not_applied", key=key, remedy="needs a restart")
        waiting = ", ".join(found.waiting)
        self._said = f"needs a restart to apply: {waiting}" if waiting else ""
        return found


def compare(
    started: dict[str, Any],
    applied: dict[str, Any],
    after: dict[str, Any],
    keys: Sequence[str],
) -> Reloaded:
    """Compare plain configs: `keys`, which apply, with the last one that was, others
    with the one that the daemon started with."""
    return Reloaded(
        tuple(key for key in differences(applied, after) if covers(keys, key)),
        tuple(key for key in differences(started, after) if not covers(keys, key)),
    )


def _plain(config: Table) -> dict[str, Any]:
    plain: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    return plain


def differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Yield the keys in which two plain configs differ, as a person would name them.

    Tables of a list are told apart by their names, so that `group[orders]` is the
    same group wherever it stands; one that is only on one side is itself the key.
    """
    if old == new:
        return
    before, after = _members(old), _members(new)
    if before is None or after is None:
        yield place
        return
    for key in before | after:
        inner = key if key.startswith("[") or not place else f".{key}"
        if key in before and key in after:
            yield from differences(before[key], after[key], f"{place}{inner}")
        else:
            yield f"{place}{inner}"


def _members(value: Any) -> dict[str, Any] | None:
    """Return what a table, or a list of named tables, holds; None for other values."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list) and value:
        named = {
            f"[{item['name']}]": item
            for item in value
            if isinstance(item, Mapping) and "name" in item
        }
        if len(named) == len(value):
            return named
    return None


def covers(keys: Sequence[str], key: str) -> bool:
    """Tell whether one of the registered keys is this one, or a table around it."""
    plain = _NAMED.sub("", key)
    return any(plain == each or plain.startswith(f"{each}.") for each in keys)
