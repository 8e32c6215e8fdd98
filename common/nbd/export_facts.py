"""What a client is told about exports before it chooses one. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from common.nbd.option_fields import cut
from common.nbd.protocol import (
    INFO_BLOCK_SIZE,
    INFO_EXPORT,
    NAME_BYTES_MAX,
    UINT16,
    UINT32,
    Info,
    TransmissionFlag,
    WireForm,
)
from common.ports import BASE_ALLOCATION

BLOCK_BYTES_MIN: Final = 1
"""Any offset and length is served."""
PAYLOAD_BYTES_ADVERTISED: Final = 32 << 20
"""What every client may send and ask; more is accepted, see `NbdLimits`."""


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


def infos(
    name: str, facts: ExportFacts, flags: TransmissionFlag, wanted: Collection[int]
) -> Iterator[bytes]:
    """Yield the payloads of the INFO replies to INFO and GO.

    Size and flags are always told; of what else is `wanted` (numbers of info
    types, unknown ones too) what there is.
    """
    yield INFO_EXPORT.pack(Info.EXPORT, facts.size_bytes, flags)
    if Info.NAME in wanted:
        yield UINT16.pack(Info.NAME) + name.encode()
    if Info.DESCRIPTION in wanted and facts.description:
        text = cut(facts.description, NAME_BYTES_MAX)
        yield UINT16.pack(Info.DESCRIPTION) + text
    if Info.BLOCK_SIZE in wanted:
        sizes = BLOCK_BYTES_MIN, facts.preferred_block_bytes, PAYLOAD_BYTES_ADVERTISED
        yield INFO_BLOCK_SIZE.pack(Info.BLOCK_SIZE, *sizes)


def list_entry(name: str, description: str) -> bytes:
    """Return the payload of the SERVER reply that tells of one export."""
    raw = name.encode()
    return UINT32.pack(len(raw)) + raw + cut(description, NAME_BYTES_MAX)
