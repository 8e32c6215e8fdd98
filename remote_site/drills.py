"""The record of a group's drills, durable: the newest `DRILLS_MAX` of them."""

from __future__ import annotations

import threading
from typing import Any

from common.errors import CorruptStateError, FarshoreError
from common.ports import Files
from common.service.drill_status import DRILLS_MAX, DrillReport
from common.storage.record import DurableRecord

RECORD_NAME = "drills"
FORMAT_VERSION = 1


class Drills:
    """`all` is replaced as a whole, once it is durable; the methods block.

    In a record of its own: one that cannot be read costs a history and no group.
    """

    def __init__(self, directory: str, files: Files) -> None:
        self.all: tuple[DrillReport, ...] = ()
        """Oldest first."""
        self._path = f"{directory}/{RECORD_NAME}"
        self._record = DurableRecord(self._path, files)
        self._adding = threading.Lock()
        self._failed: FarshoreError | None = None

    def load(self) -> None:
        """Read the record; if that fails, `add` says why."""
        try:
            found = self._record.load()
            if found is not None:
                self.all = tuple(DrillReport(**each) for each in found["drills"])
        except FarshoreError as error:
            self._failed = error
        except (KeyError, TypeError, ValueError) as error:
            self._failed = CorruptStateError(
                f"{self._path}: no record of drills ({error!r:.200}); remove it, and "
                "restart the daemon to begin a new one"
            )

    def add(self, drill: DrillReport) -> None:
        """Keep a drill, durably, before returning."""
        with self._adding:
            if self._failed is not None:
                raise self._failed
            drills = (*self.all, drill)[-DRILLS_MAX:]
            self._record.store(
                {
                    "version": FORMAT_VERSION,
                    "drills": [_values(each) for each in drills],
                }
            )
            self.all = drills


def _values(drill: DrillReport) -> dict[str, Any]:
    return {
        name: str(value) if name == "verdict" else value
        for name in type(drill).model_fields
        if (value := getattr(drill, name)) is not None
    }
