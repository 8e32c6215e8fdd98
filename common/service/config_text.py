"""Write a loaded config as TOML, every default included.

What it writes loads again to an equal config: it can replace the file.
"""

from __future__ import annotations

import json
from typing import Any

from common.service.config_common import Table


def config_values(config: Table) -> dict[str, Any]:
    """Return the effective config as plain values, in the keys users write."""
    return config.model_dump(mode="json", by_alias=True, exclude_none=True)


def config_text(config: Table) -> str:
    """Return the effective config as a TOML file; keys without a value are left out."""
    lines: list[str] = []
    _write_table(config_values(config), "", lines)
    return "\n".join(lines).strip() + "\n"


def _write_table(table: dict[str, Any], name: str, lines: list[str]) -> None:
    for key, value in table.items():
        if not _is_table(value) and not _is_tables(value):
            lines.append(f"{key} = {_value(value)}")
    for key, value in table.items():
        inner = f"{name}.{key}" if name else key
        if _is_table(value):
            lines += ["", f"[{inner}]"]
            _write_table(value, inner, lines)
        elif _is_tables(value):
            for item in value:
                lines += ["", f"[[{inner}]]"]
                _write_table(item, inner, lines)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and _is_table(value[0])


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    # JSON's strings, integers and booleans are TOML's, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
