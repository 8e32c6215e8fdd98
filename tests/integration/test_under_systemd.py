"""The units that ship, run by a real systemd: ready when served, watched, started again
or not, reloaded, confined, and given keys that only root may read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machine import Machine
from tests.support.sites import REPOSITORY

pytestmark = [
    pytest.mark.hunt,
    pytest.mark.needs_root,
    pytest.mark.needs_package("dpkg-deb", "nbdinfo", "openssl"),
]

PRIMARY, REMOTE = "farshore-primary", "farshore-remote"
URI = "nbd+unix:///orders/data?socket=/run/farshore/nbd.sock"
CONFIG = "/etc/farshore/primary.toml"
CLEAN = (
    "systemctl stop 'farshore-*.socket' 'farshore-*.service' 'farshore-*@*.service'; "
    "systemctl reset-failed; "
    "rm -rf /etc/farshore/* /etc/farshore/keys/* /var/lib/farshore/* "
    "/etc/systemd/system/farshore-*; systemctl daemon-reload"
)
INIT = (
    *("farshore", "init", "/etc/farshore", "--address", "127.0.0.1"),
    *("--volume", "data=64MiB", "--yes"),
)


@pytest.fixture
def site(machine: Machine) -> Iterator[Machine]:
    """A machine with both sites' configs; nothing is started."""
    machine.shell(CLEAN)
    machine.run("install", "-d", "-m", "700", "/etc/farshore/keys")
    machine.run(*INIT)
    assert not machine.path("/etc/farshore/remote.toml").exists(), "it is the remote's"
    machine.run("tar", "-xf", "/etc/farshore/dr.tar", "-C", "/etc/farshore")
    text = machine.path("/etc/farshore/remote.toml").read_text()
    machine.path("/etc/farshore/remote.toml").write_text(
        text.replace("/var/lib/farshore/data.img", "/var/lib/farshore/copy.img")
    )
    yield machine
    machine.shell(CLEAN)


def shown(machine: Machine, unit: str, name: str) -> str:
    return machine.run("systemctl", "show", "--value", "-p", name, unit).strip()


def edit(machine: Machine, old: str, new: str) -> None:
    path = machine.path(CONFIG)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def drop_in(machine: Machine, unit: str, *settings: str) -> None:
    folder = machine.path(f"/etc/systemd/system/{unit}.service.d")
    folder.mkdir(parents=True)
    (folder / "test.conf").write_text("\n".join(["[Service]", *settings, ""]))
    machine.run("systemctl", "daemon-reload")


def test_started_means_served_with_a_key_that_only_root_may_read(
    site: Machine,
) -> None:
    for unit in (REMOTE, PRIMARY):
        site.run("systemctl", "start", unit)
    assert "export-size" in site.run("nbdinfo", URI)
    for name in ("amsterdam", "dr"):
        told = site.run("stat", "-c", "%U %a", f"/etc/farshore/keys/{name}.key")
        assert told.split() == ["root", "600"]
    site.run("farshore", "cut", "orders", "--wait", "--socket", _socket("primary"))
    told = site.run("farshore", "status", "--json", "--socket", _socket("primary"))
    (group,) = json.loads(told)["groups"]
    assert group["link"]["encrypted"]
    # Root may look at the key that the daemon is given.
    looked = site.run("farshore", "doctor", "--config", CONFIG, "--json", code=None)
    found = json.loads(looked)
    (certificate,) = [each for each in found if each["topic"] == "certificate"]
    assert certificate["verdict"] == "ok", certificate
    site.until(
        *("systemctl", "show", "--value", "-p", "StatusText", PRIMARY), says="point 1"
    )


def _socket(role: str) -> str:
    return f"/run/farshore/{role}.sock"


def test_a_daemon_has_no_privileges(site: Machine) -> None:
    site.run("systemctl", "start", PRIMARY)
    pid = shown(site, PRIMARY, "MainPID")
    status = site.path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert int(fields["Uid"].split()[1]) > 0


def test_one_that_is_killed_is_started_again(site: Machine) -> None:
    site.run("systemctl", "start", PRIMARY)
    pid = shown(site, PRIMARY, "MainPID")
    site.run("kill", "-KILL", pid)
    restarts = ("systemctl", "show", "-p", "NRestarts,ActiveState", PRIMARY)
    site.until(*restarts, says="NRestarts=1\nActiveState=active")
    assert "export-size" in site.run("nbdinfo", URI)


LOAD = (
    "fio --name=host --ioengine=nbd --rw=randwrite --bs=4k --iodepth=8 --size=8M "
    f"--rate_iops=200 --verify=crc32c --verify_state_save=0 '--uri={URI}'"
)


@pytest.mark.needs_package("fio")
def test_hosts_do_not_notice_restarts(site: Machine) -> None:
    """fio does not connect again: it ends with an error where a connection breaks."""
    site.run("systemctl", "start", PRIMARY)
    site.shell(f"({LOAD}; echo ended with $? >/tmp/code) >/tmp/fio.log 2>&1 &")
    status = ("farshore", "status", "--json", "--socket", _socket("primary"))
    for _ in range(3):
        before = shown(site, PRIMARY, "MainPID")
        site.until(*status, says='"orders/data": 1')
        site.run("systemctl", "restart", PRIMARY)
        assert shown(site, PRIMARY, "MainPID") != before
        assert shown(site, PRIMARY, "NFileDescriptorStore") == "0", "it is taken back"
    site.until("cat", "/tmp/code", says="ended with 0")


def test_one_that_gives_no_sign_of_life_is_ended_and_started_again(
    site: Machine,
) -> None:
    drop_in(site, PRIMARY, "WatchdogSec=2s", "TimeoutAbortSec=1s")
    site.run("systemctl", "start", PRIMARY)
    site.run("kill", "-STOP", shown(site, PRIMARY, "MainPID"))
    restarts = ("systemctl", "show", "-p", "NRestarts,ActiveState", PRIMARY)
    site.until(*restarts, says="NRestarts=1\nActiveState=active")
    assert "Watchdog timeout" in site.run("journalctl", "--no-pager", "-u", PRIMARY)


def test_what_an_operator_must_mend_is_not_tried_again(site: Machine) -> None:
    edit(site, 'rpo = "5s"', 'rpo = "soon"')
    site.run("systemctl", "start", PRIMARY, code=1)
    told = site.run("systemctl", "show", "-p", "NRestarts,ActiveState", PRIMARY)
    assert told.split() == ["NRestarts=0", "ActiveState=failed"]
    assert shown(site, PRIMARY, "ExecMainStatus") == "3"
    assert "group[orders].rpo" in site.run("journalctl", "--no-pager", "-u", PRIMARY)


def test_a_reload_says_what_became_of_it(site: Machine) -> None:
    text = ("systemctl", "show", "--value", "-p", "StatusText", PRIMARY)
    site.run("systemctl", "start", PRIMARY)
    edit(site, 'peer = "dr"', 'peer = "elsewhere"')
    site.run("systemctl", "reload", PRIMARY)
    site.until(*text, says="needs a restart to apply: group[orders].link.peer")
    edit(site, 'peer = "elsewhere"', 'peer = "dr"')
    edit(site, 'rpo = "5s"', 'rpo = "7s"')
    site.run("systemctl", "reload", PRIMARY)
    site.until(*text, says="config reloaded")
    edit(site, 'rpo = "7s"', 'rpo = "soon"')
    site.run("systemctl", "reload", PRIMARY)
    site.until(*text, says="config refused: ")
    edit(site, 'rpo = "soon"', 'rpo = "5s"')
    site.run("systemctl", "reload", PRIMARY)
    site.until(*text, says="config reloaded")
    assert shown(site, PRIMARY, "ActiveState") == "active"
    assert shown(site, PRIMARY, "NRestarts") == "0"


def test_a_host_that_connects_starts_the_daemon(site: Machine) -> None:
    listen = '["unix:/run/farshore/nbd.sock", "tcp:127.0.0.1:10809"]'
    edit(site, listen, '["systemd:nbd"]')
    site.run("systemctl", "start", f"{PRIMARY}-nbd.socket")
    assert shown(site, PRIMARY, "ActiveState") == "inactive"
    uri = URI.replace("/run/farshore/", "/run/farshore-nbd/")
    assert "export-size" in site.run("nbdinfo", uri)
    site.run("systemctl", "restart", PRIMARY)
    assert "export-size" in site.run("nbdinfo", uri)


def test_a_group_can_have_a_process_of_its_own(site: Machine) -> None:
    text = site.path(CONFIG).read_text()
    for old, new in (
        ('name = "orders"', 'name = "shop"'),
        ("/var/lib/farshore/primary", "/var/lib/farshore/primary-shop"),
        ("/run/farshore/primary.sock", "/run/farshore/primary-shop.sock"),
        ("/var/lib/farshore/flashcopy", "/var/lib/farshore/flashcopy-shop"),
        ("/var/lib/farshore/data.img", "/var/lib/farshore/shop.img"),
        ("/run/farshore/nbd.sock", "/run/farshore/shop.sock"),
        (', "tcp:127.0.0.1:10809"', ""),
    ):
        assert old in text
        text = text.replace(old, new)
    site.path("/etc/farshore/primary-shop.toml").write_text(text)
    site.run("chgrp", "farshore", "/etc/farshore/primary-shop.toml")
    for unit in (PRIMARY, f"{PRIMARY}@shop"):
        site.run("systemctl", "start", unit)
    uri = URI.replace("orders/data", "shop/data").replace("nbd.sock", "shop.sock")
    assert "export-size" in site.run("nbdinfo", uri)
    assert "export-size" in site.run("nbdinfo", URI)
    assert shown(site, PRIMARY, "MainPID") != shown(site, f"{PRIMARY}@shop", "MainPID")
    status = ("farshore", "status", "--json", "--socket", _socket("primary-shop"))
    assert json.loads(site.run(*status))["groups"][0]["name"] == "shop"


def test_the_package_is_whole_and_purging_it_leaves_nothing(
    package: Path, tmp_path: Path
) -> None:
    with Machine("oslo", tmp_path) as oslo:
        before = oslo.run("find", "/etc", "/opt", "/usr", "/var/lib", "-xdev")
        users = oslo.path("/etc/passwd").read_text()
        oslo.path("/srv/farshore.deb").write_bytes(package.read_bytes())
        oslo.run("dpkg", "--install", "/srv/farshore.deb")
        assert oslo.run("dpkg", "--verify", "farshore") == ""
        assert shown(oslo, PRIMARY, "UnitFileState") == "disabled"
        for command in ("farshore", PRIMARY, REMOTE):
            assert f"{command}, version " in oslo.run(command, "--version")
        for page in ("1/farshore.1", f"8/{PRIMARY}.8", f"5/{PRIMARY}.toml.5"):
            assert oslo.path(f"/usr/share/man/man{page}.gz").exists()
        assert "points" in oslo.shell(
            "source /usr/share/bash-completion/completions/farshore\n"
            "COMP_WORDS=(farshore poi) COMP_CWORD=1\n"
            "_farshore_completion farshore\nprintf '%s\\n' \"${COMPREPLY[@]}\""
        )
        for unit in (REPOSITORY / "config/systemd").iterdir():
            installed = oslo.path(f"/usr/lib/systemd/system/{unit.name}")
            assert installed.read_bytes() == unit.read_bytes()
        oslo.run(*INIT)
        oslo.run("systemctl", "enable", "--now", PRIMARY)

        oslo.run("dpkg", "--purge", "farshore")
        assert shown(oslo, PRIMARY, "ActiveState") == "inactive"
        assert oslo.path("/var/lib/farshore/data.img").exists(), "it is the operator's"
        oslo.run("rm", "-r", "/var/lib/farshore", "/etc/farshore")
        oslo.run("dpkg", "--install", "/srv/farshore.deb")
        oslo.run("dpkg", "--purge", "farshore")
        after = oslo.run("find", "/etc", "/opt", "/usr", "/var/lib", "-xdev")
        assert [name for name in after.split() if "farshore" in name] == []
        gone_or_new = set(before.split()) ^ set(after.split())
        assert {name for name in gone_or_new if not _is_of_tools(name)} == set()
        assert oslo.path("/etc/passwd").read_text() == users


def _is_of_tools(name: str) -> bool:
    """What dpkg, useradd and systemctl keep of what they did; it is not farshore's."""
    own = ("/var/lib/dpkg/", "/var/lib/systemd/", "/var/lib/private")
    return name.startswith(own) or name.endswith(("-", ".lock", ".target.wants"))
