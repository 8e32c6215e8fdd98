"""Whose state directory this is: one durable record at its top."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from common.errors import StateMismatchError
from common.ports import File, Files
from common.replication.lineage import ID_BYTES
from common.storage.record import DurableRecord

RECORD_NAME = "site.record"
LOCK_NAME = "lock"


@dataclass(frozen=True, slots=True)
class SiteState:
    """An open state directory; `lock` keeps other daemons out until it is closed."""

    site_id: bytes
    lock: File


def open_state_directory(
    files: Files, directory: str, role: str, site: str
) -> SiteState:
    """Lock a state directory and check that it is this site's, or make it so.

    Order: the lock first, so that two daemons can't both write a first record; the
    record is durable before anything else is put beside it, so that a crash never
    leaves state without an owner. Raises `DeviceBusyError` for a directory in use,
    `StateMismatchError` for one of another site or role.
    """
    files.make_directory(directory)
    lock = files.open(f"{directory}/{LOCK_NAME}", create=True, lock=True)
    try:
        site_id = _site_id(files, f"{directory}/{RECORD_NAME}", role, site)
    except BaseException:
        lock.close()
        raise
    return SiteState(site_id, lock)


def _site_id(files: Files, path: str, role: str, site: str) -> bytes:
    record = DurableRecord(path, files)
    stored = record.load()
    if stored is None:
        site_id = secrets.token_bytes(ID_BYTES)
        record.store({"role": role, "site": site, "site_id": site_id})
        return site_id
    if stored["role"] != role or stored["site"] != site:
        raise StateMismatchError(
            f"{path} belongs to {stored['role']} site {stored['site']!r}, the config "
            f"has site.name = {site!r} of a {role} site: mend site.name or name "
            "another site.state_dir"
        )
    found: bytes = stored["site_id"]
    return found
