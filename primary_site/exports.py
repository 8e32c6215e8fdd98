"""What a primary exports: its volumes, and their FlashCopy targets, read-only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from common.ports import HostVolume
from primary_site.cut_volume import CutVolume
from primary_site.volume import PrimaryVolume


class PrimaryExports:
    """The `ExportTable` of what a daemon sends."""

    def __init__(self, volumes: Mapping[str, Sequence[PrimaryVolume]]) -> None:
        """`volumes` of each group, by its name; what it holds later counts, too."""
        self._volumes = volumes

    def names(self) -> list[tuple[str, str]]:
        found = []
        for name, volume in self._named():
            found.append((name, volume.description))
            if volume.preserver.standing() is not None:
                found.append((f"{name}@cut", f"{volume.description}, at its last cut"))
        return found

    def _named(self) -> Iterator[tuple[str, PrimaryVolume]]:
        for group, of_group in self._volumes.items():
            for volume in of_group:
                yield f"{group}/{volume.name}", volume

    def open(self, name: str) -> HostVolume | None:
        volume = dict(self._named()).get(name.removesuffix("@cut"))
        if volume is None or not name.endswith("@cut"):
            return volume
        standing = volume.preserver.standing()
        if standing is None or not standing.relation.readable:
            return None
        return CutVolume(volume, standing)
