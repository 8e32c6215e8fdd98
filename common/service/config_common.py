"""What the config models of both sites share: kinds of values and tables.

Every model refuses unknown keys and is frozen. Field names carry units; their
aliases are the keys that users write.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path as FilePath
from typing import Annotated, Any, Protocol

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)

from common.addresses import (
    Address,
    SystemdAddress,
    TcpAddress,
    UnixAddress,
    check_unix_path,
    parse_listen_address,
    parse_remote_address,
    parse_tcp_listen_address,
)
from common.certificates import TlsFiles, credential_path

NAME_FORM = r"[A-Za-z0-9._-]{1,64}"
_NAME = re.compile(NAME_FORM)

ADDRESSES_MAX = 16
"""Listening sockets, and links: more only cost file descriptors."""

GROUPS_MAX = 256
VOLUMES_MAX = 64
"""A daemon keeps bitmaps and files for each: bounds its memory and descriptors."""

PATH_BYTES_MAX = 4095
"""PATH_MAX of the system, less the closing zero byte."""


class Table(BaseModel):
    """A table of the config file: unknown keys refused, values frozen.

    Defaults are written as users write them, and parsed like what they write.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def written(text: str) -> Any:
    """Give a default as users write it; `Table` parses it like what they write."""
    return text


def check_name(value: object) -> str:
    if isinstance(value, str) and _NAME.fullmatch(value):
        if value in {".", ".."}:
            raise ValueError(
                f"{value!r} names a folder of the file system: add a letter to it"
            )
        return value
    raise ValueError(
        f"{value!r} is not a name: use 1 to 64 of the letters A-Z and a-z, "
        "digits, dot, underscore and hyphen"
    )


def resolve_path(value: object, info: ValidationInfo) -> str:
    """Make a path absolute, from the config file's folder (context `folder`)."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{value!r} is not a path: write a string")
    folder = (info.context or {}).get("folder", "")
    path = os.path.normpath(FilePath(folder) / value)
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise ValueError("the path is too long for the system: choose a shorter one")
    return path


def _resolve_pem_path(value: object, info: ValidationInfo) -> str:
    """Make a path absolute, or find the credential of systemd's that it names."""
    credential = credential_path(value) if isinstance(value, str) else None
    return resolve_path(value, info) if credential is None else credential


def _resolve_listen(value: object, info: ValidationInfo) -> Address:
    address = parse_listen_address(value)
    if isinstance(address, UnixAddress):
        return UnixAddress(check_unix_path(resolve_path(address.path, info)))
    return address


def json_text(kind: str, pattern: str | None = None) -> WithJsonSchema:
    """Describe a kind of string in the JSON Schema and the reference page."""
    schema = {"type": "string", "x-kind": kind}
    return WithJsonSchema(schema if pattern is None else schema | {"pattern": pattern})


Name = Annotated[
    str,
    BeforeValidator(check_name),
    json_text("name", f"^{NAME_FORM}$"),
]
Path = Annotated[
    str,
    BeforeValidator(resolve_path),
    json_text("path"),
]
PemPath = Annotated[
    str,
    BeforeValidator(_resolve_pem_path),
    json_text("pem path"),
]
SocketPath = Annotated[Path, AfterValidator(check_unix_path)]
_as_text = PlainSerializer(str, return_type=str)
LISTEN_FORM = r"^(unix:.+|(tcp|tls):.+:[0-9]+|systemd(\+tls)?:.+)$"
ListenAddress = Annotated[
    UnixAddress | TcpAddress | SystemdAddress,
    PlainValidator(_resolve_listen),
    _as_text,
    WithJsonSchema({"type": "string", "x-kind": "address", "pattern": LISTEN_FORM}),
]
TcpListenAddress = Annotated[
    TcpAddress,
    PlainValidator(parse_tcp_listen_address),
    _as_text,
    WithJsonSchema(
        {"type": "string", "x-kind": "address", "pattern": "^tcp:.+:[0-9]+$"}
    ),
]
RemoteAddress = Annotated[
    TcpAddress,
    PlainValidator(parse_remote_address),
    PlainSerializer(lambda address: address.host_and_port, return_type=str),
    json_text("address", "^.+:[0-9]+$"),
]


class Named(Protocol):
    @property
    def name(self) -> str: ...


class Volume(Named, Protocol):
    @property
    def device(self) -> str: ...


class Group(Named, Protocol):
    @property
    def volumes(self) -> Sequence[Volume]: ...


def check_groups(groups: Sequence[Group]) -> None:
    """Raise ValueError where two groups have one name, or two volumes one device."""
    check_distinct_names(groups, "group")
    check_distinct_paths(
        (f"volume {name}", volume.device) for name, volume in all_volumes(groups)
    )


def all_volumes(groups: Iterable[Group]) -> Iterator[tuple[str, Volume]]:
    """Yield ("GROUP/VOLUME", volume) of all volumes of a site."""
    for group in groups:
        for volume in group.volumes:
            yield f"{group.name}/{volume.name}", volume


def check_distinct_names(items: Iterable[Named], what: str) -> None:
    """Raise ValueError where two of a list have one name."""
    seen: set[str] = set()
    for item in items:
        if item.name in seen:
            raise ValueError(
                f"two {what}s are named {item.name!r}: give each a name of its own"
            )
        seen.add(item.name)


def check_distinct_paths(places: Iterable[tuple[str, str]]) -> None:
    """Raise ValueError where two places (what, path) are one file.

    Symbolic links are followed, so that two spellings of one device are caught
    here; hard links are caught by the device's lock.
    """
    seen: dict[str, str] = {}
    for what, path in places:
        real = os.path.realpath(path)
        if real in seen:
            raise ValueError(
                f"{seen[real]} and {what} both use {path}: "
                "give each volume a device of its own"
            )
        seen[real] = what


def check_other_site(group: str, key: str, peer: str, own: str) -> None:
    """Raise ValueError where a group's peer bears this site's own name."""
    if peer == own:
        raise ValueError(
            f"group[{group}].{key} is this site's own name {own!r}: name the other "
            "site, and give the two different names"
        )


class ReplicationTlsTable(Table):
    """Certificates for replication, as PEM files; read again on SIGHUP."""

    ca: PemPath = Field(
        description=(
            "The CA that vouches for the other site; one of its own for replication. "
            "A revocation list in the same file is obeyed."
        )
    )
    cert: PemPath = Field(
        description=(
            "This site's certificate, with its chain: the other site's `peer` is a "
            "DNS name among its subject alternative names."
        )
    )
    key: PemPath = Field(
        description="Its key, unencrypted, for the daemon's user alone (mode 0600)."
    )

    def files(self) -> TlsFiles:
        return TlsFiles(self.ca, self.cert, self.key)


def check_tls_or_plaintext(tls: ReplicationTlsTable | None, allowed: bool) -> None:
    """Raise ValueError unless there is TLS, or plain text was chosen by name."""
    if tls is None and not allowed:
        raise ValueError(
            "replication needs certificates: write tls = { ca = FILE, cert = FILE, "
            "key = FILE }, or, on a private network, allow_plaintext_replication = true"
        )
    if tls is not None and allowed:
        raise ValueError(
            "tls and allow_plaintext_replication = true exclude each other: "
            "replication is encrypted, or it is not; remove one of them"
        )


PLAINTEXT_DESCRIPTION = (
    "Replication without `tls`, unencrypted and from whoever comes: for private "
    "networks only, and at both sites."
)
TLS_DESCRIPTION = (
    "Certificates: replication is TLS 1.3, and each site proves who it is. Either this "
    "or `allow_plaintext_replication`."
)
