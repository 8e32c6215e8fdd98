"""Hatchling's hook: man pages and completion scripts go into every wheel.

pip and pipx put them below `share` of the environment, uv as well.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManPagesHook(BuildHookInterface[Any]):
    """Writes them to a scratch folder, which ends with the hook."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        # A builder may run from anywhere; these import the sources that it packs.
        sys.path.insert(0, self.root)
        try:
            from release.completions import write_completions  # noqa: PLC0415
            from release.man_pages import write_pages  # noqa: PLC0415
        finally:
            sys.path.remove(self.root)
        self._scratch = tempfile.TemporaryDirectory()
        share = Path(self._scratch.name)
        pages = write_pages(share / "man", self.metadata.version)
        files = [*pages, *write_completions(share)]
        for file in files:
            place = f"share/{file.relative_to(share)}"
            build_data["shared_data"][str(file)] = place

    def finalize(
        self, version: str, build_data: dict[str, Any], artifact_path: str
    ) -> None:
        del build_data, artifact_path
        if version != "editable":
            self._scratch.cleanup()
