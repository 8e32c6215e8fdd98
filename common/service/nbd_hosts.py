"""The NBD server of a daemon, as its config says it, and as a reload changes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from common.nbd.opening import ExportTable
from common.nbd.server import NbdServer
from common.service.config_nbd import NBD_ACCESS_KEYS, NBD_TLS_KEYS, NbdTable
from common.service.config_primary import PrimaryConfig
from common.service.config_remote import RemoteConfig
from common.service.descriptor_store import descriptor_store
from common.service.reload import Commit, Reloader

ConfigT = TypeVar("ConfigT", PrimaryConfig, RemoteConfig)
Prepare = Callable[[PrimaryConfig | RemoteConfig], Awaitable[Commit]]


def nbd_server(
    exports: ExportTable, table: NbdTable, reloader: Reloader[ConfigT]
) -> NbdServer:
    """Return a server of `exports`, to be told to listen; reloads reach it by then."""
    server = NbdServer(
        exports, table.limits.nbd_limits(), table.security(), descriptor_store()
    )
    reloader.register(NBD_TLS_KEYS, _certificates(server))
    reloader.register(NBD_ACCESS_KEYS, _access(server))
    return server


def _certificates(server: NbdServer) -> Prepare:
    """Return what reads the certificates anew."""

    async def prepare(new: PrimaryConfig | RemoteConfig) -> Commit:
        if new.nbd.tls is None:
            return lambda: None  # a restart is needed, and said
        return await asyncio.to_thread(server.prepare_certificates, new.nbd.tls.files())

    return prepare


def _access(server: NbdServer) -> Prepare:
    """Return what has other access rules count."""

    async def prepare(new: PrimaryConfig | RemoteConfig) -> Commit:
        rules = await asyncio.to_thread(new.nbd.rules)
        return lambda: server.go_by(rules)

    return prepare
