"""Turn a pydantic error into one sentence that names the key and the remedy."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Place = tuple[str | int, ...]

_KINDS = {
    "string_type": "a string",
    "int_type": "a whole number without quotes",
    "bool_type": "true or false without quotes",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "tuple_type": "a list",
    "list_type": "a list",
}


def sentence(
    error: ValidationError, raw: Mapping[str, Any], model: type[BaseModel]
) -> str:
    """Say what is wrong first, of possibly many things.

    A misspelt key also leaves the right one missing, so unknown keys come first.
    """
    details = error.errors(include_url=False)
    unknown = [item for item in details if item["type"] == "extra_forbidden"]
    first = (unknown or details)[0]
    place = first["loc"]
    if first["type"] == "extra_forbidden":
        message = _unknown_key(str(place[-1]), _keys_at(model, place[:-1]))
    else:
        message = _message(first)
    where = place_text(raw, place)
    return f"{where}: {message}" if where else message


def place_text(raw: Mapping[str, Any], place: Place) -> str:
    """Write a key as `group[orders].volume[data].size`: by name where there is one.

    A list's item without a usable name is written by its number, from 1.
    """
    text = ""
    value: Any = raw
    for step in place:
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and step < len(value) else {}
            name = value.get("name") if isinstance(value, dict) else None
            usable = isinstance(name, str) and name.isprintable() and len(name) <= 64
            text += f"[{name}]" if usable and name else f"[{step + 1}]"
        else:
            value = value.get(step, {}) if isinstance(value, dict) else {}
            text += f".{step}" if text else step
    return text


def _unknown_key(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return f"unknown key, did you mean {near[0]!r}?"
    return f"unknown key: remove it, or use one of {', '.join(known)}"


def _message(details: ErrorDetails) -> str:
    kind = details["type"]
    context = details.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return "this key is missing: add it (`farshore init` writes an example)"
    if kind == "too_short":
        return f"the list is too short: give at least {context['min_length']}"
    if kind == "too_long":
        return f"the list is too long: give at most {context['max_length']}"
    if kind in _KINDS:
        is_group = details["loc"][-1] in {"group", "volume"}
        brackets = " in double brackets, as in [[group]]" if is_group else ""
        return (
            f"{details['input']!r:.80} is not allowed: write {_KINDS[kind]}{brackets}"
        )
    return f"{details['msg']}: mend the value"


def _keys_at(model: type[BaseModel], place: Place) -> list[str]:
    """Return the known keys of the table at `place`."""
    for step in place:
        if isinstance(step, int):
            continue
        inner = _model_of(_annotation(model, step))
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _annotation(model: type[BaseModel], key: str) -> Any:
    for name, field in model.model_fields.items():
        if key == (field.alias or name):
            return field.annotation
    return None


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """Find the model in `Model`, `tuple[Model, ...]` or `Model | None`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    for inner in get_args(annotation):
        found = _model_of(inner)
        if found is not None:
            return found
    return None
