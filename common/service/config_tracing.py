"""The `[tracing]` table of both sites: where traces of cycles go."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from common.service.config_common import Table, json_text

URL_CHARACTERS_MAX = 1024
_HOST = re.compile(r"[A-Za-z0-9._:-]+")


def check_endpoint(value: object) -> str:
    """Return a collector's URL without a slash at its end; ValueError with the form."""
    if isinstance(value, str) and len(value) <= URL_CHARACTERS_MAX:
        try:
            url = urlsplit(value)
            is_good = url.port is None or url.port > 0
        except ValueError:
            is_good = False
        if (
            is_good
            and url.scheme in {"http", "https"}
            and url.hostname
            and _HOST.fullmatch(url.hostname)
            and url.username is None
            and not (url.query or url.fragment)
        ):
            return value.rstrip("/")
    raise ValueError(
        f"{value!r} is not the address of a collector: write scheme, host and port, as "
        'in "http://127.0.0.1:4318"'
    )


class TracingTable(Table):
    """Traces of cycles, sent to an OpenTelemetry collector."""

    endpoint: Annotated[str, BeforeValidator(check_endpoint), json_text("URL")] = Field(
        description=(
            "Where a collector takes OTLP over HTTP, without the path `/v1/traces`: "
            '"http://127.0.0.1:4318". Needs the extra `farshore[otel]`. One that is '
            "not there costs nothing but the spans, which are counted."
        )
    )
