"""The models of remote.toml."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    StrictBool,
    WithJsonSchema,
    model_validator,
)

from common.service.config_common import (
    ADDRESSES_MAX,
    GROUPS_MAX,
    PLAINTEXT_DESCRIPTION,
    TLS_DESCRIPTION,
    VOLUMES_MAX,
    Name,
    Path,
    ReplicationTlsTable,
    SocketPath,
    Table,
    TcpListenAddress,
    all_volumes,
    check_distinct_names,
    check_groups,
    check_other_site,
    check_tls_or_plaintext,
    json_text,
    written,
)
from common.service.config_http import HttpTable
from common.service.config_link import FlashCopyTable, LinkTable
from common.service.config_nbd import NbdTable, check_access_rules
from common.service.config_test_copies import CopiesTable
from common.service.config_tracing import TracingTable
from common.service.retention_rules import RULES_MAX, RetentionRule, parse_rule
from common.service.schedule import parse_schedule
from common.service.units import (
    Bounds,
    Bytes,
    BytesPerSecond,
    parse_bandwidth,
    size_bounds,
)

Rule = Annotated[
    RetentionRule,
    PlainValidator(parse_rule),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "x-kind": "rule",
            "pattern": r"^\s*(all|1\s+per\s+\S+)\s+for\s+\S+\s*$",
            "examples": ["1 per 1h for 1d"],
        }
    ),
]


class RemoteSite(Table):
    """Who and where this daemon is."""

    name: Name = Field(
        description="Name of this site: the `peer` of the groups that it receives."
    )
    state_directory: Path = Field(
        default="/var/lib/farshore/remote",
        alias="state_dir",
        description=(
            "Folder of this daemon's durable state: identities, epochs, commit "
            "records. Created when absent; one daemon at a time."
        ),
    )
    control_socket: SocketPath = Field(
        default="/run/farshore/remote.sock",
        description="Unix socket at which the farshore command reaches this daemon.",
    )


class ReplicationTable(Table):
    """Where primaries connect."""

    listen: Annotated[
        tuple[TcpListenAddress, ...], Field(min_length=1, max_length=ADDRESSES_MAX)
    ] = Field(description='Addresses "tcp:HOST:PORT" at which primaries connect.')
    tls: ReplicationTlsTable | None = Field(default=None, description=TLS_DESCRIPTION)
    allow_plaintext_replication: StrictBool = Field(
        default=False, description=PLAINTEXT_DESCRIPTION
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_tls_or_plaintext(self.tls, self.allow_plaintext_replication)
        return self


class JournalTable(Table):
    """Where the old content of secondary volumes is kept."""

    directory: Path = Field(
        default="",
        validate_default=False,
        description=(
            "Folder of the journals, which grow by what is overwritten since the "
            "oldest point kept. Default: `journal` in `state_dir`."
        ),
    )
    limit_bytes: Annotated[Bytes, size_bounds("1MiB", "1PiB")] | None = Field(
        default=None,
        alias="limit",
        description=(
            "Bytes of all journals of the group. At 90 % of it points go that `retain` "
            "would keep, oldest first; those that are read or kept by an operator only "
            "when no other is left. The newest point always stays. Default: as much as "
            "the disk has."
        ),
    )
    pins: Literal["soft", "hard"] = Field(
        default="soft",
        description=(
            "What happens to points that are read or kept by an operator where nothing "
            "else is left to free room: `soft` lets go of the oldest, with an alarm; "
            "`hard` keeps them, and at `limit` applies nothing more."
        ),
    )


class ScrubTable(Table):
    """When journals and devices are read back, to find what a disk has lost."""

    schedule: (
        Annotated[str, BeforeValidator(parse_schedule), json_text("schedule")] | None
    ) = Field(
        default=None,
        description=(
            'Five cron fields in UTC, as in "0 3 * * 0" for Sundays at three. Default: '
            "never; `farshore scrub` does it at once."
        ),
    )
    rate_bytes: Annotated[
        BytesPerSecond, Bounds("64KiB/s", "64GiB/s", parse_bandwidth)
    ] = Field(
        default=written("50MiB/s"),
        alias="rate",
        description="Bytes read in a second by a scheduled scrub, at most.",
    )


class RemoteVolume(Table):
    """One secondary volume."""

    name: Name = Field(description="Name, as at the primary.")
    device: Path = Field(
        description=(
            "A file or a block device of exactly the primary's size. A file that "
            "does not exist is created sparse."
        ),
    )
    accept_existing: StrictBool = Field(
        default=False,
        description=(
            "The device may hold data when the primary connects for the first time: "
            "the first copy replaces what differs. Without it such a device is "
            "refused. Without effect once the group is bound to its primary."
        ),
    )


class RemoteGroup(Table):
    """A consistency group that this site receives."""

    name: Name = Field(description="Name, the same at both sites.")
    peer: Name = Field(
        description=(
            "Name of the site that sends it, and with `tls` a DNS name of its "
            "certificate; another one is refused."
        )
    )
    retain: Annotated[tuple[Rule, ...], Field(max_length=RULES_MAX)] = Field(
        default=(),
        description=(
            "Which recovery points stay, beside the newest: a list of rules, each of "
            'the form "all for TIME" or "1 per TIME for TIME"; a point stays while one '
            "of them keeps it. Default: the newest only."
        ),
    )
    journal: JournalTable = Field(
        default_factory=JournalTable,
        description="Where the old content of secondary volumes is kept.",
    )
    scrub: ScrubTable = Field(
        default_factory=ScrubTable,
        description="When journals and devices are read back.",
    )
    link: LinkTable | None = Field(
        default=None,
        description=(
            "How the group reaches its old primary once this site has taken over, to "
            "send it back. Its `peer` is the group's."
        ),
    )
    flashcopy: FlashCopyTable = Field(
        default_factory=FlashCopyTable,
        description="Where old content is kept while a cycle drains, once it sends.",
    )
    test_copies: CopiesTable = Field(
        default_factory=CopiesTable,
        description="Where test copies keep what is written to them.",
    )
    volumes: Annotated[
        tuple[RemoteVolume, ...], Field(min_length=1, max_length=VOLUMES_MAX)
    ] = Field(alias="volume", description="The group's volumes, as at the primary.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_distinct_names(self.volumes, "volume")
        if self.link is not None and self.link.peer != self.peer:
            raise ValueError(
                f"group[{self.name}].link.peer is {self.link.peer!r}, but the group is "
                f"received from {self.peer!r}: a group goes back to where it came "
                "from, write the same name in both"
            )
        return self


class RemoteConfig(Table):
    """A loaded remote.toml: sizes in bytes, times in seconds, paths absolute."""

    site: RemoteSite = Field(description="Who and where this daemon is.")
    replication: ReplicationTable = Field(description="Where primaries connect.")
    nbd: NbdTable = Field(
        default_factory=NbdTable, description="Where recovery hosts attach."
    )
    http: HttpTable | None = Field(
        default=None,
        description="Metrics, health and status over HTTP; without it there is none.",
    )
    tracing: TracingTable | None = Field(
        default=None,
        description="Where traces of cycles go; without it there are none.",
    )
    groups: Annotated[
        tuple[RemoteGroup, ...], Field(min_length=1, max_length=GROUPS_MAX)
    ] = Field(alias="group", description="The consistency groups.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_groups(self.groups)
        check_access_rules(
            self.nbd.access, [name for name, _ in all_volumes(self.groups)]
        )
        for group in self.groups:
            check_other_site(group.name, "peer", group.peer, self.site.name)
        return self
