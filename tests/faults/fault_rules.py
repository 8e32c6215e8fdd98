"""What one fault may do to whom: hosts, restarts, alarms. Judged for every run."""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import Any

from common.ports import HostCommand, HostRequest
from tests.support.simulation.loop import World
from tests.support.simulation.sites import STATE

FULL_SECONDS = 7.0
"""How long a full file system stays full: longer than a sender waits to come again."""

FLUSHES = frozenset({"datasync", "sync_directory"})
_WRITES = frozenset({HostCommand.WRITE, HostCommand.TRIM, HostCommand.WRITE_ZEROES})


class Kind(enum.Enum):
    """What the call meets."""

    EIO = "EIO"
    """Of a write the first half is there."""
    ENOSPC = "ENOSPC"
    """Of a write nothing is there."""
    SHORT = "short write"
    """Of a write the most is there, to the middle of a sector; then no room."""
    FULL = "full"
    """No room for anything that grows there, for a while."""


_ERRNO = {Kind.EIO: errno.EIO}
_SHARE = {Kind.EIO: 0.5, Kind.ENOSPC: 0.0, Kind.SHORT: 0.8, Kind.FULL: 0.3}


@dataclass(frozen=True, slots=True)
class Fault:
    """The `number`-th call to the disk of `site`, from 1, meets `kind`."""

    site: str
    number: int
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind.value} at call {self.number} of the {self.site}"


class Rules:
    """Lets one fault happen, and judges what became of it."""

    def __init__(self, world: World, fault: Fault | None) -> None:
        self.hit: tuple[str, str] | None = None
        self.must_fail: list[HostRequest] = []
        """FLUSH and FUA that waited for a flush which failed."""
        self.has_lost_pages = False
        self._world = world
        self._fault = fault
        self.number = fault.number if fault is not None else 0
        self._host_errors = 0
        self._starts_refused = 0

    # -- the fault ---------------------------------------------------------------------

    def meet(
        self, site: str, machine: Any, number: int, operation: str, path: str
    ) -> int | None:
        """Return the errno of this call, None if it succeeds."""
        fault = self._fault
        if fault is None or site != fault.site:
            return None
        if number != fault.number:
            grows = operation in {"write", "create", "allocate"}
            if grows and any(path.startswith(prefix) for prefix in machine.full):
                return errno.ENOSPC
            return None
        self.hit = operation, path
        machine.files.written_share = _SHARE[fault.kind]
        if fault.kind is Kind.FULL:
            prefix = "/" + path.split("/")[1]
            machine.full.add(prefix)
            self._world.after(FULL_SECONDS, machine.full.discard, prefix)
        self.has_lost_pages = operation == "datasync"
        return _ERRNO.get(fault.kind, errno.ENOSPC)

    @property
    def _where(self) -> tuple[str, str, str]:
        """Return site, operation and the place on the disk; empty before the fault."""
        if self._fault is None or self.hit is None:
            return "", "", ""
        operation, path = self.hit
        return self._fault.site, operation, path

    @property
    def _named(self) -> str:
        """Return what an error has to name: of a full file system any file will do."""
        _, _, path = self._where
        is_full = self._fault is not None and self._fault.kind is Kind.FULL
        return path.rpartition("/")[0] if is_full else path

    # -- hosts -------------------------------------------------------------------------

    def _may_fail_hosts(self) -> bool:
        """Hosts see what befalls their devices and the record of what they changed."""
        site, _, path = self._where
        is_bookkeeping = path.endswith((".regions", ".changed", ".acked"))
        return site == "primary" and (path.startswith("/devices") or is_bookkeeping)

    def replied(self, volume: str, request: HostRequest, *, had_failed: bool) -> None:
        """Judge one reply; `had_failed`: the group had, when this was asked."""
        if not request.error:
            if had_failed and request.command in {*_WRITES, HostCommand.FLUSH}:
                self._fail("I9", f"{volume}: acknowledged after the group had failed")
            if any(each is request for each in self.must_fail):
                self._fail("I9", f"{volume}: acknowledged by a flush that failed")
            return
        self._host_errors += 1
        if not self._may_fail_hosts():
            self._fail("host", f"{volume}: error {request.error}")
        assert self._fault is not None
        if request.error != _ERRNO.get(self._fault.kind, errno.ENOSPC):
            self._fail("host", f"{volume}: is told {request.error}")

    def waited(self, volume: str, seconds: float) -> None:
        if not self._may_fail_hosts():
            self._fail("host", f"{volume}: a host has waited for {seconds:.2f} s")

    # -- restarts ----------------------------------------------------------------------

    def restarted(self, site: str, start_error: str | None, failure: str) -> None:
        """A daemon did not start, or has failed: was that called for?"""
        hit, operation, path = self._where
        if site != hit:
            self._fail("restart", f"the {site}: {start_error or failure}")
        elif start_error is not None:
            self._starts_refused += 1
            if path.startswith("/flashcopy"):
                self._fail("host", f"{path} keeps hosts from their volumes")
            if self._named not in start_error:
                self._fail("restart", f"{start_error!r} does not name {path}")
        elif not _ends_a_life(site, operation, path):
            self._fail("restart", f"the {site} did not go on by itself: {failure}")

    def judge(self, restarts: dict[str, int], alarms: dict[str, set[str]]) -> None:
        """The script is through: was what had to be noticed noticed, and told?"""
        if self._fault is None or self.hit is None:
            return
        site, operation, path = self._where
        fails = _ends_a_life(site, operation, path) and operation in FLUSHES
        if fails and not restarts[site] and not self._may_pass():
            self._fail("I9", f"the {site} went on after {path} could not be flushed")
        wanted = self._alarm_wanted()
        if wanted and not restarts[site] and wanted not in alarms[site]:
            self._fail("alarm", f"{path}: no {wanted} in {sorted(alarms[site])}")
        if "out_of_space" in alarms["remote"]:
            told = "remote_out_of_space" in alarms["primary"]
            if not told:
                self._fail("alarm", "the primary does not say that the remote is full")

    def _may_pass(self) -> bool:
        """A stop in good order ends with the process: nobody sees it fail."""
        return self.is_stopping

    is_stopping = False

    def _alarm_wanted(self) -> str:
        """Return the alarm that has to be raised at the site of the fault."""
        site, operation, _ = self._where
        if self._fault is None or self._fault.kind is not Kind.FULL:
            return ""
        if site == "remote" and operation != "allocate":
            return "out_of_space"
        return ""

    def _fail(self, rule: str, text: str) -> None:
        operation, path = self.hit or ("", "")
        self._world.problem(f"{rule}: {text} [{self._fault}: {operation} {path}]")


def _ends_a_life(site: str, operation: str, path: str) -> bool:
    """Tell whether only a restart can tell what the disk holds after this failed."""
    if operation in FLUSHES:
        return not path.endswith((".index", ".target"))
    return path.startswith(STATE) and operation not in {"read", "extents", "list"}
