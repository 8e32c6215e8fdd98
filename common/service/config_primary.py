"""The models of primary.toml."""

from __future__ import annotations

from typing import Annotated, Any, Self

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

from common.service.config_common import (
    GROUPS_MAX,
    VOLUMES_MAX,
    Name,
    Path,
    SocketPath,
    Table,
    all_volumes,
    check_distinct_names,
    check_groups,
    check_other_site,
    json_text,
    written,
)
from common.service.config_hooks import HooksTable
from common.service.config_http import HttpTable
from common.service.config_link import FlashCopyTable, LinkTable
from common.service.config_nbd import NbdTable, check_access_rules
from common.service.config_remote import JournalTable, ReplicationTable
from common.service.config_tracing import TracingTable
from common.service.schedule import parse_schedule
from common.service.units import (
    MIB,
    Bytes,
    Seconds,
    check_power_of_two,
    check_sectors,
    count_bounds,
    format_size,
    parse_size,
    size_bounds,
    time_bounds,
)
from common.storage.geometry import default_track_bytes

TRIGGERS = ("rpo", "interval", "changed", "schedule", "manual")
RPO_DEFAULT = "5s"


def parse_track_size(value: object) -> int | None:
    if value == "auto":
        return None
    return check_power_of_two(parse_size(value))


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
    hooks: HooksTable | None = Field(
        default=None,
        description=(
            "Programs that run before and after each cut, so that a point holds what "
            "applications had in memory. Default: none."
        ),
    )
    journal: JournalTable = Field(
        default_factory=JournalTable,
        description=(
            "Where old content is kept while this site receives the group: after a "
            "failback or a switchover."
        ),
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
    replication: ReplicationTable | None = Field(
        default=None,
        description=(
            "Where the other site connects once it has taken over, to send a group "
            "back. Without it this site can't receive."
        ),
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
