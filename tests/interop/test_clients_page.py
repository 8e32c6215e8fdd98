"""The manual's page on clients: its commands are run, what it says of restarts seen."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

import pytest

from demo.attached import fuse_file
from tests.support.client_commands import pattern, run, sparse_file
from tests.support.sites import REPOSITORY, Pair, until

PAGE = REPOSITORY / "docs" / "operating" / "clients.md"
KERNEL = re.compile(r"^(modprobe|mount|umount|nbd-client|mkfs\.ext4)\b", re.MULTILINE)
"""What only a kernel with the nbd module can run: see kernel_client.py."""

END_SECONDS = 30.0


def blocks() -> list[str]:
    """Return the page's shell examples, but those of the kernel's client."""
    found = re.findall(
        r"^```sh\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
    return [block for block in found if not KERNEL.search(block)]


@pytest.mark.needs_package("nbdinfo", "nbdcopy", "qemu-img", "nbdkit", "fio")
def test_the_commands_of_the_page_work_as_they_stand(
    sites: Pair, tmp_path: Path
) -> None:
    content = pattern(sites.device("v").stat().st_size, seed=41)
    sparse_file(tmp_path / "disk.img", content)
    assert len(blocks()) >= 5
    for number, block in enumerate(blocks()):
        script = tmp_path / f"block-{number}"
        script.write_text(
            f"set -e; cd {tmp_path}\n"
            + block.replace("orders/data", "g/v")
            .replace("/run/farshore/nbd.sock", sites.primary.nbd_socket)
            .replace("/run/farshore/recovery.sock", sites.remote.nbd_socket)
        )
        run("sh", script)
        sites.cut_now()
    copy = tmp_path / "recovered.img"
    assert copy.read_bytes() == content


CLIENTS = {
    "nbdcopy": "nbdcopy --synchronous --request-size=4096 {source} {uri}",
    "qemu-img": "qemu-img convert -n -r 1M -f raw -O raw {source} {uri}",
    "fio": (
        "fio --name=x --ioengine=nbd --uri={uri} --rw=randwrite --bs=4k --size=8M"
        " --time_based --runtime=60"
    ),
}


@pytest.mark.needs_package("nbdcopy", "qemu-img", "fio")
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_without_reconnection_ends_with_an_error(
    sites: Pair, tmp_path: Path, name: str
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"\x5a" * sites.device("v").stat().st_size)
    uri = sites.primary.uri("g/v")
    run("qemu-io", "-f", "raw", "-c", "write -P 1 0 16M", uri)
    # Its time, and not all it holds: a client must not be through before that is read.
    device = sites.device("v")
    before = device.stat().st_mtime_ns
    words = CLIENTS[name].format(source=source, uri=uri).split()
    client = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        asyncio.run(
            until(lambda: device.stat().st_mtime_ns != before, f"{name} writes")
        )
        sites.primary.kill()
        assert client.wait(END_SECONDS) != 0
    finally:
        client.kill()
        client.wait()
        asyncio.run(sites.primary.start())


@pytest.mark.needs_package("nbdfuse", "fusermount3")
def test_nbdfuse_gives_errors_once_its_connection_is_gone(
    sites: Pair, tmp_path: Path
) -> None:
    with fuse_file(tmp_path / "fuse", sites.primary.uri("g/v")) as file:
        with file.open("rb", buffering=0) as opened:
            assert len(opened.read(512) or b"") == 512
        sites.primary.kill()
        asyncio.run(sites.primary.start())
        with (
            pytest.raises(OSError, match=r"Input|not connected"),
            file.open("rb") as opened,
        ):
            opened.read(512)
