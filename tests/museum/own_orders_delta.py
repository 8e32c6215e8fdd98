"""Own orders and guards of delta encoding, each broken once."""

# ruff: noqa: E501 - sources are quoted as they are

from __future__ import annotations

from tests.museum.exhibit import Exhibit, swap, tests

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "O400",
        "tracks that are nearly equal are taken for equal",
        (
            swap(
                "common/replication/delta.py",
                "        if not count:\n",
                "        if count <= few:\n",
            ),
            swap(
                "common/replication/delta.py",
                "                yield DeltaRun("
                'first, count, b"", result_hash, result_hash)\n',
                "                old_hash = run_hash(base[start:end])\n"
                '                yield DeltaRun(first, count, b"", old_hash, old_hash)\n',
            ),
        ),
        tests("unit/replication/test_delta.py"),
        says="assert",
    ),
    Exhibit(
        "O401",
        "a cut whose cycle was never committed is a base",
        (
            swap(
                "primary_site/preserving.py",
                "            and ended.relation.cycle_number == held_cycle\n",
                "",
            ),
        ),
        tests("unit/primary_site/test_base.py"),
        says="assert",
    ),
    Exhibit(
        "O402",
        "a cut is a base for a remote of another relation",
        (
            swap(
                "primary_site/remote_relation.py",
                "        if self._held is None"
                " or self._held[1] != self._group.state.relation_id:\n",
                "        if self._held is None:\n",
            ),
        ),
        tests("unit/primary_site/test_base.py"),
        says="assert",
    ),
    Exhibit(
        "O403",
        "a base is given to the next cut while a thread reads it",
        (
            swap(
                "primary_site/standing.py",
                "            relation.enter_reader()\n",
                "            pass\n",
            ),
            swap(
                "primary_site/standing.py",
                "                relation.leave_reader()\n",
                "                pass\n",
            ),
        ),
        tests("unit/primary_site/test_base.py"),
        says="taken over while a thread reads it",
    ),
    Exhibit(
        "O404",
        "the remote writes what a difference makes of it, unverified",
        (
            swap(
                "remote_site/bases.py",
                "    if run_hash(result) != record.result_hash:\n",
                "    if len(result) != len(held):\n",
            ),
        ),
        tests("unit/remote_site/test_bases.py"),
        says="DID NOT RAISE",
    ),
    Exhibit(
        "O405",
        "the remote counts a difference as applied whose base it does not hold",
        (
            swap(
                "remote_site/bases.py",
                "        resolved.refused.append(run)\n        return\n",
                "        return\n",
            ),
        ),
        tests("unit/remote_site/test_bases.py"),
        says="assert",
    ),
    Exhibit(
        "O406",
        "what the remote wants whole is sent as a difference again",
        (
            swap(
                "primary_site/frames.py",
                "if self._delta and not unit.whole else None\n",
                "if self._delta else None\n",
            ),
        ),
        tests("unit/primary_site/test_base.py"),
        says="assert",
    ),
    Exhibit(
        "O407",
        "a reference is used whatever the newest point holds",
        (
            swap(
                "common/replication/referenced.py",
                "    if reference is None or run_hash(reference) != reference_hash:\n",
                "    if reference is None:\n",
            ),
        ),
        tests("unit/replication/test_referenced.py"),
        says="fails its hash|zstd",
    ),
    Exhibit(
        "O408",
        "the remote reads a reference from the volume that it overwrites",
        (
            swap(
                "remote_site/bases.py",
                "            image.read(first * PIECE_BYTES, count * PIECE_BYTES)\n",
                "            volume.device.read("
                "first * PIECE_BYTES, count * PIECE_BYTES)\n",
            ),
        ),
        tests("unit/remote_site/test_bases.py"),
        says="assert",
    ),
)
