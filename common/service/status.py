"""What a daemon says of itself: snapshots, apart from the live objects.

The keys are a promise to scripts (docs/reference/cli.md). Fields hold integers
and carry units; rendered, moments are RFC 3339 in UTC. None is "not known".
"""

from __future__ import annotations

import enum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from common.service.hook_status import HooksStatus
from common.service.moments import rfc3339

Moment = Annotated[int, PlainSerializer(rfc3339, return_type=str)]


class GroupRole(enum.StrEnum):
    SENDING = "sending"
    RECEIVING = "receiving"


class GroupState(enum.StrEnum):
    """What a group does now; the first that applies, in no order of gravity."""

    FIRST_COPY = "first_copy"
    IDLE = "idle"
    DRAINING = "draining"
    SUSPENDED = "suspended"
    DISCONNECTED = "disconnected"
    SUSPECT = "suspect"
    SUPERSEDED = "superseded"
    TAKEN_OVER = "taken_over"
    FAILED = "failed"


class LinkState(enum.StrEnum):
    CONNECTED = "connected"
    CONNECTING = "connecting"
    DOWN = "down"
    REFUSED = "refused"


class Snapshot(BaseModel):
    """A frozen model; `to_json` gives what goes over the control socket."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)


class RecoveryPointStatus(Snapshot):
    """The newest recovery point; data is current up to `current_as_of_ns`."""

    number: int
    cut_ns: Moment = Field(serialization_alias="cut_time")
    current_as_of_ns: Moment = Field(serialization_alias="current_as_of")
    label: str | None = None


class CertificateStatus(Snapshot):
    """`names` are its DNS names; `seconds_left` is negative once it has expired."""

    names: tuple[str, ...]
    expires_ns: Moment = Field(serialization_alias="expires")
    seconds_left: float


class PeerStatus(Snapshot):
    """One connection, as far as this site knows; bytes since it was made.

    `state`: `connected`; `connecting` for one that is missing. `number` is the link's
    in its session, `carries_control` marks the one that control messages go over.
    `clock_offset_seconds`: the other site's wall clock less this one's.
    """

    address: str
    state: LinkState
    number: int | None = None
    carries_control: bool = False
    sent_bytes: int = 0
    received_bytes: int = 0
    round_trip_seconds: float | None = None
    clock_offset_seconds: float | None = None


class LinkStatus(Snapshot):
    """`peers` has each connection of the group's session; `site` is the other site's
    name, as the config has it.

    `rate_bytes_per_second`: what paces sending now, of each connection with a profile
    whose lanes are paced one by one; None: not paced, or not known here.
    `session_sent_bytes`: over all connections of this session, those lost included.
    `encrypted`: whether the config demands TLS, so that nothing else is spoken.
    `peer_certificate` is the one last seen.
    """

    state: LinkState
    site: str | None = None
    encrypted: bool = False
    peers: tuple[PeerStatus, ...] = ()
    rate_bytes_per_second: int | None = None
    session_sent_bytes: int | None = None
    certificate: CertificateStatus | None = None
    peer_certificate: CertificateStatus | None = None


class LastCycleStatus(Snapshot):
    """The newest cycle that ended, with what it cost."""

    number: int
    hold_seconds: float
    drain_seconds: float
    tracks: int
    bytes_changed: int
    bytes_on_wire: int


class ForecastStatus(Snapshot):
    """Whether `rpo` is kept, and what stands in the way if not.

    `promise`: "kept", "in_danger" or "breached". `cause`: "link_down", "just_begun",
    "link", "remote_disk", "primary_disk", "cpu"; None while all is well. The rates are
    bytes a second on the wire.
    """

    target_seconds: float
    promise: str
    expected_age_seconds: float
    seconds_until_breach: float | None = None
    cause: str | None = None
    needed_bytes_per_second: float | None = None
    measured_bytes_per_second: float | None = None


class HistogramStatus(Snapshot):
    """Lengths of time: `counts` has one more than `bounds_seconds`, for what is longer.

    Each is of its own: those up to its bound and above the one before.
    """

    bounds_seconds: tuple[float, ...]
    counts: tuple[int, ...]
    sum_seconds: float


class TotalsStatus(Snapshot):
    """What a group did since its daemon started.

    `bytes_changed` and `bytes_on_wire` are of committed cycles. `hold_seconds` counts
    every time that host writes were held, cuts that were given up included;
    `cycle_seconds` is from a cut to its commit, `commit_seconds` what the receiving
    site needed for the commit itself.
    """

    cycles_committed: int = 0
    cycles_abandoned: int | None = None
    bytes_changed: int | None = None
    bytes_on_wire: int | None = None
    hold_seconds: HistogramStatus | None = None
    cycle_seconds: HistogramStatus | None = None
    commit_seconds: HistogramStatus | None = None


class HistoryStatus(Snapshot):
    """Recovery points kept at the receiving site, and the bytes of their journals.

    `oldest_cut_ns`: how far back they go. `kept` stay by an operator's word, `forks`
    are what this site wrote and gave up. `retain`: the rules, as the config has them.
    """

    points: int
    journal_bytes: int
    journal_limit_bytes: int | None = None
    oldest_cut_ns: Moment | None = Field(
        default=None, serialization_alias="oldest_cut_time"
    )
    kept: int = 0
    forks: int = 0
    retain: tuple[str, ...] = ()


class RoleStep(enum.StrEnum):
    """Where an exchange of the two sites' roles stands, seen from this site."""

    HANDING_OVER = "handing_over"
    TAKING_OVER = "taking_over"
    TAKEN_OVER = "taken_over"
    SUPERSEDED = "superseded"
    SPLIT_BRAIN = "split_brain"
    FAILING_BACK = "failing_back"


class RoleChangeStatus(Snapshot):
    """`point`, cut at `cut_ns`, is what the two lines of data have in common, or, while
    failing back, the fork that is kept. `at_ns`: when it was taken over."""

    step: RoleStep
    point: int | None = None
    cut_ns: Moment | None = Field(default=None, serialization_alias="cut_time")
    at_ns: Moment | None = Field(default=None, serialization_alias="at")
    lineage: str | None = None


class VolumeStatus(Snapshot):
    name: str
    size_bytes: int
    track_bytes: int
    joining: bool = False
    """It was added to the group, and no recovery point has it yet."""


class ProgressStatus(Snapshot):
    """A long operation, such as "first_copy"; no ETA before there is a rate."""

    operation: str
    done_bytes: int
    total_bytes: int
    eta_seconds: float | None = None


class AlarmStatus(Snapshot):
    """Something an operator should look at, until it ends."""

    name: str
    message: str
    since_ns: Moment | None = Field(default=None, serialization_alias="since")


class VerifySummary(Snapshot):
    """The last verify that ended; see `verify_status.VerifyResult`."""

    result: str
    ended_ns: Moment = Field(serialization_alias="ended")
    compared_bytes: int
    differing_bytes: int


class ScrubSummary(Snapshot):
    """The last scrub that ended; see `scrub_status.ScrubResult`."""

    result: str
    ended_ns: Moment = Field(serialization_alias="ended")
    read_bytes: int
    findings: int


class DrillSummary(Snapshot):
    """The last drill; see `drill_status.DrillVerdict`."""

    started_ns: Moment = Field(serialization_alias="started")
    verdict: str
    point: int | None
    probe_seconds: float | None


class GroupStatus(Snapshot):
    name: str
    role: GroupRole
    state: GroupState
    lineage: str | None = None
    cycle_number: int | None = None
    recovery_point: RecoveryPointStatus | None = None
    recovery_point_age_seconds: float | None = None
    link: LinkStatus
    changed_bytes: int | None = None
    out_of_sync_bytes: int | None = None
    last_cycle: LastCycleStatus | None = None
    volumes: tuple[VolumeStatus, ...] = ()
    progress: ProgressStatus | None = None
    last_verify: VerifySummary | None = None
    forecast: ForecastStatus | None = None
    last_scrub: ScrubSummary | None = None
    test_copies: tuple[str, ...] = ()
    last_drill: DrillSummary | None = None
    hooks: HooksStatus | None = None
    totals: TotalsStatus | None = None
    history: HistoryStatus | None = None
    role_change: RoleChangeStatus | None = None
    alarms: tuple[AlarmStatus, ...] = ()


class NbdStatus(Snapshot):
    """Hosts attached now. `exports` counts connections by what they chose;
    `handshakes` are those that have not chosen yet."""

    handshakes: int
    exports: dict[str, int]
    waiting_for_memory: int


class TracingStatus(Snapshot):
    """Spans of cycles since the daemon started: a collector has them, or nobody."""

    spans_sent: int
    spans_lost: int


class SiteStatus(Snapshot):
    """What `farshore status --json` prints."""

    site: str
    role: str
    version: str
    nbd: NbdStatus | None = None
    tracing: TracingStatus | None = None
    groups: tuple[GroupStatus, ...] = ()


class PointStatus(Snapshot):
    """One of what `farshore points --json` prints, newest first.

    `here`: this site has it, and can serve it; else only the other one does, and how
    large it is there is not known.
    """

    number: int
    cut_ns: Moment = Field(serialization_alias="cut_time")
    current_as_of_ns: Moment = Field(serialization_alias="current_as_of")
    label: str | None = None
    size_bytes: int = Field(serialization_alias="bytes")
    pinned: bool = False
    here: bool = True


class CutStatus(Snapshot):
    """What `farshore cut --json` prints.

    `committed`: this very cut is safe at the remote, or nothing had changed and
    the newest point is known to be current.
    """

    number: int | None
    cut_ns: Moment = Field(serialization_alias="cut_time")
    hold_seconds: float
    committed: bool


def age_seconds(current_as_of_ns: int, now_ns: int) -> float:
    """Return a recovery point's age; a clock set back gives 0, never less."""
    return max(0, now_ns - current_as_of_ns) / 1e9
