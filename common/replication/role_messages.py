"""Messages by which two sites agree on their roles, between cycles. Pure.

What a former primary holds otherwise, told to the site that copies to it again; and the
handing over of a switchover.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.replication.lineage import Fork


@dataclass(frozen=True, slots=True)
class AskChanged:
    """Which tracks of a volume, from `first` on, does the receiver hold otherwise?

    Otherwise than the cycle says that its WELCOME calls committed. Asked before the
    first cycle of a session, of each volume, until all of it has been told.
    """

    epoch: int
    volume: int
    first: int


@dataclass(frozen=True, slots=True)
class Changed:
    """The answer: these runs, and all between, up to `end`, is as it should be.

    `end` is the volume's track count once all has been told. `numbers_up_to`: numbers
    of cycles that the receiver has used for others; the sender goes on above them.
    """

    epoch: int
    volume: int
    runs: tuple[tuple[int, int], ...]
    end: int
    numbers_up_to: int


@dataclass(frozen=True, slots=True)
class HandOver:
    """The receiver shall take over from its newest point, `fork.cycle`, at once.

    The sender's hosts write no more, and all they have written is in that point. The
    answer is the end of the session: GOODBYE *superseded* with this fork, once the
    receiver has recorded it; *not permitted* where it can't send.
    """

    epoch: int
    fork: Fork
