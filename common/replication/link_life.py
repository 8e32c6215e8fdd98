"""How long a link may live on what both sites have shown at its beginning.

Pure. A certificate is looked at when a connection is made. One that ends later, or is
revoked, or whose CA is taken away, would count for as long as the connection lasts;
so a link ends with the first of the two certificates, and after a day in any case.
What comes next is another handshake, which looks at everything anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from common.certificates import Certificate

LINK_SECONDS_MAX: Final = 86400.0


@dataclass(frozen=True, slots=True)
class LinkLife:
    """`until`: of the monotonic clock. The certificates end by the wall clock."""

    own: Certificate
    peer: Certificate
    until: float

    def why_over(self, now_ns: int, now: float) -> str | None:
        """Return why the link has to end now; None: it may go on."""
        for whose, found in (("this", self.own), ("the other", self.peer)):
            if found.seconds_left(now_ns) <= 0:
                return f"{whose} site's certificate expired {found.expires}"
        if now >= self.until:
            return "it has lasted for a day: certificates are looked at anew"
        return None
