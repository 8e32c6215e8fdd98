"""Who gets in, from the lines of a config to what the kernel and the server do."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.nbd.server import NbdSecurity, NbdServer
from common.service.config import load_primary
from tests.support.memory_volume import MemoryExports, MemoryVolume
from tests.support.nbd_client import NbdClient, NbdReplyError, OptionRefusedError

CONFIG = """
[site]
name = "a"
state_dir = "state"
control_socket = "control.sock"
[nbd]
listen = ["unix:nbd.sock"]
{nbd}
[[group]]
name = "orders"
manual = true
[group.link]
remotes = ["127.0.0.1:7420"]
peer = "b"
allow_plaintext_replication = true
[[group.volume]]
name = "data"
device = "data.img"
size = "1MiB"
"""

OTHER_USER = "nobody"


def security(folder: Path, nbd: str) -> NbdSecurity:
    path = folder / "primary.toml"
    path.write_text(CONFIG.format(nbd=nbd))
    return load_primary(str(path)).nbd.security()


async def listening(folder: Path, nbd: str, *names: str) -> tuple[NbdServer, str]:
    exports = MemoryExports({name: MemoryVolume(4096) for name in names})
    server = NbdServer(exports, security=security(folder, nbd))
    address = f"unix:{folder / 'nbd.sock'}"
    await server.listen([address])
    return server, address


@pytest.mark.parametrize(
    ("mode", "bits"), [("0600", 0o600), ("660", 0o660), ("0666", 0o666)]
)
async def test_a_socket_file_has_the_mode_of_the_config(
    tmp_path: Path, mode: str, bits: int
) -> None:
    server, _ = await listening(tmp_path, f'unix.mode = "{mode}"')
    try:
        assert stat.S_IMODE(os.stat(tmp_path / "nbd.sock").st_mode) == bits
    finally:
        await server.close()


@pytest.mark.needs_root
@pytest.mark.parametrize("by_number", [False, True])
async def test_a_socket_file_has_the_owner_and_group_of_the_config(
    tmp_path: Path, by_number: bool
) -> None:
    user = pwd.getpwnam(OTHER_USER)
    group = grp.getgrgid(user.pw_gid)
    names = f'unix.owner = "{user.pw_name}"\nunix.group = "{group.gr_name}"'
    server, _ = await listening(tmp_path, names)
    try:
        status = os.stat(tmp_path / "nbd.sock")
        assert (status.st_uid, status.st_gid) == (user.pw_uid, user.pw_gid)
    finally:
        await server.close()


@pytest.mark.parametrize(
    ("nbd", "key"),
    [
        ('unix.owner = "no-such-user"', r"nbd\.unix\.owner"),
        ('unix.group = "no-such-group"', r"nbd\.unix\.group"),
        (
            '[[nbd.access]]\nexports = ["*"]\nusers = ["no-such-user"]\nallow = "rw"',
            r"nbd\.users",
        ),
        (
            '[[nbd.access]]\nexports = ["*"]\ngroups = ["no-such-group"]\nallow = "ro"',
            r"nbd\.groups",
        ),
    ],
)
def test_a_name_that_the_machine_does_not_know_is_refused(
    tmp_path: Path, nbd: str, key: str
) -> None:
    with pytest.raises(ConfigError, match=f"{key}: this machine knows no"):
        security(tmp_path, nbd)


async def test_users_and_groups_are_told_by_name_and_by_number(tmp_path: Path) -> None:
    user = pwd.getpwuid(os.geteuid()).pw_name
    group = grp.getgrgid(os.getegid()).gr_name
    rules = "".join(
        f'[[nbd.access]]\nexports = ["orders/data@{export}"]\n{who}\nallow = "{how}"\n'
        for export, who, how in [
            ("user", f'users = ["{user}"]', "rw"),
            ("number", f"users = [{os.geteuid()}]", "rw"),
            ("group", f'groups = ["{group}"]', "ro"),
            ("gid", f"groups = [{os.getegid()}]", "ro"),
            ("theirs", f'users = ["{OTHER_USER}"]', "rw"),
            ("certified", 'certificates = ["app.test"]', "rw"),
        ]
    )
    names = [
        f"orders/data@{name}"
        for name in ("user", "number", "group", "gid", "theirs", "certified")
    ]
    if user == OTHER_USER:
        pytest.skip("needs another user than nobody")
    server, address = await listening(tmp_path, rules, *names)
    try:
        client = await NbdClient.connect_unnegotiated(address)
        assert [name for name, _ in await client.list_exports()] == names[:4]
        for name in names[4:]:
            with pytest.raises(OptionRefusedError, match="no such export"):
                await client.go(name, [])
        client.abort()
        for name in names[:4]:
            client = await NbdClient.connect(address, name)
            if name in {"orders/data@group", "orders/data@gid"}:
                with pytest.raises(NbdReplyError):
                    await client.write(0, b"x")
            else:
                await client.write(0, b"x")
            await client.disconnect()
    finally:
        await server.close()
