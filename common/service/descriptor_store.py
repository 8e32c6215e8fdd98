"""systemd's store for descriptors: FDSTORE and what belongs to it of sd_notify(3).

A service whose unit has FileDescriptorStoreMax= may give systemd descriptors to hold,
which it hands to the service's next process beside the sockets it listens on. Without
that setting, or for a service that is stopped and not started again, it closes them.
"""

from __future__ import annotations

import os
import select
from collections.abc import Mapping, Sequence
from typing import Final

from common.service.notify import notify

PATIENCE_SECONDS: Final = 5.0
"""For each datagram to be taken, and for systemd to have done what it was told."""


class SystemdStore:
    """The store of the service that this process is. Every method may block."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def put(self, name: str, descriptors: Sequence[int]) -> bool:
        """Give copies of these away under a name; tell whether they were sent."""
        return self._tell("FDSTORE=1", f"FDNAME={name}", descriptors=descriptors)

    def forget(self, names: Sequence[str]) -> bool:
        """Have systemd close what it keeps; tell whether it surely has."""
        told = (self._tell("FDSTOREREMOVE=1", f"FDNAME={name}") for name in names)
        return all(told) and self.settle()

    def settle(self) -> bool:
        """Wait until systemd has done all it was told; tell whether it has.

        It closes what comes with BARRIER=1 when it has come to that.
        """
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                is_told = self._tell("BARRIER=1", descriptors=[theirs])
            finally:
                os.close(theirs)
            poll = select.poll()
            poll.register(ours, 0)  # a hangup is told in any case
            return is_told and bool(poll.poll(PATIENCE_SECONDS * 1000))
        finally:
            os.close(ours)

    def _tell(self, *assignments: str, descriptors: Sequence[int] = ()) -> bool:
        return notify(
            *assignments,
            environment=self._environment,
            descriptors=descriptors,
            patience_seconds=PATIENCE_SECONDS,
        )


def descriptor_store(
    environment: Mapping[str, str] = os.environ,
) -> SystemdStore | None:
    """Return the store of the service manager that started us, if one did."""
    return SystemdStore(environment) if environment.get("NOTIFY_SOCKET") else None
