"""The NBD tables of both sites' configs, and what the server makes of them."""

from __future__ import annotations

import grp
import ipaddress
import pwd
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StrictInt, StrictStr, model_validator

from common.addresses import TcpAddress, UnixAddress
from common.certificates import TlsFiles
from common.errors import ConfigError
from common.nbd.access import Access, AccessRule
from common.nbd.addresses import Listening
from common.nbd.server import NbdSecurity
from common.nbd.tls import TlsServer
from common.service.config_common import (
    ADDRESSES_MAX,
    ListenAddress,
    PemPath,
    Table,
)
from common.service.config_nbd_limits import NbdLimitsTable

RULES_MAX = 256
NAMES_MAX = 256
"""In one list of a rule; each is compared when an export is opened or listed."""


def _check_mode(text: str) -> str:
    if not re.fullmatch("0?[0-7]{3}", text):
        raise ValueError(f'{text!r} is not a mode: write four octal digits, "0660"')
    return text


class NbdUnixTable(Table):
    """Who may connect to the socket files that the daemon makes."""

    mode: Annotated[StrictStr, AfterValidator(_check_mode)] = Field(
        default="0660", description="Mode of the files, as a string of octal digits."
    )
    owner: StrictStr | None = Field(
        default=None, description="User that owns them; none: the daemon's own."
    )
    group: StrictStr | None = Field(
        default=None, description="Their group; none: the daemon's own."
    )


class NbdTlsTable(Table):
    """Certificates for the `tls:` and `systemd+tls:` addresses, as PEM files."""

    ca: PemPath = Field(description="The CA that vouches for clients.")
    cert: PemPath = Field(description="The daemon's certificate, with its chain.")
    key: PemPath = Field(
        description="Its key, unencrypted, for the daemon's user alone (mode 0600)."
    )
    verify_clients: bool = Field(
        default=True,
        description=(
            "Whether clients must show a certificate of the CA. Without, they are "
            "encrypted but anybody."
        ),
    )

    def files(self) -> TlsFiles:
        return TlsFiles(self.ca, self.cert, self.key, self.verify_clients)


NBD_TLS_KEYS = tuple(f"nbd.tls.{key}" for key in NbdTlsTable.model_fields)
"""What a reload applies: other files, but not whether there is TLS at all."""


NBD_ACCESS_KEYS = ("nbd.access",)


class NbdAccessTable(Table):
    """One access rule. A caller fits if any of the lists names it."""

    exports: Annotated[
        tuple[StrictStr, ...], Field(min_length=1, max_length=NAMES_MAX)
    ] = Field(
        description=(
            "Exports the rule governs, with all that show the same volume: "
            "`orders/data` is also `orders/data@cut` and `orders/data@17`. `*` "
            "stands for any characters, `?` for one. Of the rules that govern an "
            "export, the first that fits the caller decides, however exactly "
            "others name it; whom none fits sees no such export. An export that no "
            "rule governs is open to all who can connect."
        )
    )
    users: Annotated[tuple[StrictInt | StrictStr, ...], Field(max_length=NAMES_MAX)] = (
        Field(default=(), description="Users at Unix sockets, by name or number.")
    )
    groups: Annotated[
        tuple[StrictInt | StrictStr, ...], Field(max_length=NAMES_MAX)
    ] = Field(
        default=(),
        description="Main groups of processes at Unix sockets, by name or number.",
    )
    certificates: Annotated[tuple[StrictStr, ...], Field(max_length=NAMES_MAX)] = Field(
        default=(),
        description="Common names or DNS names of client certificates, exactly.",
    )
    anyone: bool = Field(
        default=False,
        description="Fits every caller, also one over TCP without TLS.",
    )
    allow: Literal["rw", "ro"] = Field(
        description='"rw", or "ro": the export is told to be read-only, and is.'
    )

    @model_validator(mode="after")
    def _check_somebody_fits(self) -> Self:
        if not (self.users or self.groups or self.certificates or self.anyone):
            raise ValueError(
                "this rule fits nobody: give it users, groups or certificates, or "
                "anyone = true"
            )
        return self

    def rule(self) -> AccessRule:
        return AccessRule(
            exports=self.exports,
            access=Access(self.allow),
            uids=frozenset(_number("users", user, _uid) for user in self.users),
            gids=frozenset(_number("groups", group, _gid) for group in self.groups),
            certificates=frozenset(self.certificates),
            anyone=self.anyone,
        )


def check_access_rules(
    rules: tuple[NbdAccessTable, ...], volumes: Iterable[str]
) -> None:
    """Refuse a rule about a volume ("GROUP/VOLUME") that is not configured."""
    known = list(volumes)
    for table in rules:
        pattern = table.rule().pattern_without_volume(known)
        if pattern is not None:
            raise ValueError(
                f'nbd.access: exports: "{pattern}" is none of this site\'s volumes '
                f"({', '.join(known)}): mend the name, or what it was to protect "
                "stays open"
            )


class NbdTable(Table):
    """Where hosts attach, who may, and what they may use up."""

    listen: Annotated[tuple[ListenAddress, ...], Field(max_length=ADDRESSES_MAX)] = (
        Field(
            default=(),
            description=(
                'Addresses at which volumes are served: "unix:PATH"; '
                '"tls:HOST:PORT", where every client must start TLS; '
                '"tcp:HOST:PORT", plain text for this machine; "systemd:NAME" or '
                '"systemd+tls:NAME", a socket that systemd hands over. '
                "None: nothing is served."
            ),
        )
    )
    allow_plaintext_nbd: bool = Field(
        default=False,
        description=(
            "Lets tcp: addresses reach beyond this machine: whoever is on that "
            "network can then read and write volumes."
        ),
    )
    unix: NbdUnixTable = Field(
        default_factory=NbdUnixTable, description="Socket files that the daemon makes."
    )
    tls: NbdTlsTable | None = Field(
        default=None, description="Certificates; needed by addresses with TLS."
    )
    access: Annotated[tuple[NbdAccessTable, ...], Field(max_length=RULES_MAX)] = Field(
        default=(), description="Who may open which export; see its `exports`."
    )
    limits: NbdLimitsTable = Field(
        default_factory=NbdLimitsTable, description="What NBD clients may use up."
    )

    @model_validator(mode="after")
    def _check_addresses(self) -> Self:
        for address in self.listen:
            if isinstance(address, UnixAddress):
                continue
            if address.is_tls and self.tls is None:
                raise ValueError(f"{address} needs certificates: add [nbd.tls]")
            if (
                isinstance(address, TcpAddress)
                and not (address.is_tls or self.allow_plaintext_nbd)
                and _is_beyond_this_machine(address.host)
            ):
                raise ValueError(
                    f"{address} would serve volumes in plain text beyond this machine: "
                    "use tls:, or write allow_plaintext_nbd = true"
                )
        return self

    def security(self) -> NbdSecurity:
        """Return who gets in; reads users, groups and certificates.

        Raises `ConfigError` that names the key.
        """
        owner, group = self.unix.owner, self.unix.group
        files = self.tls
        return NbdSecurity(
            listening=Listening(
                unix_mode=int(self.unix.mode, 8),
                unix_uid=-1 if owner is None else _number("unix.owner", owner, _uid),
                unix_gid=-1 if group is None else _number("unix.group", group, _gid),
                allow_plaintext=self.allow_plaintext_nbd,
                has_tls=files is not None,
            ),
            tls=None if files is None else TlsServer(files.files()),
            rules=self.rules(),
        )

    def rules(self) -> tuple[AccessRule, ...]:
        """Return who may open which export; reads users and groups.

        Raises `ConfigError` that names the key.
        """
        return tuple(rule.rule() for rule in self.access)


def _is_beyond_this_machine(host: str) -> bool:
    """Tell it of numbers; what a name stands for is seen when it is bound."""
    try:
        return not ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _gid(name: str) -> int:
    return grp.getgrnam(name).gr_gid


def _number(key: str, value: int | str, look_up: Callable[[str], int]) -> int:
    if isinstance(value, int):
        return value
    try:
        return look_up(value)
    except KeyError:
        raise ConfigError(
            f"nbd.{key}: this machine knows no {value!r}: create it, or write a number"
        ) from None
