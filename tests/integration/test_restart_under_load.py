"""An upgrade as hosts see it: both daemons are restarted while fio writes and verifies
through a client that reconnects (docs/operating/upgrade.md)."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from pathlib import Path

import pytest

from common.storage.files import SystemFiles
from common.storage.record import DurableRecord
from demo.attached import running
from tests.support.sites import Pair, VolumeSpec, until

SIZE_BYTES = 8 << 20
MISMATCH_EXIT_CODE = 6
PROXY = ("nbdkit", "-f", "--filter=retry")
RETRIES = ("retry=60", "retry-delay=1", "retry-exponential=no", "retries=60")
LOAD = (
    *("fio", "--name=host", "--ioengine=nbd", "--rw=randwrite", "--bs=4k"),
    *("--iodepth=8", f"--size={SIZE_BYTES}", "--time_based", "--runtime=600"),
    *("--verify=crc32c", "--verify_backlog=64", "--verify_fatal=1"),
    *("--verify_state_save=0", "--output-format=json"),
)
FIO_INTERRUPTED = 128
"""Its exit code when it was told to end."""


async def writes(pair: Pair, fio: subprocess.Popen[bytes]) -> None:
    """Return once something more has been written."""
    before = pair.content("v")
    await until(lambda: pair.content("v") != before or fio.poll() is not None, "writes")
    assert fio.poll() is None, "fio ended"


@pytest.mark.hunt
@pytest.mark.needs_package("nbdkit", "fio")
async def test_hosts_that_reconnect_meet_no_error_in_an_upgrade(tmp_path: Path) -> None:
    with Pair(tmp_path, [VolumeSpec("v", SIZE_BYTES)]) as pair:
        await pair.start()
        socket = Path(pair.primary.nbd_socket).with_name("retry")
        uri = pair.primary.uri("g/v")
        with running(*PROXY, "-U", socket, "nbd", uri, *RETRIES, appears=socket):
            report = tmp_path / "report.json"
            words = (f"--uri=nbd+unix:///?socket={socket}", f"--output={report}")
            fio = subprocess.Popen([*LOAD, *words, f"--aux-path={tmp_path}"])
            try:
                await writes(pair, fio)
                await pair.cut()
                await pair.remote.stop()
                await writes(pair, fio)
                await pair.remote.start()
                await pair.connected()
                for is_killed in (False, True):
                    if is_killed:
                        pair.primary.kill()
                    else:
                        await pair.primary.stop()
                    await pair.primary.start()
                    await pair.connected()
                    await writes(pair, fio)
                fio.send_signal(signal.SIGINT)
                assert await asyncio.to_thread(fio.wait, 60) == FIO_INTERRUPTED
            finally:
                fio.kill()
                fio.wait()
        _, brace, told = report.read_text().partition("{")  # after its last words
        (job,) = json.loads(brace + told)["jobs"]
        assert job["error"] == 0
        assert job["read"]["total_ios"] > 0, "it looked at what it wrote"
        await pair.cut()
        assert (await pair.images(pair.remote))[0] == pair.content("v")


RECORDS = {"primary": "group.record", "remote": "store"}


@pytest.mark.hunt
async def test_a_record_of_a_later_version_is_refused_and_left_as_it_is(
    tmp_path: Path,
) -> None:
    with Pair(tmp_path, [VolumeSpec("v", SIZE_BYTES)]) as pair:
        await pair.start()
        await pair.cut()
        for daemon in pair.daemons:
            await daemon.stop()
            path = daemon.state_directory / "groups/g" / RECORDS[daemon.role]
            record = DurableRecord(str(path), SystemFiles())
            written = record.load()
            assert written is not None
            record.store({**written, "version": 99})
            newer = path.read_bytes()
            daemon.spawn()
            assert await daemon.ended() == MISMATCH_EXIT_CODE
            assert path.read_bytes() == newer
            assert f"{path}: format version 99" in daemon.log_text()
            record.store(written)
        await pair.start()
