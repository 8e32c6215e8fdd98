"""The groups that a daemon receives: opened, listened for, asked and closed.

A group may come and go while the daemon runs. All of it is the main loop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog

from common.certificates import Certificate
from common.errors import RefusedError
from common.nbd.server import NbdServer
from common.ports import Clock, Files
from common.replication.credentials import Credentials
from common.replication.stream import Address
from common.service.added_volumes import AddedVolumes
from common.service.certificate_status import with_certificates
from common.service.config_remote import RemoteGroup, ReplicationTable
from common.service.cycle_trace import Trace, no_trace
from common.service.drill_status import DrillReport
from common.service.kept_report import KeptReport
from common.service.reload import Commit
from common.service.scrub_status import ScrubReport
from common.service.status import GroupStatus
from common.service.units import parse_bandwidth
from common.storage.threads import WorkerThreads
from remote_site.drills import Drills
from remote_site.exports import RecoveryExports
from remote_site.group import ReceivingGroup
from remote_site.history import RulesOfRetention
from remote_site.identity import identity_of
from remote_site.listener import ReplicationListener
from remote_site.report import group_status, points
from remote_site.store import GroupStore, StoreSettings
from remote_site.test_copies import GroupTestCopies
from remote_site.test_copy_requests import test_copy_request

TLS_KEYS = ("replication.tls.ca", "replication.tls.cert", "replication.tls.key")
"""What a reload applies: other files, but not whether there is TLS at all."""

KEEPING_KEYS = ("group.retain", "group.scrub.schedule", "group.scrub.rate")

SCRUB_RECORD_NAME = "scrub.record"

THREADS_MAX = 16
"""Blocking calls of one group at once: an apply a volume, a flush, some readers."""

log = structlog.get_logger()


def read_credentials(replication: ReplicationTable) -> Credentials | None:
    """Read this site's certificates; None: it receives plain text. Blocks."""
    if replication.tls is None:
        return None
    return Credentials.read(replication.tls.files(), "replication.tls", is_server=True)


def store_settings(config: RemoteGroup, directory: str) -> StoreSettings:
    """Return where a group's store is: its record in `directory`."""
    return StoreSettings(
        group=config.name,
        state_directory=directory,
        journal_directory=f"{config.journal.directory}/{config.name}",
        devices={volume.name: volume.device for volume in config.volumes},
        peer=config.peer,
        accept_existing=frozenset(
            volume.name for volume in config.volumes if volume.accept_existing
        ),
        journal_limit_bytes=config.journal.limit_bytes,
        has_hard_pins=config.journal.pins == "hard",
    )


def test_copies_directory(config: RemoteGroup) -> str:
    """Return where a group's test copies write."""
    if config.test_copies.directory is not None:
        return f"{config.test_copies.directory}/{config.name}"
    return f"{config.journal.directory}/{config.name}/test-copies"


class ReceivingGroups:
    """`groups` has those that are open now, by name; `exports` their points."""

    def __init__(self, site: str, files: Files, clock: Clock) -> None:
        self.groups: dict[str, ReceivingGroup] = {}
        self.listener = ReplicationListener(self.groups, clock)
        self.exports = RecoveryExports(self.groups)
        self.trace: Trace = no_trace
        """Told of the cycles of groups that are opened from now on."""
        self.added: AddedVolumes | None = None
        """Where groups find volumes that are added to them."""
        self.nbd: NbdServer | None = None
        """Who serves `exports` to hosts, once there is one."""
        self._site = site
        self._files = files
        self._clock = clock
        self._threads: dict[str, WorkerThreads] = {}
        self._rules: dict[str, RulesOfRetention] = {}

    # -- one group ---------------------------------------------------------------------

    async def open(self, config: RemoteGroup, directory: str) -> ReceivingGroup:
        """Open a group whose record is in `directory`; who connects finds it now."""
        threads = WorkerThreads(
            config.name, min(2 * len(config.volumes) + 2, THREADS_MAX)
        )
        rules = RulesOfRetention(config.retain, self._clock.now_ns)
        try:
            store = await GroupStore.open(
                self._files,
                threads,
                store_settings(config, directory),
                retain=rules,
                settled=rules.settled,
            )
        except BaseException:
            threads.close()
            raise
        newest = store.points[-1].number if store.points else None
        log.info("group_opened", group=config.name, newest_point=newest)
        copies = GroupTestCopies(
            config.name,
            store,
            self._files,
            test_copies_directory(config),
            config.test_copies.reserve_bytes,
            self._clock,
        )
        await threads.run(copies.remove_leftovers)
        drills = Drills(directory, self._files)
        await threads.run(drills.load)
        group = ReceivingGroup(config, self._site, store, self._clock, copies, drills)
        group.trace = self.trace
        group.enrolment.added = self.added
        path = f"{directory}/{SCRUB_RECORD_NAME}"
        await group.scrubbing.recall(
            KeptReport(path, self._files, ScrubReport), threads
        )
        group.thinning.start(has_limit=config.journal.limit_bytes is not None)
        group.scrubbing.follow(config.scrub.schedule, config.scrub.rate_bytes)
        self._threads[config.name] = threads
        self._rules[config.name] = rules
        self.groups[config.name] = group
        return group

    @asynccontextmanager
    async def opened_store(
        self, config: RemoteGroup, directory: str
    ) -> AsyncIterator[GroupStore]:
        """Open a group's store for a while: who connects does not find it."""
        threads = WorkerThreads(config.name, THREADS_MAX)
        try:
            store = await GroupStore.open(
                self._files, threads, store_settings(config, directory)
            )
            try:
                yield store
            finally:
                await store.close()
        finally:
            threads.close()

    async def close(self, name: str) -> None:
        """End a group's session, then let go of its store."""
        await self.groups.pop(name).close()
        self._threads.pop(name).close()
        del self._rules[name]

    async def close_all(self) -> None:
        for name in list(self.groups):
            await self.close(name)

    # -- who connects ------------------------------------------------------------------

    async def read_credentials(self, replication: ReplicationTable) -> None:
        """Read what `listen` needs; raises `ConfigError`."""
        credentials = await asyncio.to_thread(read_credentials, replication)
        self.listener.credentials = credentials

    async def listen(self, replication: ReplicationTable) -> None:
        """Take sessions from now on."""
        await self.listener.listen(
            [Address(address.host, address.port) for address in replication.listen]
        )

    async def stop(self) -> None:
        """Take no more sessions and end those there are."""
        await self.listener.stop_accepting()
        for group in self.groups.values():
            await group.end_sessions()
        await self.listener.close()

    async def prepare_credentials(self, replication: ReplicationTable) -> Commit:
        """Read the files again, also where only their content is new."""
        listener = self.listener
        found = listener.credentials
        if found is not None:  # else a restart is needed, and said
            found = await asyncio.to_thread(read_credentials, replication) or found

        def commit() -> None:
            listener.credentials = found

        return commit

    def prepare_keeping(self, configs: Sequence[RemoteGroup]) -> Commit:
        """Of groups that are received now: which points stay, when to scrub."""

        def commit() -> None:
            for new in configs:
                if rules := self._rules.get(new.name):
                    rules.follow(new.retain)
                    group = self.groups[new.name]
                    told = {"retain": new.retain}  # by the status
                    group.enrolment.config = group.config.model_copy(update=told)
                    group.thinning.wake()
                    group.scrubbing.follow(new.scrub.schedule, new.scrub.rate_bytes)

        return commit

    def certificates(self) -> dict[str, Certificate]:
        """Return those in use, by what people call them."""
        found: dict[str, Certificate] = {}
        own = self.listener.credentials
        if own is not None:
            found[own.cert_path] = own.own
        for name, group in self.groups.items():
            if group.peer_certificate is not None:
                found[f"the primary's of group {name}"] = group.peer_certificate
        return found

    # -- what operators ask ------------------------------------------------------------

    async def ask(self, command: str, name: str, arguments: dict[str, Any]) -> Any:
        """Carry out a command for a group that this site receives."""
        if command == "test-copy":
            return await self._test_copy(self.groups[name], arguments)
        operation = OPERATIONS.get(command)
        if operation is None:
            raise RefusedError(
                f"{command}: this site receives group {name!r}; run the command at "
                "the sending site"
            )
        return await operation(self.groups[name], **arguments)

    async def _test_copy(
        self, group: ReceivingGroup, arguments: dict[str, Any]
    ) -> list[dict[str, Any]]:
        if self.nbd is None or group.test_copies is None:
            raise RefusedError("the daemon serves no hosts yet: try again")
        found = await test_copy_request(group.test_copies, self.nbd, **arguments)
        return [copy.to_json() for copy in found]

    def status(self, name: str) -> GroupStatus:
        """Return a group's status, with the certificates of its link."""
        now_ns = self._clock.now_ns()
        credentials, group = self.listener.credentials, self.groups[name]
        return with_certificates(
            group_status(group, now_ns),
            None if credentials is None else credentials.own,
            group.peer_certificate,
            now_ns,
        )


async def _points(
    group: ReceivingGroup, *, keep: int | None = None, release: int | None = None
) -> list[dict[str, Any]]:
    for number, is_kept in ((keep, True), (release, False)):
        if number is None:
            continue
        if not await group.store.keep(number, is_kept=is_kept):
            raise RefusedError(
                f"group {group.name!r} has no recovery point {number}: farshore points "
                f"{group.name} lists those that it has"
            )
        group.thinning.operator_chose()
    return [point.to_json() for point in points(group)]


async def _scrub(
    group: ReceivingGroup, *, action: str, rate: str
) -> dict[str, Any] | None:
    if action == "start":
        group.scrubbing.start(parse_bandwidth(rate))
    elif action == "stop":
        await group.scrubbing.stop()
    report = group.scrubbing.report()
    return None if report is None else report.to_json()


async def _identity(group: ReceivingGroup) -> dict[str, Any]:
    return identity_of(group).to_json()


async def _drill(
    group: ReceivingGroup, *, action: str, drill: dict[str, Any] | None
) -> list[dict[str, Any]]:
    drills = group.drills
    if drills is None or (action == "record") != (drill is not None):
        raise RefusedError("a drill is what is to be recorded, and nothing else")
    if drill is not None:
        await asyncio.to_thread(drills.add, DrillReport(**drill))
    return [each.to_json() for each in reversed(drills.all)]


OPERATIONS: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "points": _points,
    "scrub": _scrub,
    "drill": _drill,
    "identity": _identity,
}
"""By the command's name, each given the group and the command's arguments."""

COMMANDS = frozenset({*OPERATIONS, "test-copy"})
"""What is asked of a group's store, also once it was taken over."""
