"""The files of the status page, read once from beside this module."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from common.service.http.answers import Answer, Handler, Request

SCRIPT: Final = "text/javascript; charset=utf-8"

SCRIPTS: Final = (
    *("page", "card", "chain", "charts", "marks"),
    *("pictures", "series", "standing", "words"),
)
"""Modules of ours."""

FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{f"/{name}.js": (f"{name}.js", SCRIPT) for name in SCRIPTS},
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/uPlot.iife.min.js": ("uPlot.iife.min.js", SCRIPT),
    "/uPlot.min.css": ("uPlot.min.css", "text/css; charset=utf-8"),
    "/uPlot.LICENSE.txt": ("uPlot.LICENSE.txt", "text/plain; charset=utf-8"),
}
"""Path -> file and content type."""


def page_routes() -> dict[str, Handler]:
    """Read all files; return what answers with them. Blocks."""
    folder = files("common.service.http") / "page"
    return {
        path: _always((folder / name).read_bytes(), content_type)
        for path, (name, content_type) in FILES.items()
    }


def _always(body: bytes, content_type: str) -> Handler:
    async def handler(_request: Request) -> Answer:
        return Answer(body, content_type)

    return handler
