"""Who may open a session: a HELLO against the config and the group's identity.

Pure. A refusal changes nothing anywhere; its text names both values, the key to
look at and what to do, for it is read at the other site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.certificates import Certificate
from common.replication.features import GROW, MEMBERS, TAKEOVER
from common.replication.lineage import (
    Fork,
    ReceiverState,
    ToldFork,
    Verdict,
    judge,
    why_refused,
)
from common.replication.session_messages import (
    PROTOCOL_VERSION,
    Goodbye,
    GoodbyeReason,
    Hello,
    VolumeOffer,
    goodbye,
)


@dataclass(frozen=True, slots=True)
class Expected:
    """What this site knows of a group: its config, and once bound its identity.

    `fork`: of a group that was taken over here, or is about to be; `is_fork_common`:
    from a point that its sender may have. `is_divided`: the volumes are still those
    that this site has sent itself. `missing`: what is to be written where, for a volume
    that the config lacks.
    """

    group: str
    peer: str
    volume_names: Sequence[str]
    state: ReceiverState
    volumes: Sequence[VolumeOffer]
    fork: Fork | None = None
    is_divided: bool = False
    is_fork_common: bool = True
    missing: str = ""


def refusal(hello: Hello, expected: Expected) -> Goodbye | None:
    """Return why this HELLO is refused, or None if it may go on."""
    return (
        _version_refusal(hello)
        or _peer_refusal(hello, expected)
        or lineage_refusal(hello, expected)
        or _names_refusal(hello, expected)
        or _shape_refusal(hello, expected)
    )


def unknown_group(hello: Hello) -> Goodbye:
    return goodbye(
        GoodbyeReason.UNKNOWN_GROUP,
        f"the remote receives no group {hello.group!r}: add a [[group]] with "
        f"name = {hello.group!r} to its config, or mend group.name here",
    )


def certificate_refusal(
    certificate: Certificate | None, group: str, peer: str
) -> Goodbye | None:
    """Return why the holder of a certificate is not a group's peer; None if it is.

    For HELLO and JOIN alike: who may join a session is who may open it. Without a
    certificate the port is open to all, as its config says.
    """
    if certificate is None or peer in certificate.names:
        return None
    return goodbye(
        GoodbyeReason.WRONG_PEER,
        f"group {group!r} is received from site {peer!r}, and the certificate shown "
        f"names {_listed(sorted(certificate.names)) or 'nobody'}: mend group.peer at "
        f"the remote, or give this site a certificate with DNS:{peer} among its "
        "subject alternative names",
    )


def _version_refusal(hello: Hello) -> Goodbye | None:
    if hello.version_min <= PROTOCOL_VERSION <= hello.version_max:
        return None
    return goodbye(
        GoodbyeReason.VERSION,
        f"the remote speaks replication version {PROTOCOL_VERSION}, this site "
        f"{hello.version_min} to {hello.version_max}: install releases that overlap",
    )


def _peer_refusal(hello: Hello, expected: Expected) -> Goodbye | None:
    if hello.site == expected.peer:
        return None
    return goodbye(
        GoodbyeReason.WRONG_PEER,
        f"group {expected.group!r} is received from site {expected.peer!r}, not from "
        f"{hello.site!r}: mend group.peer at the remote or site.name here",
    )


_REASONS = {
    Verdict.UNRELATED: GoodbyeReason.WRONG_GROUP,
    Verdict.SUPERSEDED: GoodbyeReason.SUPERSEDED,
    Verdict.SPLIT_BRAIN: GoodbyeReason.SPLIT_BRAIN,
}


def lineage_refusal(hello: Hello, expected: Expected) -> Goodbye | None:
    """Return why no data may flow from this sender, or None if they may.

    A sender that does not know of takeovers gets the sentence under a reason that it
    knows.
    """
    state, fork = expected.state, expected.fork
    verdict = judge(hello.sender, state, fork)
    if not verdict.is_refusal:
        return None
    text = why_refused(verdict, expected.group, hello.sender, state, fork)
    reason = _REASONS.get(verdict, GoodbyeReason.LINEAGE)
    if verdict not in {Verdict.SUPERSEDED, Verdict.SPLIT_BRAIN}:
        return goodbye(reason, text)
    if fork is None or TAKEOVER not in hello.features:
        return goodbye(GoodbyeReason.LINEAGE, text)
    is_known = expected.is_fork_common and _is_known(hello, state)
    return goodbye(reason, text, ToldFork(fork, is_known))


def _is_known(hello: Hello, state: ReceiverState) -> bool:
    """Tell whether what both sites have changed since the fork is known, together.

    What the sender has is counted from a point that this site had when it took over:
    not if either was an older copy of itself then. Of a point that this site has lost
    neither knows what changed up to it.
    """
    verdict = judge(hello.sender, state)
    return not verdict.is_refusal and verdict is not Verdict.COMPARE_ALL


def _names_refusal(hello: Hello, expected: Expected) -> Goodbye | None:
    """The config has to name every volume that is sent.

    Of a group that is bound, volumes may come and go where the sender can say so: then
    the config may name one more, that is to come or has gone.
    """
    offered = sorted(offer.name for offer in hello.volumes)
    here: Sequence[str] = expected.volume_names
    if expected.volumes and MEMBERS in hello.features:
        is_fitting = set(offered) <= set(here) and len(set(offered)) == len(offered)
    else:
        if expected.volumes:
            here = [offer.name for offer in expected.volumes]
        is_fitting = offered == sorted(here)
    if is_fitting and offered:
        return None
    remedy = expected.missing or "name the same in group.volume of both"
    return goodbye(
        GoodbyeReason.VOLUME_MISMATCH,
        f"group {expected.group!r} has volumes {_listed(here)} at the "
        f"remote and {_listed(offered)} here: {remedy}",
    )


def _shape_refusal(hello: Hello, expected: Expected) -> Goodbye | None:
    bound = {offer.name: offer for offer in expected.volumes}
    may_have_grown = GROW in hello.features
    for offer in hello.volumes:
        known = bound.get(offer.name)
        if known is None:
            continue
        place = f"{expected.group}/{offer.name}"
        if (
            expected.is_divided
            and offer.volume_id == known.volume_id
            and offer.size_bytes < known.size_bytes
        ):
            return _outgrown(place, offer, known)
        found = _one_shape_refusal(place, offer, known, may_have_grown)
        if found is not None:
            return found
    return None


def _outgrown(place: str, offer: VolumeOffer, known: VolumeOffer) -> Goodbye:
    """Of a volume that grew here while both sites served."""
    return goodbye(
        GoodbyeReason.SIZE_MISMATCH,
        f"{place} has grown to {known.size_bytes} bytes at the remote, while that sent "
        f"the group itself, and has {offer.size_bytes} here: a volume never shrinks; "
        f"make it as large here: farshore grow {place} {known.size_bytes}",
    )


def _one_shape_refusal(
    place: str, offer: VolumeOffer, known: VolumeOffer, may_have_grown: bool
) -> Goodbye | None:
    """A larger volume that has grown by its record says so next, by RESIZE."""
    if offer.size_bytes < known.size_bytes and offer.volume_id == known.volume_id:
        return goodbye(
            GoodbyeReason.SIZE_MISMATCH,
            f"{place} has grown to {known.size_bytes} bytes at the remote and has "
            f"{offer.size_bytes} here: this site is an older copy, of before that; put "
            "back the newest site.state_dir and the devices that belong to it",
        )
    if offer.size_bytes < known.size_bytes or (
        offer.size_bytes > known.size_bytes and not may_have_grown
    ):
        return goodbye(
            GoodbyeReason.SIZE_MISMATCH,
            f"{place} has {known.size_bytes} bytes at the remote and "
            f"{offer.size_bytes} here: give group.volume.size back the value that "
            "was replicated",
        )
    if offer.track_bytes != known.track_bytes:
        return goodbye(
            GoodbyeReason.TRACK_SIZE_MISMATCH,
            f"{place} has tracks of {known.track_bytes} bytes at the remote and "
            f"{offer.track_bytes} here: set group.volume.track_size to the "
            "remote's",
        )
    if offer.volume_id != known.volume_id:
        return goodbye(
            GoodbyeReason.VOLUME_MISMATCH,
            f"{place} has volume id {known.volume_id.hex()} at the remote and "
            f"{offer.volume_id.hex()} here: this is another volume of that name; "
            "give it another group.volume.name",
        )
    return None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(sorted(names))
