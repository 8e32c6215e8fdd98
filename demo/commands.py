"""Other people's programs, run by a demo: found, and run to their end."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Final

from demo.sites import DemoError

COMMAND_SECONDS_MAX: Final = 120.0
_PLACES: Final = os.pathsep.join(("/usr/sbin", "/sbin", "/usr/bin", "/bin"))


def tool(name: str, package: str) -> str:
    """Return the path of a command; raise DemoError, naming its package, without it."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + os.pathsep + _PLACES)
    if found is None:
        raise DemoError(f"there is no {name} here: install {package}")
    return found


def attempt(
    *words: object, user: str | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever that is; as `user`, which takes root."""
    return subprocess.run(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=COMMAND_SECONDS_MAX,
        check=False,
        user=user,
        group=None if user is None else pwd.getpwnam(user).pw_gid,
        extra_groups=None if user is None else [],
        env=None if environment is None else os.environ | environment,
        cwd="/",
    )


def done(
    *words: object, user: str | None = None, environment: dict[str, str] | None = None
) -> str:
    """Run a command that has to succeed; return what it printed, without its ends."""
    found = attempt(*words, user=user, environment=environment)
    if found.returncode:
        said = found.stderr.strip() or found.stdout.strip()
        raise DemoError(f"{Path(str(words[0])).name} failed: {said[-600:]}")
    return found.stdout.strip()
