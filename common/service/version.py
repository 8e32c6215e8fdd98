"""Which farshore this is."""

from __future__ import annotations

from importlib import metadata


def farshore_version() -> str:
    """Return the installed distribution's version, or "unknown" without one."""
    try:
        return metadata.version("farshore")
    except metadata.PackageNotFoundError:
        return "unknown"
