"""Write docs/internals/museum.md: what the museum shows, and by what it is caught.

python -m tests.museum.page

No figure is in it: whether all of them are caught is said in docs/reliability.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.museum.collection import HISTORICAL, MISSING, OWN
from tests.museum.exhibit import FAULTS, ByTests, Exhibit, Seeds

PAGE = Path(__file__).resolve().parents[2] / "docs" / "internals" / "museum.md"

HEAD = """\
# The bug museum

Tests prove little before they have been seen to fail. So `make museum` takes bugs that
cost users of other systems their data, and orders that this product relies on, and puts
each, as an exact change of the sources, into a copy of the tree. Tests that are green
without it have to turn red, with a failure that is its own: a copy that does not import
catches nothing. The product itself has no switch for any of them.

The exhibits are in `tests/museum`; an exhibit whose source text has changed fails
`make test`, and is to be looked at again, not to be taken out. This page is written by
`python -m tests.museum.page`.
"""


def page() -> str:
    return "\n".join([HEAD, *_historical(), *_missing(), *_own()])


def _historical() -> Iterator[str]:
    yield "## Bugs that others met\n"
    yield "| bug | where it was met | what it is here | caught by |"
    yield "|---|---|---|---|"
    for each in HISTORICAL:
        by = _by(each.caught_by)
        yield f"| {each.number} | {each.elsewhere} | {each.title} | {by} |"
    yield ""


def _missing() -> Iterator[str]:
    yield "## Bugs that cannot be here\n"
    for each in MISSING:
        reason = each.reason[:1].upper() + each.reason[1:]
        yield f"- {each.number}, {each.elsewhere}: {each.title}. {reason}."
    yield ""


def _own() -> Iterator[str]:
    yield "## Orders of our own, broken\n"
    yield from _table(OWN)


def _table(exhibits: Sequence[Exhibit]) -> Iterator[str]:
    yield "| | what goes wrong | order of [recovery.md](recovery.md) | caught by |"
    yield "|---|---|---|---|"
    for each in exhibits:
        order = f"`{each.order}`" if each.order else ""
        yield f"| {each.number} | {each.title} | {order} | {_by(each.caught_by)} |"
    yield ""


def _by(caught_by: ByTests | Seeds) -> str:
    if isinstance(caught_by, ByTests):
        names = dict.fromkeys(each.partition("[")[0] for each in caught_by.ids)
        return ", ".join(f"`{name}`" for name in names)
    if caught_by.of in FAULTS:
        return f"{caught_by.of}, call by call"
    if caught_by.of == "simulation":
        return "seeds of the simulation"
    if caught_by.of == "circles":
        return "seeds of the simulation in which roles go round"
    return f"crash images: {caught_by.of.replace('_', ' ')}"


if __name__ == "__main__":
    PAGE.write_text(page())
