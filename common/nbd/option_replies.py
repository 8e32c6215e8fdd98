"""What the server says during the handshake, collected until it is sent. Pure."""

from __future__ import annotations

from common.nbd.option_fields import cut
from common.nbd.protocol import (
    ERROR_TEXT_BYTES_MAX,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    OptionReply,
)


class OptionReplies:
    """Bytes that go to the client, in order."""

    def __init__(self) -> None:
        self._output: list[bytes] = []

    def raw(self, data: bytes) -> None:
        """Add what is no reply to an option: the greeting, EXPORT_NAME's answer."""
        self._output.append(data)

    def reply(self, option: int, kind: OptionReply, payload: bytes = b"") -> None:
        header = OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(payload))
        self._output += (header, payload)

    def error(self, option: int, kind: OptionReply, text: str) -> None:
        """Add an error; its text is for people and is cut if it is too long."""
        self.reply(option, kind, cut(text, ERROR_TEXT_BYTES_MAX))

    def take(self) -> bytes:
        """Return what is to be sent now, to be sent whole."""
        output = b"".join(self._output)
        self._output.clear()
        return output
