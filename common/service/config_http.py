"""The `[http]` table of both sites: metrics, health and status over HTTP."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    StrictBool,
    WithJsonSchema,
    model_validator,
)

from common.addresses import TcpAddress, parse_http_listen_address
from common.service.config_common import Table, json_text

NAMES_MAX = 16
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")

HttpAddress = Annotated[
    TcpAddress,
    PlainValidator(parse_http_listen_address),
    PlainSerializer(lambda address: address.host_and_port, return_type=str),
    WithJsonSchema({"type": "string", "x-kind": "address", "pattern": "^.+:[0-9]+$"}),
]


def check_host_name(value: object) -> str:
    if isinstance(value, str) and _NAME.fullmatch(value.lower()):
        return value.lower()
    raise ValueError(
        f"{value!r} is not a host's name: write it without scheme and port, as in "
        '"primary.example.net"'
    )


HostName = Annotated[str, BeforeValidator(check_host_name), json_text("host name")]


class HttpTable(Table):
    """Metrics for Prometheus, health, and the status as JSON, for whoever connects."""

    listen: HttpAddress = Field(
        description=(
            'Where it listens, "HOST:PORT", as in "127.0.0.1:9464". Other addresses '
            "than the loopback's need `allow_unauthenticated_access`."
        )
    )
    allow_unauthenticated_access: StrictBool = Field(
        default=False,
        description=(
            "Listen on an address that other hosts reach: whoever reaches it reads "
            "the names of groups, volumes, peers and certificates, all figures and "
            "alarms. Nobody proves who they are, nothing is encrypted, nothing can be "
            "changed."
        ),
    )
    names: Annotated[
        tuple[
            Annotated[str, BeforeValidator(check_host_name), json_text("host name")],
            ...,
        ],
        Field(max_length=NAMES_MAX),
    ] = Field(
        default=(),
        description=(
            "Names of this host by which clients may ask, besides `localhost`, the "
            "host in `listen`, and addresses. Any other is refused, so that a web page "
            "elsewhere can't read this one through a browser here."
        ),
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not is_loopback(self.listen.host) and not self.allow_unauthenticated_access:
            raise ValueError(
                f"{self.listen.host_and_port} is reached by other hosts, and nobody is "
                'asked who they are: listen on "127.0.0.1:9464", or allow it by '
                "allow_unauthenticated_access = true"
            )
        return self


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host; of names only `localhost`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
