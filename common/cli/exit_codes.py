"""What the exit codes of every farshore command mean."""

from __future__ import annotations

EXIT_CODES: tuple[tuple[int, str, str], ...] = (
    (0, "done", "What was asked for is done."),
    (1, "failed", "An error of no kind below; the message says what to do."),
    (2, "usage", "The command line is wrong: see `--help`."),
    (3, "config", "A config file must be mended: the message names file and key."),
    (4, "device", "A device is missing, or of the wrong kind or size."),
    (5, "busy", "Another daemon has the device, state directory or socket."),
    (6, "mismatch", "State on disk, config and peer do not belong together."),
    (7, "unreachable", "No daemon answers at the control socket."),
    (8, "refused", "The daemon says no: unknown group, wrong state."),
    (9, "not committed", "A cut that was waited for did not become safe."),
    (10, "storage", "A device or state file failed while it was in use."),
    (11, "corrupt", "State on disk is damaged beyond what a crash explains."),
    (12, "differs", "A verify or a scrub found what is not as it should be."),
    (13, "incomplete", "A verify or a scrub ended before it had looked at all."),
    (14, "drill", "A drill did not pass: the probe failed, or had nothing to try."),
    (15, "unwell", "The doctor found something that must be mended."),
    (70, "internal", "A bug: the daemon's log, or stderr, has the details."),
    (130, "interrupted", "Ctrl-C."),
)
"""(code, kind, meaning), for `--help` and docs/reference/exit-codes.md."""

NEXT_COMMANDS = {
    7: "systemctl status farshore-primary farshore-remote",
    8: "farshore status",
    9: "farshore status",
    13: "farshore status",
    14: "farshore drill GROUP --list",
}
"""What to type next after an error of that code."""


def exit_codes_text() -> str:
    """Return the table as plain lines, for the end of `--help`."""
    return "\n".join(f"  {code:>3}  {meaning}" for code, _, meaning in EXIT_CODES)
