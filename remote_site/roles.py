"""The groups of a daemon of either kind, each in the role that its durable state says.

A group that is sent and given up (`farshore failback`, or a switchover that the other
site has answered) is received from then on; one that is received and taken over is sent
(`sending.py`). Both go on by themselves after a restart. All of it is the main loop's.

Which role a group has: the store's record says it, where there is one that is ready;
else the sender's.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import structlog

from common.certificates import Certificate
from common.errors import FarshoreError, RefusedError
from common.nbd.server import NbdServer
from common.nbd.several_exports import SeveralExports
from common.ports import Clock, Files
from common.replication.lineage import ID_BYTES, CycleName
from common.replication.session_messages import Goodbye, Hello
from common.service.config_primary import PrimaryGroup
from common.service.config_remote import RemoteGroup
from common.service.config_roles import receiving_group
from common.service.cycle_trace import Trace
from common.service.role_status import with_split_brain
from common.service.split_brain import ALARM as SPLIT_BRAIN
from common.service.status import (
    AlarmStatus,
    GroupRole,
    GroupState,
    GroupStatus,
    LinkState,
    LinkStatus,
)
from primary_site.parting import Parted, read_parted
from primary_site.sending_groups import SendingGroups
from primary_site.volume_requests import volume_request
from remote_site.fork_requests import fork_request
from remote_site.giving_up import Beginning
from remote_site.group import ReceivingGroup
from remote_site.identity import served_identity
from remote_site.kept_volumes import KeptVolumes
from remote_site.points_of_both import points_of_both
from remote_site.receiving_groups import COMMANDS as RECEIVING
from remote_site.receiving_groups import ReceivingGroups
from remote_site.sender_here import SenderHere, answer, not_yet
from remote_site.sending import TakenOverGroups, sending_directory
from remote_site.store_record import RECORD_NAME
from remote_site.store_state import Point
from remote_site.thinning import JOURNAL_LIMIT, PINS_ENDED, POINTS_GIVEN_UP_ALARM

RETRY_SECONDS = 5.0
"""Between tries of a change of roles that cannot go on: for want of room, say."""

ALARM = "role_change_stalled"

TAKEN_OVER_ALARMS = frozenset(
    {SPLIT_BRAIN, JOURNAL_LIMIT, PINS_ENDED, POINTS_GIVEN_UP_ALARM}
)
"""Of a group's store, that count also while the group is sent."""

log = structlog.get_logger()


class SiteGroups:
    """All groups of a daemon; `exports` is what they export, whatever their roles."""

    def __init__(self, site: str, config_path: str, files: Files, clock: Clock) -> None:
        self.sending = SendingGroups(site, config_path, clock)
        self.receiving = ReceivingGroups(site, files, clock)
        self.taken_over = TakenOverGroups(self.sending, clock)
        self.exports = SeveralExports((self.sending.exports, self.receiving.exports))
        self.can_receive = True
        """The config says where the other site connects."""
        self._files = files
        self._clock = clock
        self._homes: dict[str, tuple[PrimaryGroup, str]] = {}
        """Groups that this site sends at first, and where their state is."""
        self._nbd: NbdServer | None = None
        self._changing: dict[str, GroupStatus] = {}
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self.sending.when_gave_up = self._gave_up
        self.receiving.listener.sent_here = self._sent_here
        self.receiving.added = self.sending.added

    @property
    def names(self) -> list[str]:
        found = [*self._homes, *self.receiving.groups, *self._changing]
        return list(dict.fromkeys(found))

    def certificates(self) -> dict[str, Certificate]:
        """Return those in use, by what people call them."""
        return self.sending.certificates() | self.receiving.certificates()

    def trace_to(self, trace: Trace) -> None:
        """Have all cycles told; before any group is opened."""
        self.sending.trace = self.receiving.trace = trace

    def serve(self, nbd: NbdServer) -> None:
        """Have hosts of `nbd` cut off when a group's role changes; begin all cycles."""
        self._nbd = self.receiving.nbd = nbd
        for name in list(self.sending.hosted):
            if not self.sending.is_replicating(name):
                self.sending.replicate(name)

    # -- the start ---------------------------------------------------------------------

    async def open_received(self, config: RemoteGroup, directory: str) -> None:
        """Open a group that this site receives, or has taken over."""
        group = await self.receiving.open(config, directory)
        await self._attach(group, directory)

    async def _attach(self, group: ReceivingGroup, directory: str) -> None:
        home = self._homes.get(group.name)
        await self.taken_over.attach(group, directory, self._files, home and home[0])

    async def check_sent(self, config: PrimaryGroup, state_directory: str) -> None:
        """Raise what `open_sent` would for an operator's mistake; change nothing."""
        if not self._is_received(config.name, state_directory):
            await self.sending.check(config, state_directory, self._files)

    def _is_received(self, name: str, state_directory: str) -> bool:
        directory = _receiving_directory(name, state_directory)
        return self._files.exists(f"{directory}/{RECORD_NAME}")

    async def open_sent(self, config: PrimaryGroup, state_directory: str) -> None:
        """Open a group that this site sends, unless it has given that up."""
        self._homes[config.name] = config, state_directory
        directory = _receiving_directory(config.name, state_directory)
        if self._is_received(config.name, state_directory):
            received = receiving_group(config)
            group = await self.receiving.open(received, directory)
            if group.store.is_ready:
                await self._attach(group, directory)
                return
            await self.receiving.close(config.name)  # cut short: see `_gave_up`
        await self.sending.open(config, state_directory, self._files)

    # -- a change of roles -------------------------------------------------------------

    async def _gave_up(self, name: str) -> None:
        """Receive a group that was sent: its sender has recorded that it gives up.

        Order: hosts are cut off, the sending role is closed and its bitmaps are
        durable, then the store begins (`giving_up.begin_receiving`). What fails is
        tried again; a start finds the same records and goes the same way.
        """
        status = await self.sending.status(name)
        self._changing[name] = status
        await self._cut_off(name)
        await self.sending.close(name)
        while True:  # ends once there is room, or with the daemon
            try:
                await self._receive(name)
            except FarshoreError as error:
                log.error(  # noqa: TRY400 - for an operator, no bug of ours
                    "role_change_failed", group=name, reason=str(error)
                )
                self._changing[name] = _stalled(status, str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                break
        del self._changing[name]
        log.warning("group_receiving", group=name)
        async with self._changed:
            self._changed.notify_all()

    async def _cut_off(self, name: str) -> None:
        """Let no host read any more what is overwritten soon."""
        for export in self.sending.withdraw(name):
            if self._nbd is not None:
                await self._nbd.disconnect(export)

    async def _receive(self, name: str) -> None:
        home = self._homes.get(name)
        group = self.receiving.groups.get(name)
        if group is not None:
            directory = group.store.disk.settings.state_directory
            group.enrolment.take_added()
            beginning = await self._beginning(sending_directory(directory), group)
            await group.store.begin_receiving(beginning)
            group.forget_refusal()
            await self._attach(group, directory)
            return
        assert home is not None
        config, state_directory = self.sending.added.to_sent(home[0]), home[1]
        directory = _receiving_directory(name, state_directory)
        received = receiving_group(config)
        sent = _with_data(received)
        async with self.receiving.opened_store(sent, directory) as store:
            beginning = await self._beginning(state_directory, None, config=config)
            await store.begin_receiving(beginning)
        await self.open_received(received, directory)

    async def _beginning(
        self,
        state_directory: str,
        group: ReceivingGroup | None,
        *,
        config: PrimaryGroup | None = None,
    ) -> Beginning:
        name = group.name if group is not None else config.name if config else ""
        parted = await asyncio.to_thread(
            read_parted, self._files, state_directory, name
        )
        peer = group.config.peer if group is not None else _peer(config)
        points = [] if group is None else group.store.points
        newest = points[-1].number if points else 0
        return beginning_of(parted, peer, newest, self._clock.now_ns())

    # -- who connects ------------------------------------------------------------------

    def _sent_here(self, hello: Hello) -> tuple[str, Goodbye] | None:
        """Answer a site that would send a group which this one sends itself."""
        name = hello.group
        hosted = self.sending.hosted.get(name)
        if hosted is None and name not in self._changing:
            return None
        peer = self._peer_of(name)
        if hosted is None:
            text = f"group {name!r} is changing its role at the remote just now"
            return peer, not_yet(hello, text)
        found = answer(hello, self._sender_here(name))
        return None if found is None else (peer, found)

    def _peer_of(self, name: str) -> str:
        group = self.receiving.groups.get(name)
        return group.config.peer if group is not None else _peer(self._homes[name][0])

    def _sender_here(self, name: str) -> SenderHere:
        state = self.sending.hosted[name].replicator.group.state  # replaced as a whole
        group = self.receiving.groups.get(name)
        takeover = None if group is None else group.store.takeover
        return SenderHere(
            name,
            state.group_id,
            state.lineage,
            state.superseded,
            state.handing,
            state.reclaimed,
            None if takeover is None else takeover.fork,
        )

    # -- what operators ask ------------------------------------------------------------

    async def ask(self, command: str, arguments: dict[str, Any]) -> Any:
        """Carry out a command for a group, in the role that it has now."""
        name = arguments.pop("group")
        self._require_settled(name)
        group = self.receiving.groups.get(name)
        match command:
            case "takeover":
                return await self._take_over(name, arguments)
            case "failback":
                return await self._fail_back(name)
            case "switchover":
                return await self._switch_over(name)
            case "volume":
                points = None if group is None else KeptVolumes(group.store.disk)
                return await volume_request(
                    self.sending, self._nbd, name, points=points, **arguments
                )
            case "forks":
                return await fork_request(group, name, **arguments)
            case "identity" if name in self.sending.hosted:
                return self._served_identity(name)
            case "points" if group and name in self.sending.hosted:
                return await self._points(name, arguments)
        if name in self.sending.hosted and not (group and command in RECEIVING):
            return await self.sending.ask(command, name, arguments)
        return await self.receiving.ask(command, name, arguments)

    def _require_settled(self, name: str) -> None:
        if name not in self.names:
            known = ", ".join(self.names)
            raise RefusedError(f"no group {name!r} here; this site has: {known}")
        if name in self._changing:
            raise RefusedError(
                f"group {name} is changing its role; see farshore status"
            )

    async def _points(self, name: str, arguments: dict[str, Any]) -> Any:
        """Of a group that this site sends and has received: those of both roles."""
        found = await self.receiving.ask("points", name, arguments)
        nothing = {"keep": None, "release": None}
        sent = await self.sending.ask("points", name, nothing)
        return points_of_both(found, sent)

    async def _take_over(self, name: str, arguments: dict[str, Any]) -> Any:
        hosted = self.sending.hosted.get(name)
        if hosted is not None and hosted.replicator.switchover.other is not None:
            return await self.sending.ask("takeover", name, arguments)
        if name not in self.receiving.groups:
            raise RefusedError(
                f"takeover: this site sends group {name!r}; run the command at the "
                "receiving site"
            )
        return await self.taken_over.ask(name, **arguments)

    def _served_identity(self, name: str) -> dict[str, Any]:
        replicator = self.sending.hosted[name].replicator
        state = replicator.group.state  # replaced as a whole
        return served_identity(
            self._sender_here(name),
            self._peer_of(name),
            CycleName(state.cycle_number, state.cycle_id),
            [each for each in state.offers() if not state.volumes[each.name].joining],
            is_connected=replicator.link_state == "connected",
        ).to_json()

    def _check_sent(self, command: str, name: str) -> None:
        if name not in self.sending.hosted:
            raise RefusedError(
                f"{command}: this site receives group {name!r}; run the command at "
                "the other site"
            )
        if not self.can_receive:
            raise RefusedError(
                f"{command}: this site can't receive: add [replication] with listen "
                "to its config, and restart it"
            )

    async def _fail_back(self, name: str) -> dict[str, Any]:
        self._check_sent("failback", name)
        hosted = self.sending.hosted[name]
        await hosted.ask(hosted.replicator.switchover.give_up)
        return await self._received_here(name)

    async def _switch_over(self, name: str) -> dict[str, Any]:
        self._check_sent("switchover", name)
        hosted = self.sending.hosted[name]
        await hosted.ask(hosted.replicator.hand_over)
        return await self._received_here(name)

    async def _received_here(self, name: str) -> dict[str, Any]:
        """Wait until the group is received; tell what was kept."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: (
                    name not in self._changing
                    and name not in self.sending.hosted
                    and name in self.receiving.groups
                )
            )
        store = self.receiving.groups[name].store
        return {
            "group": name,
            "lineage": store.lineage.hex() if store.lineage else None,
            "fork": store.forks[-1].number if store.is_divided else None,
        }

    async def status(self) -> tuple[GroupStatus, ...]:
        found = await asyncio.gather(*map(self._status, self.names))
        return tuple(map(with_split_brain, found))

    async def _status(self, name: str) -> GroupStatus:
        if name in self._changing:
            return self._changing[name]
        if name not in self.sending.hosted:
            return self._received_status(name)
        if name in self.receiving.groups:
            hosted = self.sending.hosted[name]  # it may be closed meanwhile
            sent = await self.taken_over.status(name)
            if _is_alone(sent, is_settled=hosted.replicator.split_brain.is_settled):
                self.receiving.groups[name].clear_alarms(SPLIT_BRAIN)
            received = self.receiving.status(name)
            kept = {
                "alarms": (*sent.alarms, *_of_both(received.alarms, sent.alarms)),
                "test_copies": received.test_copies,
                "last_drill": received.last_drill,
            }
            return sent.model_copy(update=kept)
        return await self.sending.status(name)

    def _received_status(self, name: str) -> GroupStatus:
        """Return the status of a group that is received, or on its way to be sent."""
        status = self.receiving.status(name)
        takeover = self.taken_over.takeovers.get(name)
        progress = None if takeover is None else takeover.progress()
        if progress is None:
            return status
        return status.model_copy(update={"progress": progress})

    # -- the end -----------------------------------------------------------------------

    async def stop(self) -> None:
        """End changes of roles, takeovers between two steps, and all cycles."""
        await self.taken_over.stop()

    async def close(self) -> None:
        """Close what is sent, then the stores below."""
        try:
            await self.taken_over.close()
        finally:
            await self.receiving.close_all()


def beginning_of(parted: Parted, peer: str, newest: int, now_ns: int) -> Beginning:
    """Return what a site receives from now on, and keeps, by its sender's last state.

    `newest`: the number of the newest point in its store, 0 for none. Pure.
    """
    state = parted.state
    told = state.superseded
    assert told is not None, "nobody gives up without knowing to whom"
    fork = told.fork
    handing = state.handing
    is_agreed = handing is not None and handing.lineage == fork.lineage
    if is_agreed:
        assert handing is not None
        # The record may name an older one: of a remote put back, while it was asked.
        is_newest = state.committed_cycle_id == handing.cycle.cycle_id
        point = Point(
            handing.cycle.number,
            handing.cycle.cycle_id,
            handing.cut_ns,
            (is_newest and state.current_as_of_ns) or handing.cut_ns,
            state.committed_label if is_newest else None,
        )
    else:
        number = max(state.cycle_number, state.committed_number or 0, newest) + 1
        label = f"fork of {state.lineage.hex()}"
        cycle_id = secrets.token_bytes(ID_BYTES)
        point = Point(number, cycle_id, now_ns, now_ns, label)
    is_known = told.is_known and parted.changed is not None
    return Beginning(
        group_id=state.group_id,
        lineage=fork.lineage,
        peer=peer,
        volumes=parted.volumes,
        point=point,
        is_fork=not is_agreed,
        own_lineage=state.lineage,
        common=fork.cycle if is_known else None,
        changed=parted.changed or {},
    )


def _is_alone(sent: GroupStatus, *, is_settled: bool) -> bool:
    """Tell whether hosts are known to write at one site, whichever it is."""
    if sent.link.state is LinkState.CONNECTED:
        return True
    return is_settled or sent.state is GroupState.SUPERSEDED


def _of_both(
    received: Sequence[AlarmStatus], sent: Sequence[AlarmStatus]
) -> Iterator[AlarmStatus]:
    """Yield what only the receiving role knows, of a group that was taken over."""
    names = {alarm.name for alarm in sent}
    for alarm in received:
        if alarm.name in TAKEN_OVER_ALARMS and alarm.name not in names:
            yield alarm


def _with_data(group: RemoteGroup) -> RemoteGroup:
    """Return a group that was sent: its devices hold data, of course."""
    volumes = tuple(
        volume.model_copy(update={"accept_existing": True}) for volume in group.volumes
    )
    return group.model_copy(update={"volumes": volumes})


def _peer(config: PrimaryGroup | None) -> str:
    assert config is not None
    return config.link.peer


def _receiving_directory(name: str, state_directory: str) -> str:
    return f"{state_directory}/groups/{name}/receiving"


def _stalled(status: GroupStatus, reason: str) -> GroupStatus:
    """Return the status of a group that nobody sends and nobody receives yet."""
    alarm = AlarmStatus(
        name=ALARM, message=f"the group is to be received here, and can't: {reason}"
    )
    return GroupStatus(
        name=status.name,
        role=GroupRole.RECEIVING,
        state=GroupState.FAILED,
        lineage=status.lineage,
        link=LinkStatus(state=LinkState.DOWN),
        volumes=status.volumes,
        alarms=(alarm,),
    )
