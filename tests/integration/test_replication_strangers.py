"""Whoever else reaches the replication port of a real remote: nothing comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from common.certificates import TlsFiles
from common.errors import ConnectionLostError, PeerRefusedError
from common.replication.credentials import Credentials
from common.replication.session_messages import GoodbyeReason, Join
from common.replication.tracks import RunData
from remote_site.unknown_connections import UNKNOWN_CONNECTIONS_MAX
from tests.support.certificates import Certificates
from tests.support.rogue_links import (
    RogueLink,
    client_hello,
    frame_of,
    rogue_context,
)
from tests.support.scripted_sender import ScriptedSender, dial, hello_for
from tests.support.sites import (
    PATIENCE_SECONDS,
    Pair,
    VolumeSpec,
    command_path,
    until,
)

TRACK = 4096
VOLUMES = [VolumeSpec("v", 64 * TRACK)]
HELLO = hello_for("g", [("v", 64 * TRACK)])
"""What strangers say, who know the names but not the state of the sender."""

CROWD = 400
LOOKS_AT_REST = 20
"""So often in a row the daemon is seen waiting where it has nothing to do."""


class Port:
    """The port of a remote that receives group "g" from site "a"."""

    def __init__(self, pair: Pair, certificates: Certificates) -> None:
        self.hello = hello_for("g", [("v", 64 * TRACK)])
        self.cycle_number = 0
        self.pair = pair
        self.remote = pair.remote
        self.number = pair.replication_port
        self.certificates = certificates
        assert pair.link_tls is not None
        self.files = pair.link_tls[0]
        self._refused_count = 0

    async def sender(self) -> ScriptedSender:
        """Return a session of the right peer, which remembers those before."""
        found = await ScriptedSender.open(
            self.number, self.hello, _credentials(self.files)
        )
        self.hello = found.hello_again()
        return found

    def forget_refusals(self) -> None:
        self._refused_count = len(self.refusals())

    def refusals(self) -> list[str]:
        events = self.remote.events("replication_connection_refused")
        return [str(event["reason"]) for event in events]

    async def next_refusal(self) -> str:
        """Wait for the next refusal in the log; return its reason."""
        await until(lambda: len(self.refusals()) > self._refused_count, "it is refused")
        self._refused_count += 1
        return self.refusals()[self._refused_count - 1]

    def descriptors(self) -> int:
        assert self.remote.process is not None
        return len(os.listdir(f"/proc/{self.remote.process.pid}/fd"))

    def resident_bytes(self) -> int:
        assert self.remote.process is not None
        text = Path(f"/proc/{self.remote.process.pid}/statm").read_text()
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def rests(self) -> None:
        """Wait until the daemon waits for something: a loop that is busy never does."""
        assert self.remote.process is not None
        stat = Path(f"/proc/{self.remote.process.pid}/stat")
        asleep = 0
        async with asyncio.timeout(PATIENCE_SECONDS):
            while asleep < LOOKS_AT_REST:
                state = stat.read_text().rpartition(")")[2].split()[0]
                asleep = asleep + 1 if state == "S" else 0
                await asyncio.sleep(0.01)

    def traces(self) -> tuple[dict[str, bytes], object]:
        """Return what a stranger must not change: files, and what the status says."""
        found = [p for p in self.remote.state_directory.rglob("*") if p.is_file()]
        files = {str(path): path.read_bytes() for path in found}
        return files, self.remote.call("status")["groups"]


def _credentials(files: TlsFiles) -> Credentials:
    return Credentials.read(files, "group.link.tls", is_server=False)


def without_time(traces: tuple[dict[str, bytes], object]) -> object:
    """Leave out the figures that change by themselves."""
    files, groups = traces
    assert isinstance(groups, list)
    for group in groups:
        group["link"]["certificate"].pop("seconds_left")
        group["link"]["peer_certificate"].pop("seconds_left")
        group.pop("recovery_point_age_seconds")
    return files, groups


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    """One daemon for all: each of them leaves it as it was."""
    folder = tmp_path_factory.mktemp("remote")
    certificates = Certificates(folder)
    both = certificates.site("a"), certificates.site("b")
    with Pair(folder, VOLUMES, link_tls=both) as pair:
        asyncio.run(pair.remote.start())
        port = Port(pair, certificates)
        asyncio.run(works(port))
        yield port


@pytest.fixture
def port(served: Port) -> Port:
    served.forget_refusals()
    return served


async def works(port: Port) -> None:
    """The right peer gets in and gets something done."""
    sender = await port.sender()
    port.cycle_number += 1
    await sender.begin(port.cycle_number, port.cycle_number.to_bytes(16, "big"))
    await sender.tracks(0, [RunData(0, 3, bytes(3 * TRACK))])
    await sender.all_durable()
    await sender.commit()
    port.hello = sender.hello_again()
    await sender.close()
    await until(
        lambda: port.remote.group()["state"] == "disconnected", "the session is over"
    )


KINDS: dict[str, tuple[Callable[[Certificates], TlsFiles | None], str]] = {
    "of another CA": (
        lambda made: made.site_of_other_ca("a"),
        "unable to get local issuer certificate",
    ),
    "signed by itself": (lambda made: made.self_signed("a"), "self-signed certificate"),
    "for servers only": (
        lambda made: made.made_for("a", ExtendedKeyUsageOID.SERVER_AUTH),
        "purpose",
    ),
    "that is not there": (lambda made: None, "showed no certificate"),
    "of another site": (lambda made: made.site("c"), "the certificate shown names c"),
    "of a site with a longer name": (
        lambda made: made.site("a.example"),
        "the certificate shown names a.example",
    ),
    "of every site": (
        lambda made: made.made_for("*", ExtendedKeyUsageOID.CLIENT_AUTH),
        "the certificate shown names *",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_certificate(port: Port, kind: str) -> None:
    """Whoever shows it believes to be connected; it is told no, and leaves no trace."""
    make, words = KINDS[kind]
    before = without_time(port.traces())
    with RogueLink(port.number) as rogue:
        await asyncio.to_thread(rogue.encrypt, rogue_context(make(port.certificates)))
        rogue.send(frame_of(HELLO))
        answer = await asyncio.to_thread(rogue.read_to_end)
        assert words in await port.next_refusal()
        told = words.startswith("the certificate shown")
        assert bool(answer) == told, "only a goodbye, to who has a certificate"
    assert without_time(port.traces()) == before
    await works(port)


async def test_a_revoked_certificate(port: Port) -> None:
    lost = port.certificates.site("a", folder="lost")
    assert port.pair.link_tls is not None
    revoked = port.certificates.revocation_list(lost)
    with Path(port.pair.link_tls[1].ca).open("ab") as file:
        file.write(revoked)
    assert port.remote.process is not None
    port.remote.process.send_signal(signal.SIGHUP)
    await until(lambda: port.remote.events("config_reloaded"), "it is reloaded")
    with pytest.raises(PeerRefusedError, match="revoked"):
        await ScriptedSender.open(port.number, port.hello, _credentials(lost))
    assert "certificate revoked" in await port.next_refusal()
    await works(port)


async def test_a_join_with_another_identity(port: Port) -> None:
    """The token of a session is worth nothing without the peer's certificate."""
    sender = await port.sender()
    other = _credentials(port.certificates.site("c"))
    stranger = await dial(port.number, other)
    await stranger.send(Join(sender.epoch, sender.welcome.token))
    with pytest.raises(PeerRefusedError, match="names c") as refused:
        await stranger.receive_first()
    assert refused.value.reason == GoodbyeReason.WRONG_PEER
    stranger.abort()
    again = port.certificates.site("a", folder="renewed")
    joined = await dial(port.number, _credentials(again))
    await joined.send(Join(sender.epoch, sender.welcome.token))
    await joined.receive_first()
    joined.abort()
    await sender.close()
    await works(port)


async def test_tls_1_2(port: Port) -> None:
    context = rogue_context(port.files)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with RogueLink(port.number) as rogue, pytest.raises(ssl.SSLError) as refused:
        await asyncio.to_thread(rogue.encrypt, context)
    assert "PROTOCOL_VERSION" in str(refused.value.reason)
    assert "UNSUPPORTED_PROTOCOL" in await port.next_refusal()


@pytest.mark.needs_package("openssl")
async def test_no_session_is_ever_resumed(port: Port, tmp_path: Path) -> None:
    """No ticket is given, and one made up is not taken."""
    context = rogue_context(port.files)
    with RogueLink(port.number) as first:
        encrypted = await asyncio.to_thread(first.encrypt, context)
        first.send(frame_of(HELLO))
        assert await asyncio.to_thread(encrypted.recv, 1 << 16), "an answer"
        session = encrypted.session
        assert session is None or not session.has_ticket
    with RogueLink(port.number) as second:
        if session is not None:
            again = await asyncio.to_thread(second.encrypt, context, session)
            assert not again.session_reused
    psk = "00" * 32
    done = await asyncio.to_thread(
        subprocess.run,
        [
            "openssl",
            "s_client",
            *("-connect", f"127.0.0.1:{port.number}", "-tls1_3"),
            *("-psk_identity", "farshore", "-psk", psk, "-allow_no_dhe_kex"),
        ],
        input=b"",
        capture_output=True,
        timeout=60,
    )
    assert b"Reused" not in done.stdout
    await works(port)


async def test_early_data_and_renegotiation(port: Port) -> None:
    """A second handshake, in clear text, within a session ends the connection."""
    with RogueLink(port.number) as rogue:
        encrypted = await asyncio.to_thread(rogue.encrypt, rogue_context(port.files))
        raw = socket.socket(fileno=os.dup(encrypted.fileno()))
        raw.sendall(client_hello())
        raw.close()
        await asyncio.to_thread(rogue.read_to_end)
    assert "TLS failed" in await port.next_refusal()
    await works(port)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (frame_of(HELLO), "sends something else than TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", "sends something else than TLS"),
        (b"\x16\x03\x01\xff\xff" + bytes(70000), "TLS failed"),
        (b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + bytes(16380), "TLS"),
        (b"\x17\x03\x03\x00\x10" + bytes(16), "sends something else than TLS"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "TLS"),
        (b"\x14\x03\x03\x00\x01\x01" * 5000, "sends something else than TLS"),
        (client_hello() + frame_of(HELLO), "TLS failed"),
        (frame_of(HELLO) + client_hello(), "sends something else than TLS"),
    ],
)
async def test_what_is_no_handshake(port: Port, first: bytes, words: str) -> None:
    before = without_time(port.traces())
    with RogueLink(port.number) as rogue:
        await asyncio.to_thread(rogue.send, first)
        rogue.socket.shutdown(socket.SHUT_WR)
        answer = await asyncio.to_thread(rogue.read_to_end)
        assert not answer.startswith(b"FSR1"), "replication in plain text"
        assert words in await port.next_refusal()
    assert without_time(port.traces()) == before
    await works(port)


async def test_a_handshake_without_end(port: Port) -> None:
    """A hello of 100 KiB, valid so far, is not collected."""
    body = b"\x01\x01\x90\x00\x03\x03" + bytes(0x18FFA)
    pieces = [body[at : at + 16000] for at in range(0, len(body), 16000)]
    records = b"".join(
        b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces
    )
    with RogueLink(port.number) as rogue:
        await asyncio.to_thread(rogue.send, records)
        await asyncio.to_thread(rogue.read_to_end)
        assert "TLS" in await port.next_refusal()
    await works(port)


STATES = ("connected", "half a hello", "a hello", "encrypted", "half a HELLO", "HELLO")


async def brought_to(port: Port, state: str) -> RogueLink:
    """Return a connection that has come so far and no further."""
    rogue = RogueLink(port.number)
    hello, first = client_hello(rogue_context(port.files)), frame_of(HELLO)
    match state:
        case "connected":
            pass
        case "half a hello":
            rogue.send(hello[:99])
        case "a hello":
            rogue.send(hello)
        case _:
            context = rogue_context(port.files)
            await asyncio.to_thread(rogue.encrypt, context)
            sent = {"half a HELLO": 40, "HELLO": len(first)}.get(state, 0)
            rogue.send(first[:sent])
    return rogue


@pytest.mark.parametrize("ending", ["closes", "resets", "half-closes"])
async def test_a_client_that_goes_at_any_moment(port: Port, ending: str) -> None:
    await works(port)
    before = port.descriptors()
    for state in STATES:
        rogue = await brought_to(port, state)
        if ending == "resets":
            rogue.reset()
        elif ending == "closes":
            rogue.socket.close()
        else:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(rogue.socket, socket.SHUT_WR)
            await asyncio.to_thread(rogue.read_to_end)
            rogue.socket.close()
    await until(lambda: port.descriptors() <= before, "nothing is left open")
    await port.rests()
    await works(port)


@pytest.mark.parametrize(
    ("ends_in_order", "words"), [(False, "cut off"), (True, "closed the connection")]
)
async def test_a_stream_that_is_cut_off_is_told_from_one_that_ends(
    port: Port, ends_in_order: bool, words: str
) -> None:
    with RogueLink(port.number) as rogue:
        encrypted = await asyncio.to_thread(rogue.encrypt, rogue_context(port.files))
        if ends_in_order:
            with contextlib.suppress(ssl.SSLError, OSError):
                await asyncio.to_thread(encrypted.unwrap)
    assert words in await port.next_refusal()


async def test_slow_and_silent_clients_lose_their_place_in_time(port: Port) -> None:
    """However they keep themselves busy, ten seconds end it, TLS and HELLO together."""
    await works(port)
    before = port.descriptors()
    rogues = [await brought_to(port, state) for state in STATES[:-1]]
    slow = RogueLink(port.number)

    def drip() -> bytes:
        slow.socket.settimeout(0.2)
        for byte in client_hello(rogue_context(port.files)) + bytes(10_000):
            try:
                slow.socket.sendall(bytes([byte]))
                if not slow.socket.recv(1 << 16):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        return b""

    dripping = asyncio.create_task(asyncio.to_thread(drip))
    ends = [asyncio.to_thread(rogue.read_to_end) for rogue in rogues]
    await asyncio.gather(*ends, dripping)
    reasons = [await port.next_refusal() for _ in (*rogues, slow)]
    assert all("no handshake within" in r or "silent for" in r for r in reasons)
    for rogue in (*rogues, slow):
        rogue.socket.close()
    await until(lambda: port.descriptors() <= before, "nothing is left open")


async def test_a_crowd_keeps_nobody_out_and_costs_little(port: Port) -> None:
    """Silent ones, half handshakes and whole ones, from the peer's own address too."""
    await works(port)
    before, resident = port.descriptors(), port.resident_bytes()
    hello = client_hello(rogue_context(None))
    crowd = []
    for number in range(CROWD):
        rogue = RogueLink(port.number, f"127.0.0.{2 + number % 2 if number % 3 else 1}")
        rogue.send([b"", hello[:70], hello][number % 3])
        crowd.append(rogue)
        if number % 100 == 50:
            await works(port)
    await works(port)
    assert port.descriptors() <= before + UNKNOWN_CONNECTIONS_MAX
    grown = port.resident_bytes() - resident
    assert grown < UNKNOWN_CONNECTIONS_MAX * (1 << 20), f"{grown} bytes more"
    for rogue in crowd:
        rogue.socket.close()
    await until(lambda: port.descriptors() <= before, "nothing is left open")


async def test_no_part_of_a_key_is_told_anywhere(port: Port) -> None:
    await works(port)
    with contextlib.suppress(PeerRefusedError, ConnectionLostError):
        other = _credentials(port.certificates.site("c"))
        await ScriptedSender.open(port.number, HELLO, other)
    assert port.pair.link_tls is not None
    secrets = [
        line.encode()
        for files in port.pair.link_tls
        for line in Path(files.key).read_text().splitlines()
        if not line.startswith("-----")
    ]
    assert secrets
    files, groups = port.traces()
    config = await asyncio.to_thread(
        subprocess.run,
        [command_path("farshore"), "config", "show", str(port.remote.config_path)],
        capture_output=True,
    )
    told = [*files.values(), repr(groups).encode(), config.stdout]
    told.append(port.remote.log_text().encode())
    assert not any(secret in text for secret in secrets for text in told)
