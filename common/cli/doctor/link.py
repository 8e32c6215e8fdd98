"""Of the way to the other site: by what the daemon measures, else by a visit.

A visit goes as far as it can without leaving a trace in any group: connect, shake
hands, see each other's certificates, and ask to join a session that does not exist.
The refusal is the proof that farshore has read the question. It is too little data to
tell a rate from: what fits into a first window says nothing about those after it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from common.cli.display import seconds_text, size_text
from common.cli.doctor.findings import Finding, failed, fine, unknown, warning
from common.cli.doctor.host import Config
from common.errors import FarshoreError, PeerRefusedError
from common.replication.credentials import Credentials
from common.replication.link import HANDSHAKE_SECONDS, Link
from common.replication.session_messages import GoodbyeReason, Join
from common.replication.stream import Address, connect
from common.replication.tls_stream import secure
from common.service.clock import SystemClock
from common.service.config_link import LinkTable

CONNECT_SECONDS = 5.0
CLOCK_SKEW_SECONDS_MAX = 1.0

RATE = (
    "start both daemons: after a cycle this command and farshore status tell it; "
    "before that, iperf3 between the two hosts"
)
FIREWALL = "see its daemon, its firewall, and group.link.remotes here"


@dataclass(frozen=True, slots=True)
class Visit:
    """Times of one visit; `names` are those of the remote's certificate.

    To connect and to be answered takes a round trip each, and what the remote needs
    besides; a TLS handshake takes two, and what the certificates cost.
    """

    connect_seconds: float
    secure_seconds: float | None
    answer_seconds: float
    names: frozenset[str] | None

    @property
    def round_trip_seconds(self) -> float:
        """Return what a round trip takes at most."""
        return min(self.connect_seconds, self.answer_seconds)


async def visit(address: str, credentials: Credentials | None) -> Visit:
    """Connect, see who it is, and be refused. Raises `FarshoreError`."""
    began = time.monotonic()
    stream = await connect(Address.parse(address), CONNECT_SECONDS)
    connected = time.monotonic()
    names = secure_seconds = None
    link = Link(stream, SystemClock())
    try:
        if credentials is not None:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                secured = await secure(stream, credentials)
            names = secured.certificate.names
            secure_seconds = time.monotonic() - connected
            link = Link(secured, SystemClock())
        asked = time.monotonic()
        await link.send(Join(1, secrets.token_bytes(16)))
        try:
            await link.receive_first()
        except PeerRefusedError as error:
            if error.reason != GoodbyeReason.SUPERSEDED_SESSION:
                raise
        answered = time.monotonic() - asked
    finally:
        link.abort()
    return Visit(connected - began, secure_seconds, answered, names)


def check_by_visit(group: str, link: LinkTable) -> Iterator[Finding]:
    """Visit every address of a group's link, once each."""
    table = f"group[{group}].link.tls"
    credentials = None
    if link.tls is not None:
        try:
            credentials = Credentials.read(link.tls.files(), table, is_server=False)
        except FarshoreError as error:
            yield unknown("link", group, f"not tried: {error}")
            return
    for address in dict.fromkeys(str(remote) for remote in link.remotes):
        try:
            seen = asyncio.run(visit(address, credentials))
        except (FarshoreError, TimeoutError) as error:
            text = str(error) or f"{address}: no TLS handshake in time"
            yield failed("link", group, text, f"at the other site: {FIREWALL}")
            continue
        yield _visited(group, address, link.peer, seen)
        yield unknown("link", group, f"{address}: rate not measured", RATE)


def _visited(group: str, address: str, peer: str, seen: Visit) -> Finding:
    if seen.names is not None and peer not in seen.names:
        return failed(
            "link",
            group,
            f"{address} names itself {', '.join(sorted(seen.names))}, not {peer}",
            "mend group.link.peer or remotes, or its certificate",
        )
    secured = (
        "plain text"
        if seen.secure_seconds is None
        else f"it is {peer}, TLS in {seconds_text(seen.secure_seconds)}"
    )
    return fine(
        "link",
        group,
        f"{address}: round trip {seconds_text(seen.round_trip_seconds)} at most "
        f"(connected in {seconds_text(seen.connect_seconds)}, answered in "
        f"{seconds_text(seen.answer_seconds)}), {secured}",
    )


# -- by the daemon -----------------------------------------------------------------


def check_by_status(group: dict[str, Any]) -> Iterator[Finding]:
    """Tell what a daemon's status says of a group's link."""
    name, link = group["name"], group["link"]
    if group["role"] == "receiving" and link["state"] != "connected":
        text = f"no primary is connected ({link['state']})"
        yield warning("link", name, text, "farshore doctor at the primary tells why")
        return
    if link["state"] != "connected":
        return  # a visit says more
    yield fine("link", name, _measured(group))
    skews = [
        peer["clock_offset_seconds"]
        for peer in link["peers"]
        if peer.get("clock_offset_seconds") is not None
    ]
    if skews:
        yield _skew(name, max(skews, key=abs))


def _measured(group: dict[str, Any]) -> str:
    link = group["link"]
    trips = [
        peer["round_trip_seconds"]
        for peer in link["peers"]
        if peer.get("round_trip_seconds") is not None
    ]
    several = len(link["peers"])
    told = [f"connected over {several} connection{'' if several == 1 else 's'}"]
    if trips:
        told.append(f"round trip {seconds_text(min(trips))}")
    rate = (group.get("forecast") or {}).get("measured_bytes_per_second")
    last = group.get("last_cycle")
    if rate is not None:
        told.append(f"measured {size_text(rate)}/s")
    elif last is not None and last["drain_seconds"] > 0:
        rate = last["bytes_on_wire"] / last["drain_seconds"]
        told.append(f"the last cycle used {size_text(rate)}/s")
    return ", ".join(told)


def _skew(name: str, skew_seconds: float) -> Finding:
    text = f"the other site's clock differs by {seconds_text(abs(skew_seconds))}"
    if abs(skew_seconds) > CLOCK_SKEW_SECONDS_MAX:
        return warning(
            "clock", name, text, "keep both on NTP: ages of points are wrong by as much"
        )
    return fine("clock", name, text)


def check_links(config: Config | None, status: dict[str, Any] | None) -> list[Finding]:
    """Ask the daemon where it is connected, visit the remote where it is not."""
    found: list[Finding] = []
    groups = {} if status is None else {g["name"]: g for g in status["groups"]}
    for group in groups.values():
        found += check_by_status(group)
    for each in () if config is None else config.groups:
        known = groups.get(each.name)
        is_sending = known is None or known["role"] == "sending"
        is_connected = known is not None and known["link"]["state"] == "connected"
        if each.link is not None and is_sending and not is_connected:
            found += check_by_visit(each.name, each.link)
    return found
