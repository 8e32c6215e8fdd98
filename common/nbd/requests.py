"""Which requests an opened export accepts, and what the others are told. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from common.nbd.protocol import Command, CommandFlag, NbdError

LENGTH_BYTES_MAX: Final = 0xFFFFFFFF
"""What fits into a request's length field."""

_WRITES: Final = frozenset({Command.WRITE, Command.TRIM, Command.WRITE_ZEROES})
_OUT_OF_SPACE: Final = frozenset({Command.WRITE, Command.WRITE_ZEROES})
_COMMANDS: Final = frozenset(
    {
        Command.READ,
        Command.WRITE,
        Command.FLUSH,
        Command.TRIM,
        Command.CACHE,
        Command.WRITE_ZEROES,
        Command.BLOCK_STATUS,
    }
)
# FUA is advertised, so it must be accepted everywhere, also where it means nothing.
_FLAGS: Final = {
    Command.WRITE_ZEROES: CommandFlag.FUA | CommandFlag.NO_HOLE,
    Command.BLOCK_STATUS: CommandFlag.FUA | CommandFlag.REQ_ONE,
}
_NEVER: Final = -1


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request is answered without having been run."""

    error: NbdError
    text: str


class Rules:
    """Checks for one connection.

    `forbidden_flags` and `ceilings` are indexed by command, for those below
    `COMMAND_COUNT`: a request without a forbidden flag, of 1 to ceiling bytes and
    inside the export, is good. Any other is to be shown to `fault`, which also
    knows the rare good ones (FLUSH, and what has no length).
    """

    COMMAND_COUNT: Final = 8

    def __init__(
        self,
        *,
        size_bytes: int,
        read_only: bool,
        structured: bool,
        has_context: bool,
        payload_bytes_max: int,
    ) -> None:
        self.size_bytes = size_bytes
        self._read_only = read_only
        self.structured = structured
        self._has_context = has_context
        self._payload_bytes_max = payload_bytes_max
        self.forbidden_flags = [
            ~int(self._allowed(command)) for command in range(self.COMMAND_COUNT)
        ]
        self.ceilings = [
            self._ceiling(command) for command in range(self.COMMAND_COUNT)
        ]

    def fault(self, command: int, flags: int, offset: int, length: int) -> Fault | None:
        """Say why a request must be refused; None if it may run.

        DISC is not asked about here. A request of no length that may run has
        nothing to do; the protocol leaves the answer open, so it succeeds.
        """
        if command not in _COMMANDS:
            return Fault(NbdError.EINVAL, "unknown command")
        if self._read_only and command in _WRITES:
            return Fault(NbdError.EPERM, "the export is read-only")
        if flags & self.forbidden_flags[command]:
            return Fault(NbdError.EINVAL, "a flag that this command does not have")
        if command == Command.FLUSH:
            return None
        if command == Command.BLOCK_STATUS and not self._has_context:
            return Fault(NbdError.EINVAL, "no metadata context is selected")
        if command == Command.BLOCK_STATUS and length == 0:
            return Fault(NbdError.EINVAL, "the status of no bytes")
        if offset > self.size_bytes or length > self.size_bytes - offset:
            return Fault(self._beyond(command, offset, length), "past the end")
        if length > self.ceilings[command]:
            overflow = self.structured and command == Command.READ
            error = NbdError.EOVERFLOW if overflow else NbdError.EINVAL
            return Fault(error, f"at most {self._payload_bytes_max} bytes at once")
        return None

    def _beyond(self, command: int, offset: int, length: int) -> NbdError:
        wraps = offset + length >= 1 << 64
        if command in _OUT_OF_SPACE and not wraps:
            return NbdError.ENOSPC
        return NbdError.EINVAL

    def _allowed(self, command: int) -> CommandFlag:
        if command == Command.READ and self.structured:
            return CommandFlag.FUA | CommandFlag.DF
        if command in _FLAGS:
            return _FLAGS[Command(command)]
        return CommandFlag.FUA

    def _ceiling(self, command: int) -> int:
        if self._read_only and command in _WRITES:
            return _NEVER
        if command in {Command.READ, Command.WRITE}:
            return self._payload_bytes_max
        if command in {Command.TRIM, Command.CACHE, Command.WRITE_ZEROES}:
            return LENGTH_BYTES_MAX
        if command == Command.BLOCK_STATUS and self._has_context:
            return LENGTH_BYTES_MAX
        return _NEVER
