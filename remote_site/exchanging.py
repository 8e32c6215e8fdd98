"""What a session says of roles that change: this site's own changes, a handing over."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from common.errors import ProtocolError
from common.replication.lineage import Fork
from common.replication.role_messages import AskChanged, Changed, HandOver
from remote_site.receiver import Receiver
from remote_site.store import GroupStore

OnHandOver = Callable[[Fork], str | None]
"""Begins a takeover that the sender asks for, or returns why it can't be."""


def no_hand_over(fork: Fork) -> str | None:
    """Return why this site does not take a group over."""
    del fork
    return "the remote can't take this group over"


class Exchanging:
    """Of one session; messages of other sessions have been dropped before."""

    def __init__(
        self,
        receiver: Receiver,
        store: GroupStore,
        order: Sequence[int],
        on_hand_over: OnHandOver,
    ) -> None:
        self._receiver = receiver
        self._store = store
        self._order = order
        self._on_hand_over = on_hand_over

    async def tell_changes(self, message: AskChanged) -> Changed:
        """Return what this site has changed itself, before it received the group."""
        receiver = self._receiver
        if message.volume >= len(receiver.shapes):
            raise ProtocolError(f"ASK_CHANGED of volume {message.volume}")
        tracks = receiver.shapes[message.volume].track_count
        if message.first >= tracks or receiver.cycle is not None:
            raise ProtocolError("ASK_CHANGED beyond its volume, or within a cycle")
        index = self._order[message.volume]
        offer = self._store.volumes[index]
        known = -(-offer.size_bytes // offer.track_bytes)
        runs: tuple[tuple[int, int], ...] = ()
        end = known
        if message.first < known:
            runs, end = await self._store.told_changes(index, message.first)
        if end == known:
            end = tracks  # what the sender's volume has grown by, this site never had
        used = self._store.points[-1].number if self._store.points else 0
        return Changed(receiver.epoch, message.volume, runs, end, used)

    def hand_over(self, message: HandOver) -> str | None:
        """Have the group taken over as its sender asks: that ends the session.

        Returns why not, where it can't be; then nothing has changed.
        """
        fork, state = message.fork, self._store.judged
        if self._receiver.cycle is not None:
            raise ProtocolError("HAND_OVER within a cycle")
        if fork.parent != state.lineage:
            raise ProtocolError("HAND_OVER of another lineage")
        if self._store.is_divided or fork.cycle != state.committed:
            return (
                f"the remote has no point {fork.cycle.number}, which was to be handed "
                "over: it is an older copy of itself; switch over anew once it has "
                "caught up"
            )
        return self._on_hand_over(fork)
