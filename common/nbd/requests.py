"""Which requests an opened export accepts, and what the others are told. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from common.nbd.protocol import (
    STATUS_EFFECT,
    UINT32,
    Command,
    CommandFlag,
    NbdError,
    WireForm,
)
from common.ports import HostRequest

LENGTH_BYTES_MAX: Final = 0xFFFFFFFF
"""What fits into a compact request's length field."""
EXTENDED_LENGTH_BYTES_MAX: Final = 0xFFFFFFFFFFFFFFFF
"""What fits into an extended one's."""

_WRITES: Final = frozenset({Command.WRITE, Command.TRIM, Command.WRITE_ZEROES})
_OUT_OF_SPACE: Final = frozenset({Command.WRITE, Command.WRITE_ZEROES})
_PAYLOADS: Final = frozenset({Command.READ, Command.WRITE})
_RANGES: Final = frozenset(
    {Command.TRIM, Command.CACHE, Command.WRITE_ZEROES, Command.BLOCK_STATUS}
)
_COMMANDS: Final = _PAYLOADS | _RANGES | {Command.FLUSH}
_NEVER: Final = -1
_REQ_ONE: Final = int(CommandFlag.REQ_ONE)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request is answered without having been run."""

    error: NbdError
    text: str


class BareRequest(HostRequest):
    """A request whose attributes a parser sets one by one.

    A class without a Python `__init__` is made in a third of the time.
    """

    __slots__ = ()

    __init__ = object.__init__


class Rules:
    """Checks for one connection.

    `forbidden_flags` and `ceilings` are indexed by command, for those below
    `COMMAND_COUNT`: a request without a forbidden flag, of 1 to ceiling bytes and
    inside the export, is good. Any other is to be shown to `fault`, which also
    knows the rare good ones (FLUSH, and what has no length), after a payload has
    been seen to.
    """

    COMMAND_COUNT: Final = 8

    def __init__(
        self,
        *,
        size_bytes: int,
        read_only: bool,
        form: WireForm,
        contexts: tuple[tuple[int, str], ...],
        fast_zero: bool,
        payload_bytes_max: int,
    ) -> None:
        self.size_bytes = size_bytes
        self.form = form
        self.context_ids = tuple(context_id for context_id, _ in contexts)
        """The ids of the selected contexts, in the order in which they are told."""
        self.context_names = dict(contexts)
        self._read_only = read_only
        self.fast_zero = fast_zero
        self._payload_bytes_max = payload_bytes_max
        # Plain ints: inverting an IntFlag yields only bits that have a name.
        self.forbidden_flags = [
            ~int(self._allowed(command)) for command in range(self.COMMAND_COUNT)
        ]
        self.ceilings = [
            self._ceiling(command) for command in range(self.COMMAND_COUNT)
        ]

    def payload_bytes(self, command: int, flags: int, length: int) -> int:
        """Return how many bytes follow a request's header.

        An extended WRITE must have PAYLOAD_LEN, but one without it is taken for one
        with, as qemu does: its client has sent the data all the same, and were that
        read as requests, it could make the server do anything.
        """
        has_payload = command == Command.WRITE or (
            self.form == WireForm.EXTENDED and flags & CommandFlag.PAYLOAD_LEN
        )
        return length if has_payload else 0

    def takes_status_payload(self, command: int, length: int) -> bool:
        """Tell whether a payload of this length may choose contexts."""
        ids_bytes = length - STATUS_EFFECT.size
        return (
            command == Command.BLOCK_STATUS
            and ids_bytes % UINT32.size == 0
            and 1 <= ids_bytes // UINT32.size <= len(self.context_ids)
        )

    def status_asked(self, payload: bytes) -> tuple[int, tuple[int, ...]] | None:
        """Return the length and context ids that a payload asks about.

        None if an id is unknown or there twice.
        """
        (length,) = STATUS_EFFECT.unpack_from(payload)
        found = UINT32.iter_unpack(payload[STATUS_EFFECT.size :])
        ids = tuple(context_id for (context_id,) in found)
        if len(set(ids)) < len(ids) or not set(ids) <= set(self.context_ids):
            return None
        return length, ids

    def ask_status(
        self, request: HostRequest, flags: int, cookie: int, ids: tuple[int, ...]
    ) -> None:
        """Have a BLOCK_STATUS ask about contexts; its reply gets them by the cookie."""
        names = self.context_names
        request.contexts = tuple(names[context_id] for context_id in ids)
        request.cookie = (cookie, flags & _REQ_ONE != 0, ids)

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
        if command == Command.BLOCK_STATUS and not self.context_ids:
            return Fault(NbdError.EINVAL, "no metadata context is selected")
        if command == Command.BLOCK_STATUS and length == 0:
            return Fault(NbdError.EINVAL, "the status of no bytes")
        if offset > self.size_bytes or length > self.size_bytes - offset:
            return Fault(self._beyond(command, offset, length), "past the end")
        if length > self.ceilings[command]:
            overflow = self.form >= WireForm.STRUCTURED and command == Command.READ
            error = NbdError.EOVERFLOW if overflow else NbdError.EINVAL
            return Fault(error, f"at most {self._payload_bytes_max} bytes at once")
        return None

    def _beyond(self, command: int, offset: int, length: int) -> NbdError:
        wraps = offset + length >= 1 << 64
        if command in _OUT_OF_SPACE and not wraps:
            return NbdError.ENOSPC
        return NbdError.EINVAL

    def _allowed(self, command: int) -> CommandFlag:
        # FUA is advertised, so it must be accepted where it means nothing, too.
        allowed = CommandFlag.FUA
        match command:
            case Command.READ if self.form >= WireForm.STRUCTURED:
                allowed |= CommandFlag.DF
            case Command.WRITE if self.form == WireForm.EXTENDED:
                allowed |= CommandFlag.PAYLOAD_LEN
            case Command.WRITE_ZEROES:
                allowed |= CommandFlag.NO_HOLE
                if self.fast_zero:
                    allowed |= CommandFlag.FAST_ZERO
            case Command.BLOCK_STATUS:
                allowed |= CommandFlag.REQ_ONE
        return allowed

    def _ceiling(self, command: int) -> int:
        if self._read_only and command in _WRITES:
            return _NEVER
        if command in _PAYLOADS:
            return self._payload_bytes_max
        if command == Command.BLOCK_STATUS and not self.context_ids:
            return _NEVER
        if command in _RANGES:
            is_extended = self.form == WireForm.EXTENDED
            return EXTENDED_LENGTH_BYTES_MAX if is_extended else LENGTH_BYTES_MAX
        return _NEVER
