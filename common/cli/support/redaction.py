"""Take secrets out of what others are to read. Pure.

Nothing that is put into a bundle should hold any: this is for what operators have
written into a config or a log without a thought of it.
"""

from __future__ import annotations

import re
from typing import Any

REDACTED = "(redacted)"

SECRET_KEYS = frozenset({"receipt", "receipts", "shown", "given", "token"})
"""Of records: with these a stranger could be taken for the other site."""

_KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?"
    r"(-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_USER_IN_URI = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)[^/@\s\"']+@")
_NAMED = re.compile(
    r"(?i)\b([a-z_-]*(?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key))"
    r"([\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;\"']+)"
)


def redacted(text: str) -> str:
    """Return a text without private keys, passwords in URIs, and named secrets."""
    text = _KEY_BLOCK.sub(REDACTED, text)
    text = _USER_IN_URI.sub(rf"\g<1>{REDACTED}@", text)
    return _NAMED.sub(rf"\g<1>\g<2>{REDACTED}", text)


def redacted_value(value: Any) -> Any:
    """Return a value of JSON or of a record, without secrets; bytes as hex."""
    match value:
        case dict():
            return {
                str(key): REDACTED
                if key in SECRET_KEYS and inner is not None
                else redacted_value(inner)
                for key, inner in value.items()
            }
        case list() | tuple():
            return [redacted_value(each) for each in value]
        case bytes():
            return value.hex()
        case str():
            return redacted(value)
    return value


def redacted_config(values: dict[str, Any]) -> dict[str, Any]:
    """Return an effective config: of a hook only its program, not what it is told."""
    shown: dict[str, Any] = redacted_value(values)
    for group in shown.get("group", []):
        hooks = group.get("hooks") or {}
        for name in ("before_cut", "after_cut"):
            if words := hooks.get(name):
                hooks[name] = [words[0], *(REDACTED for _ in words[1:])]
    return shown
