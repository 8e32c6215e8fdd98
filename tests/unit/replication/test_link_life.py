"""A link ends with its certificates, and after a day: in order, and told."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import pytest

from common.certificates import Certificate
from common.errors import ConnectionLostError
from common.replication.credentials import Credentials
from common.replication.link import Link
from common.replication.link_life import LINK_SECONDS_MAX, LinkLife
from common.replication.session_messages import Join
from common.replication.tls_stream import secure
from tests.support.certificates import Certificates
from tests.support.memory_pipe import Pipe
from tests.unit.replication.test_replication_link import in_jumping_time

NOW_NS = 1_700_000_000 * 10**9
SOON = Certificate(frozenset({"a"}), NOW_NS + 10**9)
LATE = Certificate(frozenset({"b"}), NOW_NS + 10**15)


class Clock:
    """Stands unless it is put."""

    def __init__(self, now_ns: int) -> None:
        self.ns = now_ns
        self.seconds = 5.0

    def now_ns(self) -> int:
        return self.ns

    def monotonic(self) -> float:
        return self.seconds


@pytest.mark.parametrize(
    ("own", "peer", "whose"), [(SOON, LATE, "this"), (LATE, SOON, "the other")]
)
def test_the_certificate_that_expires_first_ends_it(
    own: Certificate, peer: Certificate, whose: str
) -> None:
    life = LinkLife(own, peer, until=100.0)
    assert life.why_over(NOW_NS + 10**9 - 1, 0.0) is None
    why = life.why_over(NOW_NS + 10**9, 0.0)
    assert why == f"{whose} site's certificate expired 2023-11-14T22:13:21Z"


def test_a_day_ends_it_whatever_the_certificates_say() -> None:
    life = LinkLife(LATE, LATE, until=100.0)
    assert life.why_over(NOW_NS, 99.9) is None
    assert "looked at anew" in (life.why_over(NOW_NS, 100.0) or "")


class Both:
    """Both ends of one link over TLS, each with a clock of its own."""

    near: Link
    far: Link

    def __init__(self, folder: Path) -> None:
        made = Certificates(folder)
        ends = dt.datetime.now(dt.UTC) + dt.timedelta(days=3)
        self._site_a = made.site("a", not_after=ends)
        self._site_b = made.site("b")
        self.near_clock, self.far_clock = Clock(0), Clock(0)

    async def connect(self) -> None:
        client = Credentials.read(self._site_a, "group.link.tls", is_server=False)
        server = Credentials.read(self._site_b, "replication.tls", is_server=True)
        near, far = Pipe.pair(1 << 20)
        one, other = await asyncio.gather(secure(near, client), secure(far, server))
        self.expires_ns = client.own.expires_ns
        self.near = Link(
            one, self.near_clock, LinkLife(client.own, one.certificate, 1e9)
        )
        until = self.far_clock.monotonic() + LINK_SECONDS_MAX
        self.far = Link(
            other, self.far_clock, LinkLife(server.own, other.certificate, until)
        )
        for clock in (self.near_clock, self.far_clock):
            clock.ns = self.expires_ns - 10**9
        for link in (self.near, self.far):
            link.start_heartbeat()

    async def close(self) -> None:
        for link in (self.near, self.far):
            await link.close()


@pytest.mark.parametrize("ends_it", ["near", "far"])
@pytest.mark.parametrize("why", ["expired", "a day"])
def test_it_ends_in_order_and_both_ends_know(
    tmp_path: Path, ends_it: str, why: str
) -> None:
    """Whatever was sent before arrives; the other end is told that no more comes."""

    async def test() -> None:
        both = Both(tmp_path)
        await both.connect()
        link, clock = getattr(both, ends_it), getattr(both, f"{ends_it}_clock")
        other = both.near if ends_it == "far" else both.far
        await link.send(Join(1, b"t" * 16))
        if why == "expired":
            clock.ns = both.expires_ns
        elif ends_it == "far":
            clock.seconds += LINK_SECONDS_MAX
        else:
            clock.seconds = 1e9
        with pytest.raises(ConnectionLostError, match=f"this end has ended.*{why}"):
            await link.receive()
        assert await other.receive() == Join(1, b"t" * 16)
        with pytest.raises(ConnectionLostError, match="the peer closed the connection"):
            await other.receive()
        await both.close()

    in_jumping_time(test)


def test_it_lives_while_its_certificates_do(tmp_path: Path) -> None:
    async def test() -> None:
        both = Both(tmp_path)
        await both.connect()
        reading = asyncio.create_task(both.near.receive())
        other_reading = asyncio.create_task(both.far.receive())
        await asyncio.sleep(3600)
        assert not reading.done()
        assert not other_reading.done()
        for each in (reading, other_reading):
            each.cancel()
        await asyncio.gather(reading, other_reading, return_exceptions=True)
        await both.close()

    in_jumping_time(test)
