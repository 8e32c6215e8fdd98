"""How a session begins: a link, HELLO, and a WELCOME from the remote that is meant."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import ConnectionLostError, PeerRefusedError, ProtocolError
from common.replication.features import LINKS
from common.replication.lineage import judge, why_refused
from common.replication.link import Link
from common.replication.messages import Message
from common.replication.session_messages import (
    PROTOCOL_VERSION,
    GoodbyeReason,
    Hello,
    Welcome,
)
from primary_site.paced import Pacing
from primary_site.session import SendingSession
from primary_site.session_links import Connect, SessionLinks, join


async def open_session(
    addresses: Sequence[str],
    hello: Hello,
    peer: str,
    connect: Connect,
    pacing: Pacing,
) -> SendingSession:
    """Connect a session's first link and say HELLO over it; others join it.

    The first address that answers is the first link's. Nothing counts as connected
    before WELCOME: until then no state has changed. A remote that can't do without
    one of its links has all of them joined here.
    """
    links: list[Link] = []
    try:
        link, index = await _connect_first(addresses, connect)
        links.append(link)
        addresses = [addresses[index], *addresses[:index], *addresses[index + 1 :]]
        await link.send(hello)
        welcome = check_welcome(await link.receive_first(), hello, peer)
        link.epoch = welcome.epoch
        outlives = LINKS in welcome.features
        if not outlives:
            for address in addresses[1:]:
                joined = await connect(address)
                links.append(joined)
                await join(joined, welcome)
        for link in links:
            link.start_heartbeat()
    except BaseException:
        for link in links:
            link.abort()
        raise
    found = SessionLinks(
        welcome,
        links,
        addresses,
        connect,
        pacing,
        group=hello.group,
        outlives=outlives,
    )
    return SendingSession(welcome, found, pacing, hello)


async def _connect_first(
    addresses: Sequence[str], connect: Connect
) -> tuple[Link, int]:
    """Return a link to the first address that answers, and which one that is."""
    error: ConnectionLostError | None = None
    for index, address in enumerate(addresses):
        if address in addresses[:index]:
            continue
        try:
            return await connect(address), index
        except ConnectionLostError as failed:
            error = error or failed
    assert error is not None
    raise error


def check_welcome(welcome: Message, hello: Hello, peer: str) -> Welcome:
    """Refuse a remote that is not the configured one, or of another lineage (I7)."""
    if not isinstance(welcome, Welcome):
        raise ProtocolError(f"{type(welcome).__name__} in answer to a HELLO")
    if welcome.version != PROTOCOL_VERSION:
        raise ProtocolError(f"remote speaks version {welcome.version}")
    if welcome.site != peer:
        raise PeerRefusedError(
            GoodbyeReason.WRONG_PEER,
            f"the remote is site {welcome.site!r}, not {peer!r} as group.link.peer "
            "says; mend peer or remotes",
        )
    verdict = judge(hello.sender, welcome.receiver)
    if verdict.is_refusal:
        raise PeerRefusedError(
            GoodbyeReason.LINEAGE,
            why_refused(verdict, hello.group, hello.sender, welcome.receiver),
        )
    return welcome
