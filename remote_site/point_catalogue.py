"""A catalogue: the older points of a group, in a file that never changes.

The group's record is written several times a second and has room for few points.
The others are in a catalogue, which the record names, and which is written anew under
another name when points are merged or the record has no room left.

Layout (little endian): magic 8s, version u32, crc32 u32 (of the header with this field
0, then the body), sequence u64, body bytes u64, 16s group; then the body: msgpack list
of points, oldest first, each [relation, fields of the point].
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgpack  # type: ignore[import-untyped]

from common.errors import CorruptStateError
from common.ports import Files
from common.storage.flush_guard import FlushGuard
from remote_site.store_state import Point, from_point_values, point_values

MAGIC = b"FSHCATL1"
FORMAT_VERSION = 1
_HEADER = struct.Struct("<8sIIQQ16s")

NAME = "catalogue."


@dataclass(frozen=True, slots=True)
class CatalogueName:
    """What a record knows of its catalogue: which, how long, and its checksum."""

    sequence: int
    file_bytes: int
    crc: int

    @property
    def file_name(self) -> str:
        return f"{NAME}{self.sequence}"

    def values(self) -> list[int]:
        return [self.sequence, self.file_bytes, self.crc]


def format_catalogue(
    sequence: int, group_id: bytes, points: Sequence[tuple[Point, bytes]]
) -> tuple[CatalogueName, bytes]:
    """Return what names a catalogue of points and their relations, and its bytes."""
    body = cast("bytes", msgpack.packb([point_values(*each) for each in points]))

    def packed(crc: int) -> bytes:
        fields = (MAGIC, FORMAT_VERSION, crc, sequence, len(body), group_id)
        return _HEADER.pack(*fields)

    crc = zlib.crc32(body, zlib.crc32(packed(0)))
    data = packed(crc) + body
    return CatalogueName(sequence, len(data), crc), data


def parse_catalogue(
    name: CatalogueName, group_id: bytes, path: str, data: bytes
) -> list[tuple[Point, bytes]]:
    """Return the points of a catalogue; raises `CorruptStateError` if it is not the
    one that the record names, whole."""
    if len(data) == name.file_bytes:
        magic, version, crc, sequence, _, group = _HEADER.unpack_from(data)
        body = memoryview(data)[_HEADER.size :]
        header = _HEADER.pack(magic, version, 0, sequence, len(body), group)
        if (
            (magic, version) == (MAGIC, FORMAT_VERSION)
            and (crc, sequence, group) == (name.crc, name.sequence, group_id)
            and zlib.crc32(body, zlib.crc32(header)) == crc
        ):
            listed: list[list[Any]] = msgpack.unpackb(body)
            return [from_point_values(values) for values in listed]
    raise CorruptStateError(
        f"{path}: not the catalogue of recovery points that the group's record names; "
        "restore this file, or start the group anew"
    )


def write_catalogue(
    files: Files, directory: str, name: CatalogueName, data: bytes, guard: FlushGuard
) -> None:
    """Write a catalogue: durable, and its name, before returning."""
    file = files.open(f"{directory}/{name.file_name}", create=True)
    try:
        file.truncate(0)  # left by a store that failed before its record
        file.write(0, data)
        guard.datasync(file)
    finally:
        file.close()
    guard.sync_directory(files, directory)


def read_catalogue(
    files: Files, directory: str, name: CatalogueName, group_id: bytes
) -> list[tuple[Point, bytes]]:
    """Read the catalogue that a record names, synced first like all that is trusted."""
    path = f"{directory}/{name.file_name}"
    data = b""
    if files.exists(path):
        file = files.open(path)
        try:
            file.datasync()
            file.drop_cache()
            data = file.read(0, min(file.size(), name.file_bytes))
        finally:
            file.close()
    return parse_catalogue(name, group_id, path, data)
