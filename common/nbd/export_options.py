"""The options that ask about exports and agree on how one is served.

One `ExportOptions` holds all that STARTTLS has to wipe: whatever was agreed in plain
text may be of somebody in between, so that TLS begins with a new one. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from common.nbd.export_facts import (
    ExportFacts,
    ExportFinder,
    infos,
    list_entry,
    transmission_flags,
)
from common.nbd.limits import NbdLimits
from common.nbd.option_fields import BadOptionError, OptionFields, decoded
from common.nbd.option_replies import OptionReplies
from common.nbd.outcome import Agreed, Ended, Outcome
from common.nbd.protocol import (
    EXPORT_NAME_PADDING,
    EXPORT_NAME_REPLY,
    NAME_BYTES_MAX,
    UINT32,
    Option,
    OptionReply,
    TransmissionFlag,
    WireForm,
)

LISTED_CONTEXT_ID: Final = 0
"""What LIST_META_CONTEXT tells instead of an id, as the rule is."""


class ExportOptions:
    """Answers LIST, INFO, GO, EXPORT_NAME and what settles the form of replies."""

    def __init__(
        self,
        exports: ExportFinder,
        limits: NbdLimits,
        replies: OptionReplies,
        *,
        pads_export_name: bool,
    ) -> None:
        """`pads_export_name`: the client did not decline zeroes after its answer."""
        self.listed_count: int | None = None
        """How many exports the first LIST told of; None before."""
        self._answers: dict[int, Callable[[bytes], Outcome | None]] = {
            Option.EXPORT_NAME: self._export_name,
            Option.LIST: self._list,
            Option.INFO: self._info,
            Option.GO: self._go,
            Option.STRUCTURED_REPLY: self._structured_reply,
            Option.LIST_META_CONTEXT: self._list_meta_context,
            Option.SET_META_CONTEXT: self._set_meta_context,
            Option.EXTENDED_HEADERS: self._extended_headers,
        }
        self._exports = exports
        self._limits = limits
        self._replies = replies
        self._pads_export_name = pads_export_name
        self._form = WireForm.SIMPLE
        # The export for which contexts were selected, and (id, name) of each.
        self._context_export = ""
        self._contexts: tuple[tuple[int, str], ...] = ()

    def answer(self, option: int, data: bytes) -> Outcome | None:
        """Reply to an option; return how the handshake ends, if it does.

        Raises `BadOptionError` for data that does not add up.
        """
        answer = self._answers.get(option)
        if answer is None:
            self._replies.error(option, OptionReply.ERR_UNSUP, "unknown option")
            return None
        return answer(data)

    # What there is

    def _list(self, data: bytes) -> None:
        OptionFields(data).end()
        names = self._exports.names()
        for name, description in names:
            entry = list_entry(name, description)
            self._replies.reply(Option.LIST, OptionReply.SERVER, entry)
        self._replies.reply(Option.LIST, OptionReply.ACK)
        if self.listed_count is None:
            self.listed_count = len(names)

    def _info(self, data: bytes) -> None:
        self._tell(Option.INFO, data)

    def _tell(self, option: Option, data: bytes) -> str | None:
        """Answer INFO or GO; return the export's name if there is such an export."""
        fields = OptionFields(data)
        name = fields.text()
        wanted = {fields.uint16() for _ in range(fields.uint16())}
        fields.end()
        facts = self._known(option, name)
        if facts is None:
            return None
        for info in infos(name, facts, self._flags(name, facts), wanted):
            self._replies.reply(option, OptionReply.INFO, info)
        self._replies.reply(option, OptionReply.ACK)
        return name

    def _known(self, option: Option, name: str) -> ExportFacts | None:
        """Return what to tell of an export; if there is none, reply so."""
        facts = self._exports.facts(name)
        if facts is None:
            self._replies.error(option, OptionReply.ERR_UNKNOWN, "no such export")
        return facts

    # The choice

    def _go(self, data: bytes) -> Outcome | None:
        name = self._tell(Option.GO, data)
        return None if name is None else self._agreed(name)

    def _export_name(self, data: bytes) -> Outcome:
        # This option has no error reply: hanging up is all that can be said.
        if self._form == WireForm.EXTENDED:
            return Ended("EXPORT_NAME after EXTENDED_HEADERS", refused=True)
        if len(data) > NAME_BYTES_MAX:
            return Ended("an export name that is too long", refused=True)
        try:
            name = decoded(data)
        except BadOptionError:
            return Ended("an export name that is not UTF-8", refused=True)
        facts = self._exports.facts(name)
        if facts is None:
            return Ended("no such export", refused=True)
        flags = self._flags(name, facts)
        self._replies.raw(EXPORT_NAME_REPLY.pack(facts.size_bytes, flags))
        if self._pads_export_name:
            self._replies.raw(EXPORT_NAME_PADDING)
        return self._agreed(name)

    def _agreed(self, name: str) -> Agreed:
        return Agreed(name, self._form, self._contexts_of(name))

    def _flags(self, name: str, facts: ExportFacts) -> TransmissionFlag:
        has_contexts = bool(self._contexts_of(name))
        return transmission_flags(facts, self._form, has_contexts=has_contexts)

    # The form of replies

    def _structured_reply(self, data: bytes) -> None:
        OptionFields(data).end()
        option = Option.STRUCTURED_REPLY
        if self._form == WireForm.EXTENDED:
            text = "extended headers are already agreed"
            self._replies.error(option, OptionReply.ERR_EXT_HEADER_REQD, text)
            return
        if self._form == WireForm.STRUCTURED:
            raise BadOptionError("structured replies are already agreed")
        self._form = WireForm.STRUCTURED
        self._replies.reply(option, OptionReply.ACK)

    def _extended_headers(self, data: bytes) -> None:
        OptionFields(data).end()
        if self._form == WireForm.EXTENDED:
            raise BadOptionError("extended headers are already agreed")
        self._form = WireForm.EXTENDED
        self._replies.reply(Option.EXTENDED_HEADERS, OptionReply.ACK)

    # Metadata contexts

    def _list_meta_context(self, data: bytes) -> None:
        option = Option.LIST_META_CONTEXT
        name, queries = self._contexts_asked(data)
        facts = self._known(option, name)
        if facts is None:
            return
        self._tell_contexts(
            option,
            (
                (LISTED_CONTEXT_ID, context)
                for context in facts.contexts
                if not queries or any(_lists(query, context) for query in queries)
            ),
        )

    def _set_meta_context(self, data: bytes) -> None:
        # The earlier selection is gone even when this one fails.
        self._contexts = ()
        option = Option.SET_META_CONTEXT
        name, queries = self._contexts_asked(data)
        facts = self._known(option, name)
        if facts is None:
            return
        self._context_export = name
        self._contexts = tuple(
            (context_id, context)
            for context_id, context in enumerate(facts.contexts, 1)
            if context in queries
        )
        self._tell_contexts(option, self._contexts)

    def _contexts_of(self, name: str) -> tuple[tuple[int, str], ...]:
        """Return what was selected, which holds for the export named then only."""
        return self._contexts if name == self._context_export else ()

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

    def _tell_contexts(
        self, option: Option, contexts: Iterable[tuple[int, str]]
    ) -> None:
        for context_id, name in contexts:
            payload = UINT32.pack(context_id) + name.encode()
            self._replies.reply(option, OptionReply.META_CONTEXT, payload)
        self._replies.reply(option, OptionReply.ACK)


def _lists(query: str, context: str) -> bool:
    """Tell whether a query of LIST_META_CONTEXT means a context.

    One that ends with a colon means all that starts so: `base:`, `qemu:`, and as
    qemu-nbd has it `qemu:dirty-bitmap:`.
    """
    if query.endswith(":"):
        return context.startswith(query)
    return query == context
