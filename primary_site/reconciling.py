"""The first thing in a session: agree with the remote on what it has.

The verdict is pure (`common/replication/lineage.py`); here it is acted upon.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from common.errors import PeerRefusedError
from common.replication.lineage import CycleName, Verdict, judge, why_refused
from common.replication.session_messages import GoodbyeReason, Welcome
from primary_site.alarms import Alarms
from primary_site.group import ConsistencyGroup

REMOTE_RESTORED = (
    "the remote's state is an older copy of itself: what it had acknowledged since is "
    "compared"
)

log = structlog.get_logger()


async def reconcile(
    group: ConsistencyGroup,
    welcome: Welcome,
    alarms: Alarms,
    complete: Callable[[bytes], Awaitable[None]],
    abandon: Callable[[str], Awaitable[None]],
) -> None:
    """Agree with the remote on the newest recovery point, before anything else.

    `complete` ends the cycle whose answer was lost, given the new relation; `abandon`
    one that rests on what the remote no longer has, given why. Order:
    what the verdict asks for is durable here, then the session; only then is anything
    said in it. Raises `PeerRefusedError` if nothing may be sent.
    """
    receiver = welcome.receiver
    sender = group.judged()
    verdict = judge(sender, receiver)
    if verdict.is_refusal:
        raise PeerRefusedError(
            GoodbyeReason.LINEAGE,
            why_refused(verdict, group.name, sender, receiver),
        )
    point = receiver.committed
    cut = group.cut
    if cut is not None and point == CycleName(cut.number, cut.cycle_id):
        await complete(receiver.relation_id)  # only its answer was lost
    elif verdict is Verdict.NOTE_POINT:
        assert point is not None
        assert welcome.committed_cut_ns is not None
        as_of = welcome.current_as_of_ns or welcome.committed_cut_ns
        await group.note_committed(
            point.number, point.cycle_id, welcome.committed_cut_ns, as_of
        )
    elif verdict is Verdict.COMPARE_ALL:
        if cut is not None:
            await abandon("the remote no longer has the point it follows")
        await _compare_everything(group, welcome, alarms)
    elif verdict is Verdict.COMPARE_ACKED:
        log.warning(
            "remote_restored", group=group.name, progress=receiver.progress_count
        )
        alarms.set("remote_restored", REMOTE_RESTORED)
        await group.remote_relation.doubt_acked()
    await group.remote_relation.adopt(receiver.relation_id)
    await group.record_session(welcome.epoch, welcome.receipt)


async def _compare_everything(
    group: ConsistencyGroup, welcome: Welcome, alarms: Alarms
) -> None:
    point = welcome.receiver.committed
    number = None if point is None else point.number
    log.warning("remote_lost_points", group=group.name, has=number)
    alarms.set(
        "remote_lost_points",
        f"the remote no longer has point {group.state.committed_number}; "
        "all tracks are compared",
    )
    await group.remote_relation.suspect_everything(
        number,
        b"" if point is None else point.cycle_id,
        welcome.committed_cut_ns,
        welcome.current_as_of_ns,
    )
