// What is drawn, as plain values, from a status and a history. Pure.

import { UNKNOWN, bytes, count, plain, rate, seconds } from "./words.js";

const GOOD = "good";
const WARN = "warn";
const BAD = "bad";

export function stateTone(group) {
  if (["failed", "superseded"].includes(group.state)) return BAD;
  if (group.alarms.length || ["disconnected", "suspect", "suspended"].includes(group.state)) {
    return WARN;
  }
  return GOOD;
}

export function ageTone(group) {
  const age = group.recovery_point_age_seconds;
  const forecast = group.forecast;
  if (age === null) return WARN;
  if (!forecast) return GOOD;
  if (forecast.promise === "breached" || age > forecast.target_seconds) return BAD;
  return forecast.promise === "in_danger" ? WARN : GOOD;
}

export function linkTone(link) {
  if (link.state !== "connected") return BAD;
  return link.peers.some((peer) => peer.state !== "connected") ? WARN : GOOD;
}

/** Connections of hosts to the volumes of a group; null: not known. */
export function hostConnections(status, group) {
  if (!status.nbd) return null;
  return Object.entries(status.nbd.exports)
    .filter(([name]) => name === group.name || name.startsWith(`${group.name}/`))
    .reduce((sum, [, number]) => sum + number, 0);
}

/** The figures of a group, as [key, what it is, text, tone]. */
export function figures(group) {
  const forecast = group.forecast;
  const last = group.last_cycle;
  const totals = group.totals;
  const history = group.history;
  const found = [
    ["age", "recovery point is", `${seconds(group.recovery_point_age_seconds)} old`, ageTone(group)],
    ["point", "newest point", count(group.recovery_point && group.recovery_point.number)],
  ];
  const add = (key, title, text, tone) => {
    if (text !== UNKNOWN) found.push([key, title, text, tone]);
  };
  if (forecast) {
    add("target", "promised (rpo)", seconds(forecast.target_seconds));
    add("forecast", "greatest age foreseen", seconds(forecast.expected_age_seconds), ageTone(group));
    add("breach", "promise breaks in", seconds(forecast.seconds_until_breach), BAD);
    if (forecast.cause) add("cause", "cycles wait for", plain(forecast.cause), WARN);
  }
  add("changed", "changed since the cut", bytes(group.changed_bytes));
  add("behind", "not at the remote yet", bytes(group.out_of_sync_bytes));
  if (last) {
    add("hold", "last hold of host writes", seconds(last.hold_seconds));
    add("drain", "last cut to commit", seconds(last.drain_seconds));
    add("wire", "last cycle on the wire", `${bytes(last.bytes_on_wire)} for ${bytes(last.bytes_changed)}`);
  }
  if (totals) add("cycles", "cycles since the start", count(totals.cycles_committed));
  if (history) {
    add("points", "points kept", count(history.points));
    add("journal", "journals", bytes(history.journal_bytes));
  }
  add("rate", "paced to", rate(group.link.rate_bytes_per_second));
  for (const [key, title] of [["certificate", "own certificate for"], ["peer_certificate", "peer's certificate for"]]) {
    const one = group.link[key];
    if (one) add(key, title, seconds(one.seconds_left), one.seconds_left < 30 * 86400 ? BAD : GOOD);
  }
  return found;
}

/** The chain host → primary → link → remote: boxes and wires, each with words and tone. */
export function chain(status, group) {
  const isSending = group.role === "sending";
  const hosts = hostConnections(status, group);
  const link = group.link;
  const trips = link.peers.map((peer) => peer.round_trip_seconds).filter((trip) => trip !== null);
  const living = link.peers.filter((peer) => peer.state === "connected").length;
  const point = group.recovery_point;
  const tone = stateTone(group);
  return {
    boxes: [
      {
        title: isSending ? "hosts" : "hosts there",
        lines: [isSending ? `${count(hosts)} connections` : "not known here"],
        tone: isSending && hosts ? GOOD : "",
      },
      {
        title: isSending ? `primary ${status.site}` : "primary",
        lines: isSending ? [plain(group.state), `${bytes(group.changed_bytes)} changed`] : ["elsewhere"],
        tone: isSending ? tone : "",
      },
      {
        title: isSending ? "remote" : `remote ${status.site}`,
        lines: [
          point ? `point ${point.number}` : "no point yet",
          ...(isSending ? [] : [plain(group.state)]),
          ...(!isSending && hosts ? [`${hosts} readers`] : []),
        ],
        tone: isSending ? (point ? ageTone(group) : WARN) : tone,
      },
    ],
    wires: [
      { words: ["NBD"], tone: isSending && hosts ? GOOD : "", isMoving: false },
      {
        words: [
          `${link.state}${link.encrypted ? ", TLS" : ", plain text"}`,
          trips.length ? `${living} × ${seconds(Math.max(...trips))}` : `${living} connections`,
        ],
        tone: linkTone(link),
        isMoving: ["draining", "first_copy"].includes(group.state) && link.state === "connected",
      },
    ],
  };
}

/** A column of a history by its field's name. */
export function column(history, ring, name) {
  return history[ring][history.fields.indexOf(name)];
}

/** [times, ages, targets] */
export function agePlot(history, ring) {
  return ["time_seconds", "age_seconds", "target_seconds"].map((name) => column(history, ring, name));
}

/** [times, changed per second, sent per second] from counters, which a restart resets. */
export function flowPlot(history, ring) {
  const times = column(history, ring, "time_seconds");
  return [
    times,
    ...["total_changed_bytes", "total_wire_bytes"].map((name) => rates(times, column(history, ring, name))),
  ];
}

export function rates(times, totals) {
  return totals.map((total, index) => {
    const before = index ? totals[index - 1] : null;
    if (total === null || before === null || times[index] <= times[index - 1]) return null;
    const grown = total >= before ? total - before : total;
    return grown / (times[index] - times[index - 1]);
  });
}

/** [times, hold seconds] */
export function holdPlot(history, ring) {
  return ["time_seconds", "hold_seconds"].map((name) => column(history, ring, name));
}

/** Bars of a histogram of the status: up to which time, how many; empty ends are cut off. */
export function holdBars(histogram) {
  if (!histogram) return [];
  const bars = histogram.counts.map((number, index) => ({
    number,
    words: index < histogram.bounds_seconds.length ? `≤ ${seconds(histogram.bounds_seconds[index])}` : "more",
  }));
  const used = bars.map((bar) => bar.number > 0);
  return bars.slice(Math.max(0, used.indexOf(true)), used.lastIndexOf(true) + 1);
}

/** Points on a line, 0 oldest to 1 now: [{place, number, words, kind}]. */
export function pointMarks(points, nowSeconds) {
  const times = points.map((point) => Date.parse(point.cut_time) / 1000);
  const oldest = Math.min(...times, nowSeconds - 60);
  return points.map((point, index) => ({
    place: Math.min(1, Math.max(0, (times[index] - oldest) / (nowSeconds - oldest))),
    number: point.number,
    words: `point ${point.number}, cut ${point.cut_time}${point.label ? `, ${point.label}` : ""}, ${bytes(point.bytes)}`,
    kind: point.pinned ? "pinned" : index === 0 ? "newest" : "",
  }));
}

export function progressWords(progress) {
  const share = progress.total_bytes ? (100 * progress.done_bytes) / progress.total_bytes : 0;
  const left = progress.eta_seconds === null ? "" : `, ${seconds(progress.eta_seconds)} left`;
  return `${plain(progress.operation)}: ${bytes(progress.done_bytes)} of ${bytes(progress.total_bytes)} (${share.toFixed(1)} %)${left}`;
}
