"""The closed set of replication messages: their numbers on the wire. Pure.

What each of them means, and its fields' bounds, stands where its subject does: a
session, its links, a cycle, a verify, roles, members. `codec.py` puts them on the wire.

docs/internals/protocol.md has the same tables for people.
"""

from __future__ import annotations

import enum

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
from common.replication.link_messages import (
    ControlReceived,
    LinkNumber,
    LinksClosed,
    LinksLost,
)
from common.replication.member_messages import OfferVolume, VolumeAnswered, Whole
from common.replication.role_messages import AskChanged, Changed, HandOver
from common.replication.session_messages import (
    Goodbye,
    Heartbeat,
    Hello,
    Join,
    Joined,
    Noted,
    Resize,
    Welcome,
)
from common.replication.verify_messages import Verified, Verify


class MessageType(enum.IntEnum):
    HELLO = 1
    WELCOME = 2
    JOIN = 3
    JOINED = 4
    CYCLE_BEGIN = 5
    CREDIT = 6
    TRACKS = 7
    HASHES = 8
    NEED_FULL = 9
    PROGRESS = 10
    CYCLE_END = 11
    COMMITTED = 12
    CURRENT_AS_OF = 13
    ABANDON = 14
    HEARTBEAT = 15
    GOODBYE = 16
    NOTED = 17
    VERIFY = 18
    VERIFIED = 19
    RESIZE = 20
    LINK = 30
    LINKS_LOST = 31
    LINKS_CLOSED = 32
    CONTROL_RECEIVED = 33
    ASK_CHANGED = 40
    CHANGED = 41
    HAND_OVER = 42
    WHOLE = 50
    OFFER_VOLUME = 51
    VOLUME_ANSWERED = 52


Message = (
    Hello
    | Welcome
    | Join
    | Joined
    | CycleBegin
    | Credit
    | Tracks
    | Hashes
    | NeedFull
    | Progress
    | CycleEnd
    | Committed
    | CurrentAsOf
    | Abandon
    | Heartbeat
    | Goodbye
    | Noted
    | Verify
    | Verified
    | LinkNumber
    | LinksLost
    | LinksClosed
    | ControlReceived
    | Resize
    | AskChanged
    | Changed
    | HandOver
    | Whole
    | OfferVolume
    | VolumeAnswered
)
