"""A machine with an init of its own: systemd as PID 1 in namespaces, over a
copy-on-write view of this system's files, which it cannot change.

    with Machine("dr", folder) as machine:
        machine.run("systemctl", "status")

Needs root, systemd, overlayfs and a cgroup2 hierarchy. It sees no device of this
machine but the harmless ones, changes no kernel setting (/proc/sys and /sys are
read-only), has a network of its own, and ends with the block or with the test process,
whichever is first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.daemon import DIE_WITH_PARENT, PATIENCE_SECONDS, POLL_SECONDS

NAMESPACES = ("--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup")
COMMAND_SECONDS = 120.0
WRITTEN_BYTES_MAX = "2g"
"""What all it writes may come to: its files are in memory."""

OWN = ("etc/farshore", "opt/farshore", "var/lib/farshore", "run/farshore")
"""What this system may have of farshore, and a new machine has not."""

MASKED = (
    *("dev-hugepages.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("sys-fs-fuse-connections.mount", "systemd-sysctl.service"),
    *("systemd-modules-load.service", "systemd-udevd.service"),
    *("systemd-udev-trigger.service", "systemd-binfmt.service"),
    *("proc-sys-fs-binfmt_misc.automount", "systemd-remount-fs.service"),
    *("systemd-random-seed.service", "systemd-update-utmp.service"),
    *("systemd-networkd-wait-online.service", "ifupdown-wait-online.service"),
    *("NetworkManager-wait-online.service", "systemd-firstboot.service"),
    *("dbus.socket", "dbus.service", "packagekit.service", "modprobe@.service"),
)
"""Units for real hardware, or for a kernel that is theirs alone."""

BOOT = """
set -eu
cgroup=$1 folder=$2 name=$3
mount -t tmpfs -o size={written} tmpfs "$folder/upper"
mkdir "$folder/upper/files" "$folder/upper/work" "$folder/root"
mount -t overlay overlay "$folder/root" \
  -o "lowerdir=/,upperdir=$folder/upper/files,workdir=$folder/upper/work"
cd "$folder/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
  touch "dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
rm -rf {own}
rm -rf etc/systemd/system/*.wants
for unit in {masked}; do ln -sf /dev/null "etc/systemd/system/$unit"; done
printf '%s\\n' '[Unit]' 'Description=a machine of the tests' \
  'Requires=basic.target' 'After=basic.target' > etc/systemd/system/machine.target
hostname "$name"
echo "$name" > etc/hostname
ip link set lo up
mkdir -p mnt
pivot_root . mnt
umount -l mnt
mount --make-rshared /
exec env -i container=farshore-tests PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --unit=machine.target --show-status=no </dev/null
"""


class Machine:
    """One machine; `name` is its host name."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder / f"machine-{name}"
        self._cgroup = _cgroups() / f"farshore-{os.getpid()}-{name}"
        self._process: subprocess.Popen[bytes] | None = None
        self._init_pid = 0

    def __enter__(self) -> Self:
        try:
            self._boot()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            print(f"--- journal of {self.name}\n{self.journal()}")
        self._end()

    def run(self, *words: object, code: int | None = 0) -> str:
        """Run a command as root; return its output, both streams, as it came.

        It has to end with `code`; None: with any.
        """
        done = subprocess.run(
            [*self._inside(), *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=COMMAND_SECONDS,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
        )
        ended_well = code is None or done.returncode == code
        assert ended_well, f"{self.name}: {words}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def shell(self, script: str) -> str:
        """Run lines of a shell as somebody types them, in root's home folder; the
        first that fails ends it."""
        return self.run("bash", "-euc", f"cd\n{script}")

    def path(self, inside: str) -> Path:
        """Return where one of its files is to be read and written from outside."""
        return Path(f"/proc/{self._init_pid}/root{inside}")

    def until(self, *words: object, says: str) -> str:
        """Run a command until its output has `says`; return that output."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while says not in (told := self.run(*words, code=None)):
            assert time.monotonic() < deadline, f"{words} never said {says}: {told}"
            time.sleep(POLL_SECONDS)
        return told

    def journal(self) -> str:
        with contextlib.suppress(AssertionError, OSError, subprocess.SubprocessError):
            return self.run("journalctl", "--no-pager", "-n", "80", code=None)
        return "(none)"

    @property
    def namespace(self) -> str:
        """Its network, as `ip link ... netns` takes it."""
        return str(self._init_pid)

    # -- its life ----------------------------------------------------------------------

    def _boot(self) -> None:
        self._cgroup.mkdir()
        (self._folder / "upper").mkdir(parents=True)
        script = BOOT.format(
            written=WRITTEN_BYTES_MAX, own=" ".join(OWN), masked=" ".join(MASKED)
        )
        join = 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"'
        unshare = ["unshare", *NAMESPACES, "--propagation=private", "--fork"]
        self._process = subprocess.Popen(
            [
                *DIE_WITH_PARENT,
                *("sh", "-euc", join, "join", self._cgroup),
                *(*unshare, "--kill-child", "sh", "-euc", script, "boot"),
                *(self._cgroup, self._folder, self.name),
            ],
            stdin=subprocess.DEVNULL,
        )
        self._init_pid = self._child_of(self._process)
        self._answers()

    def _child_of(self, process: subprocess.Popen[bytes]) -> int:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := children.read_text().split()):
            assert process.poll() is None, f"{self.name} did not boot"
            assert time.monotonic() < deadline, f"{self.name} never booted"
            time.sleep(POLL_SECONDS)
        return int(found[0])

    def _answers(self) -> None:
        """Return once its init is up, with all that it starts by itself."""
        name = Path(f"/proc/{self._init_pid}/comm")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while name.read_text() != "systemd\n" or not self._is_up():
            assert self._process is not None
            assert self._process.poll() is None, f"{self.name} did not boot"
            assert time.monotonic() < deadline, f"{self.name} never booted"
            time.sleep(POLL_SECONDS)

    def _is_up(self) -> bool:
        said = self.run("systemctl", "is-system-running", code=None)
        return said.strip() in {"running", "degraded"}

    def _inside(self) -> list[str]:
        return ["nsenter", "--target", str(self._init_pid), *NAMESPACES, "--"]

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()  # and with it its child, which is PID 1 in there
            self._process.wait()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._cgroup.exists() and time.monotonic() < deadline:
            for group in sorted(self._cgroup.rglob("*/"), reverse=True):
                with contextlib.suppress(OSError):
                    group.rmdir()
            with contextlib.suppress(OSError):
                self._cgroup.rmdir()
                break
            time.sleep(POLL_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)


def _cgroups() -> Path:
    """Return where cgroup2 is mounted: alone, or beside the older hierarchies."""
    unified = Path("/sys/fs/cgroup/unified")
    return unified if unified.exists() else Path("/sys/fs/cgroup")


@contextlib.contextmanager
def wire(first: Machine, second: Machine) -> Iterator[tuple[str, str]]:
    """Join two machines by a cable; return their addresses."""
    addresses = ("10.77.0.1", "10.77.0.2")
    veth = ("type", "veth", "peer", "name", "eth0", "netns", second.namespace)
    subprocess.run(
        ["ip", "link", "add", "eth0", "netns", first.namespace, *veth], check=True
    )
    for machine, address in zip((first, second), addresses, strict=True):
        machine.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        machine.run("ip", "link", "set", "eth0", "up")
    yield addresses
