"""Of what others may do: config files, sockets, hooks, keys and certificates."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from common.certificates import EXPIRY_WARNING_SECONDS, TlsFiles
from common.cli.display import seconds_text
from common.cli.doctor.findings import Finding, failed, fine, unknown, warning
from common.cli.doctor.host import Config
from common.errors import ConfigError
from common.replication.credentials import Credentials
from common.service.config_primary import PrimaryConfig

OTHERS_MAY_WRITE = stat.S_IWOTH
SOCKET_MODE_FORBIDDEN = 0o007


def check_file(subject: str, path: Path) -> Finding:
    """Look at a file whose words the daemon obeys."""
    for each in (path, *path.parents):
        mode = each.stat().st_mode
        if mode & OTHERS_MAY_WRITE and not mode & stat.S_ISVTX:
            return failed(
                "access",
                subject,
                f"everybody may write {each}, and so act as the daemon",
                f"chmod o-w {each}",
            )
    return fine("access", subject, f"{path}: others can't write it")


def check_control_socket(path: str) -> Finding:
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        return unknown("access", "control socket", f"{path}: {error.strerror}")
    if mode & SOCKET_MODE_FORBIDDEN:
        return failed(
            "access",
            "control socket",
            f"everybody may use {path}: cut, take over, fail back",
            f"chmod 660 {path}, and find out who changed it",
        )
    return fine("access", "control socket", f"{path}, mode {stat.S_IMODE(mode):o}")


def check_hooks(config: PrimaryConfig) -> Iterator[Finding]:
    for group in config.groups:
        if group.hooks is None:
            continue
        programs = {
            words[0]
            for words in (group.hooks.before_cut, group.hooks.after_cut)
            if words
        }
        for program in sorted(programs):
            subject = f"{group.name} hook"
            if not os.access(program, os.X_OK):
                yield failed(
                    "access",
                    subject,
                    f"{program} can't be run",
                    f"chmod +x {program}, or mend group.hooks",
                )
            else:
                yield check_file(subject, Path(program))


# -- certificates ------------------------------------------------------------------


def tables(config: Config) -> Iterator[tuple[str, TlsFiles, bool]]:
    """Yield (config key, files, whether they are a server's) of replication."""
    for group in config.groups:
        if group.link is not None and group.link.tls is not None:
            yield f"group[{group.name}].link.tls", group.link.tls.files(), False
    if config.replication is not None and config.replication.tls is not None:
        yield "replication.tls", config.replication.tls.files(), True


def check_certificates(config: Config) -> Iterator[Finding]:
    found = list(tables(config))
    for table, files, is_server in found:
        yield _certificate(table, files, config.site.name, is_server=is_server)
    if not found:
        yield warning(
            "certificate",
            "replication",
            "replication goes in plain text: who is on the way reads it, and may be "
            "taken for the other site",
            "give both sites certificates: docs/operating/replication-security.md",
        )


def _certificate(table: str, files: TlsFiles, site: str, *, is_server: bool) -> Finding:
    if files.key.startswith("$"):
        return unknown("certificate", table, "systemd gives it to the daemon alone")
    if not os.access(files.key, os.R_OK) and Path(files.key).exists():
        return unknown(
            "certificate", table, f"{files.key} is not for you", "run this as root"
        )
    try:
        own = Credentials.read(files, table, is_server=is_server).own
    except ConfigError as error:
        return failed("certificate", table, str(error), "mend what it names")
    left = own.seconds_left(time.time_ns())
    names = ", ".join(sorted(own.names))
    renew = "renew it, then systemctl reload: docs/operating/replication-security.md"
    if left <= 0:
        return failed("certificate", table, f"{names}: expired {own.expires}", renew)
    if left < EXPIRY_WARNING_SECONDS:
        text = f"{names}: expires in {seconds_text(left)}"
        return warning("certificate", table, text, renew)
    if site not in own.names:
        return warning(
            "certificate",
            table,
            f"it names {names}, and the site is {site}",
            f"the other site's peer must be one of its names; or make one with "
            f"DNS:{site}",
        )
    return fine("certificate", table, f"{names}, until {own.expires}")
