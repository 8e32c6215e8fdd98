"""What of a group's config its sender follows while it runs. Pure.

Each key is read where it is used, so following means having it: from the next cut,
cycle, lost link or session on, as `docs/operating/install.md` says of each.
"""

from __future__ import annotations

from typing import Any

from common.service.config_common import Table
from common.service.config_primary import PrimaryGroup

HOLD_KEYS = ("group.hold_max", "group.hold_retries", "group.resume_timeout")

TRIGGER_KEYS = (
    "group.rpo",
    "group.interval",
    "group.changed",
    "group.schedule",
    "group.manual",
)

PACING_KEYS = (
    "group.link.profile",
    "group.link.bandwidth",
    "group.link.bandwidth_schedule",
)

SENDING_KEYS = (
    *PACING_KEYS,
    "group.link.compression",
    "group.link.delta",
    "group.link.remotes",
    "group.link.connections",
)
"""Of `[group.link]`, at whichever site sends."""

HOOKS_KEYS = (
    "group.hooks.before_cut",
    "group.hooks.after_cut",
    "group.hooks.timeout",
    "group.hooks.on_failure",
)
"""What hooks there are, but not whether there are any at all."""


def followed(config: PrimaryGroup, new: PrimaryGroup) -> PrimaryGroup:
    """Return `config` with what a running sender takes over of `new`."""
    link = config.link.model_copy(update=_values(new.link, SENDING_KEYS))
    hooks = config.hooks and (new.hooks or config.hooks)
    own = _values(new, (*TRIGGER_KEYS, *HOLD_KEYS)) | {"link": link, "hooks": hooks}
    return config.model_copy(update=own)


def _values(table: Table, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return what a table has of these keys, by the names of its fields."""
    own = {key.rpartition(".")[2] for key in keys}
    return {
        name: getattr(table, name)
        for name, field in type(table).model_fields.items()
        if (field.alias or name) in own
    }
