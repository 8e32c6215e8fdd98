"""`make evidence`: gather what the last runs found, and write docs/reliability.md.

Records are taken from build/evidence (or the folder that FARSHORE_EVIDENCE names)
into docs/evidence, which is committed with the page. What was not run since stays as
it was, and the page says of what commit it is.
"""

from __future__ import annotations

import argparse
import sys

from tests.evidence.page import DIRECTORY, MADE, PAGE, generate
from tests.support import evidence


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.evidence")
    options.add_argument(
        "--keep", action="store_true", help="gather nothing, write the page again"
    )
    asked = options.parse_args()
    if not asked.keep:
        evidence.record(MADE, "make evidence", {})
        found = evidence.read_records(evidence.directory())
        for name in found:
            text = (evidence.directory() / f"{name}.json").read_text()
            evidence.write_atomically(DIRECTORY / f"{name}.json", text)
        print(f"gathered: {', '.join(found)}")
    records = evidence.read_records(DIRECTORY)
    evidence.write_atomically(PAGE, generate(records))
    print(f"written: {PAGE.relative_to(evidence.REPOSITORY)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
