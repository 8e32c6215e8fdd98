"""Load a config file, or say in one sentence what to mend in it.

Reading touches nothing but the file (and follows symbolic links of device paths
to tell one device from two). Every failure is a `ConfigError`: file, key, remedy.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from common.errors import ConfigError
from common.service.config_common import Table
from common.service.config_errors import place_text, sentence
from common.service.config_primary import PrimaryConfig
from common.service.config_refused import PRIMARY_REFUSED, REMOTE_REFUSED, find_refused
from common.service.config_remote import RemoteConfig

ConfigKind = Literal["primary", "remote"]

FILE_BYTES_MAX = 1 << 20
"""Far more than the largest config: a device given by mistake is not read whole."""

_MODELS: dict[ConfigKind, type[Table]] = {
    "primary": PrimaryConfig,
    "remote": RemoteConfig,
}
_REFUSED = {"primary": PRIMARY_REFUSED, "remote": REMOTE_REFUSED}
_WHERE_GROUPS_KEEP_OLD_CONTENT = ("flashcopy", "journal")

T = TypeVar("T", PrimaryConfig, RemoteConfig)


def load_primary(path: str) -> PrimaryConfig:
    """Load primary.toml; relative paths start at its folder."""
    return _build(path, _parse(path), "primary", PrimaryConfig)


def load_remote(path: str) -> RemoteConfig:
    """Load remote.toml; relative paths start at its folder."""
    return _build(path, _parse(path), "remote", RemoteConfig)


def load_any(path: str) -> PrimaryConfig | RemoteConfig:
    """Load either kind: a group that names its `peer`, or has no link, is received."""
    raw = _parse(path)
    if _is_primary(raw) or "replication" not in raw:
        return _build(path, raw, "primary", PrimaryConfig)
    return _build(path, raw, "remote", RemoteConfig)


def _is_primary(raw: Mapping[str, Any]) -> bool:
    """Tell whether groups have a link of their own, and no peer to receive from."""
    groups = raw.get("group")
    listed = groups if isinstance(groups, list) else []
    tables = [group for group in listed if isinstance(group, dict)]
    return any("link" in group for group in tables) and not any(
        "peer" in group for group in tables
    )


def schema(kind: ConfigKind) -> dict[str, Any]:
    """Return the JSON Schema of a config file, for editors and checkers."""
    plain: dict[str, Any] = _without_null(_MODELS[kind].model_json_schema())
    return plain


def _parse(path: str) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: the file does not exist: name another one, or write a pair "
            "with `farshore init DIR`"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path}: the file cannot be read ({error.strerror}): mend its place or "
            "its permissions"
        ) from None
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: larger than 1 MiB: name a config file")
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}: line {line} is not UTF-8: save the file as UTF-8"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {_syntax(str(error))}: mend the TOML") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply: mend the TOML") from None


def _syntax(message: str) -> str:
    """Put the line first: "Expected ... (at line 3, column 1)"."""
    match = re.fullmatch(r"(.*) \(at (.*)\)", message, re.DOTALL)
    return f"{match[2]}: {match[1]}" if match else message


def _build(path: str, raw: dict[str, Any], kind: ConfigKind, model: type[T]) -> T:
    _check_kind(path, raw, kind)
    found = find_refused(raw, _REFUSED[kind])
    if found is not None:
        place, reason = found
        raise ConfigError(f"{path}: {place_text(raw, place)}: {reason}")
    folder = str(Path(path).absolute().parent)
    try:
        config = model.model_validate(raw, context={"folder": folder})
    except ValidationError as error:
        raise ConfigError(f"{path}: {sentence(error, raw, model)}") from None
    return _with_directories(config)


def _check_kind(path: str, raw: dict[str, Any], kind: ConfigKind) -> None:
    is_primary = _is_primary(raw)
    if kind == "remote" and is_primary:
        raise ConfigError(
            f"{path}: this is a primary's config ([group.link], no group.peer): "
            "start farshore-primary with it"
        )
    if kind == "primary" and "replication" in raw and not is_primary:
        raise ConfigError(
            f"{path}: this is a remote's config ([replication], and groups with a "
            "peer): start farshore-remote with it"
        )


def _with_directories(config: T) -> T:
    """Give groups without a folder of their own the one in `state_dir`."""
    groups = []
    for group in config.groups:
        found = {}
        for table in _WHERE_GROUPS_KEEP_OLD_CONTENT:
            place = getattr(group, table)
            default = str(Path(config.site.state_directory) / table)
            directory = place.directory or default
            found[table] = place.model_copy(update={"directory": directory})
        groups.append(group.model_copy(update=found))
    return config.model_copy(update={"groups": tuple(groups)})


def _without_null(value: Any) -> Any:
    """Drop null from a schema: TOML has none, an absent key is what it means."""
    if isinstance(value, list):
        return [_without_null(item) for item in value]
    if not isinstance(value, dict):
        return value
    choices = value.get("anyOf", [])
    rest = [choice for choice in choices if choice != {"type": "null"}]
    kept = {
        name: _without_null(item)
        for name, item in value.items()
        if not (name == "default" and item in (None, ""))
        and not (name == "anyOf" and len(rest) < len(choices))
    }
    if len(rest) < len(choices):
        assert len(rest) == 1
        kept |= _without_null(rest[0])
    return kept
