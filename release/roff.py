"""Text for man(7): what roff takes for its own is written so that it is not."""

from __future__ import annotations

import re
from collections.abc import Iterable

_BOLD = re.compile(r"`([^`]*)`|\*\*([^*]+)\*\*")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")


def escaped(text: str) -> str:
    """Return text that roff prints letter by letter, on one line."""
    text = " ".join(text.split())
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text


def prose(text: str) -> str:
    """Return a sentence with its `code` in bold, and links as their words."""
    linked = escaped(_LINK.sub(r"\1", text))
    return _BOLD.sub(lambda found: rf"\fB{found[1] or found[2]}\fP", linked)


def title(name: str, section: int, version: str) -> str:
    return f'.TH "{name.upper()}" "{section}" "" "farshore {version}" "farshore"'


def heading(text: str) -> str:
    return f'.SH "{escaped(text).upper()}"'


def subheading(text: str) -> str:
    return f'.SS "{escaped(text)}"'


def entry(term: str, *paragraphs: str) -> str:
    """Return a term in bold with its explanation indented below it."""
    told = "\n.IP\n".join(prose(text) for text in paragraphs if text)
    return f".TP\n\\fB{escaped(term)}\\fP\n{told}"


def paragraphs(text: str) -> Iterable[str]:
    """Yield the paragraphs of a docstring."""
    for part in re.split(r"\n\s*\n", text.strip()):
        yield f".PP\n{prose(part)}"


def page(*parts: str) -> str:
    return "\n".join(part for part in parts if part) + "\n"
