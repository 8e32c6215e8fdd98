"""The other end of the control socket, for commands: plain and blocking."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from common.errors import FarshoreError, UnreachableError

REPLY_BYTES_MAX = 64 << 20
"""A status of every group, or a long list of points, is far shorter."""

CONNECT_SECONDS_MAX = 5.0


class CommandFailedError(FarshoreError):
    """The daemon's own words and exit code for what it could not do."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ControlClient:
    """One connection; `call` may be used again and again.

    Raises `UnreachableError` where no daemon answers, or it stops answering.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(CONNECT_SECONDS_MAX)
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise _unreachable(path, error) from None
        self._replies = self._socket.makefile("rb")

    def call(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        timeout_seconds: float | None = 30.0,
    ) -> Any:
        """Return the command's result; None as time-out waits for ever."""
        request = {"command": command, "arguments": arguments or {}}
        try:
            self._socket.settimeout(timeout_seconds)
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            reply = json.loads(self._line())
        except TimeoutError:
            raise UnreachableError(
                f"the daemon at {self._path} does not answer: look at its log"
            ) from None
        except OSError:
            raise UnreachableError(
                f"the daemon at {self._path} went away: look at its log, then try again"
            ) from None
        except ValueError:
            raise UnreachableError(
                f"what answers at {self._path} is no farshore daemon: "
                "name its control socket with --socket PATH"
            ) from None
        return _result(reply)

    def close(self) -> None:
        self._replies.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _line(self) -> bytes:
        line = self._replies.readline(REPLY_BYTES_MAX)
        if not line.endswith(b"\n"):
            raise ConnectionResetError  # the end of the stream, or of our patience
        return line


def _result(reply: Any) -> Any:
    match reply:
        case {"result": result}:
            return result
        case {"error": {"message": str(message), "exit_code": int(exit_code)}}:
            raise CommandFailedError(message, exit_code)
    raise UnreachableError(
        "the daemon's answer is not understood: use the farshore command of its version"
    )


def _unreachable(path: str, error: OSError) -> UnreachableError:
    if isinstance(error, PermissionError):
        remedy = "ask for membership of the socket's group, or use sudo"
        return UnreachableError(f"you may not use the control socket {path}: {remedy}")
    unit = "farshore-remote" if "remote" in Path(path).name else "farshore-primary"
    return UnreachableError(
        f"no daemon answers at {path} ({error.strerror or error}): start it, as in "
        f"`systemctl start {unit}`, or name its socket with --socket PATH"
    )
