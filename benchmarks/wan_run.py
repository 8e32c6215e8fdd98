"""`make bench-wan`: what replication costs on a link, and what it costs hosts.

Each part is a program of its own with its own options, run one after the other:

    bytes       wan.py            bytes on the wire for a cut, beside others
    link        wan_link.py       how much of a shaped long link is used; rates held
    fall        wan_fall.py       the age of a point while its link falls to a tenth
    throughput  wan_throughput.py a first copy beside nbdcopy, the age of a point
    host-cost   wan_host_cost.py  random writes with delta encoding, and without
    verify-cost wan_verify_cost.py  random writes beside a verify, and without

`--only bytes link` runs some; words after `--` go to each part that is run. Tables go
to stdout. Needs root, and a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARTS = {
    "bytes": "wan.py",
    "link": "wan_link.py",
    "fall": "wan_fall.py",
    "throughput": "wan_throughput.py",
    "host-cost": "wan_host_cost.py",
    "verify-cost": "wan_verify_cost.py",
}


def main() -> int:
    own, passed_on = _divided(sys.argv[1:])
    parser = argparse.ArgumentParser(
        prog="make bench-wan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    chosen = parser.parse_args(own).only
    failed = []
    for part in chosen:
        print(f"\n## {part}\n", flush=True)
        words = [sys.executable, str(HERE / PARTS[part]), *passed_on]
        if subprocess.run(words).returncode:
            failed.append(part)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _divided(words: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


if __name__ == "__main__":
    sys.exit(main())
