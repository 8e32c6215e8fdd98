"""`farshore forget`: give up what a site knows of a group, at either site.

It lives with the receiving role, whose points are what is lost; of a primary only
folders are named, by its config.
"""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

import click

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
from remote_site.restoring import RestoredSite

RECORD_NAMES = {"primary": "group.record", "remote": "store"}


@dataclass(frozen=True, slots=True)
class Known:
    """What a site knows of a group: the folders that are the group's own."""

    role: str
    folders: tuple[Path, ...]
    """The first has the record."""
    size_bytes: int
    points: tuple[int, ...]

    def lines(self, group: str) -> list[str]:
        found = [f"{group}: its state at this {self.role} site is deleted for good:"]
        found += [f"  {folder}" for folder in self.folders]
        found.append(f"  {size_text(self.size_bytes)} in all")
        if self.points:
            found.append(
                f"  {len(self.points)} recovery points, {self.points[0]} to "
                f"{self.points[-1]}"
            )
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
            click.confirm("\n".join([*lines, "Delete it?"]), abort=True, err=True)
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
    if role == "remote" and (folders[0] / RECORD_NAMES[role]).exists():
        restored = RestoredSite(str(state), SystemFiles(), is_locked=True)
        points = tuple(point.number for point in restored.state(group).points)
    return Known(role, tuple(folders), sum(map(_size_bytes, folders)), points)


def _others(
    config: PrimaryConfig | RemoteConfig, state: Path, group: str
) -> list[Path]:
    """Return where the config has more of a group, or where it had by default."""
    if isinstance(config, RemoteConfig):
        places = [g.journal.directory for g in config.groups if g.name == group]
        return [Path(places[0] if places else state / "journal") / group]
    places = [g.flashcopy.directory for g in config.groups if g.name == group]
    return [Path(places[0] if places else state / "flashcopy") / group]


def _size_bytes(folder: Path) -> int:
    return sum(
        path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()
    )


def _delete(files: SystemFiles, known: Known) -> None:
    """Delete the record, then all else.

    Order: the record, durably, first. The crash it defends against: a record that names
    journals or bitmaps which are gone; what is left without one may be forgotten again.
    """
    record = known.folders[0] / RECORD_NAMES[known.role]
    if record.exists():
        files.remove(str(record))
        files.sync_directory(str(known.folders[0]))
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
