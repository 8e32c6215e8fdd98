"""A private CA and a certificate for each site, made by the `openssl` command.

The same that docs/operating/replication-security.md makes by hand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from common.errors import FarshoreError

CA_CERTIFICATE: Final = "replication-ca.pem"
CA_KEY: Final = "replication-ca.key"
CA_DAYS: Final = 3650
SITE_DAYS: Final = 365
SECONDS_MAX: Final = 60.0
"""Each call takes milliseconds; one that waits for something is ended."""

_NEW_KEY: Final = (
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
)


def certificate_files(sites: Sequence[str]) -> list[str]:
    """Return the names of the files that `make_certificates` writes."""
    return [
        CA_CERTIFICATE,
        CA_KEY,
        *(f"{site}.{kind}" for site in sites for kind in ("pem", "key")),
    ]


def make_certificates(folder: Path, sites: Sequence[str]) -> None:
    """Write a CA and, for each site, NAME.pem and NAME.key, keys for the owner alone.

    None of the files may exist. Raises `FarshoreError`.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        raise FarshoreError(
            "the openssl command makes the certificates and is not there: install it, "
            "or give --no-certificates"
        )
    before = os.umask(0o077)
    try:
        _make_ca(openssl, folder)
        for site in sites:
            _make_site(openssl, folder, site)
    finally:
        os.umask(before)
    for name in (CA_CERTIFICATE, *(f"{site}.pem" for site in sites)):
        (folder / name).chmod(0o644)


def _make_ca(openssl: str, folder: Path) -> None:
    _run(
        openssl,
        folder,
        *("req", "-x509", *_NEW_KEY, "-days", str(CA_DAYS)),
        *("-subj", "/CN=farshore replication CA"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        *("-keyout", CA_KEY, "-out", CA_CERTIFICATE),
    )


def _make_site(openssl: str, folder: Path, site: str) -> None:
    request, extensions = folder / f"{site}.csr", folder / f"{site}.ext"
    try:
        _run(
            openssl,
            folder,
            *("req", *_NEW_KEY, "-subj", f"/CN={site}"),
            *("-keyout", f"{site}.key", "-out", request.name),
        )
        # Both uses, so that the sites can change roles.
        extensions.write_text(
            "basicConstraints=critical,CA:FALSE\n"
            "keyUsage=critical,digitalSignature\n"
            "extendedKeyUsage=serverAuth,clientAuth\n"
            f"subjectAltName=DNS:{site}\n"
        )
        _run(
            openssl,
            folder,
            *("x509", "-req", "-in", request.name, "-days", str(SITE_DAYS)),
            *("-CA", CA_CERTIFICATE, "-CAkey", CA_KEY, "-CAcreateserial"),
            *("-extfile", extensions.name, "-out", f"{site}.pem"),
        )
    finally:
        request.unlink(missing_ok=True)
        extensions.unlink(missing_ok=True)
        (folder / CA_CERTIFICATE).with_suffix(".srl").unlink(missing_ok=True)


def _run(openssl: str, folder: Path, *arguments: str) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - no shell, names are checked
            [openssl, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=SECONDS_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FarshoreError(f"openssl {arguments[0]}: {error}") from None
    if done.returncode:
        raise FarshoreError(f"openssl {arguments[0]}: {done.stderr.strip()[-500:]}")
