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

from common.nbd.limits import NbdLimits
from common.nbd.option_fields import BadOptionError, OptionFields, cut, decoded
from common.nbd.protocol import (
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
    WireForm,
)
from common.ports import BASE_ALLOCATION

BLOCK_BYTES_MIN: Final = 1
"""Any offset and length is served."""
PAYLOAD_BYTES_ADVERTISED: Final = 32 << 20
"""What every client may send and ask; more is accepted, see `NbdLimits`."""
LISTED_CONTEXT_ID: Final = 0
"""What LIST_META_CONTEXT tells instead of an id, as the rule is."""


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
    contexts: tuple[str, ...] = (BASE_ALLOCATION,)
    """The metadata contexts that can be asked about, each named once."""
    fast_zero: bool = False

    def __post_init__(self) -> None:
        assert 0 <= self.size_bytes < 1 << 63, self.size_bytes
        preferred = self.preferred_block_bytes
        assert preferred & (preferred - 1) == 0, preferred
        assert 512 <= preferred <= PAYLOAD_BYTES_ADVERTISED, preferred
        assert len(set(self.contexts)) == len(self.contexts), self.contexts


class ExportFinder(Protocol):
    """What the handshake asks about exports; answers at once."""

    def names(self) -> Sequence[tuple[str, str]]:
        """Return (name, description) of the exports that LIST may show."""
        ...

    def facts(self, name: str) -> ExportFacts | None:
        """Return what to tell of an export, or None if there is none.

        Nor is there one for a caller who may not see it: both are told the same.
        """
        ...


@dataclass(frozen=True, slots=True)
class Agreed:
    """Transmission starts: what was settled before."""

    export_name: str
    form: WireForm
    contexts: tuple[tuple[int, str], ...] = ()
    """(id, name) of the selected metadata contexts."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection must be closed once the output is sent.

    `refused` tells a client that broke a rule or asked for what there is not
    from one that said goodbye.
    """

    reason: str
    refused: bool


Outcome = Agreed | Ended


def transmission_flags(
    facts: ExportFacts, form: WireForm, *, has_contexts: bool
) -> TransmissionFlag:
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
        if facts.fast_zero:
            flags |= TransmissionFlag.SEND_FAST_ZERO
    if form >= WireForm.STRUCTURED:
        flags |= TransmissionFlag.SEND_DF
    if form == WireForm.EXTENDED and has_contexts:
        flags |= TransmissionFlag.BLOCK_STATUS_PAYLOAD
    return flags


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
        self._output: list[bytes] = [
            GREETING.pack(GREETING_MAGIC, OPTION_MAGIC_BYTES, SERVER_FLAGS)
        ]
        self._client_flags: HandshakeFlag | None = None
        self._forget()
        self._options_left = self._limits.options_max
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
            Option.EXTENDED_HEADERS: self._extended_headers,
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
        self._form = WireForm.SIMPLE
        # The export for which contexts were selected, and (id, name) of each.
        self._context_export = ""
        self._contexts: tuple[tuple[int, str], ...] = ()

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
        if length > self._limits.option_data_bytes_max:
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
        except BadOptionError as error:
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
        self.outcome = Agreed(name, self._form, self._contexts_of(name))

    def _contexts_of(self, name: str) -> tuple[tuple[int, str], ...]:
        """Return what was selected, which holds for the export named then only."""
        return self._contexts if name == self._context_export else ()

    def _flags(self, name: str, facts: ExportFacts) -> TransmissionFlag:
        has_contexts = bool(self._contexts_of(name))
        return transmission_flags(facts, self._form, has_contexts=has_contexts)

    def _export_name(self, data: bytes) -> None:
        # This option has no error reply: hanging up is all that can be said.
        if self._form == WireForm.EXTENDED:
            self._refuse("EXPORT_NAME after EXTENDED_HEADERS")
            return
        if len(data) > NAME_BYTES_MAX:
            self._refuse("an export name that is too long")
            return
        try:
            name = decoded(data)
        except BadOptionError:
            self._refuse("an export name that is not UTF-8")
            return
        facts = self._exports.facts(name)
        if facts is None:
            self._refuse("no such export")
            return
        flags = self._flags(name, facts)
        self._output.append(EXPORT_NAME_REPLY.pack(facts.size_bytes, flags))
        assert self._client_flags is not None
        if HandshakeFlag.NO_ZEROES not in self._client_flags:
            self._output.append(EXPORT_NAME_PADDING)
        self._agree(name)

    # Options that stay in negotiation

    def _list(self, data: bytes) -> None:
        OptionFields(data).end()
        names = self._exports.names()
        for name, description in names:
            raw = name.encode()
            payload = UINT32.pack(len(raw)) + raw + cut(description, NAME_BYTES_MAX)
            self._reply(Option.LIST, OptionReply.SERVER, payload)
        self._reply(Option.LIST, OptionReply.ACK)
        if not self._listed:
            # A client that lists goes on to ask about each export.
            self._listed = True
            self._options_left += self._limits.options_max * len(names)

    def _starttls(self, data: bytes) -> None:
        OptionFields(data).end()
        if self._tls is TlsMode.OFF:
            text = "TLS is not enabled here"
            self._reply_error(Option.STARTTLS, OptionReply.ERR_POLICY, text)
            return
        if self._encrypted:
            raise BadOptionError("TLS is already in use")
        if self._received:
            # They would be taken for encrypted ones (CVE-2021-3716).
            self._refuse("bytes in plain text after STARTTLS")
            return
        self._reply(Option.STARTTLS, OptionReply.ACK)
        self.wants_tls = True

    def _structured_reply(self, data: bytes) -> None:
        OptionFields(data).end()
        if self._form == WireForm.EXTENDED:
            self._reply_error(
                Option.STRUCTURED_REPLY,
                OptionReply.ERR_EXT_HEADER_REQD,
                "extended headers are already agreed",
            )
            return
        if self._form == WireForm.STRUCTURED:
            raise BadOptionError("structured replies are already agreed")
        self._form = WireForm.STRUCTURED
        self._reply(Option.STRUCTURED_REPLY, OptionReply.ACK)

    def _extended_headers(self, data: bytes) -> None:
        OptionFields(data).end()
        if self._form == WireForm.EXTENDED:
            raise BadOptionError("extended headers are already agreed")
        self._form = WireForm.EXTENDED
        self._reply(Option.EXTENDED_HEADERS, OptionReply.ACK)

    def _info(self, data: bytes) -> None:
        self._tell(Option.INFO, data)

    def _go(self, data: bytes) -> None:
        name = self._tell(Option.GO, data)
        if name is not None:
            self._agree(name)

    def _tell(self, option: Option, data: bytes) -> str | None:
        """Answer INFO or GO; return the export's name if there is such an export."""
        fields = OptionFields(data)
        name = fields.text()
        wanted = {fields.uint16() for _ in range(fields.uint16())}
        fields.end()
        facts = self._exports.facts(name)
        if facts is None:
            self._reply_error(option, OptionReply.ERR_UNKNOWN, "no such export")
            return None
        flags = self._flags(name, facts)
        infos = [INFO_EXPORT.pack(Info.EXPORT, facts.size_bytes, flags)]
        if Info.NAME in wanted:
            infos.append(UINT16.pack(Info.NAME) + name.encode())
        if Info.DESCRIPTION in wanted and facts.description:
            text = cut(facts.description, NAME_BYTES_MAX)
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
        option = Option.LIST_META_CONTEXT
        name, queries = self._contexts_asked(data)
        facts = self._exports.facts(name)
        if facts is None:
            self._reply_error(option, OptionReply.ERR_UNKNOWN, "no such export")
            return
        for context in facts.contexts:
            if not queries or any(_lists(query, context) for query in queries):
                self._reply_context(option, LISTED_CONTEXT_ID, context)
        self._reply(option, OptionReply.ACK)

    def _set_meta_context(self, data: bytes) -> None:
        # The earlier selection is gone even when this one fails.
        self._contexts = ()
        option = Option.SET_META_CONTEXT
        name, queries = self._contexts_asked(data)
        facts = self._exports.facts(name)
        if facts is None:
            self._reply_error(option, OptionReply.ERR_UNKNOWN, "no such export")
            return
        self._context_export = name
        self._contexts = tuple(
            (context_id, context)
            for context_id, context in enumerate(facts.contexts, 1)
            if context in queries
        )
        for context_id, context in self._contexts:
            self._reply_context(option, context_id, context)
        self._reply(option, OptionReply.ACK)

    def _contexts_asked(self, data: bytes) -> tuple[str, set[str]]:
        if self._form == WireForm.SIMPLE:
            raise BadOptionError("ask for structured replies first")
        fields = OptionFields(data)
        name = fields.text()
        count = fields.uint32()
        if count > self._limits.queries_max:
            raise BadOptionError(f"at most {self._limits.queries_max} queries")
        queries = {fields.text() for _ in range(count)}
        fields.end()
        return name, queries

    # Replies

    def _reply_context(self, option: Option, context_id: int, name: str) -> None:
        payload = UINT32.pack(context_id) + name.encode()
        self._reply(option, OptionReply.META_CONTEXT, payload)

    def _reply_error(self, option: int, kind: OptionReply, text: str) -> None:
        self._reply(option, kind, cut(text, ERROR_TEXT_BYTES_MAX))

    def _reply(self, option: int, kind: OptionReply, payload: bytes = b"") -> None:
        header = OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(payload))
        self._output += (header, payload)


def _lists(query: str, context: str) -> bool:
    """Tell whether a query of LIST_META_CONTEXT means a context.

    One that ends with a colon means all that starts so: `base:`, `qemu:`, and as
    qemu-nbd has it `qemu:dirty-bitmap:`.
    """
    if query.endswith(":"):
        return context.startswith(query)
    return query == context
