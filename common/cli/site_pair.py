"""What `farshore init` is told of two sites, and the pair of configs that says so.

With nothing told it is the pair of samples: config/primary.toml and config/remote.toml.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from common.addresses import parse_remote_address
from common.cli.sample_configs import PRIMARY_TOML, REMOTE_TOML
from common.service.config_common import check_name
from common.service.units import parse_seconds, parse_size

VOLUMES_FOLDER = "/var/lib/farshore"
CREDENTIALS = "$CREDENTIALS_DIRECTORY/keys_"
"""What a name in `/etc/farshore/keys` is to a daemon that systemd runs."""

_VOLUME = "[[group.volume]]\n"
_SECONDARY = f"{VOLUMES_FOLDER}/data.img"
"""The sample's."""


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """One volume: its device at the primary, made with `size` if that is given, and
    the secondary's, a file that the remote makes."""

    name: str
    device: str
    size: str | None

    @property
    def secondary(self) -> str:
        return f"{VOLUMES_FOLDER}/{self.name}.img"

    @classmethod
    def parse(cls, text: str) -> VolumePlan:
        """Read "NAME=SIZE", a file that is made, or "NAME=PATH", a device there is.

        Raises ValueError.
        """
        name, equals, what = text.partition("=")
        if not equals:
            raise ValueError(
                f"{text!r} is neither NAME=SIZE nor NAME=/dev/DEVICE: as in data=100GiB"
            )
        check_name(name)
        if what.startswith("/"):
            return cls(name, what, None)
        parse_size(what)
        return cls(name, f"{VOLUMES_FOLDER}/{name}.img", what)


@dataclass(frozen=True, slots=True)
class PairPlan:
    """Two sites and one group. `address`: where the primary finds the remote."""

    primary: str = "amsterdam"
    remote: str = "dr"
    address: str = "dr.example.net:7420"
    group: str = "orders"
    rpo: str = "5s"
    volumes: tuple[VolumePlan, ...] = field(
        default_factory=lambda: (VolumePlan.parse("data=100GiB"),)
    )
    is_for_systemd: bool = False

    def primary_text(self) -> str:
        text, _, sample = self._told(PRIMARY_TOML).partition(_VOLUME)
        _, comment, options = sample.partition("# track_size")
        for volume in self.volumes:
            size = "" if volume.size is None else f'size = "{volume.size}"\n'
            why = " # created sparse when absent, or a block device"
            text += "" if volume is self.volumes[0] else "\n"
            text += (
                f'{_VOLUME}name = "{volume.name}"\n'
                f'device = "{volume.device}"{why}\n{size}'
            )
            if volume is self.volumes[0]:
                text += comment + options
        return text

    def remote_text(self) -> str:
        text, _, sample = self._told(REMOTE_TOML).partition(_VOLUME)
        for volume in self.volumes:
            name = sample.replace('name = "data"', f'name = "{volume.name}"')
            text += "" if volume is self.volumes[0] else "\n"
            text += _VOLUME + name.replace(_SECONDARY, volume.secondary)
        return text

    def _told(self, sample: str) -> str:
        """Put the sites' and the group's words in the place of the sample's, all at
        once: one site may be named as the other one is in the sample."""
        keys = CREDENTIALS if self.is_for_systemd else ""
        port = parse_remote_address(self.address).port
        words = {
            '"amsterdam"': f'"{self.primary}"',
            '"amsterdam.pem"': f'"{self.primary}.pem"',
            '"amsterdam.key"': f'"{keys}{self.primary}.key"',
            '"dr"': f'"{self.remote}"',
            '"dr.pem"': f'"{self.remote}.pem"',
            '"dr.key"': f'"{keys}{self.remote}.key"',
            '"dr.example.net:7420"': f'"{self.address}"',
            '"tcp:0.0.0.0:7420"': f'"tcp:0.0.0.0:{port}"',
            '"orders"': f'"{self.group}"',
            '"orders/data"': f'"{self.group}/{self.volumes[0].name}"',
            'rpo = "5s"': f'rpo = "{self.rpo}"',
        }
        found = re.compile("|".join(map(re.escape, words)))
        return found.sub(lambda match: words[match[0]], sample)


def check_address(text: str) -> str:
    """Return an address, with replication's usual port if it has none.

    Raises ValueError.
    """
    has_port = re.search(r":[0-9]+$", text) and not text.endswith("]")
    whole = text if has_port else f"{text}:7420"
    parse_remote_address(whole)
    return whole


def check_rpo(text: str) -> str:
    """Return an `rpo` if it is a time. Raises ValueError."""
    parse_seconds(text)
    return text
