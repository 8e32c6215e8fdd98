"""Two real daemons that replicate over TLS: certificates, names, reload, expiry."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import socket
import ssl
import threading
from pathlib import Path

import pytest

from tests.support.certificates import Certificates
from tests.support.sites import Daemon, Pair, VolumeSpec, until
from tests.support.tls_client import connect_tls

VOLUMES = [VolumeSpec("v", 4 << 20), VolumeSpec("w", 64 << 10)]
DAY = dt.timedelta(days=1)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def link(daemon: Daemon) -> dict[str, object]:
    return dict(daemon.call("status")["groups"][0]["link"])


def alarm_names(daemon: Daemon) -> list[str]:
    return [alarm["name"] for alarm in daemon.call("status")["groups"][0]["alarms"]]


async def refused(pair: Pair) -> str:
    """Wait until the primary has given up on its remote; return why."""
    await until(lambda: link(pair.primary)["state"] == "refused", "it is refused")
    (alarm,) = [
        each
        for each in pair.primary.call("status")["groups"][0]["alarms"]
        if each["name"] == "refused"
    ]
    return str(alarm["message"])


def nothing_arrived(pair: Pair) -> bool:
    return (
        not pair.remote.events("session_opened")
        and not pair.remote.events("group_bound")
        and not pair.secondary("v").exists()
    )


async def test_what_hosts_write_arrives_encrypted(
    tmp_path: Path, certificates: Certificates
) -> None:
    both = certificates.site("a"), certificates.site("b")
    links = {"connections": 3}
    with Pair(tmp_path, VOLUMES, link_tls=both, link=links) as pair:
        await pair.start()
        client = await pair.primary.nbd("g/v")
        content = os.urandom(4 << 20)
        await client.write(0, content, fua=True)
        await client.disconnect()
        await pair.cut()
        assert await pair.remote.read_whole("g/v") == content
        for daemon in pair.daemons:
            told = link(daemon)
            assert told["encrypted"] is True
            assert len(told["peers"]) == 3  # type: ignore[arg-type]
            assert alarm_names(daemon) == []
        assert link(pair.primary)["peer_certificate"]["names"] == ["b"]  # type: ignore[index]
        assert link(pair.remote)["peer_certificate"]["names"] == ["a"]  # type: ignore[index]
        assert pair.remote.events("daemon_started")[0]["encrypted"] is True


@pytest.mark.parametrize("wrong", ["primary", "remote"])
async def test_a_certificate_of_another_ca_is_refused_at_both_ends(
    tmp_path: Path, certificates: Certificates, wrong: str
) -> None:
    both = certificates.site("a"), certificates.site("b")
    if wrong == "primary":
        both = certificates.site_of_other_ca("a"), both[1]
    else:
        both = both[0], certificates.site_of_other_ca("b")
    with Pair(tmp_path, VOLUMES, link_tls=both) as pair:
        await pair.remote.start()
        await pair.primary.start()
        told = await refused(pair)
        logged = str(pair.remote.events("replication_connection_refused")[0]["reason"])
        here, there = (logged, told) if wrong == "primary" else (told, logged)
        assert "its certificate is refused here: unable to get local issuer" in here
        assert "the other site refuses this one's certificate" in there
        assert nothing_arrived(pair)


@pytest.mark.parametrize(
    ("when", "wrong"),
    [
        ("expired", "primary"),
        ("not yet valid", "remote"),
        pytest.param("expired", "remote", marks=pytest.mark.hunt),
        pytest.param("not yet valid", "primary", marks=pytest.mark.hunt),
    ],
)
async def test_a_certificate_out_of_its_time_is_refused_at_both_ends(
    tmp_path: Path, certificates: Certificates, wrong: str, when: str
) -> None:
    now = dt.datetime.now(dt.UTC)
    dates = {"not_before": now - 2 * DAY, "not_after": now - DAY}
    if when != "expired":
        dates = {"not_before": now + DAY, "not_after": now + 2 * DAY}
    late, index = ("a", 0) if wrong == "primary" else ("b", 1)
    both = [certificates.site("a"), certificates.site("b")]
    both[index] = certificates.site(late, folder="late", **dates)
    with Pair(tmp_path, VOLUMES, link_tls=(both[0], both[1])) as pair:
        await pair.remote.start()
        await pair.primary.start()
        told = await refused(pair)
        logged = str(pair.remote.events("replication_connection_refused")[0]["reason"])
        here, there = (logged, told) if wrong == "primary" else (told, logged)
        assert ("has expired" if when == "expired" else "is not yet valid") in here
        assert ("expired" if when == "expired" else "not yet valid") in there
        assert nothing_arrived(pair)
        if when == "expired":
            assert "certificate_expires" in alarm_names(pair.daemons[index])
            (event,) = pair.daemons[index].events("certificate_expires")
            assert event["days_left"] == -1
            left = link(pair.daemons[index])["certificate"]["seconds_left"]  # type: ignore[index]
            assert -86400 * 1.1 < left < -86400 * 0.9


async def test_a_certificate_of_another_name_is_refused_by_the_primary(
    tmp_path: Path, certificates: Certificates
) -> None:
    both = certificates.site("a"), certificates.site("c")
    with Pair(tmp_path, VOLUMES, link_tls=both) as pair:
        await pair.remote.start()
        await pair.primary.start()
        told = await refused(pair)
        assert "the remote's certificate names c, not b as group.link.peer says" in told
        assert nothing_arrived(pair)


async def test_a_certificate_of_another_name_is_refused_by_the_remote(
    tmp_path: Path, certificates: Certificates
) -> None:
    both = certificates.site("c"), certificates.site("b")
    with Pair(tmp_path, VOLUMES, link_tls=both) as pair:
        await pair.remote.start()
        await pair.primary.start()
        told = await refused(pair)
        assert "is received from site 'a', and the certificate shown names c" in told
        assert nothing_arrived(pair)
        group = pair.remote.call("status")["groups"][0]
        assert group["link"]["state"] == "down", "a stranger has touched the group"
        assert group["link"]["peer_certificate"] is None
        assert group["alarms"] == []


@pytest.mark.parametrize("plain", ["primary", "remote"])
async def test_plain_text_and_tls_never_meet(
    tmp_path: Path, certificates: Certificates, plain: str
) -> None:
    both = certificates.site("a"), certificates.site("b")
    with Pair(tmp_path, VOLUMES, link_tls=both) as pair:
        pair.link_tls = None
        if plain == "primary":
            pair.primary.config_path.write_text(pair.primary_toml())
        else:
            pair.remote.config_path.write_text(pair.remote_toml())
        await pair.remote.start()
        await pair.primary.start()
        await until(lambda: pair.primary.events("link_lost"), "the link is lost")
        told = str(pair.primary.events("link_lost")[0]["reason"])
        logged = str(pair.remote.events("replication_connection_refused")[0]["reason"])
        if plain == "primary":
            assert "sends something else than TLS" in logged
            assert "the other site replicates with `tls`" in told
        else:
            assert "it may also have no `tls`" in told
            assert "the other site replicates with `tls`" in logged
        assert link(pair.primary)["state"] != "connected"
        assert nothing_arrived(pair)


async def reload(daemon: Daemon, event: str) -> str:
    """Send SIGHUP and wait for what is logged about it; return the reason, if any."""
    before = len(daemon.events(event))
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    await until(lambda: len(daemon.events(event)) > before, event)
    return str(daemon.events(event)[-1].get("reason", ""))


async def test_sighup_has_new_connections_use_new_certificates(
    tmp_path: Path, certificates: Certificates
) -> None:
    """A session goes on; bad files are refused by name, and what was read counts."""
    soon = dt.datetime.now(dt.UTC) + 3 * DAY
    both = certificates.site("a", not_after=soon), certificates.site("b")
    with Pair(tmp_path, VOLUMES, link_tls=both) as pair:
        await pair.start()
        assert alarm_names(pair.primary) == ["certificate_expires"]
        assert alarm_names(pair.remote) == ["peer_certificate_expires"]
        left = link(pair.primary)["certificate"]["seconds_left"]  # type: ignore[index]
        assert 2.9 * 86400 < left <= 3 * 86400

        good = Path(both[0].cert).read_bytes(), Path(both[0].key).read_bytes()
        Path(both[0].cert).write_text("broken")
        reason = await reload(pair.primary, "config_reload_refused")
        assert both[0].cert in reason
        assert "group[g].link.tls.cert" in reason
        Path(both[0].cert).write_bytes(good[0])
        Path(both[0].key).chmod(0o644)
        assert "chmod 600" in await reload(pair.primary, "config_reload_refused")
        assert alarm_names(pair.primary) == ["certificate_expires"]
        await pair.cut()

        fresh = certificates.site("a", folder="fresh")
        pair.link_tls = fresh, both[1]
        pair.write_configs()
        await reload(pair.primary, "config_reloaded")
        assert pair.primary.events("config_key_not_applied") == []
        assert alarm_names(pair.primary) == []
        assert alarm_names(pair.remote) == ["peer_certificate_expires"]
        await pair.cut()
        assert len(pair.remote.events("session_opened")) == 1, "a session has ended"

        await reload(pair.remote, "config_reloaded")
        pair.remote.kill()
        await pair.remote.start()
        await pair.connected()
        await until(lambda: alarm_names(pair.remote) == [], "the new one is shown")
        await pair.cut()


async def test_a_ca_taken_away_by_sighup_ends_with_the_next_connection(
    tmp_path: Path, certificates: Certificates
) -> None:
    both = certificates.site("a"), certificates.site("b")
    with Pair(tmp_path, VOLUMES, link_tls=both) as pair:
        await pair.start()
        (tmp_path / "other").mkdir()
        other = Certificates(tmp_path / "other").site("b")
        Path(both[1].ca).write_bytes(Path(other.ca).read_bytes())
        await reload(pair.remote, "config_reloaded")
        await pair.cut()
        pair.primary.kill()
        await pair.primary.start()
        assert "`ca` does not vouch for it" in await refused(pair)


class RogueRemote:
    """Listens where the primary expects its remote, and does what a test says."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        """Without a context it accepts and says nothing."""
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", port))
        self.greeted = threading.Event()
        """Somebody has connected, and was answered as far as this one answers."""
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._held.append(connection)
            if self._context is not None:
                try:
                    connection = self._context.wrap_socket(connection, server_side=True)
                    connection.sendall(b"this is no frame of replication")
                    self._held[-1] = connection
                except OSError:
                    connection.close()
            self.greeted.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._held:
            connection.close()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("silent", "connecting"),
        ("TLS 1.2", "UNSUPPORTED_PROTOCOL|ended TLS|PROTOCOL_VERSION"),
        ("signed by itself", "self-signed certificate"),
        ("of another name", "names c, not b"),
        ("talks nonsense", "not a farshore replication frame"),
    ],
)
async def test_hosts_are_served_whoever_stands_in_for_the_remote(
    tmp_path: Path, certificates: Certificates, kind: str, words: str
) -> None:
    files = {
        "signed by itself": lambda: certificates.self_signed("b"),
        "of another name": lambda: certificates.site("c"),
    }.get(kind, lambda: certificates.site("b"))()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    if kind == "TLS 1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    both = certificates.site("a"), certificates.site("b", folder="unused")
    with Pair(tmp_path, VOLUMES, link_tls=both) as pair:
        rogue = RogueRemote(
            pair.replication_port, None if kind == "silent" else context
        )
        try:
            await pair.primary.start()
            await until(rogue.greeted.is_set, "the primary has tried")
            client = await pair.primary.nbd("g/v")
            await client.write(0, b"x" * 4096, fua=True)
            await client.disconnect()
            if kind == "silent":
                assert link(pair.primary)["state"] == words
            else:
                await until(lambda: refusal_told(pair), "the primary says why")
                assert re.search(words, refusal_told(pair))
            group = pair.primary.call("status")["groups"][0]
            assert group["link"]["state"] != "connected"
            assert group["link"]["peers"] == []
            assert group["recovery_point"] is None
        finally:
            rogue.close()


def refusal_told(pair: Pair) -> str:
    for event in pair.primary.events():
        if event["event"] in {"link_refused", "link_lost"}:
            return str(event.get("text") or event["reason"])
    return ""


@pytest.mark.needs_package("openssl")
async def test_sighup_has_nbd_use_new_certificates_too(
    tmp_path: Path, certificates: Certificates
) -> None:
    (tmp_path / "new").mkdir()
    new = Certificates(tmp_path / "new")
    files, client = certificates.server_files(), new.client("app.test")
    with Pair(tmp_path, VOLUMES, tls=files) as pair:
        await pair.remote.start()
        await pair.primary.start()
        address = f"tls:127.0.0.1:{pair.tls_port}"
        with pytest.raises(ssl.SSLError):
            await connect_tls(address, client, "g/v")
        fresh = new.server_files()
        for name in ("ca", "cert", "key"):
            Path(getattr(fresh, name)).replace(getattr(files, name))
        await reload(pair.primary, "config_reloaded")
        nbd = await connect_tls(address, client, "g/v")
        assert await nbd.read(0, 512) == bytes(512)
        await nbd.disconnect()
