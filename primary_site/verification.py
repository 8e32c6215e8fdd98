"""One verify: a volume compared with the remote's while replication goes on.

No side is ever held still. A piece is read at the newest cut, through its FlashCopy,
for as long as that stands: from the cut to the next one. Once the cut is the remote's
newest point, the piece's root is sent there and compared with the same tracks of that
very point. So each piece is compared at exactly one cut, and several cuts serve one
verify. Whatever comes in between (the cut moved on while it was read, its cycle was
abandoned, the point is gone, the link lost) has the piece read again, at a newer cut;
it is never called different for that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from common.errors import (
    ConnectionLostError,
    FarshoreError,
    ProtocolError,
    StorageError,
)
from common.ports import Clock
from common.replication.features import VERIFY
from common.replication.lineage import CycleName
from common.replication.verify_messages import (
    QUESTIONS_MAX,
    Outcome,
    Verified,
    Verify,
)
from common.storage.background_reading import BackgroundReading
from primary_site.background import first_of
from primary_site.cut_reader import RelationEndedError
from primary_site.group import ConsistencyGroup
from primary_site.group_cycles import GroupCycles
from primary_site.piece_reading import PieceReader
from primary_site.session import SendingSession
from primary_site.verify_plan import (
    Findings,
    Piece,
    Span,
    SpansToDo,
)

WAITING_MAX = 16384
"""Pieces read ahead of their cut's commit: 16 GiB of a volume, 2 MiB of memory."""

LOOK_AGAIN_SECONDS = 1.0
"""Nothing is waited for longer without another look."""


class VerifyEndedError(FarshoreError):
    """The verify can't go on: the message says why, and what to do."""


class Verification:
    """One run over all volumes of a group; owned by the group's loop."""

    def __init__(
        self,
        group: ConsistencyGroup,
        cycles: GroupCycles,
        session: Callable[[], SendingSession | None],
        rate_bytes: int,
        clock: Clock,
    ) -> None:
        """`rate_bytes`: read at this site in a second at most; holes cost nothing.

        Beside hosts that ask for anything it is less: `BackgroundReading`.
        """
        self._group = group
        self._cycles = cycles
        self._session = session
        self._pace = BackgroundReading(rate_bytes)
        self._clock = clock
        self._geometries = [volume.geometry for volume in group.volumes]
        self._todo = SpansToDo(self._geometries)
        self._reading: Span | None = None
        self._waiting: dict[CycleName, deque[Piece]] = {}
        self._asked: dict[int, Piece] = {}
        self._asked_in: SendingSession | None = None
        self._questions = 0
        self._reader = PieceReader(group.volumes, self._geometries)
        self._batches_seen = self._host_batches()
        self._wake = asyncio.Event()
        self.findings = Findings(self._geometries)

    async def run(self) -> None:
        """Compare everything. Raises `VerifyEndedError` where it can't."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read_all())
                tasks.create_task(self._ask_all())
        except BaseExceptionGroup as failed:
            raise first_of(failed) from failed

    def look_again(self) -> None:
        """Something that may be waited for has happened."""
        self._wake.set()
        self._wake = asyncio.Event()

    async def woken(self, seconds: float = LOOK_AGAIN_SECONDS) -> None:
        """Wait for `look_again`, or a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, LOOK_AGAIN_SECONDS)):
                await self._wake.wait()

    @property
    def _is_done(self) -> bool:
        return not (self._todo or self._reading or self._waiting or self._asked)

    def _check(self) -> None:
        """Raise if no waiting will help."""
        group, session = self._group, self._session()
        if group.failed is not None:
            raise VerifyEndedError(f"the group has failed: {group.failed}")
        if group.state.suspended:
            raise VerifyEndedError(
                f"the group was suspended: farshore resume {group.name}, begin anew"
            )
        if session is not None and VERIFY not in session.welcome.features:
            raise VerifyEndedError(
                "the remote's version can't compare: upgrade it, then begin anew"
            )
        if [volume.geometry for volume in group.volumes] != self._geometries:
            raise VerifyEndedError("a volume's size has changed: begin anew")

    # -- reading at the cut ------------------------------------------------------------

    async def _read_all(self) -> None:
        while not self._is_done:  # ends: every turn reads on, waits or raises
            self._check()
            if not self._todo or self._waiting_count() >= WAITING_MAX:
                await self.woken()
                continue
            await self._paced()
            cut = self._readable_cut()
            if cut is None:
                if self._session() is not None:
                    self._cycles.want_cut()
                await self.woken()
                continue
            self._reading = self._todo.take()
            began = self._clock.monotonic()
            try:
                await self._read(self._reading, cut)
            finally:
                self._reading = None
                self.look_again()
            self._pace.note(
                began,
                self._clock.monotonic(),
                self._reader.read_bytes,
                beside_others=self._hosts_were_here(),
            )

    def _host_batches(self) -> int:
        return sum(volume.host_batches for volume in self._group.volumes)

    def _hosts_were_here(self) -> bool:
        """Tell whether hosts have asked for anything since the last piece."""
        before, self._batches_seen = self._batches_seen, self._host_batches()
        return self._batches_seen != before

    def _readable_cut(self) -> CycleName | None:
        """Return the cut whose FlashCopy stands, None while there is none."""
        group, state = self._group, self._group.state
        if group.cut is not None:
            name = CycleName(group.cut.number, group.cut.cycle_id)
        elif state.committed_number is not None:
            name = CycleName(state.committed_number, state.committed_cycle_id)
        else:
            return None
        for volume in group.volumes:
            standing = volume.preserver.standing()
            if standing is None or not standing.relation.readable:
                return None
            if standing.relation.cycle_number != name.number:
                return None  # a cut made in this very moment: it has no name yet
        return name

    async def _read(self, span: Span, cut: CycleName) -> None:
        """Read the beginning of a span at the cut; what was not read goes back."""
        try:
            piece, rest = await self._reader.read(span, cut)
        except RelationEndedError:
            self._again(span)
            return
        except StorageError as error:
            unread, rest = span.split(self._reader.tracks_max(span))
            self.findings.note_unreadable(unread, f"this site: {error}")
            if rest is not None:
                self._todo.again(rest)
            return
        if rest is not None:
            self._todo.again(rest)
        self._waiting.setdefault(cut, deque()).append(piece)

    def _waiting_count(self) -> int:
        return sum(len(pieces) for pieces in self._waiting.values())

    async def _paced(self) -> None:
        """Wait until the next piece may be read; raise once none may be any more.

        At a low rate a piece is waited for many seconds.
        """
        while wait := self._pace.wait_seconds(self._clock.monotonic()):
            await self.woken(wait)
            self._check()

    def _again(self, span: Span) -> None:
        self.findings.pieces_again += 1
        self._todo.again(span)

    # -- asking the remote -------------------------------------------------------------

    async def _ask_all(self) -> None:
        while not self._is_done:  # ends: every turn asks, waits or raises
            session = self._session()
            if session is not self._asked_in:
                self._asked_in = session
                self._forget_asked()
            self._forget_gone()
            piece = None
            if session is not None and len(self._asked) < QUESTIONS_MAX:
                piece = self._take_askable()
            if session is None or piece is None:
                await self.woken()
            else:
                await self._ask(session, piece)

    def _take_askable(self) -> Piece | None:
        """Take the next piece whose cut the remote holds as a point, oldest first."""
        held = self._held()
        for cut, pieces in self._waiting.items():
            if cut in held:
                piece = pieces.popleft()
                if not pieces:
                    del self._waiting[cut]
                return piece
        return None

    def _held(self) -> set[CycleName]:
        """Return the points that the remote has: the newest, and what it is asked.

        Those it keeps until it has answered; another question in time keeps them on.
        """
        held = {piece.cut for piece in self._asked.values()}
        state = self._group.state
        if state.committed_number is not None:
            held.add(CycleName(state.committed_number, state.committed_cycle_id))
        return held

    def _forget_asked(self) -> None:
        """The session has ended, and with it every answer under way."""
        asked, self._asked = self._asked, {}
        for piece in asked.values():
            self._again(piece.span)

    def _forget_gone(self) -> None:
        """Give up pieces of cuts that are no point, nor can become the newest one."""
        live = self._held()
        if self._group.cut is not None:
            live.add(CycleName(self._group.cut.number, self._group.cut.cycle_id))
        gone = [cut for cut in self._waiting if cut not in live]
        for cut in gone:
            for piece in self._waiting.pop(cut):
                self._again(piece.span)
        if gone:
            self.look_again()

    async def _ask(self, session: SendingSession, piece: Piece) -> None:
        number = self._questions
        self._questions += 1
        self._asked[number] = piece
        span = piece.span
        with contextlib.suppress(ConnectionLostError):  # the next session asks anew
            await session.send(
                Verify(
                    session.epoch,
                    piece.cut.cycle_id,
                    number,
                    span.volume,
                    span.first,
                    span.count,
                    piece.root,
                )
            )

    def on_verified(self, message: Verified) -> None:
        """Take an answer; one that was given up meanwhile counts for nothing."""
        piece = self._asked.pop(message.question, None)
        if piece is None:
            return
        if piece.cut.cycle_id != message.cycle_id:
            raise ProtocolError("VERIFIED names another cycle than was asked about")
        match Outcome(message.outcome):
            case Outcome.EQUAL:
                self.findings.note_equal(piece.span)
            case Outcome.DIFFERS:
                self._differs(piece, message)
            case Outcome.GONE:
                self._again(piece.span)
            case Outcome.UNREADABLE:
                self.findings.note_unreadable(piece.span, f"the remote: {message.text}")
        self.look_again()

    def _differs(self, piece: Piece, message: Verified) -> None:
        span = piece.span
        if span.in_detail:
            self.findings.note_differing(piece, message.leaves)
        else:
            self._todo.again(replace(span, in_detail=True))
