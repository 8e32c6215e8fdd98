"""One receiving group: its store, at most one session, and what is wrong with it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog

from common.certificates import Certificate
from common.errors import (
    ConnectionLostError,
    DeviceBusyError,
    DeviceError,
    FarshoreError,
    StateMismatchError,
    StorageError,
)
from common.ports import Clock
from common.replication.features import MEMBERS, agreed
from common.replication.lineage import ID_BYTES, ReceiverState
from common.replication.link import Link
from common.replication.session_messages import (
    PROTOCOL_VERSION,
    Goodbye,
    GoodbyeReason,
    Hello,
    Welcome,
    goodbye,
)
from common.service.config_remote import RemoteGroup
from common.service.cycle_trace import Trace, no_trace
from common.service.histogram import COMMIT_BOUNDS_SECONDS, Histogram
from common.service.split_brain import ALARM as SPLIT_BRAIN
from common.service.split_brain import split_brain_text
from remote_site.admission import Expected, refusal
from remote_site.cycle_trace import ReceivedCycle, received_trace
from remote_site.drills import Drills
from remote_site.enrolment import Enrolment
from remote_site.exchanging import OnHandOver, no_hand_over
from remote_site.receiver import WINDOW_BYTES, Receiver, VolumeShape
from remote_site.scrubbing import Scrubbing
from remote_site.secondary_device import DeviceHoldsDataError
from remote_site.session import ReceivingSession
from remote_site.store import GroupStore, Point
from remote_site.test_copies import GroupTestCopies
from remote_site.thinning import Thinning


class ReceivingGroup:
    """Opens sessions, one after the other, and remembers alarms."""

    def __init__(
        self,
        config: RemoteGroup,
        site: str,
        store: GroupStore,
        clock: Clock,
        test_copies: GroupTestCopies | None = None,
        drills: Drills | None = None,
    ) -> None:
        self.name = config.name
        self.test_copies = test_copies
        self.drills = drills
        self.enrolment = Enrolment(config, store)
        self.store = store
        self.session: ReceivingSession | None = None
        self.alarms: dict[str, tuple[str, int]] = {}
        """Name -> (message, since_ns)."""
        self.peer_certificate: Certificate | None = None
        """Shown by whom the newest session was opened; None in plain text."""
        self.commits = 0
        """Recovery points committed since the daemon started."""
        self.commit_times = Histogram(COMMIT_BOUNDS_SECONDS)
        self.trace: Trace = no_trace
        """Told of each cycle that is committed."""
        self.on_hand_over: OnHandOver = no_hand_over
        """Asked by a session whose sender hands the group over."""
        self.is_refusing = False
        """The last HELLO was refused: an operator has to look."""
        self._site = site
        self._clock = clock
        self._admission = asyncio.Lock()
        self._hellos = 0
        self._missing = ""
        """What the config lacks of the newest HELLO's volumes, for an operator."""
        self._closing = False
        self._log = structlog.get_logger().bind(group=config.name)
        self.scrubbing = Scrubbing(
            config.name, store, clock, self.raise_alarm, self.clear_alarms
        )
        self.scrubbing.is_receiving = lambda: self.is_receiving
        self.thinning = Thinning(
            config.name, store, clock, self.raise_alarm, self.clear_alarms
        )

    @property
    def config(self) -> RemoteGroup:
        """As it is known by now: volumes may have come."""
        return self.enrolment.config

    @property
    def is_receiving(self) -> bool:
        """A cycle of the open session is under way."""
        session = self.session
        return session is not None and session.is_receiving

    async def open_session(
        self, link: Link, hello: Hello
    ) -> ReceivingSession | Goodbye:
        """Answer a HELLO: a started session whose WELCOME was sent, or why not.

        A refused HELLO changes nothing, on disk or for the session that is open.
        An accepted one ends that session first and waits for its threads; only
        then is the new epoch stored and told (I8). Of several that wait, the
        newest wins.
        """
        self._hellos += 1
        turn = self._hellos
        async with self._admission:
            if turn != self._hellos:
                return goodbye(
                    GoodbyeReason.SUPERSEDED_SESSION, "a newer connection came first"
                )
            self._missing = ""
            if MEMBERS in hello.features and self.store.group_id is not None:
                names = [each.name for each in hello.volumes]
                self._missing = await self.enrolment.learn(names)
            refused = self._refusal(hello)
            if refused is None:
                await self._supersede(hello)
                # The session before may have gone on while this one waited.
                refused = self._refusal(hello) or await self._take_volumes(hello)
            if refused is not None:
                self._note_refusal(refused, hello)
                return refused
            try:
                return await self._start(link, hello)
            except StorageError as error:
                return self._storage_goodbye(error)

    def find_session(self, token: bytes, epoch: int) -> ReceivingSession | None:
        """Return the open session that a JOIN names."""
        session = self.session
        if session is None or not session.is_open or session.epoch != epoch:
            return None
        return session if secrets.compare_digest(session.token, token) else None

    async def end_sessions(self) -> None:
        """End the open session in order and take no more."""
        self._closing = True
        async with self._admission:
            if self.session is not None:
                await self.session.stop(
                    goodbye(GoodbyeReason.SHUTTING_DOWN, "the remote daemon stops")
                )

    @asynccontextmanager
    async def without_sessions(self, farewell: Goodbye) -> AsyncIterator[None]:
        """End the open session, and let none begin as long as this lasts.

        Within it nothing of any session runs, and nothing of one takes effect later.
        """
        async with self._admission:
            session = self.session
            if session is not None:
                await session.stop(farewell)
                self.session_ended(session)
            await self.store.settled()
            yield

    async def close(self) -> None:
        """End the session, test copies, any scrub and thinning, then let go of the
        store."""
        await self.end_sessions()
        await self.scrubbing.close()
        await self.thinning.close()
        if self.test_copies is not None:
            await self.test_copies.close()
        await self.store.close()

    def session_ended(self, session: ReceivingSession) -> None:
        """Take note of why a session ended; call it once it is closed."""
        if self.session is session:
            self.session = None
        if session.failure is not None:
            self._storage_goodbye(session.failure)
        if session.refused is not None:
            self._note_refusal(session.refused)

    # -- admission -----------------------------------------------------------------

    def _refusal(self, hello: Hello) -> Goodbye | None:
        if self._closing:
            return goodbye(GoodbyeReason.SHUTTING_DOWN, "the remote daemon stops")
        store = self.store
        if store.failed is not None:
            return goodbye(
                GoodbyeReason.STORAGE_FAILED,
                f"storage of group {self.name!r} at the remote has failed: "
                f"{store.failed}; mend it and restart the remote daemon",
            )
        names = [volume.name for volume in self.config.volumes]
        return refusal(
            hello,
            Expected(
                group=self.name,
                peer=self.config.peer,
                volume_names=names,
                state=store.judged_for(hello.sender),
                volumes=store.current,
                fork=store.takeover.fork if store.takeover else None,
                is_divided=store.is_divided,
                is_fork_common=store.has_taken_common,
                missing=self._missing,
            ),
        )

    async def _supersede(self, hello: Hello) -> None:
        old = self.session
        if old is None:
            return
        await old.stop(
            goodbye(
                GoodbyeReason.SUPERSEDED_SESSION,
                f"site {hello.site!r} has opened a newer session of group "
                f"{self.name!r}",
            )
        )
        self.session_ended(old)

    async def _take_volumes(self, hello: Hello) -> Goodbye | None:
        """Have the volumes that the sender has, also of a group that is new."""
        if self.store.group_id is None:
            return await self._bind(hello)
        await self.store.settled()
        try:
            return await self.enrolment.change(hello.volumes)
        except StorageError as error:
            return self._storage_goodbye(error)

    async def _bind(self, hello: Hello) -> Goodbye | None:
        """Give a group that never received its identity, durably."""
        try:
            await self.store.bind(
                group_id=hello.sender.group_id,
                lineage=hello.sender.lineage,
                peer=hello.site,
                volumes=hello.volumes,
            )
        except DeviceHoldsDataError as error:
            return goodbye(GoodbyeReason.NOT_PERMITTED, str(error))
        except (StateMismatchError, DeviceError) as error:
            return goodbye(GoodbyeReason.SIZE_MISMATCH, str(error))
        except DeviceBusyError as error:
            self.raise_alarm("storage_failed", str(error))
            return goodbye(GoodbyeReason.STORAGE_FAILED, str(error))
        except StorageError as error:
            return self._storage_goodbye(error)
        self._log.info(
            "group_bound", peer=hello.site, group_id=hello.sender.group_id.hex()
        )
        return None

    async def _start(self, link: Link, hello: Hello) -> ReceivingSession:
        before = self.store.judged_for(hello.sender)
        epoch = await self.store.new_epoch(hello.sender)
        newest = self.store.points[-1] if self.store.points else None
        features = agreed(hello.features)
        session = ReceivingSession(
            name=self.name,
            peer=link.peer,
            token=secrets.token_bytes(ID_BYTES),
            store=self.store,
            receiver=Receiver(
                epoch,
                _shapes(hello),
                newest.number if newest else None,
                newest.cycle_id if newest else None,
            ),
            features=features,
            order=self._order(hello),
            clock=self._clock,
            on_committed=self._note_commit,
            on_hand_over=self.on_hand_over,
            why_not=self.enrolment.why_not,
        )
        # Known before it is told: further links may join at once.
        self.session = session
        session.start(link)
        try:
            await self._welcome(link, session, before, newest, features)
        except ConnectionLostError as error:
            session.end(str(error))
            raise
        self.is_refusing = False
        self.clear_alarms("peer_refused", "storage_failed", SPLIT_BRAIN)
        self._log.info("session_opened", peer=link.peer, epoch=epoch)
        return session

    def _note_commit(self, received: ReceivedCycle) -> None:
        self.clear_alarms("out_of_space")
        self.commits += 1
        self.commit_times.observe(received.commit_seconds)
        self.trace(received_trace(self.name, received))
        self.thinning.wake()

    async def _welcome(
        self,
        link: Link,
        session: ReceivingSession,
        before: ReceiverState,
        newest: Point | None,
        features: tuple[str, ...],
    ) -> None:
        link.epoch = session.epoch
        await link.send(
            Welcome(
                version=PROTOCOL_VERSION,
                site=self._site,
                epoch=session.epoch,
                token=session.token,
                receipt=self.store.receipt,
                receiver=before,
                committed_cut_ns=newest.cut_ns if newest else None,
                current_as_of_ns=newest.current_as_of_ns if newest else None,
                credit_bytes=WINDOW_BYTES,
                features=features,
            )
        )
        link.start_heartbeat()

    def _order(self, hello: Hello) -> Sequence[int]:
        """Return the store's index of each volume, in the peer's order."""
        bound = [offer.name for offer in self.store.volumes]
        return [bound.index(offer.name) for offer in hello.volumes]

    # -- alarms --------------------------------------------------------------------

    def forget_refusal(self) -> None:
        """What was refused while this site sent the group says nothing from now on."""
        self.is_refusing = False
        self.clear_alarms("peer_refused")

    def _note_refusal(self, refused: Goodbye, hello: Hello | None = None) -> None:
        if GoodbyeReason(refused.reason).is_permanent:
            self.is_refusing = True
            if refused.reason == GoodbyeReason.SPLIT_BRAIN and hello is not None:
                self._split_brain(hello)
            else:
                self.raise_alarm("peer_refused", refused.text)

    def _split_brain(self, hello: Hello) -> None:
        takeover = self.store.takeover
        assert takeover is not None, "it judges by its fork"
        text = split_brain_text(
            self.name, takeover.fork, hello.sender.lineage, is_forked_here=True
        )
        self.raise_alarm(SPLIT_BRAIN, text)

    def _storage_goodbye(self, error: FarshoreError) -> Goodbye:
        if isinstance(error, StorageError) and error.is_out_of_space:
            self.raise_alarm("out_of_space", str(error))
            return goodbye(GoodbyeReason.OUT_OF_SPACE, str(error))
        self.raise_alarm("storage_failed", str(error))
        return goodbye(GoodbyeReason.STORAGE_FAILED, str(error))

    def raise_alarm(self, name: str, message: str) -> None:
        since_ns = self._clock.now_ns()
        if name in self.alarms:
            since_ns = self.alarms[name][1]
        self.alarms[name] = (message, since_ns)
        self._log.warning("alarm_raised", alarm=name, message=message)

    def clear_alarms(self, *names: str) -> None:
        for name in names:
            if self.alarms.pop(name, None) is not None:
                self._log.info("alarm_cleared", alarm=name)


def _shapes(hello: Hello) -> list[VolumeShape]:
    return [VolumeShape(each.size_bytes, each.track_bytes) for each in hello.volumes]
