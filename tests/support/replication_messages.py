"""One message of each type, with every field at a value of its own."""

from __future__ import annotations

from common.replication.cycle_messages import (
    Abandon,
    Committed,
    Credit,
    CurrentAsOf,
    CycleBegin,
    CycleEnd,
    Hashes,
    NeedFull,
    Progress,
    Tracks,
)
from common.replication.lineage import (
    CycleName,
    Fork,
    ReceiverState,
    SenderState,
    ToldFork,
)
from common.replication.link_messages import (
    ControlReceived,
    LinkNumber,
    LinksClosed,
    LinksLost,
)
from common.replication.member_messages import OfferVolume, VolumeAnswered, Whole
from common.replication.messages import Message
from common.replication.role_messages import AskChanged, Changed, HandOver
from common.replication.session_messages import (
    Goodbye,
    GoodbyeReason,
    Heartbeat,
    Hello,
    Join,
    Joined,
    Noted,
    Resize,
    VolumeOffer,
    Welcome,
)
from common.replication.verify_messages import (
    Outcome,
    Verified,
    Verify,
)

CYCLE = bytes(range(16))

EXAMPLES: dict[str, Message] = {
    "hello": Hello(
        version_min=1,
        version_max=2,
        site="amsterdam",
        group="orders",
        sender=SenderState(
            group_id=b"g" * 16,
            lineage=b"l" * 16,
            epoch=6,
            receipt=b"p" * 16,
            newest=CycleName(42, b"n" * 16),
            committed=CycleName(41, b"c" * 16),
            relation_id=b"r" * 16,
            progress_count=3,
        ),
        volumes=(
            VolumeOffer("data", b"v" * 16, 100 << 30, 4096),
            VolumeOffer("log", b"w" * 16, (1 << 20) + 512, 1 << 20),
        ),
        features=("xor",),
    ),
    "welcome": Welcome(
        version=2,
        site="dr",
        epoch=7,
        token=b"t" * 16,
        receipt=b"q" * 16,
        receiver=ReceiverState(
            group_id=b"g" * 16,
            lineage=b"l" * 16,
            shown_epoch=6,
            shown=b"o" * 16,
            given=b"p" * 16,
            begun=CycleName(42, b"n" * 16),
            committed=CycleName(41, b"c" * 16),
            is_noted=True,
            relation_id=b"r" * 16,
            progress_count=4,
        ),
        committed_cut_ns=1_700_000_000_000_000_000,
        current_as_of_ns=1_700_000_001_000_000_000,
        credit_bytes=16 << 20,
    ),
    "welcome_before_the_first_point": Welcome(
        version=2,
        site="dr",
        epoch=1,
        token=b"t" * 16,
        receipt=b"q" * 16,
        receiver=ReceiverState(
            group_id=b"g" * 16, lineage=b"l" * 16, relation_id=b"r" * 16
        ),
        committed_cut_ns=None,
        current_as_of_ns=None,
        credit_bytes=16 << 20,
    ),
    "join": Join(7, b"t" * 16),
    "joined": Joined(7),
    "cycle_begin": CycleBegin(7, 42, CYCLE, 1_700_000_002_000_000_000, "before Ünit"),
    "credit": Credit(7, CYCLE, 1 << 20),
    "tracks": Tracks(7, CYCLE, 3, 1, 5000, b"records"),
    "hashes": Hashes(7, CYCLE, 4, 0, 1 << 20, 2, b"h" * 32),
    "need_full": NeedFull(7, CYCLE, 4, 0, ((1 << 20, 1), ((1 << 20) + 5, 9))),
    "progress": Progress(7, CYCLE, ((0, 2), (4, 4)), 5),
    "cycle_end": CycleEnd(7, CYCLE, 5, (1 << 64) - 1),
    "committed": Committed(7, 42, CYCLE, 1_700_000_002_000_000_000, b"s" * 16),
    "current_as_of": CurrentAsOf(7, 42, 1_700_000_003_000_000_000),
    "abandon": Abandon(7, CYCLE),
    "noted": Noted(7, CYCLE),
    "verify": Verify(7, CYCLE, 11, 1, 1 << 20, 1024, b"r" * 16),
    "verified": Verified(7, CYCLE, 11, Outcome.DIFFERS, (b"h" * 16, b"i" * 16), ""),
    "link": LinkNumber(7, 3),
    "links_lost": LinksLost(7, 2, (0, 3), 12),
    "links_closed": LinksClosed(7, 2, 9, CYCLE, 4, ((5, 7), (9, 9))),
    "links_closed_without_a_cycle": LinksClosed(7, 2, 9, None, 0, ()),
    "control_received": ControlReceived(7, 64),
    "resize": Resize(7, 1, 5 << 20, (5 << 20) + 512),
    "ask_changed": AskChanged(7, 1, 1 << 20),
    "changed": Changed(7, 1, ((1 << 20, 1), ((1 << 20) + 5, 9)), 1 << 21, 43),
    "hand_over": HandOver(
        7,
        Fork(b"m" * 16, b"l" * 16, CycleName(42, CYCLE), 1_700_000_000, 1_700_000_9),
    ),
    "whole": Whole(7, CYCLE, (1, 3)),
    "offer_volume": OfferVolume(7, "log", b"w" * 16, (1 << 20) + 512, 1 << 20),
    "volume_answered": VolumeAnswered(7, "no such volume in remote.toml"),
    "heartbeat": Heartbeat(7, 1_700_000_004_000_000_000, 1_700_000_003_500_000_000),
    "goodbye": Goodbye(GoodbyeReason.SIZE_MISMATCH, "orders/data has 5 bytes, not 6"),
    "goodbye_of_one_that_took_over": Goodbye(
        GoodbyeReason.SUPERSEDED,
        "taken over",
        ToldFork(
            Fork(
                b"m" * 16, b"l" * 16, CycleName(42, CYCLE), 1_700_000_000, 1_700_000_9
            ),
            is_known=True,
        ),
    ),
}
