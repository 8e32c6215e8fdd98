"""The commands of the operating pages, typed in their order at a real pair."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from common.cli.main import cli
from tests.support.exchanging_pair import ExchangingPair
from tests.support.printed_commands import typed
from tests.support.sites import Daemon, VolumeSpec, until

PAGES = Path(__file__).resolve().parents[2] / "docs/operating"
MIB = 1 << 20
SIZE_BYTES = 4 * MIB
NUMBERS = {"41", "1841", "1907", "4711"}
"""Points and forks, as the pages number them."""


class Operator:
    """Types what a page prints, with this pair's names instead of the page's."""

    def __init__(self, pair: ExchangingPair, probe: Path) -> None:
        self._pair = pair
        self._probe = probe
        self.number = 0
        """The point or fork that the page speaks of."""

    def types(self, page: str, at: dict[str, Daemon]) -> str:
        """Type all `farshore` commands of a page's text, each where `at` says; say yes
        to what is asked, expect no error, and return what was printed."""
        printed, found = "", 0
        for program, words in typed(page):
            assert program == "farshore"
            daemon, found = at[words[0]], found + 1
            own = [self._own(word) for word in words if word != "--watch"]
            result = CliRunner().invoke(
                cli, [*own, "--socket", daemon.control_socket], input="y\n"
            )
            assert result.exit_code == 0, f"{own}: {result.output}{result.stderr}"
            printed += result.stdout
        assert found
        return printed

    def _own(self, word: str) -> str:
        if word in NUMBERS:
            return str(self.number)
        if word.endswith("orders.sh"):
            return str(self._probe)
        word = word.replace("200GiB", f"{SIZE_BYTES + MIB}B")
        return re.sub(r"^orders(?=/|$)", "g", word)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[ExchangingPair]:
    with ExchangingPair(tmp_path, [VolumeSpec("data", SIZE_BYTES)]) as pair:
        asyncio.run(pair.start())
        yield pair


@pytest.fixture
def operator(pair: ExchangingPair, tmp_path: Path) -> Operator:
    probe = tmp_path / "orders.sh"
    probe.write_text('#!/bin/sh\ntest -n "$FARSHORE_URI_DATA"\n')
    probe.chmod(0o755)
    return Operator(pair, probe)


async def write(daemon: Daemon, offset: int) -> None:
    host = await daemon.nbd("g/data")
    await host.write(offset, b"%8d" % offset * 1024, fua=True)
    await host.disconnect()


def test_the_pages_of_every_day(pair: ExchangingPair, operator: Operator) -> None:
    asyncio.run(write(pair.primary, MIB))
    operator.number = asyncio.run(pair.cut())["number"]
    at_primary = dict.fromkeys(("cut", "verify", "grow"), pair.primary)
    at_remote = dict.fromkeys(("points", "test-copy", "drill", "scrub"), pair.remote)
    at = at_primary | at_remote
    printed = operator.types(text("recovery-points"), at)
    assert re.search(rf"(?m)^ *{operator.number} .* yes ", printed), "it was kept"
    assert operator.types(text("test-copies"), at).count("to end it: ") == 2
    assert operator.types(text("drill"), at).count(": passed") == 3
    assert operator.types(text("verify"), at).count("0 B differ") >= 3
    assert "grown from" in operator.types(text("growing"), at)
    assert pair.device("data").stat().st_size == SIZE_BYTES + MIB


def test_the_pages_of_the_bad_day(pair: ExchangingPair, operator: Operator) -> None:
    primary, remote = pair.primary, pair.remote
    at = dict.fromkeys(("status", "points", "takeover", "switchover"), remote)
    asyncio.run(write(primary, MIB))
    operator.number = asyncio.run(pair.cut())["number"]
    primary.kill()
    asyncio.run(pair.reached(remote, "the loss", state="disconnected"))
    runbook = text("takeover-runbook")
    printed = operator.types(runbook, at)
    promised = re.search(r"`(taken over from point) …; ([^`]+)`", runbook)
    assert promised
    for words in promised.groups():
        assert words in printed
    assert f"from point {operator.number}, cut at" in operator.types(
        text("takeover"), at
    )
    asyncio.run(write(remote, 2 * MIB))

    asyncio.run(primary.start())
    asyncio.run(pair.reached(primary, "the takeover is known", state="superseded"))
    failback, _, rest = text("failback").partition("## To keep the old primary's data")
    _, heading, fork = rest.partition("## 4. The fork")
    assert heading
    at |= dict.fromkeys(("status", "failback", "forks"), primary)
    found = re.search(r"had is fork (\d+)", operator.types(failback, at))
    assert found
    operator.number = int(found[1])
    asyncio.run(pair.received(primary, operator.number))
    operator.types(fork, at)
    asyncio.run(until(lambda: linked(remote), "the sites are connected"))

    operator.types(text("switchover"), at)
    asyncio.run(pair.reached(primary, "it sends again", role="sending"))
    assert asyncio.run(primary.read_whole("g/data"))[2 * MIB :][:8] == b" 2097152"


def text(page: str) -> str:
    return (PAGES / f"{page}.md").read_text()


def linked(daemon: Daemon) -> bool:
    return bool(daemon.group()["link"]["state"] == "connected")
