"""Who may open which export, and how. Pure: names and numbers in, a verdict out.

Rules are looked at in their order in the config. Those that name an export decide
about it alone: the first of them that fits the caller says how it may be opened,
and whom none of them fits may not open it. An export that no rule names is open to
whoever can connect, which is what the mode of a Unix socket or the CA decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase


class Access(StrEnum):
    """How an export may be opened."""

    READ_WRITE = "rw"
    READ_ONLY = "ro"


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known for sure of a client; nothing, over TCP without TLS."""

    uid: int | None = None
    gid: int | None = None
    """Of its process, as the kernel tells: the main group, not the others."""
    certificate_names: frozenset[str] = frozenset()
    """The common name and the DNS names of its certificate, once verified."""


ANYBODY = Caller()


@dataclass(frozen=True, slots=True)
class AccessRule:
    """Callers that match one of the lists may open the exports as `access` says."""

    exports: tuple[str, ...]
    """Names, in which `*` stands for any characters and `?` for one."""
    access: Access
    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()
    certificates: frozenset[str] = frozenset()
    """Exact names: no wildcard of a certificate or a rule is followed."""
    anyone: bool = False

    def names(self, export: str) -> bool:
        return any(fnmatchcase(export, pattern) for pattern in self.exports)

    def fits(self, caller: Caller) -> bool:
        return (
            self.anyone
            or caller.uid in self.uids
            or caller.gid in self.gids
            or not self.certificates.isdisjoint(caller.certificate_names)
        )


def access_to(
    rules: tuple[AccessRule, ...], export: str, caller: Caller
) -> Access | None:
    """Say how a caller may open an export; None: as if there were no such export."""
    naming = [rule for rule in rules if rule.names(export)]
    if not naming:
        return Access.READ_WRITE
    return next((rule.access for rule in naming if rule.fits(caller)), None)
