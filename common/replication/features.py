"""What a session may use beyond the plain protocol, agreed in HELLO and WELCOME.

Pure. The sender offers, the receiver answers with those it takes; what an older
peer does not know is never used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

DELTA: Final = "delta"
"""Records of TRACKS may be written as the difference to what the receiver holds."""

REFERENCE: Final = "reference"
"""With `delta`: payloads may be compressed against what the newest point has elsewhere,
see `referenced.py`."""

VERIFY: Final = "verify"
"""VERIFY is understood, and answered by VERIFIED."""

LINKS: Final = "links"
"""A session outlives its single links: see `control.py`, and LINKS_LOST."""

GROW: Final = "grow"
"""RESIZE is understood: a HELLO may offer more than the receiver has of a volume."""

TAKEOVER: Final = "takeover"
"""GOODBYE may carry a fork, and say that this sender is superseded."""

EXCHANGE: Final = "exchange"
"""ASK_CHANGED and HAND_OVER are understood: a site that once sent may receive."""

MEMBERS: Final = "members"
"""A HELLO may have other volumes than the last one; WHOLE and OFFER_VOLUME are
understood."""

TAKEN: Final = (DELTA, REFERENCE, VERIFY, LINKS, GROW, TAKEOVER, EXCHANGE, MEMBERS)
"""What a receiver of this version takes."""


def agreed(offered: Sequence[str]) -> tuple[str, ...]:
    """Return the features of a session, in the order of the offer."""
    return tuple(name for name in offered if name in TAKEN)
