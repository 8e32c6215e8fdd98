"""The data of options, taken apart. Pure."""

from __future__ import annotations

from common.nbd.protocol import NAME_BYTES_MAX, UINT16, UINT32


class BadOptionError(Exception):
    """The data of an option does not add up; the text goes to the client."""


class OptionFields:
    """Takes an option's data apart; every shortfall is `BadOptionError`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def raw(self, length: int) -> bytes:
        stop = self._position + length
        if stop > len(self._data):
            raise BadOptionError("the lengths in this option do not add up")
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
            raise BadOptionError(f"strings end at {NAME_BYTES_MAX} bytes")
        return decoded(self.raw(length))

    def end(self) -> None:
        if self._position != len(self._data):
            raise BadOptionError("this option carries more data than it tells of")


def decoded(data: bytes) -> str:
    """Return what UTF-8 says; raise `BadOptionError` if it is none."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadOptionError("strings are UTF-8") from None


def cut(text: str, length_bytes: int) -> bytes:
    """Return UTF-8 that is not too long and does not end within a character."""
    raw = text.encode()[:length_bytes]
    return raw.decode(errors="ignore").encode()
