"""The models of primary.toml."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
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
    GROUPS_MAX,
    PLAINTEXT_DESCRIPTION,
    TLS_DESCRIPTION,
    VOLUMES_MAX,
    Name,
    Path,
    RemoteAddress,
    ReplicationTlsTable,
    SocketPath,
    Table,
    all_volumes,
    check_distinct_names,
    check_groups,
    check_other_site,
    check_tls_or_plaintext,
    json_text,
    written,
)
from common.service.config_nbd import NbdTable, check_access_rules
from common.service.schedule import parse_schedule
from common.service.units import (
    MIB,
    Bounds,
    Bytes,
    BytesPerSecond,
    Seconds,
    check_power_of_two,
    check_sectors,
    count_bounds,
    format_size,
    parse_bandwidth,
    parse_size,
    size_bounds,
    time_bounds,
)
from common.storage.geometry import default_track_bytes

COMPRESSION_LEVEL_MAX = 19
"""zstd's levels above it trade hundreds of MiB of memory for a per cent."""

TRIGGERS = ("rpo", "interval", "changed", "schedule", "manual")
RPO_DEFAULT = "5s"


def parse_track_size(value: object) -> int | None:
    if value == "auto":
        return None
    return check_power_of_two(parse_size(value))


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


class PrimarySite(Table):
    """Who and where this daemon is."""

    name: Name = Field(description="Name of this site, as the other one knows it.")
    state_directory: Path = Field(
        default="/var/lib/farshore/primary",
        alias="state_dir",
        description=(
            "Folder of this daemon's durable state: bitmaps, region logs, cycle "
            "records. Created when absent; one daemon at a time."
        ),
    )
    control_socket: SocketPath = Field(
        default="/run/farshore/primary.sock",
        description="Unix socket at which the farshore command reaches this daemon.",
    )


class PrimaryVolume(Table):
    """One volume, as hosts see it, and the device behind it."""

    name: Name = Field(description="Name; its NBD export is GROUP/VOLUME.")
    device: Path = Field(
        description=(
            "A file or a block device. A file that does not exist is created "
            "sparse, with `size`."
        ),
    )
    size_bytes: (
        Annotated[Bytes, size_bounds("512B", "1PiB"), AfterValidator(check_sectors)]
        | None
    ) = Field(
        default=None,
        alias="size",
        description=(
            "Size of the volume, a multiple of 512 bytes. Needed to create a file; "
            "a file that exists must have exactly this size. Of a volume that farshore "
            "grow has made larger, a size that it had once is warned of, and the grown "
            "one counts. Default: the device's."
        ),
    )
    track_bytes: Annotated[
        int | None,
        BeforeValidator(parse_track_size),
        PlainSerializer(
            lambda value: "auto" if value is None else format_size(value),
            return_type=str,
        ),
        WithJsonSchema(
            {
                "type": "string",
                "x-kind": 'size or "auto"',
                "examples": ["auto", "64KiB"],
            }
        ),
    ] = Field(
        default=written("auto"),
        alias="track_size",
        description=(
            "The unit of change recording and transfer, a power of two from 4KiB "
            'to 1MiB, fixed once the volume is in use. "auto": the smallest that '
            "keeps a bitmap within 32 MiB."
        ),
    )
    region_bytes: Annotated[
        Bytes, size_bounds("4KiB", "1GiB"), AfterValidator(check_power_of_two)
    ] = Field(
        default=written("4MiB"),
        alias="region_size",
        description="The unit of the region log, a power of two, at least a track.",
    )
    hot_regions_max: Annotated[StrictInt, count_bounds(16, 65536)] = Field(
        default=4096,
        description=(
            "Regions that may be in write at once: times `region_size`, what a "
            "crash makes the two sites compare."
        ),
    )

    @model_validator(mode="after")
    def _check_track(self) -> Self:
        track = self.track_bytes
        if track is not None and not 4096 <= track <= MIB:
            raise ValueError(
                f"track_size {format_size(track)} is out of bounds: "
                "choose a power of two from 4KiB to 1MiB"
            )
        if track is None:
            track = default_track_bytes(self.size_bytes or 512)
        if track > self.region_bytes:
            raise ValueError(
                f"region_size {format_size(self.region_bytes)} is smaller than a "
                f"track: choose {format_size(track)} or more"
            )
        return self


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


class PrimaryGroup(Table):
    """A consistency group: volumes that are cut together."""

    name: Name = Field(description="Name, the same at both sites.")
    rpo_seconds: Annotated[Seconds, time_bounds("100ms", "1d")] | None = Field(
        default=None,
        alias="rpo",
        description=(
            "Trigger: begin cycles so that the newest recovery point stays younger "
            f'than this. The default trigger, with "{RPO_DEFAULT}".'
        ),
    )
    interval_seconds: Annotated[Seconds, time_bounds("100ms", "30d")] | None = Field(
        default=None, alias="interval", description="Trigger: a cut every so often."
    )
    changed_bytes: Annotated[Bytes, size_bounds("4KiB", "1PiB")] | None = Field(
        default=None,
        alias="changed",
        description="Trigger: a cut once so much has changed.",
    )
    schedule: (
        Annotated[
            str,
            BeforeValidator(parse_schedule),
            json_text("schedule"),
        ]
        | None
    ) = Field(
        default=None,
        description='Trigger: five cron fields in UTC, as in "*/5 * * * *".',
    )
    manual: StrictBool = Field(
        default=False, description="Trigger: cuts only by `farshore cut`."
    )
    hold_max_seconds: Annotated[Seconds, time_bounds("1ms", "10s")] = Field(
        default=written("50ms"),
        alias="hold_max",
        description=(
            "Longest time for which a cut may delay host writes; past it the cut "
            "lets go and tries again."
        ),
    )
    hold_retries: Annotated[StrictInt, count_bounds(0, 1000)] = Field(
        default=5,
        description="Cuts given up in a row before the alarm `cut_starved`.",
    )
    resume_timeout_seconds: Annotated[Seconds, time_bounds("100ms", "7d")] = Field(
        default=written("10m"),
        alias="resume_timeout",
        description=(
            "How long a cycle outlives a lost link before it is abandoned and its "
            "tracks join the next one."
        ),
    )
    link: LinkTable = Field(description="How the group reaches its remote.")
    flashcopy: FlashCopyTable = Field(
        default_factory=FlashCopyTable,
        description="Where old content is kept while a cycle drains.",
    )
    volumes: Annotated[
        tuple[PrimaryVolume, ...], Field(min_length=1, max_length=VOLUMES_MAX)
    ] = Field(alias="volume", description="The group's volumes.")

    @model_validator(mode="before")
    @classmethod
    def _one_trigger(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        given = [name for name in TRIGGERS if raw.get(name, False) is not False]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)} are both triggers: keep exactly one of "
                f"{', '.join(TRIGGERS)}"
            )
        return raw if given else raw | {"rpo": RPO_DEFAULT}

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_distinct_names(self.volumes, "volume")
        return self


class PrimaryConfig(Table):
    """A loaded primary.toml: sizes in bytes, times in seconds, paths absolute."""

    site: PrimarySite = Field(description="Who and where this daemon is.")
    nbd: NbdTable = Field(default_factory=NbdTable, description="Where hosts attach.")
    groups: Annotated[
        tuple[PrimaryGroup, ...], Field(min_length=1, max_length=GROUPS_MAX)
    ] = Field(alias="group", description="The consistency groups.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_groups(self.groups)
        check_access_rules(
            self.nbd.access, [name for name, _ in all_volumes(self.groups)]
        )
        for group in self.groups:
            check_other_site(group.name, "link.peer", group.link.peer, self.site.name)
        return self
