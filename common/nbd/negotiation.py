"""The server's half of the NBD handshake, as bytes in and bytes out.

Feed what the socket gave to `Negotiation.receive`, send what `take_output`
returns, and look at `outcome`: once it is set nothing more is read. Bytes that
came after the option that ended the handshake are `trailing`; they belong to
transmission. Fixed newstyle only; no I/O, no clock: the deadline is the shell's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from common.nbd.protocol import (
    BASE_ALLOCATION,
    CLIENT_FLAGS,
    ERROR_TEXT_BYTES_MAX,
    EXPORT_NAME_PADDING,
    EXPORT_NAME_REPLY,
    GREETING,
    GREETING_MAGIC,
    INFO_BLOCK_SIZE,
    INFO_EXPORT,
    NAME_BYTES_MAX,
    OPTION_HEADER,
    OPTION_MAGIC,
    OPTION_MAGIC_BYTES,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    UINT16,
    UINT32,
    HandshakeFlag,
    Info,
    Option,
    OptionReply,
    TransmissionFlag,
)

OPTION_DATA_BYTES_MAX: Final = 64 << 10
"""No legal option needs more than a name and its queries; above: hang up."""
OPTIONS_MAX: Final = 32
"""Options one handshake may use; as many again for each export told by LIST."""
QUERIES_MAX: Final = 1024
"""Queries in one LIST_META_CONTEXT or SET_META_CONTEXT."""
BLOCK_BYTES_MIN: Final = 1
"""Any offset and length is served."""
PAYLOAD_BYTES_ADVERTISED: Final = 32 << 20
"""What every client may send and ask; more is accepted, see `NbdLimits`."""
ALLOCATION_CONTEXT_ID: Final = 1
"""The id under which `base:allocation` is told; LIST tells 0, as the rule is."""


class TlsMode(Enum):
    """Whether clients of an address must encrypt. There is nothing in between."""

    OFF = "off"
    """STARTTLS is answered with ERR_POLICY."""
    REQUIRED = "required"
    """Before TLS there is nothing but STARTTLS and ABORT."""


SERVER_FLAGS: Final = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES


@dataclass(frozen=True, slots=True)
class ExportFacts:
    """What the handshake tells about one export."""

    size_bytes: int
    read_only: bool
    description: str
    preferred_block_bytes: int

    def __post_init__(self) -> None:
        assert 0 <= self.size_bytes < 1 << 63, self.size_bytes
        preferred = self.preferred_block_bytes
        assert preferred & (preferred - 1) == 0, preferred
        assert 512 <= preferred <= PAYLOAD_BYTES_ADVERTISED, preferred


class ExportFinder(Protocol):
    """What the handshake asks about exports; answers at once."""

    def names(self) -> Sequence[tuple[str, str]]:
        """Return (name, description) of the exports that LIST may show."""
        ...

    def facts(self, name: str) -> ExportFacts | None:
        """Return what to tell of an export, or None if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Agreed:
    """Transmission starts: what was settled before."""

    export_name: str
    structured: bool
    allocation_context_id: int | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection must be closed once the output is sent.

    `refused` tells a client that broke a rule or asked for what there is not
    from one that said goodbye.
    """

    reason: str
    refused: bool


Outcome = Agreed | Ended


class _BadOptionError(Exception):
    """The data of an option does not add up; the text goes to the client."""


class _Fields:
    """Takes an option's data apart; every shortfall is `_BadOptionError`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def raw(self, length: int) -> bytes:
        stop = self._position + length
        if stop > len(self._data):
            raise _BadOptionError("the lengths in this option do not add up")
        taken = self._data[self._position : stop]
        self._position = stop
        return taken

    def uint16(self) -> int:
        return int(UINT16.unpack(self.raw(2))[0])

    def uint32(self) -> int:
        return int(UINT32.unpack(self.raw(4))[0])

    def text(self) -> str:
        """Take a counted UTF-8 string of at most 4096 bytes."""
        length = self.uint32()
        if length > NAME_BYTES_MAX:
            raise _BadOptionError(f"strings end at {NAME_BYTES_MAX} bytes")
        return _decoded(self.raw(length))

    def end(self) -> None:
        if self._position != len(self._data):
            raise _BadOptionError("this option carries more data than it tells of")


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _BadOptionError("strings are UTF-8") from None


def transmission_flags(facts: ExportFacts, *, structured: bool) -> TransmissionFlag:
    """Return what an export can do, as told by INFO, GO and EXPORT_NAME."""
    flags = (
        TransmissionFlag.HAS_FLAGS
        | TransmissionFlag.SEND_FLUSH
        | TransmissionFlag.SEND_FUA
        | TransmissionFlag.CAN_MULTI_CONN
        | TransmissionFlag.SEND_CACHE
    )
    if facts.read_only:
        flags |= TransmissionFlag.READ_ONLY
    else:
        flags |= TransmissionFlag.SEND_TRIM | TransmissionFlag.SEND_WRITE_ZEROES
    if structured:
        flags |= TransmissionFlag.SEND_DF
    return flags


class Negotiation:
    """One connection's handshake. The greeting is in the output from the start."""

    def __init__(self, exports: ExportFinder, tls: TlsMode = TlsMode.OFF) -> None:
        self.outcome: Outcome | None = None
        self.wants_tls = False
        """STARTTLS is agreed: send the output, start TLS, call `tls_started`.

        Until then nothing may be received: what arrives was not encrypted.
        """
        self._tls = tls
        self._encrypted = False
        self._shutting_down = False
        self._exports = exports
        self._received = bytearray()
        self._output: list[bytes] = [
            GREETING.pack(GREETING_MAGIC, OPTION_MAGIC_BYTES, SERVER_FLAGS)
        ]
        self._client_flags: HandshakeFlag | None = None
        self._forget()
        self._options_left = OPTIONS_MAX
        self._listed = False
        self._answers: dict[int, Callable[[bytes], None]] = {
            Option.EXPORT_NAME: self._export_name,
            Option.ABORT: self._abort,
            Option.LIST: self._list,
            Option.STARTTLS: self._starttls,
            Option.INFO: self._info,
            Option.GO: self._go,
            Option.STRUCTURED_REPLY: self._structured_reply,
            Option.LIST_META_CONTEXT: self._list_meta_context,
            Option.SET_META_CONTEXT: self._set_meta_context,
        }

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

        Whatever was agreed in plain text may be of somebody in between. Only the
        count of options goes on.
        """
        assert self.wants_tls
        self.wants_tls = False
        self._encrypted = True
        self._forget()

    def shut_down(self) -> None:
        """Refuse all further options: the server is about to close."""
        self._shutting_down = True

    def take_output(self) -> bytes:
        """Return what is to be sent now, to be sent whole."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def _forget(self) -> None:
        self._structured = False
        # The export for which base:allocation was selected, if any.
        self._context_export: str | None = None

    def _step(self) -> bool:
        """Handle one whole message; tell whether there was one."""
        if self._client_flags is None:
            return self._take_client_flags()
        if len(self._received) < OPTION_HEADER.size:
            return False
        magic, option, length = OPTION_HEADER.unpack_from(self._received)
        if magic != OPTION_MAGIC:
            self._refuse("an option without its magic number")
            return False
        if length > OPTION_DATA_BYTES_MAX:
            self._refuse(f"an option of {length} bytes")
            return False
        stop = OPTION_HEADER.size + length
        if len(self._received) < stop:
            return False
        data = bytes(self._received[OPTION_HEADER.size : stop])
        del self._received[:stop]
        self._answer(option, data)
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
        return True

    def _answer(self, option: int, data: bytes) -> None:
        if self._options_left == 0:
            self._refuse("more options than a handshake needs")
            return
        self._options_left -= 1
        assert self._client_flags is not None
        fixed = HandshakeFlag.FIXED_NEWSTYLE in self._client_flags
        if not fixed and option not in {Option.EXPORT_NAME, Option.ABORT}:
            text = "only for fixed newstyle clients"
            self._reply_error(option, OptionReply.ERR_INVALID, text)
            return
        if self._is_barred(option):
            return
        answer = self._answers.get(option)
        if answer is None:
            self._reply_error(option, OptionReply.ERR_UNSUP, "unknown option")
            return
        try:
            answer(data)
        except _BadOptionError as error:
            self._reply_error(option, OptionReply.ERR_INVALID, str(error))

    def _is_barred(self, option: int) -> bool:
        """Refuse what may not be asked at this time, whatever it is."""
        if option == Option.ABORT:
            return False
        if self._shutting_down:
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
            self._reply_error(option, kind, text)
        return True

    # Endings

    def _refuse(self, reason: str) -> None:
        self.outcome = Ended(reason, refused=True)

    def _abort(self, _data: bytes) -> None:
        self._reply(Option.ABORT, OptionReply.ACK)
        self.outcome = Ended("the client aborted the handshake", refused=False)

    def _agree(self, name: str) -> None:
        selected = self._context_export == name
        self.outcome = Agreed(
            name, self._structured, ALLOCATION_CONTEXT_ID if selected else None
        )

    def _export_name(self, data: bytes) -> None:
        # This option has no error reply: hanging up is all that can be said.
        if len(data) > NAME_BYTES_MAX:
            self._refuse("an export name that is too long")
            return
        try:
            name = _decoded(data)
        except _BadOptionError:
            self._refuse("an export name that is not UTF-8")
            return
        facts = self._exports.facts(name)
        if facts is None:
            self._refuse("no such export")
            return
        flags = transmission_flags(facts, structured=self._structured)
        self._output.append(EXPORT_NAME_REPLY.pack(facts.size_bytes, flags))
        assert self._client_flags is not None
        if HandshakeFlag.NO_ZEROES not in self._client_flags:
            self._output.append(EXPORT_NAME_PADDING)
        self._agree(name)

    # Options that stay in negotiation

    def _list(self, data: bytes) -> None:
        _Fields(data).end()
        names = self._exports.names()
        for name, description in names:
            raw = name.encode()
            payload = UINT32.pack(len(raw)) + raw + _cut(description, NAME_BYTES_MAX)
            self._reply(Option.LIST, OptionReply.SERVER, payload)
        self._reply(Option.LIST, OptionReply.ACK)
        if not self._listed:
            # A client that lists goes on to ask about each export.
            self._listed = True
            self._options_left += OPTIONS_MAX * len(names)

    def _starttls(self, data: bytes) -> None:
        _Fields(data).end()
        if self._tls is TlsMode.OFF:
            text = "TLS is not enabled here"
            self._reply_error(Option.STARTTLS, OptionReply.ERR_POLICY, text)
            return
        if self._encrypted:
            raise _BadOptionError("TLS is already in use")
        if self._received:
            # They would be taken for encrypted ones (CVE-2021-3716).
            self._refuse("bytes in plain text after STARTTLS")
            return
        self._reply(Option.STARTTLS, OptionReply.ACK)
        self.wants_tls = True

    def _structured_reply(self, data: bytes) -> None:
        _Fields(data).end()
        if self._structured:
            raise _BadOptionError("structured replies are already agreed")
        self._structured = True
        self._reply(Option.STRUCTURED_REPLY, OptionReply.ACK)

    def _info(self, data: bytes) -> None:
        self._tell(Option.INFO, data)

    def _go(self, data: bytes) -> None:
        name = self._tell(Option.GO, data)
        if name is not None:
            self._agree(name)

    def _tell(self, option: Option, data: bytes) -> str | None:
        """Answer INFO or GO; return the export's name if there is such an export."""
        fields = _Fields(data)
        name = fields.text()
        wanted = {fields.uint16() for _ in range(fields.uint16())}
        fields.end()
        facts = self._exports.facts(name)
        if facts is None:
            self._reply_error(option, OptionReply.ERR_UNKNOWN, "no such export")
            return None
        flags = transmission_flags(facts, structured=self._structured)
        infos = [INFO_EXPORT.pack(Info.EXPORT, facts.size_bytes, flags)]
        if Info.NAME in wanted:
            infos.append(UINT16.pack(Info.NAME) + name.encode())
        if Info.DESCRIPTION in wanted and facts.description:
            text = _cut(facts.description, NAME_BYTES_MAX)
            infos.append(UINT16.pack(Info.DESCRIPTION) + text)
        if Info.BLOCK_SIZE in wanted:
            sizes = (BLOCK_BYTES_MIN, facts.preferred_block_bytes)
            largest = PAYLOAD_BYTES_ADVERTISED
            infos.append(INFO_BLOCK_SIZE.pack(Info.BLOCK_SIZE, *sizes, largest))
        for info in infos:
            self._reply(option, OptionReply.INFO, info)
        self._reply(option, OptionReply.ACK)
        return name

    def _list_meta_context(self, data: bytes) -> None:
        name, queries = self._contexts_asked(data)
        option = Option.LIST_META_CONTEXT
        if self._exports.facts(name) is None:
            self._reply_error(option, OptionReply.ERR_UNKNOWN, "no such export")
            return
        if not queries or {"base:", BASE_ALLOCATION} & set(queries):
            self._reply_context(option, 0)
        self._reply(option, OptionReply.ACK)

    def _set_meta_context(self, data: bytes) -> None:
        # The earlier selection is gone even when this one fails.
        self._context_export = None
        option = Option.SET_META_CONTEXT
        name, queries = self._contexts_asked(data)
        if self._exports.facts(name) is None:
            self._reply_error(option, OptionReply.ERR_UNKNOWN, "no such export")
            return
        if BASE_ALLOCATION in queries:
            self._context_export = name
            self._reply_context(option, ALLOCATION_CONTEXT_ID)
        self._reply(option, OptionReply.ACK)

    def _contexts_asked(self, data: bytes) -> tuple[str, list[str]]:
        if not self._structured:
            raise _BadOptionError("ask for structured replies first")
        fields = _Fields(data)
        name = fields.text()
        count = fields.uint32()
        if count > QUERIES_MAX:
            raise _BadOptionError(f"at most {QUERIES_MAX} queries")
        queries = [fields.text() for _ in range(count)]
        fields.end()
        return name, queries

    # Replies

    def _reply_context(self, option: Option, context_id: int) -> None:
        payload = UINT32.pack(context_id) + BASE_ALLOCATION.encode()
        self._reply(option, OptionReply.META_CONTEXT, payload)

    def _reply_error(self, option: int, kind: OptionReply, text: str) -> None:
        self._reply(option, kind, _cut(text, ERROR_TEXT_BYTES_MAX))

    def _reply(self, option: int, kind: OptionReply, payload: bytes = b"") -> None:
        header = OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(payload))
        self._output += (header, payload)


def _cut(text: str, length_bytes: int) -> bytes:
    """Return UTF-8 that is not too long and does not end within a character."""
    raw = text.encode()[:length_bytes]
    return raw.decode(errors="ignore").encode()
