"""What goes into a bundle, part by part; none of them keeps the others from it."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli.doctor.command import examine
from common.cli.support.records import read_records
from common.cli.support.redaction import redacted, redacted_config, redacted_value
from common.errors import FarshoreError
from common.service.config import load_any
from common.service.config_primary import PrimaryConfig
from common.service.config_remote import RemoteConfig
from common.service.config_text import config_values
from common.service.control_client import ControlClient

UNITS = ("farshore-primary", "farshore-remote")
LOG_LINES = 5000
PART_BYTES_MAX = 16 << 20
COMMAND_SECONDS = 20.0

ASKED = {
    "sending": ("verify", {"action": "report"}),
    "receiving": ("scrub", {"action": "report"}),
}
"""By role: a request that changes nothing, beside those that both roles answer."""

HOST_COMMANDS = {
    "host/uname.txt": ("uname", "-a"),
    "host/limits.txt": ("cat", "/proc/self/limits"),
    "host/memory.txt": ("cat", "/proc/meminfo"),
    "host/mounts.txt": ("cat", "/proc/self/mountinfo"),
    "host/room.txt": ("df", "-k"),
    "host/inodes.txt": ("df", "-i"),
    "host/block-devices.txt": ("lsblk", "--output-all", "--json"),
    "host/units.txt": ("systemctl", "status", "--no-pager", "--lines=0", *UNITS),
    "host/clock.txt": ("timedatectl", "status"),
}

Config = PrimaryConfig | RemoteConfig
Part = tuple[str, str]
"""A name in the bundle, and its text."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the operator named."""

    socket_path: str | None
    config: str | None
    log: str | None


def collect(asked: Asked, client: ControlClient | None) -> Iterator[Part]:
    """Yield the parts; what could not be had is named in errors.txt, the last one."""
    errors: list[str] = []
    config = _config(asked.config, errors)
    parts: list[Callable[[], Iterator[Part]]] = [
        lambda: _doctor(asked),
        lambda: iter([("logs.txt", _log(asked.log))]),
        *(_host_part(name, words) for name, words in HOST_COMMANDS.items()),
    ]
    if client is not None:
        parts.insert(0, lambda: _of_daemon(client))
    if config is not None:
        parts += [
            lambda: _effective(config),
            lambda: _records(config),
            lambda: _metrics(config),
        ]
    for part in parts:
        try:
            for name, text in part():
                yield name, redacted(text[:PART_BYTES_MAX])
        except (FarshoreError, OSError, subprocess.SubprocessError) as error:
            errors.append(str(error))
    yield "errors.txt", redacted("".join(f"{line}\n" for line in errors))


def _json(value: Any) -> str:
    return json.dumps(value, indent=1)


def _config(path: str | None, errors: list[str]) -> Config | None:
    if path is None:
        errors.append("no config: name one with --config FILE")
        return None
    try:
        return load_any(path)
    except FarshoreError as error:
        errors.append(str(error))
        return None


def _effective(config: Config) -> Iterator[Part]:
    yield "config.json", _json(redacted_config(config_values(config)))


def _of_daemon(client: ControlClient) -> Iterator[Part]:
    status = client.call("status")
    yield "status.json", _json(redacted_value(status))
    for group in status["groups"]:
        name = group["name"]
        requests: list[tuple[str, dict[str, Any]]] = [("points", {})]
        requests.append(ASKED[group["role"]])
        for request, arguments in requests:
            answer = client.call(request, {"group": name, **arguments})
            yield f"groups/{name}/{request}.json", _json(redacted_value(answer))


def _doctor(asked: Asked) -> Iterator[Part]:
    found = examine(asked.socket_path, asked.config)
    yield "doctor.json", _json([each.to_json() for each in found])


def _records(config: Config) -> Iterator[Part]:
    for name, record in read_records(config.site.state_directory):
        yield f"records/{name}.json", _json(redacted_value(record))


def _metrics(config: Config) -> Iterator[Part]:
    if config.http is None:
        return
    address = config.http.listen
    connection = http.client.HTTPConnection(address.host, address.port, timeout=5.0)
    try:
        connection.request("GET", "/metrics")
        yield "metrics.txt", connection.getresponse().read().decode()
    finally:
        connection.close()


def _log(path: str | None) -> str:
    """Return the last lines of a log file, or of the units' journal."""
    if path is not None:
        with Path(path).open(errors="replace") as file:
            return "".join(file.readlines()[-LOG_LINES:])
    units = [f"--unit={unit}" for unit in UNITS]
    lines = f"--lines={LOG_LINES}"
    return _output("journalctl", "--no-pager", "--output=short-iso", lines, *units)


def _host_part(name: str, words: tuple[str, ...]) -> Callable[[], Iterator[Part]]:
    return lambda: iter([(name, _output(*words))])


def _output(*words: str) -> str:
    done = subprocess.run(  # noqa: S603 - words of ours
        words,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=COMMAND_SECONDS,
        check=False,
    )
    return done.stdout + done.stderr
