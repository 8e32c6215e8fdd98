"""One target under atheris: `python -m tests.fuzz.under_atheris TARGET OPTIONS...`.

Everything of ours that is imported in here is instrumented, so that libFuzzer sees
which branches an input takes. `tests.fuzz.run` starts this.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["common", "primary_site", "remote_site"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Hand over to libFuzzer; does not return."""
    program, name, *options = sys.argv
    atheris.Setup([program, *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
