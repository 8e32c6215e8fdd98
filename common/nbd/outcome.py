"""How a handshake can end."""

from __future__ import annotations

from dataclasses import dataclass

from common.nbd.protocol import WireForm


@dataclass(frozen=True, slots=True)
class Agreed:
    """Transmission starts: what was settled before."""

    export_name: str
    form: WireForm
    contexts: tuple[tuple[int, str], ...] = ()
    """(id, name) of the selected metadata contexts."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection must be closed once the output is sent.

    `refused` tells a client that broke a rule or asked for what there is not
    from one that said goodbye.
    """

    reason: str
    refused: bool


Outcome = Agreed | Ended
