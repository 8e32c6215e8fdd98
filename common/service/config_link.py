"""The models of what sends a group, the same in the configs of both sites."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import (
    BeforeValidator,
    Field,
    StrictBool,
    StrictInt,
    WithJsonSchema,
    model_validator,
)

from common.replication.profiles import PROFILES
from common.service.bandwidth_schedule import (
    BANDWIDTH_HIGHEST,
    BANDWIDTH_LOWEST,
    ENTRIES_MAX,
    ScheduleEntry,
)
from common.service.config_common import (
    ADDRESSES_MAX,
    PLAINTEXT_DESCRIPTION,
    TLS_DESCRIPTION,
    Name,
    Path,
    RemoteAddress,
    ReplicationTlsTable,
    Table,
    check_tls_or_plaintext,
)
from common.service.units import (
    Bounds,
    BytesPerSecond,
    count_bounds,
    parse_bandwidth,
)

COMPRESSION_LEVEL_MAX = 19
"""zstd's levels above it trade hundreds of MiB of memory for a per cent."""


def parse_compression(value: object) -> str | int:
    if isinstance(value, str) and value in {"auto", "off"}:
        return value
    is_level = isinstance(value, int) and not isinstance(value, bool)
    if is_level and 1 <= value <= COMPRESSION_LEVEL_MAX:  # type: ignore[operator]
        return value  # type: ignore[return-value]
    raise ValueError(
        f'{value!r} is not a compression: write "auto", "off" or a zstd level '
        f"from 1 to {COMPRESSION_LEVEL_MAX}"
    )


ProfileName = Literal["t1", "t3", "channel", "escon", "fibre-channel", "custom"]
assert set(get_args(ProfileName)) == PROFILES.keys()


class LinkTable(Table):
    """How a group reaches its remote."""

    remotes: Annotated[
        tuple[RemoteAddress, ...], Field(min_length=1, max_length=ADDRESSES_MAX)
    ] = Field(
        description=(
            "Addresses HOST:PORT of one remote daemon; several are several links, "
            "used together."
        ),
    )
    connections: Annotated[StrictInt, count_bounds(1, 16)] = Field(
        default=1, description="TCP connections to each address."
    )
    peer: Name = Field(
        description=(
            "Name of the remote's site, and with `tls` a DNS name of its certificate; "
            "another one is refused."
        )
    )
    tls: ReplicationTlsTable | None = Field(default=None, description=TLS_DESCRIPTION)
    allow_plaintext_replication: StrictBool = Field(
        default=False, description=PLAINTEXT_DESCRIPTION
    )
    compression: Annotated[
        str | int,
        BeforeValidator(parse_compression),
        WithJsonSchema(
            {
                "anyOf": [
                    {"enum": ["auto", "off"]},
                    {"type": "integer", "minimum": 1, "maximum": COMPRESSION_LEVEL_MAX},
                ]
            }
        ),
    ] = Field(
        default="auto",
        description=(
            f'"auto", "off" or a zstd level from 1 to {COMPRESSION_LEVEL_MAX}. "auto" '
            "takes a higher level the slower the link is beside the processor, and "
            "leaves alone what does not shrink."
        ),
    )
    profile: ProfileName = Field(
        default="custom",
        description=(
            "Kind of link, whose rate and window pace sending: "
            '"t1" (1.544 Mbit/s), "t3" (44.736 Mbit/s), "channel" (4.5 MB/s), '
            '"escon" (17 MB/s), "fibre-channel" (100 MB/s for each connection), '
            '"custom" (not paced).'
        ),
    )
    bandwidth: (
        Annotated[
            BytesPerSecond,
            Bounds(f"{BANDWIDTH_LOWEST}/s", f"{BANDWIDTH_HIGHEST}/s", parse_bandwidth),
        ]
        | None
    ) = Field(
        default=None,
        description=(
            "Rate of all links of the group together; overrides the profile's. "
            "Default: the profile's."
        ),
    )
    bandwidth_schedule: Annotated[
        tuple[ScheduleEntry, ...], Field(max_length=ENTRIES_MAX)
    ] = Field(
        default=(),
        description=(
            "Rates by day and time, in UTC, as in "
            '["Mon-Fri 08:00-18:00 10MiB/s", "Sat,Sun 00:00-24:00 unlimited"]; the '
            "first entry that holds overrides `bandwidth` and the profile."
        ),
    )
    delta: StrictBool = Field(
        default=True,
        description=(
            "Send what differs from what the remote holds, instead of whole tracks, "
            "where that is smaller. Costs processor time at both sites."
        ),
    )
    seed: Literal["none", "checksum"] = Field(
        default="none",
        description=(
            '"checksum": the remote\'s devices were filled by other means, so the '
            "first copy sends hashes of all tracks, and only the tracks that differ. "
            "The remote has to allow it by `accept_existing`. Without effect once "
            "there is a recovery point."
        ),
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_tls_or_plaintext(self.tls, self.allow_plaintext_replication)
        if len(self.remotes) * self.connections > ADDRESSES_MAX:
            raise ValueError(
                f"remotes times connections is more than {ADDRESSES_MAX} links: "
                "lower connections"
            )
        return self


class FlashCopyTable(Table):
    """Where old content is kept while a cycle drains."""

    directory: Path = Field(
        default="",
        validate_default=False,
        description=(
            "Folder of the FlashCopy targets, sparse files that grow by what hosts "
            "overwrite during a drain. Default: `flashcopy` in `state_dir`."
        ),
    )
    reflink: Literal[False] = Field(
        default=False,
        description="Sharing extents with the device: arrives with a later version.",
    )
