"""The exception tree: who must act, and the exit code a command ends with.

`OSError` never leaves the adapter that met it (`common.storage.files`,
`common.service`): it becomes one of these, with the file's name in the message.
"""

from __future__ import annotations

import errno as _errno

EXIT_INTERNAL = 70
"""An error that is our own (EX_SOFTWARE of sysexits.h): its traceback is shown."""


class FarshoreError(Exception):
    """Base of every error farshore raises on purpose."""

    exit_code = 1


class ConfigError(FarshoreError):
    """The operator must mend a config file: the message names file, key, remedy."""

    exit_code = 3


class DeviceError(FarshoreError):
    """The operator must mend a device: missing, of the wrong kind or size."""

    exit_code = 4


class DeviceBusyError(FarshoreError):
    """Another daemon has the device, state directory or socket."""

    exit_code = 5


class StateMismatchError(FarshoreError):
    """What is on disk, in the config and at the peer do not belong together."""

    exit_code = 6


class UnreachableError(FarshoreError):
    """No daemon answers at the control socket."""

    exit_code = 7


class RefusedError(FarshoreError):
    """The daemon understood the request and says no: unknown group, wrong state."""

    exit_code = 8


class NotCommittedError(FarshoreError):
    """A waited-for cut did not become safe (abandoned, or time ran out)."""

    exit_code = 9


class StorageError(FarshoreError):
    """A device or state file failed; `errno` is the system's number.

    Raised by the adapters of `common.ports.File` only. `file` is its path.
    """

    exit_code = 10

    def __init__(self, message: str, *, errno: int, file: str) -> None:
        super().__init__(f"{file}: {message}")
        self.errno = errno
        self.file = file

    @property
    def is_out_of_space(self) -> bool:
        """Tell whether room, not the device, is what is missing."""
        return self.errno in {_errno.ENOSPC, _errno.EDQUOT, _errno.EFBIG}


class CorruptStateError(FarshoreError):
    """A checksum on disk does not hold where no crash can explain it."""

    exit_code = 11


class FoundDifferentError(FarshoreError):
    """A verify or a scrub found what is not as it should be: the report names it."""

    exit_code = 12


class IncompleteError(FarshoreError):
    """A verify or a scrub ended before it had looked at all; the message says why."""

    exit_code = 13


class DrillFailedError(FarshoreError):
    """A drill did not pass: what is at the remote did not do, or was not reached."""

    exit_code = 14


class UnwellError(FarshoreError):
    """The doctor found what must be mended: each finding says how."""

    exit_code = 15


class ProtocolError(FarshoreError):
    """The peer broke the protocol; its connection is closed, nothing else happens."""


class GarbledLinkError(ProtocolError):
    """What came over one connection is no frame, or was changed on its way.

    The connection is of no use any more. Of others to the same peer it says nothing.
    """


class ConnectionLostError(FarshoreError):
    """The stream ended or timed out; try again."""


class PeerRefusedError(FarshoreError):
    """The peer ended the session with a typed reason (`GoodbyeReason`)."""

    exit_code = 8

    def __init__(self, reason: int, text: str) -> None:
        super().__init__(text)
        self.reason = reason
