"""The exports of a daemon whose groups have different roles, as one table."""

from __future__ import annotations

from collections.abc import Sequence

from common.nbd.opening import ExportTable
from common.ports import HostVolume


class SeveralExports:
    """An `ExportTable` of others; the first that knows a name opens it."""

    def __init__(self, tables: Sequence[ExportTable]) -> None:
        self._tables = tables

    def names(self) -> list[tuple[str, str]]:
        return [name for table in self._tables for name in table.names()]

    def open(self, name: str) -> HostVolume | None:
        for table in self._tables:
            found = table.open(name)
            if found is not None:
                return found
        return None
