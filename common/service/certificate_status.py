"""What a status tells of the certificates of a link, and the alarms that follow."""

from __future__ import annotations

from collections.abc import Iterator

from common.certificates import EXPIRY_WARNING_SECONDS, Certificate
from common.service.status import AlarmStatus, CertificateStatus, GroupStatus

OWN_ALARM = "certificate_expires"
PEER_ALARM = "peer_certificate_expires"


def with_certificates(
    group: GroupStatus,
    own: Certificate | None,
    peer: Certificate | None,
    now_ns: int,
) -> GroupStatus:
    """Add this site's certificate and the peer's last seen one to a group's status.

    `own` is None where replication goes in plain text.
    """
    link = group.link.model_copy(
        update={
            "encrypted": own is not None,
            "certificate": _status(own, now_ns),
            "peer_certificate": _status(peer, now_ns),
        }
    )
    alarms = (*group.alarms, *_alarms(own, peer, now_ns))
    return group.model_copy(update={"link": link, "alarms": alarms})


def _status(certificate: Certificate | None, now_ns: int) -> CertificateStatus | None:
    if certificate is None:
        return None
    return CertificateStatus(
        names=tuple(sorted(certificate.names)),
        expires_ns=certificate.expires_ns,
        seconds_left=certificate.seconds_left(now_ns),
    )


def _alarms(
    own: Certificate | None, peer: Certificate | None, now_ns: int
) -> Iterator[AlarmStatus]:
    for name, whose, remedy, found in (
        (OWN_ALARM, "this site's", "renew it and send SIGHUP", own),
        (PEER_ALARM, "the other site's", "renew it there", peer),
    ):
        if found is not None and is_expiring(found, now_ns):
            verb = "expired" if found.seconds_left(now_ns) <= 0 else "expires"
            yield AlarmStatus(
                name=name,
                message=(
                    f"{whose} certificate for replication {verb} {found.expires}: "
                    f"{remedy}, or new connections are refused"
                ),
                since_ns=found.expires_ns - EXPIRY_WARNING_SECONDS * 1_000_000_000,
            )


def is_expiring(certificate: Certificate, now_ns: int) -> bool:
    return certificate.seconds_left(now_ns) < EXPIRY_WARNING_SECONDS
