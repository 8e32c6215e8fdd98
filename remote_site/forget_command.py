"""`farshore forget`: give up what a site knows of a group, at either site.

It lives with the receiving role, whose points are what is lost; of a primary that has
never received only folders are named, by its config.
"""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

import click

from common.cli.asking import ask_first
from common.cli.daemon_options import json_option
from common.cli.display import print_json, size_text
from common.cli.named_on_site import group_argument
from common.errors import RefusedError, StorageError
from common.service.config import load_any
from common.service.config_primary import PrimaryConfig
from common.service.config_remote import RemoteConfig
from common.service.logging import escape
from common.service.site_record import open_state_directory
from common.storage.files import SystemFiles
from common.storage.flush_guard import FlushGuard
from common.storage.unwritten import UnwrittenFiles
from remote_site.store_record import StoreRecord

RECORDS = {"primary": ("group.record", "receiving/store"), "remote": ("store",)}
"""Below the group's folder, in the order in which they go; the last has points."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a site knows of a group: the folders that are the group's own."""

    role: str
    folders: tuple[Path, ...]
    """The first has the records."""
    size_bytes: int
    points: tuple[int, ...]
    forks: tuple[int, ...]
    """Of these points: what this site alone had once, and is nowhere else."""

    def lines(self, group: str) -> list[str]:
        found = [f"{group}: its state at this {self.role} site is deleted for good:"]
        found += [f"  {folder}" for folder in self.folders]
        found.append(f"  {size_text(self.size_bytes)} in all")
        if self.points:
            count, oldest, newest = len(self.points), self.points[0], self.points[-1]
            told = f"recovery point {newest}, the only one"
            if count > 1:
                told = f"{count} recovery points, {oldest} to {newest}"
            found.append(f"  {told}")
        found += [
            f"  of these fork {number}, the only copy of what it holds"
            for number in self.forks
        ]
        found.append("Devices stay as they are.")
        return found


@click.command()
@group_argument
@click.option("--config", required=True, metavar="FILE", help="This site's config.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def forget(group: str, config: str, yes: bool, as_json: bool) -> None:
    """Delete what this site knows of GROUP: its record, journals and bitmaps.

    With the site's daemon stopped. Devices are not touched. At the remote its recovery
    points are lost. The group may be gone from the config already.
    """
    loaded = load_any(config)
    role = "remote" if isinstance(loaded, RemoteConfig) else "primary"
    site = loaded.site
    files = SystemFiles()
    if not Path(site.state_directory).is_dir():
        raise RefusedError(f"{site.state_directory}: there is no state at this site")
    held = open_state_directory(files, site.state_directory, role, site.name)
    try:
        known = _known(loaded, role, group)
        if not yes:
            lines = [escape(line) for line in known.lines(group)]
            ask_first("\n".join([*lines, "Delete it?"]))
        _delete(files, known)
    finally:
        held.lock.close()
    if as_json:
        print_json(
            {
                "group": group,
                "role": role,
                "folders": [str(folder) for folder in known.folders],
                "bytes": known.size_bytes,
                "points": list(known.points),
                "forks": list(known.forks),
            }
        )
    else:
        click.echo(escape(f"{group}: forgotten, {size_text(known.size_bytes)} deleted"))


def _known(config: PrimaryConfig | RemoteConfig, role: str, group: str) -> Known:
    state = Path(config.site.state_directory)
    groups = state / "groups"
    names = [folder.name for folder in groups.iterdir()] if groups.is_dir() else []
    if group not in names:
        known = ", ".join(sorted(names)) or "none"
        raise RefusedError(f"no group {group!r} in {state}; it has: {known}")
    folders = [groups / group]
    folders += [folder for folder in _others(config, state, group) if folder.is_dir()]
    points: tuple[int, ...] = ()
    forks: tuple[int, ...] = ()
    store = folders[0] / RECORDS[role][-1]
    if store.exists():
        found = StoreRecord(
            UnwrittenFiles(SystemFiles()), str(store.parent), FlushGuard()
        ).load()
        if found is not None:
            points = tuple(point.number for point in found.points)
            forks = tuple(fork.number for fork in found.forks)
    size_bytes = sum(map(_size_bytes, folders))
    return Known(role, tuple(folders), size_bytes, points, forks)


def _others(
    config: PrimaryConfig | RemoteConfig, state: Path, group: str
) -> list[Path]:
    """Return where the config has more of a group, or where it had by default.

    Of either role, for a group may have had both.
    """
    found = next((each for each in config.groups if each.name == group), None)
    if found is None:
        return [state / name / group for name in ("flashcopy", "journal")]
    places = found.flashcopy.directory, found.journal.directory
    return [Path(place) / group for place in places]


def _size_bytes(folder: Path) -> int:
    return sum(
        path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()
    )


def _delete(files: SystemFiles, known: Known) -> None:
    """Delete the records, then all else.

    Order: the records, durably, first; the sender's before a store's, which counts
    where there are both. The crash it defends against: a record that names
    journals or bitmaps which are gone; what is left without one may be forgotten again.
    """
    for name in RECORDS[known.role]:
        record = known.folders[0] / name
        if record.exists():
            files.remove(str(record))
            files.sync_directory(str(record.parent))
    for folder in reversed(known.folders):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise StorageError(
                f"cannot be deleted ({error.strerror}); ask again once it can",
                errno=error.errno or errno.EIO,
                file=str(folder),
            ) from None
        files.sync_directory(str(folder.parent))
