"""`farshore support-bundle`: what is in it, and that no secret is."""

from __future__ import annotations

import asyncio
import json
import re
import stat
import tarfile
from pathlib import Path

from common.cli.support.redaction import redacted, redacted_value
from common.storage.files import SystemFiles
from common.storage.record import DurableRecord
from tests.support.certificates import Certificates
from tests.support.sites import Daemon, Pair, VolumeSpec, run_cli

MIB = 1 << 20
PASSWORD = "hunter2-of-the-database"
HOOKS = {"before_cut": ["/bin/true", f"postgresql://backup:{PASSWORD}@db/orders"]}


async def bundle(daemon: Daemon, folder: Path) -> dict[str, str]:
    """Make one; return its texts by name."""
    output = folder / "bundle.tar.gz"
    done = await asyncio.to_thread(
        run_cli,
        "support-bundle",
        *("--config", str(daemon.config_path), "--log", str(daemon.log_path)),
        *("--output", str(output), "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    with tarfile.open(output) as archive:
        texts = {}
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            texts[member.name.removeprefix("farshore-support/")] = file.read().decode()
    output.unlink()
    assert json.loads(done.stdout)["members"] == list(texts)
    return texts


async def test_a_bundle_has_all_that_helps_and_nothing_secret(tmp_path: Path) -> None:
    made = Certificates(tmp_path)
    both = made.site("a"), made.site("b")
    with Pair(
        tmp_path,
        [VolumeSpec("v", MIB)],
        group={"manual": True, "hooks": HOOKS},
        link_tls=both,
        http=True,
    ) as pair:
        await pair.start()
        await pair.cut(label="for the bundle")
        key = Path(both[0].key).read_text()
        with pair.primary.log_path.open("a") as log:
            log.write(f"somebody has pasted this:\n{key}\nPGPASSWORD={PASSWORD}\n")

        for daemon in pair.daemons:
            texts = await bundle(daemon, tmp_path)

            wanted = {"status.json", "config.json", "doctor.json", "logs.txt"}
            wanted |= {"metrics.txt", "errors.txt", "groups/g/points.json"}
            assert wanted <= texts.keys()
            assert json.loads(texts["status.json"])["groups"][0]["name"] == "g"
            assert "farshore_build_info" in texts["metrics.txt"]
            assert "link_connected" in texts["logs.txt"] or daemon is pair.remote
            assert [n for n in texts if n.startswith("records/groups/g/")], list(texts)
            _has_no_secret("\n".join(texts.values()), both, secrets_of(daemon))
        kept = json.loads((await bundle(pair.primary, tmp_path))["config.json"])
        assert kept["group"][0]["hooks"]["before_cut"] == ["/bin/true", "(redacted)"]


def secrets_of(daemon: Daemon) -> list[str]:
    """Return the receipts that a site's record holds, as hex."""
    name = "group.record" if daemon.role == "primary" else "store"
    path = daemon.state_directory / "groups/g" / name
    record = DurableRecord(str(path), SystemFiles()).load()
    assert record is not None
    found = [record.get(key) for key in ("receipt", "shown", "given")]
    secret = [value.hex() for value in found if isinstance(value, bytes)]
    assert secret, "a site has recorded a session"
    return secret


def _has_no_secret(text: str, both: tuple[object, ...], receipts: list[str]) -> None:
    assert PASSWORD not in text
    assert "PRIVATE KEY" not in text
    for files in both:
        for line in Path(files.key).read_text().splitlines():  # type: ignore[attr-defined]
            assert line not in text or not line.strip()
    for receipt in receipts:
        assert receipt not in text


async def test_without_a_daemon_there_is_what_the_disks_have(tmp_path: Path) -> None:
    with Pair(tmp_path, [VolumeSpec("v", MIB)]) as pair:
        await pair.start()
        await pair.cut()
        await pair.primary.stop()

        texts = await bundle(pair.primary, tmp_path)

        assert "status.json" not in texts
        record = json.loads(texts["records/groups/g/group.record.json"])
        assert record["clean"] is True
        assert re.fullmatch("[0-9a-f]{32}", record["lineage"])
        pair.primary.config_path.write_text("[site]\nnmae = 1\n")
        assert "nmae" in (await bundle(pair.primary, tmp_path))["errors.txt"]


def test_what_looks_like_a_secret_is_cut_out() -> None:
    for text in (
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN EC PRIVATE KEY-----\nMIIE that was cut short",
        "postgresql://me:MIIE@db/x",
        "PGPASSWORD=MIIE psql",
        'password = "MIIE"',
        "{'api_key': 'MIIE'}",
    ):
        assert "MIIE" not in redacted(f"before {text} after"), text
    assert redacted("tls.key = /etc/farshore/a.key") == "tls.key = /etc/farshore/a.key"
    assert redacted_value({"receipt": b"\x01", "epoch": 3, "id": b"\x02"}) == {
        "receipt": "(redacted)",
        "epoch": 3,
        "id": "02",
    }
