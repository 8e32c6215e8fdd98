"""Who may open which export, and how. Pure: names and numbers in, a verdict out.

Rules are looked at in their order in the config. Those that govern an export decide
about it alone: the first of them that fits the caller says how it may be opened,
and whom none of them fits may not open it. An export that no rule governs is open to
whoever can connect, which is what the mode of a Unix socket or the CA decides.

A rule governs the exports that it names and all that show the content of those:
`orders/data` also means `orders/data@cut`, `orders/data@17` and `orders/data+copy`.
It is not outdone by a rule that names `orders/data@cut` itself: order alone decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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
    """Names of volumes or of exports that show them at some moment; `*` stands for
    any characters and `?` for one."""
    access: Access
    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()
    certificates: frozenset[str] = frozenset()
    """Exact names: no wildcard of a certificate or a rule is followed."""
    anyone: bool = False

    def governs(self, export: str) -> bool:
        names = {export, volume_of(export)}
        return any(
            fnmatchcase(name, pattern)
            for pattern in map(_without_classes, self.exports)
            for name in names
        )

    def pattern_without_volume(self, volumes: Iterable[str]) -> str | None:
        """Return a pattern that means none of these volumes: a slip of the pen,
        which would leave open what it was to close.
        """
        for pattern in self.exports:
            of_volume = _without_classes(volume_of(pattern))
            if not any(fnmatchcase(volume, of_volume) for volume in volumes):
                return pattern
        return None

    def fits(self, caller: Caller) -> bool:
        return (
            self.anyone
            or caller.uid in self.uids
            or caller.gid in self.gids
            or not self.certificates.isdisjoint(caller.certificate_names)
        )


def volume_of(export: str) -> str:
    """Return the volume whose content an export shows: what precedes `@` or `+`."""
    return re.split("[@+]", export, maxsplit=1)[0]


def access_to(
    rules: tuple[AccessRule, ...], export: str, caller: Caller
) -> Access | None:
    """Say how a caller may open an export; None: as if there were no such export."""
    governing = [rule for rule in rules if rule.governs(export)]
    if not governing:
        return Access.READ_WRITE
    return next((rule.access for rule in governing if rule.fits(caller)), None)


def _without_classes(pattern: str) -> str:
    """Let a bracket mean itself: no `[abc]` is promised."""
    return pattern.replace("[", "[[]")
