"""Fuzz the parsers with atheris (libFuzzer), one after another, or run one input again.

    python -m tests.fuzz.run --seconds 60            all targets, a minute each
    python -m tests.fuzz.run --seconds 60 requests   one of them
    python -m tests.fuzz.run requests FILE...        run inputs again, without atheris

What makes a target fail is kept in run/fuzz/found/TARGET/; the corpus grows in
run/fuzz/corpus/TARGET/. Copy what was found to tests/fuzz/found/TARGET/: the tests
run it ever after.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from pathlib import Path

from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS
from tests.support.evidence import record

RUN = Path("run/fuzz")
INPUT_BYTES_MAX = 4096
INPUT_SECONDS_MAX = 10
EXECUTIONS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz.run")
    parser.add_argument("target", nargs="?")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--seconds", type=int, default=60)
    asked = parser.parse_args()
    if asked.files:
        return run_again(asked.target, asked.files)
    names = [asked.target] if asked.target else list(TARGETS)
    found = {name: fuzz_apart(name, asked.seconds) for name in names}
    failed = [name for name, (ended_well, _) in found.items() if not ended_well]
    if asked.target is None:
        executions = {name: count for name, (_, count) in found.items()}
        record(
            "fuzz",
            f"make fuzz SECONDS={asked.seconds}",
            {
                "executions": sum(executions.values()),
                "executions_by_target": executions,
                "failed_targets": len(failed),
                "seconds_each": asked.seconds,
            },
        )
    return 1 if failed else 0


def run_again(name: str, files: list[Path]) -> int:
    for path in files:
        print(f"{name} on {path}")
        TARGETS[name](path.read_bytes())
    print("nothing failed")
    return 0


def fuzz_apart(name: str, seconds: int) -> tuple[bool, int]:
    """Fuzz in a process of its own, which libFuzzer ends as it likes.

    Tell whether it ended without having found anything, and how many inputs it ran.
    """
    corpus, found = RUN / "corpus" / name, RUN / "found" / name
    for directory in (corpus, found):
        directory.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS[name]():
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    before = set(found.iterdir())
    print(f"=== {name}: {seconds} seconds", flush=True)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={INPUT_SECONDS_MAX}",
        f"-artifact_prefix={found}/",
        "-print_final_stats=1",
    ]
    command = [sys.executable, "-m", "tests.fuzz.under_atheris", name]
    executions = 0
    with subprocess.Popen(
        [*command, *options, str(corpus)],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            print(line, end="", file=sys.stderr)
            if match := EXECUTIONS.match(line):
                executions = int(match[1])
    for path in sorted(set(found.iterdir()) - before):
        print(f"=== {name} failed; run it again with")
        print(f"    {sys.executable} -m tests.fuzz.run {name} {path}", flush=True)
    return process.returncode == 0, executions


if __name__ == "__main__":
    sys.exit(main())
