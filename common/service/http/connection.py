"""One connection of the HTTP listener: h11 says what bytes mean, this moves them.

GET and HEAD without a body are all there is. Whatever a client sends costs at most
`HttpLimits`; what is no such request is answered with the fitting status, and the
connection ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

import h11
import structlog

from common.service.http.answers import Answer, Request, Routes, Stream, text
from common.service.http.limits import HttpLimits
from common.service.http.pace import Pace

READ_BYTES: Final = 4 << 10
"""h11 bounds a head that is not whole yet: this is how much it can be beyond that."""
LINGER_SECONDS: Final = 1.0
LINGER_READS_MAX: Final = 64

SECURITY_HEADERS: Final = (
    (
        "Content-Security-Policy",
        (
            "default-src 'none'; script-src 'self'; style-src 'self'; "
            "img-src 'self'; connect-src 'self'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'"
        ),
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)
"""Nothing from elsewhere runs in our page, nothing elsewhere shows or reads it."""

log = structlog.get_logger()


class HttpConnection:
    """Serve one client with `serve`, in a task of its own."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        routes: Routes,
        names: frozenset[str],
        limits: HttpLimits,
        pace: Pace,
        streams: asyncio.Semaphore,
    ) -> None:
        """`names`: hosts that a client may ask for, besides addresses.

        `streams` is shared by all connections, as `pace` is.
        """
        self.is_silent = True
        """It has not sent a whole request since it came, or since the last answer."""
        self._reader = reader
        self._writer = writer
        self._routes = routes
        self._names = names
        self._limits = limits
        self._pace = pace
        self._streams = streams
        self._http = h11.Connection(
            h11.SERVER, max_incomplete_event_size=limits.head_bytes_max
        )

    async def serve(self) -> None:
        """Answer requests until one side ends it; what a client does raises nothing."""
        try:
            for _ in range(self._limits.requests_per_connection_max):
                if not await self._serve_one():
                    break
            await self._linger()
        except (OSError, TimeoutError):
            pass  # the client is gone, or does not take its answer
        finally:
            self._writer.transport.abort()

    def drop(self) -> None:
        """End it now, whatever is under way."""
        self.is_silent = False
        self._writer.transport.abort()

    async def _linger(self) -> None:
        """Let the client read its last answer: were something of it unread when we
        close, its system would throw the answer away (RFC 9112, 9.6)."""
        self._check_open()
        self._writer.write_eof()
        async with asyncio.timeout(LINGER_SECONDS):
            for _ in range(LINGER_READS_MAX):
                if not await self._reader.read(READ_BYTES):
                    return

    async def _serve_one(self) -> bool:
        """Answer one request; tell whether another may follow."""
        try:
            async with asyncio.timeout(self._limits.head_seconds_max):
                asked = await self._next_request()
        except h11.RemoteProtocolError as error:
            await self._send_error(error.error_status_hint)
            return False
        if asked is None:
            return False
        self.is_silent = False
        await self._pace.turn()
        is_head = asked.method == b"HEAD"
        answer = await self._answer(asked)
        if isinstance(answer, Stream):
            await self._send_stream(answer, is_head=is_head)
        else:
            await self._send(answer, is_head=is_head)
        if self._http.our_state is not h11.DONE:
            return False
        if self._http.their_state is not h11.DONE:
            return False  # a body, which nobody wants to read
        self._http.start_next_cycle()
        self.is_silent = True
        return True

    async def _next_request(self) -> h11.Request | None:
        """Return a whole request head; None: the client is done."""
        while True:  # ends: each turn reads bytes, of which there are so many at most
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                # Moves on to DONE where no body follows, so that another one can.
                if not _has_body(event):
                    self._http.next_event()
                return event
            if event is not h11.NEED_DATA:
                return None
            data = await self._reader.read(READ_BYTES)
            if not data:
                return None
            self._http.receive_data(data)

    # -- what is answered --------------------------------------------------------------

    async def _answer(self, asked: h11.Request) -> Answer | Stream:
        if asked.http_version not in {b"1.0", b"1.1"}:
            return text(505, "HTTP/1.1 is spoken here")
        if _has_body(asked):
            return text(413, "a request here has no body")
        if asked.method not in {b"GET", b"HEAD"}:
            return Answer(
                b"only GET and HEAD are answered here\n",
                status=405,
                headers=(("Allow", "GET, HEAD"),),
            )
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in asked.headers
        }
        if not self._is_ours(headers.get("host", "")):
            return text(
                421, "this host has no such name: see `names` in [http] of its config"
            )
        path, _, query = asked.target.decode("latin-1").partition("?")
        handler = self._routes.get(path)
        if handler is None:
            return text(404, "there is no such page")
        try:
            async with asyncio.timeout(self._limits.work_seconds_max):
                return await handler(Request(path, query, headers))
        except TimeoutError:
            return text(503, "the answer takes too long: try again")
        except Exception:  # a bug of ours must not end the listener
            log.exception("http_request_failed", path=path)
            return text(500, "internal error of the daemon: its log has the details")

    def _is_ours(self, host: str) -> bool:
        """Tell whether a Host header names us: a page that made its own name point here
        (DNS rebinding) has the browser send that name."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").lower()
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name)
            return True
        return name in self._names

    # -- how it is sent ----------------------------------------------------------------

    async def _send(self, answer: Answer, *, is_head: bool) -> None:
        headers = [*_headers(answer.content_type), *answer.headers]
        headers.append(("Content-Length", str(len(answer.body))))
        if self._http.their_state is not h11.DONE:
            headers.append(("Connection", "close"))
        self._put(_head(answer.status, headers))
        if not is_head:
            self._put(h11.Data(answer.body))
        self._put(h11.EndOfMessage())
        await self._written()

    async def _send_stream(self, stream: Stream, *, is_head: bool) -> None:
        if self._streams.locked():
            await self._send(
                text(503, "too many pages are being watched: close one"),
                is_head=is_head,
            )
            return
        async with self._streams, contextlib.aclosing(stream.pieces) as pieces:
            headers = [*_headers(stream.content_type), ("Connection", "close")]
            self._put(_head(stream.status, headers))
            await self._written()
            if not is_head:
                async for piece in pieces:
                    self._put(h11.Data(piece))
                    await self._written()
            self._put(h11.EndOfMessage())
            await self._written()

    async def _send_error(self, status: int) -> None:
        """Answer what is no request, where an answer can still be told apart."""
        if self._http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        await self._send(text(status, "this is not a request"), is_head=False)

    def _put(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._check_open()
            self._writer.write(data)

    def _check_open(self) -> None:
        """uvloop calls it our mistake to write where the connection is gone."""
        if self._writer.transport.is_closing():
            raise ConnectionResetError

    async def _written(self) -> None:
        async with asyncio.timeout(self._limits.write_seconds_max):
            await self._writer.drain()


def _has_body(asked: h11.Request) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in asked.headers
    )


def _head(status: int, headers: list[tuple[str, str]]) -> h11.Response:
    return h11.Response(
        status_code=status, headers=headers, reason=HTTPStatus(status).phrase
    )


def _headers(content_type: str) -> list[tuple[str, str]]:
    return [
        ("Date", formatdate(usegmt=True)),
        ("Content-Type", content_type),
        ("Cache-Control", "no-store"),
        *SECURITY_HEADERS,
    ]
