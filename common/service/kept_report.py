"""The last report of a verify or a scrub, so that a restart does not forget it.

One durable record of its own: what a group needs to recover is in another, and a
report that can't be kept or read back is no reason to refuse anything. All blocking.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, Self, TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from common.errors import CorruptStateError, StateMismatchError, StorageError
from common.ports import Files
from common.storage.record import DurableRecord

FINDINGS_KEPT_MAX = 20
"""Of each list of a report; with texts cut as below they fit into a record."""

TEXT_KEPT_MAX = 300
"""Characters of a text, a file's name say; four bytes each at most."""

log = structlog.get_logger()


class Report(Protocol):
    """A pydantic model of a report."""

    def first(self, count: int) -> Self:
        """Return it with so many findings of each list at most, the rest counted."""
        ...


ReportT = TypeVar("ReportT", bound=Report)


class KeptReport(Generic[ReportT]):
    """One file; its calls come one at a time."""

    def __init__(self, file_path: str, files: Files, model: type[ReportT]) -> None:
        self._path = file_path
        self._files = files
        self._model = model
        self._record = DurableRecord(file_path, files)

    def load(self) -> ReportT | None:
        """Return the last report, None if there is none that can be read."""
        try:
            stored = self._record.load()
            return None if stored is None else self._model(**stored)
        except (CorruptStateError, StateMismatchError, ValidationError) as error:
            log.warning("report_lost", file=self._path, reason=str(error))
            self._begin_anew()
        except StorageError as error:
            log.warning("report_lost", file=self._path, reason=str(error))
        return None

    def _begin_anew(self) -> None:
        try:
            self._files.remove(self._path)
        except StorageError as error:
            log.warning("report_lost", file=self._path, reason=str(error))
        self._record = DurableRecord(self._path, self._files)

    def store(self, report: ReportT) -> None:
        """Replace the last report, durably."""
        try:
            self._record.store(_plain(report.first(FINDINGS_KEPT_MAX)))
        except (CorruptStateError, StateMismatchError, StorageError) as error:
            log.warning("report_not_kept", file=self._path, reason=str(error))


def _plain(value: Any) -> Any:
    """Return what a record holds; a model's own dump writes moments for people."""
    if isinstance(value, BaseModel):
        names = type(value).model_fields
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, str):
        return str(value)[:TEXT_KEPT_MAX]
    return value
