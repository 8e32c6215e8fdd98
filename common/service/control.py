"""The control socket: how the `farshore` command talks to a daemon.

A Unix stream socket, mode 0660: whoever may open it may do all that a daemon
offers. Each side sends one JSON object a line:

    {"command": "cut", "arguments": {"group": "orders"}}
    {"result": ...}  or  {"error": {"message": "...", "exit_code": 8}}

Requests of a connection are answered one after the other. A client that goes
away ends its own wait only: what it asked for goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from common.errors import (
    EXIT_INTERNAL,
    ConfigError,
    DeviceBusyError,
    FarshoreError,
    RefusedError,
)
from common.service.control_requests import parse_request
from common.socket_files import Occupied, clear_stale

REQUEST_BYTES_MAX = 64 << 10
"""One request's line: names and a label need a fraction of it."""

BACKLOG_CONNECTIONS = 128
"""Connections that wait to be accepted, as systems' SOMAXCONN of old."""

SOCKET_MODE = 0o660

Handle = Callable[[str, dict[str, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class ControlLimits:
    """The bounds of the control socket; only tests change them."""

    requests_per_command_max: int = 32
    """Requests of one command in work. Cuts may wait for hours while the link is
    down, their clients long gone: they must not keep others from a status."""
    connections_max: int = 256
    """More than all commands' requests together: one is always left."""
    idle_seconds_max: float = 60.0
    """A connection without a request is closed: `status --watch` asks each second."""
    reply_seconds_max: float = 10.0
    """A client that does not take its reply for so long is dropped."""
    close_seconds_max: float = 2.0
    """How long requests in work may delay the end of the daemon."""


class ControlServer:
    """Answer requests with `handle(command, arguments)`.

    `arguments` have been checked against the command's model and hold every key.
    What `handle` returns must be JSON; its `FarshoreError` becomes the client's
    exit code, any other exception is logged and answered as internal error.
    """

    def __init__(
        self, path: str, handle: Handle, limits: ControlLimits | None = None
    ) -> None:
        self._path = path
        self._handle = handle
        self._limits = limits or ControlLimits()
        self._server: asyncio.Server | None = None
        self._identity: tuple[int, int] | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._busy: set[asyncio.Task[None]] = set()
        self._in_work: Counter[str] = Counter()
        self._log = structlog.get_logger()

    async def listen(self) -> None:
        """Bind the socket, in place of one that nobody answers any more.

        Raises `DeviceBusyError` where a daemon answers at it, `ConfigError` where
        it cannot be bound.
        """
        listener = bind_control_socket(self._path)
        self._identity = _identity(self._path)
        self._server = await asyncio.start_unix_server(
            self._accept, sock=listener, limit=REQUEST_BYTES_MAX
        )

    async def close(self) -> None:
        """Stop answering; requests in work get `close_seconds_max` to end."""
        if self._server is not None:
            self._server.close()
        self._remove_own()
        for task in self._connections - self._busy:
            task.cancel()
        if self._busy:
            await asyncio.wait(self._busy, timeout=self._limits.close_seconds_max)
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _remove_own(self) -> None:
        """Remove our socket, not that of a newer daemon which has replaced it."""
        if self._identity is not None and _identity(self._path) == self._identity:
            with contextlib.suppress(OSError):
                Path(self._path).unlink()

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) > self._limits.connections_max:
                await self._reply(
                    writer, _failure("too many connections: try again", 8)
                )
                return
            while await self._serve_one(reader, writer, task):
                pass
        except (OSError, TimeoutError, asyncio.CancelledError):
            # The client is gone or silent, or the daemon stops: nothing to tell.
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort() if task in self._busy else writer.close()
            self._busy.discard(task)

    async def _serve_one(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        task: asyncio.Task[None],
    ) -> bool:
        """Answer one request; tell whether the connection goes on."""
        try:
            async with asyncio.timeout(self._limits.idle_seconds_max):
                line = await reader.readline()
        except ValueError:  # what StreamReader makes of a line beyond its limit
            await self._reply(writer, _failure("the request is longer than 64 KiB", 8))
            return False
        if not line.endswith(b"\n"):
            return False
        self._busy.add(task)
        reply = await self._answer(line)
        self._busy.discard(task)
        await self._reply(writer, reply)
        return True

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            result = await self._in_turn(*parse_request(line))
            json.dumps(result)
        except FarshoreError as error:
            return _failure(str(error), error.exit_code)
        except Exception:  # noqa: BLE001 - a bug must not end the control socket
            self._log.exception("control_request_failed")
            return _failure(
                "internal error of the daemon: its log has the details", EXIT_INTERNAL
            )
        return {"result": result}

    async def _reply(self, writer: asyncio.StreamWriter, reply: dict[str, Any]) -> None:
        writer.write(json.dumps(reply).encode() + b"\n")
        async with asyncio.timeout(self._limits.reply_seconds_max):
            await writer.drain()

    async def _in_turn(self, command: str, arguments: dict[str, Any]) -> Any:
        limit = self._limits.requests_per_command_max
        if self._in_work[command] >= limit:
            raise RefusedError(
                f"{limit} requests {command!r} are in work: wait until one ends"
            )
        self._in_work[command] += 1
        try:
            return await self._handle(command, arguments)
        finally:
            self._in_work[command] -= 1


def bind_control_socket(path: str) -> socket.socket:
    """Bind and return the listening socket, replacing a stale one.

    Its mode is never wider than 0660, not for a moment: Linux gives a socket's
    file the mode of the unbound socket, less the umask. Changing the umask
    instead would touch files that other threads create meanwhile.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), SOCKET_MODE)
        _make_folder(path)
        _remove_stale(path)
        listener.bind(path)
        Path(path).chmod(SOCKET_MODE)  # the umask may have taken the group's bits
        listener.listen(BACKLOG_CONNECTIONS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{path}: the control socket cannot be made ({error.strerror or error}): "
            "mend its folder or change site.control_socket"
        ) from None
    except FarshoreError:
        listener.close()
        raise
    return listener


def _make_folder(path: str) -> None:
    folder = Path(path).parent
    if not folder.exists():
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)


def _remove_stale(path: str) -> None:
    match clear_stale(path):
        case Occupied.BY_FILE:
            raise ConfigError(
                f"{path}: not a socket: remove it or change site.control_socket"
            )
        case Occupied.BY_DAEMON:
            raise DeviceBusyError(
                f"{path}: a daemon answers at this control socket: stop it or change "
                "site.control_socket"
            )


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _failure(message: str, exit_code: int) -> dict[str, Any]:
    return {"error": {"message": message, "exit_code": exit_code}}
