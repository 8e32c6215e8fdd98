"""The files of the status page, read once from beside this module."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from common.service.http.answers import Answer, Handler, Request

FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/chain.js": ("chain.js", "text/javascript; charset=utf-8"),
    "/pictures.js": ("pictures.js", "text/javascript; charset=utf-8"),
    "/words.js": ("words.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/uPlot.iife.min.js": ("uPlot.iife.min.js", "text/javascript; charset=utf-8"),
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
