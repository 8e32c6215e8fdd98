"""Payloads that name what stands elsewhere in the newest point: how many were sent."""

from __future__ import annotations

from typing import Any

from primary_site.replicator import Replicator


class References:
    """Of one run, at both sites."""

    def __init__(self) -> None:
        self.count = 0

    def watch(self, replicator: Replicator) -> None:
        """Count those of a group that has been opened to be sent."""
        compression: Any = replicator.cycles._compression
        pack_against = compression.pack_against

        def counted(*what: Any) -> Any:
            packed = pack_against(*what)
            self.count += packed is not None
            return packed

        compression.pack_against = counted
