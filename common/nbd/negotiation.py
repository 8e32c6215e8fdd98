"""The server's half of the NBD handshake, as bytes in and bytes out.

Feed what the socket gave to `Negotiation.receive`, send what `take_output`
returns, and look at `outcome`: once it is set nothing more is read. Bytes that
came after the option that ended the handshake are `trailing`; they belong to
transmission. Fixed newstyle only; no I/O, no clock: the deadline is the shell's.

Here is what may be asked when; what is answered about exports is `ExportOptions`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from common.nbd.export_facts import ExportFinder
from common.nbd.export_options import ExportOptions
from common.nbd.limits import NbdLimits
from common.nbd.option_fields import BadOptionError, OptionFields
from common.nbd.option_replies import OptionReplies
from common.nbd.outcome import Ended, Outcome
from common.nbd.protocol import (
    CLIENT_FLAGS,
    GREETING,
    GREETING_MAGIC,
    OPTION_HEADER,
    OPTION_MAGIC,
    OPTION_MAGIC_BYTES,
    HandshakeFlag,
    Option,
    OptionReply,
)


class TlsMode(Enum):
    """Whether clients of an address must encrypt. There is nothing in between."""

    OFF = "off"
    """STARTTLS is answered with ERR_POLICY."""
    REQUIRED = "required"
    """Before TLS there is nothing but STARTTLS and ABORT."""


SERVER_FLAGS: Final = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES


class Negotiation:
    """One connection's handshake. The greeting is in the output from the start."""

    def __init__(
        self,
        exports: ExportFinder,
        tls: TlsMode = TlsMode.OFF,
        limits: NbdLimits | None = None,
    ) -> None:
        self.outcome: Outcome | None = None
        self.wants_tls = False
        """STARTTLS is agreed: send the output, start TLS, call `tls_started`.

        Until then nothing may be received: what arrives was not encrypted.
        """
        self._tls = tls
        self._limits = limits or NbdLimits()
        self._encrypted = False
        self._shutting_down = False
        self._exports = exports
        self._received = bytearray()
        self._replies = OptionReplies()
        self._replies.raw(
            GREETING.pack(GREETING_MAGIC, OPTION_MAGIC_BYTES, SERVER_FLAGS)
        )
        self._option_count = 0
        self._client_flags = HandshakeFlag(0)
        # Made when the client has sent its flags, and anew under TLS.
        self._options: ExportOptions | None = None

    @property
    def trailing(self) -> bytes:
        """Bytes received after the option that ended the handshake."""
        return bytes(self._received)

    def receive(self, data: bytes) -> None:
        """Take in bytes; must not be called once `outcome` is set."""
        assert self.outcome is None
        if self.wants_tls:
            self._refuse("bytes between STARTTLS and TLS")
            return
        self._received += data
        while self.outcome is None and not self.wants_tls and self._step():
            pass

    def tls_started(self) -> None:
        """Go on, encrypted, as if nothing had been asked before.

        Only the count of options goes on.
        """
        assert self.wants_tls
        self.wants_tls = False
        self._encrypted = True
        self._begin()

    def shut_down(self) -> None:
        """Refuse all further options: the server is about to close."""
        self._shutting_down = True

    def take_output(self) -> bytes:
        """Return what is to be sent now, to be sent whole."""
        return self._replies.take()

    def _begin(self) -> None:
        """Nothing of what was agreed until now holds."""
        self._options = ExportOptions(
            self._exports,
            self._limits,
            self._replies,
            pads_export_name=HandshakeFlag.NO_ZEROES not in self._client_flags,
        )

    def _step(self) -> bool:
        """Handle one whole message; tell whether there was one."""
        if self._options is None:
            return self._take_client_flags()
        if len(self._received) < OPTION_HEADER.size:
            return False
        magic, option, length = OPTION_HEADER.unpack_from(self._received)
        if magic != OPTION_MAGIC:
            self._refuse("an option without its magic number")
            return False
        if length > self._limits.option_data_bytes_max:
            self._refuse(f"an option of {length} bytes")
            return False
        stop = OPTION_HEADER.size + length
        if len(self._received) < stop:
            return False
        data = bytes(self._received[OPTION_HEADER.size : stop])
        del self._received[:stop]
        self._take_option(self._options, option, data)
        return True

    def _take_client_flags(self) -> bool:
        if len(self._received) < CLIENT_FLAGS.size:
            return False
        (flags,) = CLIENT_FLAGS.unpack_from(self._received)
        del self._received[: CLIENT_FLAGS.size]
        # A plain int: inverting an IntFlag yields only bits that have a name.
        if flags & ~int(SERVER_FLAGS):
            self._refuse(f"unknown client flags {flags:#x}")
            return False
        self._client_flags = HandshakeFlag(flags)
        self._begin()
        return True

    def _take_option(self, options: ExportOptions, option: int, data: bytes) -> None:
        # A client that lists goes on to ask about each export.
        listed = options.listed_count or 0
        if self._option_count >= self._limits.options_max * (1 + listed):
            self._refuse("more options than a handshake needs")
            return
        self._option_count += 1
        if self._is_barred(option):
            return
        try:
            match option:
                case Option.ABORT:
                    self.outcome = self._abort()
                case Option.STARTTLS:
                    self.outcome = self._starttls(data)
                case _:
                    self.outcome = options.answer(option, data)
        except BadOptionError as error:
            self._replies.error(option, OptionReply.ERR_INVALID, str(error))

    def _is_barred(self, option: int) -> bool:
        """Refuse what may not be asked at this time, whatever it is."""
        if option == Option.ABORT:
            return False
        is_fixed = HandshakeFlag.FIXED_NEWSTYLE in self._client_flags
        if not is_fixed and option != Option.EXPORT_NAME:
            kind, text = OptionReply.ERR_INVALID, "only for fixed newstyle clients"
        elif self._shutting_down:
            kind, text = OptionReply.ERR_SHUTDOWN, "the server is shutting down"
        elif (
            self._tls is TlsMode.REQUIRED
            and not self._encrypted
            and option != Option.STARTTLS
        ):
            kind, text = OptionReply.ERR_TLS_REQD, "start TLS first"
        else:
            return False
        if option == Option.EXPORT_NAME:
            self._refuse(f"EXPORT_NAME, but {text}")
        else:
            self._replies.error(option, kind, text)
        return True

    def _refuse(self, reason: str) -> None:
        self.outcome = Ended(reason, refused=True)

    def _abort(self) -> Outcome:
        self._replies.reply(Option.ABORT, OptionReply.ACK)
        return Ended("the client aborted the handshake", refused=False)

    def _starttls(self, data: bytes) -> Outcome | None:
        OptionFields(data).end()
        if self._tls is TlsMode.OFF:
            text = "TLS is not enabled here"
            self._replies.error(Option.STARTTLS, OptionReply.ERR_POLICY, text)
            return None
        if self._encrypted:
            raise BadOptionError("TLS is already in use")
        if self._received:
            # They would be taken for encrypted ones (CVE-2021-3716).
            return Ended("bytes in plain text after STARTTLS", refused=True)
        self._replies.reply(Option.STARTTLS, OptionReply.ACK)
        self.wants_tls = True
        return None
