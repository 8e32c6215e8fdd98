"""Requests that the plain rules do not let through: what becomes of each. Pure.

`RequestStream` takes plain requests itself, in one loop without calls. FLUSH, what has
no length, what is refused and a BLOCK_STATUS that chooses contexts are ruled here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from common.nbd import replies
from common.nbd.limits import NbdLimits
from common.nbd.outcome import Ended
from common.nbd.protocol import Command, CommandFlag, NbdError
from common.nbd.requests import Fault, Rules
from common.ports import HostRequest

# Plain ints: comparing with an enum's member is several times slower.
_READ: Final = int(Command.READ)
_WRITE: Final = int(Command.WRITE)
_DISC: Final = int(Command.DISC)
_FLUSH: Final = int(Command.FLUSH)
_BLOCK_STATUS: Final = int(Command.BLOCK_STATUS)
_FUA: Final = int(CommandFlag.FUA)
_PAYLOAD_LEN: Final = int(CommandFlag.PAYLOAD_LEN)


@dataclass(frozen=True, slots=True)
class Ruling:
    """What becomes of one request."""

    taken_bytes: int = 0
    """Of what was received: its header, and the payload where that was looked at.
    0: the rest of its payload has to arrive first, or the connection ends."""
    request: HostRequest | None = None
    """It is to be run after all."""
    answer: bytes = b""
    """What the client is told, once `drained_bytes` are through."""
    drained_bytes: int = 0
    """Payload to be read away: it is on the way whatever we think of it."""
    ended: Ended | None = None
    """Why nothing more is taken."""


class UnusualRequests:
    """Rules on the requests of one connection."""

    def __init__(self, rules: Rules, limits: NbdLimits, header_bytes: int) -> None:
        self._rules = rules
        self._limits = limits
        self._header_bytes = header_bytes

    def rule(
        self,
        flags: int,
        command: int,
        cookie: int,
        offset: int,
        length: int,
        following: memoryview,
    ) -> Ruling:
        """Rule on a request; `following`: what was received behind its header."""
        if command == _DISC:
            return Ruling(ended=Ended("the client disconnected", refused=False))
        payload_bytes = self._rules.payload_bytes(command, flags, length)
        if self._is_absurd(command, payload_bytes):
            what = "WRITE" if command == _WRITE else "payload"
            return Ruling(
                ended=Ended(f"a {what} of {payload_bytes} bytes", refused=True)
            )
        if payload_bytes and self._rules.takes_status_payload(command, length):
            if len(following) < payload_bytes:
                return Ruling()
            payload = bytes(following[:payload_bytes])
            return self._chosen_status(flags, cookie, offset, payload)
        if payload_bytes and command != _WRITE:
            fault: Fault | None = Fault(NbdError.EINVAL, "a payload of no use")
        else:
            fault = self._rules.fault(command, flags, offset, length)
        if fault is not None:
            return self._refusal(fault, cookie, offset, drained_bytes=payload_bytes)
        if command == _FLUSH:
            # Its range means nothing, but an extended reply repeats the offset.
            fua = flags & _FUA != 0
            flush = HostRequest(command, 0, 0, cookie=(cookie, offset), fua=fua)
            return Ruling(self._header_bytes, flush)
        assert length == 0, (command, flags, offset, length)
        reply = replies.empty_read if command == _READ else replies.success
        answer = reply(self._rules.form, cookie, offset)
        return Ruling(self._header_bytes, answer=answer)

    def _is_absurd(self, command: int, payload_bytes: int) -> bool:
        """Tell whether there is more payload than is worth reading away."""
        limits = self._limits
        is_write = command == _WRITE
        return payload_bytes > (
            limits.payload_bytes_drained_max if is_write else limits.payload_bytes_max
        )

    def _refusal(
        self,
        fault: Fault,
        cookie: int,
        offset: int,
        *,
        looked_at_bytes: int = 0,
        drained_bytes: int = 0,
    ) -> Ruling:
        answer = replies.failure(
            self._rules.form, cookie, offset, fault.error, fault.text
        )
        taken_bytes = self._header_bytes + looked_at_bytes
        return Ruling(taken_bytes, answer=answer, drained_bytes=drained_bytes)

    def _chosen_status(
        self, flags: int, cookie: int, offset: int, payload: bytes
    ) -> Ruling:
        """Rule on a BLOCK_STATUS whose payload chooses contexts."""
        asked = self._rules.status_asked(payload)
        if asked is None:
            fault: Fault | None = Fault(NbdError.EINVAL, "contexts not selected")
        else:
            plain_flags = flags & ~_PAYLOAD_LEN
            fault = self._rules.fault(_BLOCK_STATUS, plain_flags, offset, asked[0])
        if fault is not None or asked is None:
            assert fault is not None
            return self._refusal(fault, cookie, offset, looked_at_bytes=len(payload))
        length, ids = asked
        request = HostRequest(_BLOCK_STATUS, offset, length, fua=flags & _FUA != 0)
        self._rules.ask_status(request, flags, cookie, ids)
        return Ruling(self._header_bytes + len(payload), request)
