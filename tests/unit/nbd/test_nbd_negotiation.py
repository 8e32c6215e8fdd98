"""The handshake as bytes: whole, byte by byte, and with bytes that come after."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import pytest

from common.nbd.export_facts import ExportFacts
from common.nbd.limits import NbdLimits
from common.nbd.negotiation import Negotiation, TlsMode
from common.nbd.outcome import Agreed, Ended
from common.nbd.protocol import Info, Option, OptionReply, WireForm

GREETING = b"NBDMAGICIHAVEOPT\x00\x03"
FLAGS = struct.pack(">I", 3)
SIZE = 1_000_001
LIMITS = NbdLimits()


class Exports:
    """Three exports of which one is read-only."""

    def __init__(self, names: Sequence[str] = ("g/v", "g/v@cut", "größe")) -> None:
        self._names = names
        self.asked: list[str] = []

    def names(self) -> list[tuple[str, str]]:
        return [(name, f"about {name}") for name in self._names]

    def facts(self, name: str) -> ExportFacts | None:
        self.asked.append(name)
        if name not in self._names:
            return None
        return ExportFacts(SIZE, name.endswith("@cut"), f"about {name}", 65536)


def option(number: int, data: bytes = b"") -> bytes:
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack(">I", len(raw)) + raw


def asking(name: str, *infos: int) -> bytes:
    return text(name) + struct.pack(f">H{len(infos)}H", len(infos), *infos)


def contexts(name: str, *queries: str) -> bytes:
    return text(name) + struct.pack(">I", len(queries)) + b"".join(map(text, queries))


def reply(number: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x3E889045565A9, number, kind, len(data)) + data


def answers(output: bytes) -> list[tuple[int, int, bytes]]:
    """Take replies apart: (option, type, data)."""
    found = []
    while output:
        magic, number, kind, length = struct.unpack_from(">QIII", output)
        assert magic == 0x3E889045565A9
        found.append((number, kind, output[20 : 20 + length]))
        assert len(found[-1][2]) == length
        output = output[20 + length :]
    return found


def shake(received: bytes, exports: Exports | None = None) -> tuple[Negotiation, bytes]:
    """Feed bytes after the client flags; return what came after the greeting."""
    negotiation = Negotiation(exports or Exports())
    negotiation.receive(FLAGS + received)
    output = negotiation.take_output()
    assert output.startswith(GREETING)
    return negotiation, output[len(GREETING) :]


def kinds(received: bytes) -> list[int]:
    return [kind for _, kind, _ in answers(shake(received)[1])]


STRUCTURED = option(Option.STRUCTURED_REPLY)
VECTORS: dict[str, bytes] = {
    "go": option(Option.GO, asking("g/v", 3)),
    "structured go": STRUCTURED
    + option(Option.SET_META_CONTEXT, contexts("g/v", "base:allocation"))
    + option(Option.GO, asking("g/v", 3, 1, 2, 77)),
    "export name": option(Option.EXPORT_NAME, b"g/v"),
    "unknown export name": option(Option.EXPORT_NAME, b"none"),
    "list and abort": option(Option.LIST) + option(Option.ABORT),
    "unknown option, then go": option(99, b"x" * 500)
    + option(Option.GO, asking("g/v@cut")),
    "bad magic": b"IHAVENOT" + bytes(8),
    "long option": option(Option.INFO)[:12] + b"\xff\xff\xff\xff",
}


def test_an_export_name_may_be_as_long_as_the_protocol_allows() -> None:
    name = "x" * 4096
    negotiation, _ = shake(option(Option.EXPORT_NAME, name.encode()), Exports([name]))
    assert negotiation.outcome == Agreed(name, WireForm.SIMPLE)


class TestFeeding:
    @pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS.keys())
    def test_bytes_one_by_one_give_what_they_give_at_once(self, vector: bytes) -> None:
        whole = Negotiation(Exports())
        whole.receive(FLAGS + vector)
        single = Negotiation(Exports())
        for at, byte in enumerate(FLAGS + vector):
            single.receive(bytes([byte]))
            if single.outcome is not None:
                assert isinstance(single.outcome, Ended) or at == 3 + len(vector)
                break
        assert single.take_output() == whole.take_output()
        assert single.outcome == whole.outcome
        assert whole.outcome is not None

    @pytest.mark.parametrize("name", ["go", "structured go", "export name"])
    def test_what_follows_the_last_option_is_left_for_transmission(
        self, name: str
    ) -> None:
        # Long enough to be taken for an option, and a refusable one.
        trailing = b"IHAVEOPT, not" + bytes(32)
        negotiation, _ = shake(VECTORS[name] + trailing)
        assert isinstance(negotiation.outcome, Agreed)
        assert negotiation.trailing == trailing

    def test_output_is_taken_once(self) -> None:
        negotiation = Negotiation(Exports())
        assert negotiation.take_output() == GREETING
        assert negotiation.take_output() == b""


class TestClientFlags:
    @pytest.mark.parametrize("flags", [4, 7, 0x80000000, 0xFFFFFFFF])
    def test_an_unknown_flag_ends_the_connection(self, flags: int) -> None:
        negotiation = Negotiation(Exports())
        negotiation.receive(struct.pack(">I", flags) + option(Option.LIST))
        assert isinstance(negotiation.outcome, Ended)
        assert negotiation.outcome.refused
        assert negotiation.take_output() == GREETING

    @pytest.mark.parametrize("flags", [0, 2])
    def test_without_fixed_newstyle_only_an_export_name_is_served(
        self, flags: int
    ) -> None:
        negotiation = Negotiation(Exports())
        negotiation.receive(struct.pack(">I", flags) + option(Option.LIST))
        (answer,) = answers(negotiation.take_output()[len(GREETING) :])
        assert answer[:2] == (Option.LIST, OptionReply.ERR_INVALID)
        negotiation.receive(option(Option.EXPORT_NAME, b"g/v"))
        assert isinstance(negotiation.outcome, Agreed)


class TestExportName:
    def test_the_answer_has_no_zeroes_if_both_agreed(self) -> None:
        _, output = shake(option(Option.EXPORT_NAME, b"g/v"))
        assert output == struct.pack(">QH", SIZE, 0x056D)

    @pytest.mark.parametrize("flags", [0, 1])
    def test_old_clients_get_124_zeroes(self, flags: int) -> None:
        negotiation = Negotiation(Exports())
        negotiation.receive(
            struct.pack(">I", flags) + option(Option.EXPORT_NAME, b"g/v")
        )
        output = negotiation.take_output()[len(GREETING) :]
        assert output == struct.pack(">QH", SIZE, 0x056D) + bytes(124)

    @pytest.mark.parametrize("name", [b"none", b"", b"\xff\xfe", b"n" * 4097])
    def test_what_cannot_be_served_ends_the_connection(self, name: bytes) -> None:
        negotiation, output = shake(option(Option.EXPORT_NAME, name))
        assert isinstance(negotiation.outcome, Ended)
        assert negotiation.outcome.refused
        assert output == b""


class TestGoAndInfo:
    @pytest.mark.parametrize(
        ("before", "name", "flags"),
        [
            (b"", "g/v", 0x056D),
            (STRUCTURED, "g/v", 0x05ED),
            (b"", "g/v@cut", 0x050F),
            (STRUCTURED, "g/v@cut", 0x058F),
        ],
    )
    def test_flags_tell_what_the_export_can_do(
        self, before: bytes, name: str, flags: int
    ) -> None:
        _, output = shake(before + option(Option.GO, asking(name)))
        told = answers(output)
        assert told[-2] == (
            Option.GO,
            OptionReply.INFO,
            struct.pack(">HQH", Info.EXPORT, SIZE, flags),
        )
        assert told[-1] == (Option.GO, OptionReply.ACK, b"")

    def test_every_information_asked_for_is_told_and_unknown_ones_are_not(self) -> None:
        _, output = shake(option(Option.INFO, asking("größe", 3, 1, 2, 9, 65535)))
        told = {data[:2]: data[2:] for _, kind, data in answers(output) if kind == 3}
        assert told == {
            b"\x00\x00": struct.pack(">QH", SIZE, 0x056D),
            b"\x00\x01": "größe".encode(),
            b"\x00\x02": "about größe".encode(),
            b"\x00\x03": struct.pack(">III", 1, 65536, 32 << 20),
        }

    @pytest.mark.parametrize("wanted", [1, 2, 3])
    def test_one_information_asked_for_brings_no_other(self, wanted: int) -> None:
        _, output = shake(option(Option.INFO, asking("g/v", wanted)))
        told = [data[:2] for _, kind, data in answers(output) if kind == 3]
        assert told == [b"\x00\x00", struct.pack(">H", wanted)]

    def test_a_name_of_4096_bytes_is_looked_up_and_a_longer_one_is_not(self) -> None:
        assert kinds(option(Option.INFO, asking("n" * 4096))) == [
            OptionReply.ERR_UNKNOWN
        ]
        assert kinds(option(Option.INFO, asking("n" * 4097))) == [
            OptionReply.ERR_INVALID
        ]

    def test_go_after_info_tells_the_same(self) -> None:
        negotiation, output = shake(option(Option.INFO, asking("g/v", 3, 1)))
        assert negotiation.outcome is None
        negotiation.receive(option(Option.GO, asking("g/v", 3, 1)))
        again = negotiation.take_output()
        assert [a[1:] for a in answers(output)] == [a[1:] for a in answers(again)]
        assert negotiation.outcome == Agreed("g/v", WireForm.SIMPLE)

    def test_an_unknown_export_leaves_the_client_in_the_handshake(self) -> None:
        negotiation, output = shake(option(Option.GO, asking("none")))
        ((number, kind, _),) = answers(output)
        assert (number, kind) == (Option.GO, OptionReply.ERR_UNKNOWN)
        assert negotiation.outcome is None

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x00" * 5,
            text("g/v"),
            text("g/v") + b"\x00\x01",
            asking("g/v", 1) + b"x",
            struct.pack(">I", 0xFFFFFFFF) + b"g/v\x00\x00",
            asking("n" * 4097),
            struct.pack(">I", 2) + b"\xff\xfe\x00\x00",
        ],
    )
    @pytest.mark.parametrize("number", [Option.INFO, Option.GO])
    def test_data_that_does_not_add_up_is_invalid(
        self, number: Option, data: bytes
    ) -> None:
        assert kinds(option(number, data) + option(Option.GO, asking("g/v"))) == [
            OptionReply.ERR_INVALID,
            OptionReply.INFO,
            OptionReply.ACK,
        ]


class TestList:
    @pytest.mark.parametrize(
        "names", [[], ["one"], ["", "größe", "n" * 4096], [f"g/{n}" for n in range(99)]]
    )
    def test_each_export_is_told_with_its_description(self, names: list[str]) -> None:
        exports = Exports(names)
        _, output = shake(option(Option.LIST), exports)
        *servers, last = answers(output)
        assert last == (Option.LIST, OptionReply.ACK, b"")
        for name, (_, kind, data) in zip(names, servers, strict=True):
            assert kind == OptionReply.SERVER
            assert data == text(name) + f"about {name}".encode()[:4096]

    def test_data_is_invalid(self) -> None:
        assert kinds(option(Option.LIST, b"x")) == [OptionReply.ERR_INVALID]


class TestStructuredReplies:
    def test_they_can_be_agreed_once(self) -> None:
        assert kinds(STRUCTURED + STRUCTURED) == [
            OptionReply.ACK,
            OptionReply.ERR_INVALID,
        ]

    def test_data_is_invalid(self) -> None:
        asked = option(Option.STRUCTURED_REPLY, b"x")
        assert kinds(asked) == [OptionReply.ERR_INVALID]

    def test_the_outcome_tells(self) -> None:
        negotiation, _ = shake(STRUCTURED + option(Option.GO, asking("g/v")))
        assert negotiation.outcome == Agreed("g/v", WireForm.STRUCTURED)


class TestMetaContexts:
    @pytest.mark.parametrize("number", [9, 10])
    def test_they_need_structured_replies(self, number: int) -> None:
        asked = option(number, contexts("g/v", "base:allocation"))
        assert kinds(asked) == [OptionReply.ERR_INVALID]

    @pytest.mark.parametrize("queries", [[], ["base:"], ["x:y", "base:allocation"]])
    def test_listing_tells_the_one_there_is(self, queries: list[str]) -> None:
        data = contexts("g/v", *queries)
        _, output = shake(STRUCTURED + option(Option.LIST_META_CONTEXT, data))
        assert answers(output)[1:] == [
            (9, OptionReply.META_CONTEXT, bytes(4) + b"base:allocation"),
            (9, OptionReply.ACK, b""),
        ]

    def test_as_many_queries_as_the_limit_says_are_answered(self) -> None:
        names = [f"x:{number}" for number in range(LIMITS.queries_max + 1)]
        asked = option(Option.LIST_META_CONTEXT, contexts("g/v", *names[1:]))
        assert kinds(STRUCTURED + asked)[1:] == [OptionReply.ACK]
        asked = option(Option.LIST_META_CONTEXT, contexts("g/v", *names))
        assert kinds(STRUCTURED + asked)[1:] == [OptionReply.ERR_INVALID]

    @pytest.mark.parametrize("queries", [[], ["base:"], ["x:y"], ["base:other"]])
    def test_selecting_needs_the_whole_name(self, queries: list[str]) -> None:
        data = contexts("g/v", *queries)
        go = option(Option.GO, asking("g/v"))
        negotiation, _ = shake(STRUCTURED + option(Option.SET_META_CONTEXT, data) + go)
        assert negotiation.outcome == Agreed("g/v", WireForm.STRUCTURED)

    def select(self, *then: bytes) -> Negotiation:
        data = contexts("g/v", "base:allocation")
        selected = option(Option.SET_META_CONTEXT, data)
        return shake(STRUCTURED + selected + b"".join(then))[0]

    def test_a_selection_holds_for_its_export(self) -> None:
        negotiation = self.select(option(Option.GO, asking("g/v")))
        assert negotiation.outcome == Agreed(
            "g/v", WireForm.STRUCTURED, ((1, "base:allocation"),)
        )

    def test_a_selection_holds_for_no_other_export(self) -> None:
        negotiation = self.select(option(Option.EXPORT_NAME, b"g/v@cut"))
        assert negotiation.outcome == Agreed("g/v@cut", WireForm.STRUCTURED)

    @pytest.mark.parametrize(
        "data",
        [
            contexts("none", "base:allocation"),
            contexts("g/v"),
            contexts("g/v", "base:allocation")[:-1],
            contexts("g/v", "base:allocation") + b"x",
        ],
    )
    def test_a_new_selection_replaces_the_old_one_even_if_it_fails(
        self, data: bytes
    ) -> None:
        again = option(Option.SET_META_CONTEXT, data)
        negotiation = self.select(again, option(Option.GO, asking("g/v")))
        assert negotiation.outcome == Agreed("g/v", WireForm.STRUCTURED)

    @pytest.mark.parametrize("number", [9, 10])
    @pytest.mark.parametrize(
        "data",
        [
            contexts("g/v", "q" * 4097),
            text("g/v") + struct.pack(">I", LIMITS.queries_max + 1) + bytes(4) * 2000,
            text("g/v") + b"\xff\xff\xff\xff",
            b"",
        ],
    )
    def test_too_much_or_too_little_is_invalid(self, number: int, data: bytes) -> None:
        asked = STRUCTURED + option(number, data)
        assert kinds(asked)[1:] == [OptionReply.ERR_INVALID]

    @pytest.mark.parametrize("number", [9, 10])
    def test_an_unknown_export_is_told(self, number: int) -> None:
        asked = STRUCTURED + option(number, contexts("none"))
        assert kinds(asked)[1:] == [OptionReply.ERR_UNKNOWN]


class TestOtherOptions:
    @pytest.mark.parametrize(
        ("number", "kind"),
        [
            (Option.PEEK_EXPORT, OptionReply.ERR_UNSUP),
            (Option.STARTTLS, OptionReply.ERR_POLICY),
            (0, OptionReply.ERR_UNSUP),
            (0xFFFFFFFF, OptionReply.ERR_UNSUP),
        ],
    )
    def test_what_is_not_served_is_said(self, number: int, kind: int) -> None:
        assert kinds(option(number)) == [kind]

    def test_an_unknown_option_with_data_keeps_both_sides_in_step(self) -> None:
        data = b"IHAVEOPT" * (LIMITS.option_data_bytes_max // 8)
        asked = option(1234, data) + option(Option.ABORT)
        assert kinds(asked) == [OptionReply.ERR_UNSUP, OptionReply.ACK]

    def test_starttls_with_data_is_invalid(self) -> None:
        assert kinds(option(Option.STARTTLS, b"x")) == [OptionReply.ERR_INVALID]

    def test_abort_is_acknowledged_and_no_refusal(self) -> None:
        negotiation, output = shake(option(Option.ABORT, b"why"))
        assert output == reply(Option.ABORT, OptionReply.ACK)
        assert isinstance(negotiation.outcome, Ended)
        assert not negotiation.outcome.refused

    def test_an_option_over_the_limit_ends_the_connection_at_its_header(self) -> None:
        header = b"IHAVEOPT" + struct.pack(">II", 99, LIMITS.option_data_bytes_max + 1)
        negotiation, output = shake(header)
        assert isinstance(negotiation.outcome, Ended)
        assert negotiation.outcome.refused
        assert output == b""


class TestOptionCount:
    def count_answered(self, option_of: Callable[[int], bytes], names: int) -> int:
        exports = Exports([f"e{n}" for n in range(names)])
        negotiation = Negotiation(exports)
        negotiation.receive(FLAGS)
        count = 0
        while negotiation.outcome is None:
            negotiation.receive(option_of(count))
            count += 1
        assert isinstance(negotiation.outcome, Ended)
        assert negotiation.outcome.refused
        return count - 1

    def test_a_handshake_has_an_end(self) -> None:
        assert self.count_answered(lambda _: option(99), names=3) == LIMITS.options_max

    def test_listing_allows_more_for_each_export_once(self) -> None:
        answered = self.count_answered(lambda _: option(Option.LIST), names=3)
        assert answered == LIMITS.options_max * 4


EXTENDED = option(Option.EXTENDED_HEADERS)


class TestExtendedHeaders:
    @pytest.mark.parametrize("before", [b"", STRUCTURED])
    def test_they_beat_structured_replies(self, before: bytes) -> None:
        go = option(Option.GO, asking("g/v"))
        negotiation, _ = shake(before + EXTENDED + go)
        assert negotiation.outcome == Agreed("g/v", WireForm.EXTENDED)

    def test_they_are_agreed_once_and_nothing_less_after(self) -> None:
        data = option(Option.EXTENDED_HEADERS, b"x")
        assert kinds(data + EXTENDED + EXTENDED + STRUCTURED) == [
            OptionReply.ERR_INVALID,
            OptionReply.ACK,
            OptionReply.ERR_INVALID,
            OptionReply.ERR_EXT_HEADER_REQD,
        ]

    def test_the_old_way_to_name_an_export_is_over(self) -> None:
        negotiation, _ = shake(EXTENDED + option(Option.EXPORT_NAME, b"g/v"))
        assert isinstance(negotiation.outcome, Ended)
        assert negotiation.outcome.refused

    def test_contexts_can_be_selected_and_chosen_by_payload(self) -> None:
        selected = option(Option.SET_META_CONTEXT, contexts("g/v", "base:allocation"))
        go = option(Option.GO, asking("g/v"))
        other = option(Option.INFO, asking("g/v@cut"))
        negotiation, output = shake(EXTENDED + selected + other + go)
        told = [d for _, kind, d in answers(output) if kind == OptionReply.INFO]
        flags = [struct.unpack(">HQH", data)[2] for data in told]
        assert flags == [0x058F, 0x15ED]
        assert negotiation.outcome == Agreed(
            "g/v", WireForm.EXTENDED, ((1, "base:allocation"),)
        )


BITMAPS = ("base:allocation", "qemu:dirty-bitmap:a", "qemu:dirty-bitmap:ab", "x-f:a")


class RichExports(Exports):
    """Exports with several contexts and fast zeroes."""

    def facts(self, name: str) -> ExportFacts | None:
        read_only = name.endswith("@cut")
        return ExportFacts(SIZE, read_only, "", 4096, BITMAPS, fast_zero=True)


class TestSeveralContexts:
    def told(self, number: int, *queries: str) -> list[tuple[int, str]]:
        asked = option(number, contexts("g/v", *queries))
        _, output = shake(STRUCTURED + asked, RichExports())
        *found, last = answers(output)[1:]
        assert last == (number, OptionReply.ACK, b"")
        return [(int.from_bytes(d[:4], "big"), d[4:].decode()) for _, _, d in found]

    @pytest.mark.parametrize(
        ("queries", "listed"),
        [
            ((), BITMAPS),
            (("base:",), BITMAPS[:1]),
            (("qemu:",), BITMAPS[1:3]),
            (("qemu:dirty-bitmap:",), BITMAPS[1:3]),
            (("qemu:dirty-bitmap:a",), BITMAPS[1:2]),
            (("qemu:dirty-bitmap",), ()),
            (("qemu:dirty-bitmap:b",), ()),
            (("x-f:", "base:", "base:allocation"), (BITMAPS[0], BITMAPS[3])),
            (("", ":"), ()),
        ],
    )
    def test_queries_list_names_and_what_begins_so(
        self, queries: tuple[str, ...], listed: tuple[str, ...]
    ) -> None:
        assert self.told(9, *queries) == [(0, name) for name in listed]

    def test_each_selected_one_has_an_id_of_its_own(self) -> None:
        queries = (BITMAPS[3], BITMAPS[0], BITMAPS[0], "qemu:", "none:such")
        assert self.told(10, *queries) == [(1, BITMAPS[0]), (4, BITMAPS[3])]

    @pytest.mark.parametrize(("name", "flags"), [("g/v", 0x0DED), ("@cut", 0x058F)])
    def test_fast_zeroes_are_told_to_who_may_write(self, name: str, flags: int) -> None:
        go = option(Option.GO, asking(name))
        _, output = shake(STRUCTURED + go, RichExports())
        assert answers(output)[1][2] == struct.pack(">HQH", 0, SIZE, flags)


STARTTLS = option(Option.STARTTLS)


class TestTls:
    def required(self, *received: bytes) -> tuple[Negotiation, list[int]]:
        negotiation = Negotiation(Exports(), TlsMode.REQUIRED)
        negotiation.receive(FLAGS)
        for data in received:
            negotiation.receive(data)
        output = negotiation.take_output()[len(GREETING) :]
        return negotiation, [kind for _, kind, _ in answers(output)]

    def test_before_it_nothing_else_is_answered(self) -> None:
        options = [n for n in range(1, 13) if n not in {1, 2, 5}]
        negotiation, found = self.required(*(option(n, b"x") for n in options))
        assert found == [OptionReply.ERR_TLS_REQD] * len(options)
        negotiation.receive(option(Option.ABORT))
        assert negotiation.outcome is not None
        assert not negotiation.wants_tls

    def test_before_it_the_old_way_ends_the_connection(self) -> None:
        negotiation, found = self.required(option(Option.EXPORT_NAME, b"g/v"))
        assert isinstance(negotiation.outcome, Ended)
        assert found == []

    def test_within_it_everything_goes_on_from_the_start(self) -> None:
        negotiation, found = self.required(STARTTLS)
        assert found == [OptionReply.ACK]
        assert negotiation.wants_tls
        negotiation.tls_started()
        assert not negotiation.wants_tls
        again = STARTTLS + option(Option.STARTTLS, b"x")
        negotiation.receive(again + option(Option.GO, asking("g/v")))
        found = [kind for _, kind, _ in answers(negotiation.take_output())]
        assert found[:2] == [OptionReply.ERR_INVALID] * 2
        assert negotiation.outcome == Agreed("g/v", WireForm.SIMPLE)

    def test_the_count_of_options_goes_on(self) -> None:
        negotiation, _ = self.required(
            *[option(99)] * (LIMITS.options_max - 1), STARTTLS
        )
        negotiation.tls_started()
        negotiation.receive(option(99))
        assert isinstance(negotiation.outcome, Ended)

    def test_plain_text_behind_it_ends_the_connection(self) -> None:
        negotiation, found = self.required(STARTTLS + b"I")
        assert isinstance(negotiation.outcome, Ended)
        assert found == []
        assert not negotiation.wants_tls

    def test_plain_text_after_the_ack_ends_the_connection(self) -> None:
        negotiation, _ = self.required(STARTTLS, option(Option.LIST))
        assert isinstance(negotiation.outcome, Ended)
        assert negotiation.take_output() == b""


class TestShutdown:
    def test_options_are_refused_but_for_a_goodbye(self) -> None:
        negotiation, _ = shake(STRUCTURED)
        negotiation.shut_down()
        negotiation.receive(option(Option.GO, asking("g/v")) + option(99) + STARTTLS)
        found = [kind for _, kind, _ in answers(negotiation.take_output())]
        assert found == [OptionReply.ERR_SHUTDOWN] * 3
        negotiation.receive(option(Option.ABORT))
        assert negotiation.take_output() == reply(Option.ABORT, OptionReply.ACK)

    def test_the_old_way_has_no_words_for_it(self) -> None:
        negotiation, _ = shake(b"")
        negotiation.shut_down()
        negotiation.receive(option(Option.EXPORT_NAME, b"g/v"))
        assert isinstance(negotiation.outcome, Ended)
        assert negotiation.take_output() == b""
