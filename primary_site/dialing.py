"""How a group reaches its remote: connect, shake hands, see who it is."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from common.certificates import Certificate
from common.errors import ConnectionLostError, PeerRefusedError
from common.ports import Clock
from common.replication.credentials import Credentials
from common.replication.link import HANDSHAKE_SECONDS, Link
from common.replication.link_life import LINK_SECONDS_MAX, LinkLife
from common.replication.session_messages import GoodbyeReason
from common.replication.stream import Address, connect
from common.replication.tls_stream import secure

CONNECT_SECONDS: Final = 10.0

LIFE_SHARE_MIN: Final = 0.8
"""Of the longest life: links of one session do not end all at once, and before the
remote ends them."""


class Dialer:
    """Opens the links of one group; its `connect` is called on the group's loop."""

    def __init__(
        self, peer: str, credentials: Credentials | None, clock: Clock
    ) -> None:
        """`peer` is the name that the remote's certificate must have."""
        self.peer = peer
        self.credentials = credentials
        """Of the links to come; those there are keep theirs. None: plain text."""
        self.peer_certificate: Certificate | None = None
        """The one last seen, also if it was refused for its name."""
        self._clock = clock

    async def connect(self, address: str) -> Link:
        """Return a link to the group's remote, to nobody else.

        Raises `ConnectionLostError`, `ProtocolError`, `PeerRefusedError`. Whether the
        remote takes us for who we are shows only with its first answer.
        """
        stream = await connect(Address.parse(address), CONNECT_SECONDS)
        credentials = self.credentials
        if credentials is None:
            return Link(stream, self._clock)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                secured = await secure(stream, credentials)
        except TimeoutError:
            raise ConnectionLostError(
                f"{address}: no TLS handshake within {HANDSHAKE_SECONDS:g} s"
            ) from None
        self.peer_certificate = secured.certificate
        if self.peer not in secured.certificate.names:
            await secured.close()
            names = ", ".join(sorted(secured.certificate.names)) or "nobody"
            raise PeerRefusedError(
                GoodbyeReason.WRONG_PEER,
                f"{address}: the remote's certificate names {names}, not {self.peer} "
                "as group.link.peer says: mend peer or remotes, or give the remote a "
                f"certificate with DNS:{self.peer} among its subject alternative names",
            )
        return Link(secured, self._clock, self._life(credentials, secured.certificate))

    def _life(self, credentials: Credentials, peer: Certificate) -> LinkLife:
        share = random.uniform(LIFE_SHARE_MIN, 1.0)  # noqa: S311 - jitter
        until = self._clock.monotonic() + share * LINK_SECONDS_MAX
        return LinkLife(credentials.own, peer, until)
