"""The tables of a run, in Markdown, as docs/performance.md has them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from itertools import groupby

from benchmarks.host_path import CEILING, OURS, PEER, Contestant, Row, Situation
from benchmarks.jobs import Result, Target

FARSHORE = "farshore"


def host_path(rows: list[Row], situations: tuple[Situation, ...]) -> str:
    """Return a table for each situation and transport."""
    by_key = {situation.key: situation for situation in situations}
    parts: list[str] = []
    for (key, transport), group in groupby(rows, lambda r: (r.situation, r.transport)):
        situation, some = by_key[key], list(group)
        parts.append(f"### {situation.title}; {_TRANSPORTS[transport]}\n")
        parts.append("\n".join(_table(situation, some)) + "\n")
    return "\n".join(parts)


_TRANSPORTS = {"unix": "Unix socket", "tcp": "TCP loopback"}


def _table(situation: Situation, rows: list[Row]) -> Iterator[str]:
    seen = {name for row in rows for name in row.runs}
    who = [c for c in situation.contestants if c.name in seen]
    peers = [c for c in who if c.role == PEER]
    columns = [
        *peers,
        *(c for c in who if c.role == OURS),
        *(c for c in who if c.role == CEILING),
    ]
    heads = ["job: operations/s, median (least–most)"]
    heads += [c.name + (" (ceiling)" if c.role == CEILING else "") for c in columns]
    heads += ["× best peer", "mean latency µs: farshore / qemu-nbd", "target", "met"]
    if situation.is_preserving:
        heads.append("written → preserved, MiB")
    yield f"| {' | '.join(heads)} |"
    yield "|---" + "|---:" * (len(heads) - 1) + "|"
    for row in rows:
        cells = [row.job.name]
        cells += [_spread(row.runs.get(c.name, [])) for c in columns]
        cells += [_against_best(row, peers), _latencies(row, peers)]
        cells += _verdict(row, peers)
        if situation.is_preserving:
            cells.append(_preserved(row))
        yield f"| {' | '.join(cells)} |"


def _spread(runs: list[Result]) -> str:
    if not runs:
        return "–"
    found = [r.operations_per_second for r in runs]
    return f"{statistics.median(found):,.0f} ({min(found):,.0f}–{max(found):,.0f})"


def _operations(row: Row, name: str) -> float:
    return statistics.median(r.operations_per_second for r in row.runs[name])


def _mean_us(row: Row, name: str) -> float:
    return statistics.median(r.mean_us for r in row.runs[name])


def _against_best(row: Row, peers: list[Contestant]) -> str:
    best = max(peers, key=lambda c: _operations(row, c.name))
    ratio = _operations(row, FARSHORE) / _operations(row, best.name)
    return f"{ratio:.2f} ({best.name})"


def _latencies(row: Row, peers: list[Contestant]) -> str:
    qemu = [_mean_us(row, c.name) for c in peers if c.name.startswith("qemu-nbd")]
    theirs = f"{min(qemu):,.0f}" if qemu else "–"
    return f"{_mean_us(row, FARSHORE):,.0f} / {theirs}"


def _verdict(row: Row, peers: list[Contestant]) -> list[str]:
    target = row.job.target
    if target is None:
        return ["–", "–"]
    value = ratio(row, target, [c.name for c in peers])
    met = value <= target.bound if target.is_latency else value >= target.bound
    return [target.text(), f"**{value:.2f}** {'yes' if met else 'no'}"]


def ratio(row: Row, target: Target, peers: list[str]) -> float:
    """Return farshore's median over that of the best peer the target names."""
    names = [name for name in peers if name.startswith(target.peer)]
    if target.is_latency:
        return _mean_us(row, FARSHORE) / min(_mean_us(row, name) for name in names)
    return _operations(row, FARSHORE) / max(_operations(row, name) for name in names)


def _preserved(row: Row) -> str:
    cells: list[str] = []
    for name, copied in row.preserved.items():
        written = statistics.median(r.written_bytes for r in row.runs[name])
        both = f"{written / 2**20:.0f} → {statistics.median(copied) / 2**20:.0f}"
        cells.append(f"{name} {both}")
    return "; ".join(cells)


def replication(results: dict[str, dict[str, float]]) -> str:
    """Return the tables of first copy, age, and hold times; absent parts are left."""
    lines: list[str] = []
    if copy := results.get("first_copy"):
        ours, theirs = (
            copy[f"{name}_bytes_per_second"] / 1e6 for name in ("farshore", "nbdcopy")
        )
        lines += ["| first copy | farshore | nbdcopy --flush |", "|---|---:|---:|"]
        lines.append(
            f"| {copy['bytes'] / 2**30:g} GiB | {ours:.0f} MB/s | {theirs:.0f} MB/s |"
        )
        lines.append("")
    if found := results.get("age"):
        lines += [
            "| age of the recovery point | p50 | p99 | most |",
            "|---|---:|---:|---:|",
        ]
        lines.append(
            f"| at {found['written_bytes_per_second'] / 1e6:.0f} MB/s "
            f"| {found['p50_seconds']:.2f} s | {found['p99_seconds']:.2f} s "
            f"| {found['max_seconds']:.2f} s |"
        )
        lines.append("")
    holds = {k: v for k, v in results.items() if k.startswith("hold ")}
    if holds:
        lines.append("| volume | hold p50 | hold p99 | most | cuts | resident |")
        lines.append("|---|---:|---:|---:|---:|---:|")
    for name, hold in holds.items():
        lines.append(
            f"| {name.removeprefix('hold ')} | {hold['p50_ms']:.1f} ms "
            f"| {hold['p99_ms']:.1f} ms | {hold['max_ms']:.1f} ms | {hold['cuts']:g} "
            f"| {hold['resident_bytes'] / 1e6:.0f} MB |"
        )
    return "\n".join(lines)
