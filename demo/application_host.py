"""The host of an application: an export through nbdfuse and a loop device, ext4 on it,
and PostgreSQL on that. Needs root, to mount; the server runs as somebody else.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from demo.attached import fuse_file, loop_device, mounted
from demo.commands import attempt, done, tool
from demo.file_system import PACKAGE
from demo.postgresql import Server
from demo.sites import DemoError

CLUSTER = "cluster"


class ApplicationHost:
    """Everything of it is below `place`; `end` or `lose` it, whatever happens."""

    def __init__(self, place: Path, uri: str) -> None:
        self._place = place
        self._uri = uri
        self._attached = ExitStack()
        self.device = ""
        self.mount = place / "mount"
        self.server = Server(self.mount / CLUSTER, _made(place) / "server")

    def attach(self, *, is_new: bool = False) -> None:
        """Attach the export and mount its file system; make one if it is new."""
        fuse = fuse_file(self._place / "export", self._uri)
        file = self._attached.enter_context(fuse)
        self.device = self._attached.enter_context(loop_device(file))
        if is_new:
            done(tool("mkfs.ext4", PACKAGE), "-q", "-E", "nodiscard", self.device)
        self._attached.enter_context(mounted(self.device, self.mount))
        self.mount.chmod(0o755)

    def end(self) -> None:
        """Stop the server, unmount and check the file system; let go of the export.

        Raises DemoError for a file system with a fault.
        """
        self.server.stop()
        done("umount", self.mount)
        checked = attempt(tool("e2fsck", PACKAGE), "-f", "-n", self.device)
        self._attached.close()
        if checked.returncode:
            raise DemoError(f"e2fsck finds a fault: {checked.stdout.strip()[-300:]}")

    def lose(self) -> None:
        """Let go of everything, as a power loss would."""
        self.server.kill()
        self._attached.close()


def _made(place: Path) -> Path:
    place.mkdir()
    return place
