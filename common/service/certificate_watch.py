"""Logs what becomes of certificates: a line when one begins to expire, then daily."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from common.certificates import Certificate
from common.ports import Clock
from common.service.certificate_status import is_expiring

LOOK_SECONDS: Final = 60.0
REPEAT_SECONDS: Final = 86400.0

log = structlog.get_logger()


class CertificateWatch:
    """Of one daemon, on its main loop."""

    def __init__(
        self, certificates: Callable[[], Mapping[str, Certificate]], clock: Clock
    ) -> None:
        """`certificates` returns those in use, by what people call them."""
        self._certificates = certificates
        self._clock = clock
        self._told: dict[Certificate, float] = {}

    async def run(self) -> None:
        """Look at them for ever."""
        while True:  # ends with the daemon
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Log those that expire, each once a day."""
        now, now_ns = self._clock.monotonic(), self._clock.now_ns()
        told: dict[Certificate, float] = {}
        for whose, certificate in self._certificates().items():
            if not is_expiring(certificate, now_ns):
                continue
            last = self._told.get(certificate)
            if last is None or now - last >= REPEAT_SECONDS:
                last = now
                log.warning(
                    "certificate_expires",
                    certificate=whose,
                    names=sorted(certificate.names),
                    expires=certificate.expires,
                    days_left=int(certificate.seconds_left(now_ns) / 86400),
                )
            told[certificate] = last
        self._told = told
