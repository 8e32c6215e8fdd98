"""What a primary exports: its volumes, and their FlashCopy targets, read-only."""

from __future__ import annotations

from common.ports import HostVolume
from primary_site.cut_volume import CutVolume
from primary_site.replicator import Replicator


class PrimaryExports:
    """The `ExportTable` of a primary daemon."""

    def __init__(self, replicators: dict[str, Replicator]) -> None:
        self._volumes = {
            f"{group}/{volume.name}": volume
            for group, replicator in replicators.items()
            for volume in replicator.group.volumes
        }

    def names(self) -> list[tuple[str, str]]:
        found = []
        for name, volume in self._volumes.items():
            found.append((name, volume.description))
            if volume.preserver.standing() is not None:
                found.append((f"{name}@cut", f"{volume.description}, at its last cut"))
        return found

    def open(self, name: str) -> HostVolume | None:
        volume = self._volumes.get(name.removesuffix("@cut"))
        if volume is None or not name.endswith("@cut"):
            return volume
        standing = volume.preserver.standing()
        if standing is None or not standing.relation.readable:
            return None
        return CutVolume(volume, standing)
