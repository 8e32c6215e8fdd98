// What is shown of a group, as plain values, from a status. Pure.

import { GOOD, WARN, BAD, ageTone, linkTone, stateTone, step } from "./standing.js";
import { UNKNOWN, bytes, count, plain, rate, seconds } from "./words.js";

const JOURNALS_WARN = 0.8;
const JOURNALS_BAD = 0.9;
const CERTIFICATE_SECONDS_MIN = 30 * 86400;

/** Connections of hosts to the volumes of a group; null: not known. */
export function hostConnections(status, group) {
  if (!status.nbd) return null;
  return Object.entries(status.nbd.exports)
    .filter(([name]) => name === group.name || name.startsWith(`${group.name}/`))
    .reduce((sum, [, number]) => sum + number, 0);
}

/** The figures of a group, as [key, what it is, text, tone]; `now` in seconds since 1970. */
export function figures(group, now) {
  const found = [
    ["age", "recovery point is", `${seconds(group.recovery_point_age_seconds)} old`, ageTone(group)],
    ["point", "newest point", count(group.recovery_point && group.recovery_point.number)],
  ];
  if (group.recovery_point_age_seconds === null) found[0] = ["age", "recovery point", "none yet", WARN];
  const parts = [promised, moved, kept, checked, linked];
  for (const part of parts) {
    for (const one of part(group, now)) if (one[2] !== UNKNOWN) found.push(one);
  }
  return found;
}

function promised(group) {
  const forecast = group.forecast;
  if (!forecast) return [];
  const found = [
    ["target", "promised (rpo)", seconds(forecast.target_seconds)],
    ["forecast", "greatest age foreseen", seconds(forecast.expected_age_seconds), ageTone(group)],
    ["breach", "promise breaks in", seconds(forecast.seconds_until_breach), BAD],
  ];
  if (forecast.cause) found.push(["cause", "cycles wait for", plain(forecast.cause), WARN]);
  return found;
}

function moved(group) {
  const { last_cycle: last, totals } = group;
  const found = [
    ["changed", "changed since the cut", bytes(group.changed_bytes)],
    ["behind", "not at the remote yet", bytes(group.out_of_sync_bytes)],
  ];
  if (last) {
    found.push(["hold", "last hold of host writes", seconds(last.hold_seconds)]);
    found.push(["drain", "last cut to commit", seconds(last.drain_seconds)]);
    found.push(["wire", "last cycle on the wire", `${bytes(last.bytes_on_wire)} for ${bytes(last.bytes_changed)}`]);
  }
  if (totals) found.push(["cycles", "cycles since the start", count(totals.cycles_committed)]);
  return found;
}

function kept(group, now) {
  const history = group.history;
  const found = [];
  if (history) {
    const oldest = history.oldest_cut_time ? now - Date.parse(history.oldest_cut_time) / 1000 : null;
    const limit = history.journal_limit_bytes;
    const share = limit ? history.journal_bytes / limit : 0;
    const tone = share > JOURNALS_BAD ? BAD : share > JOURNALS_WARN ? WARN : "";
    found.push(["points", "points kept", count(history.points)]);
    found.push(["oldest", "oldest point is", oldest === null ? UNKNOWN : `${seconds(Math.round(Math.max(oldest, 0)))} old`]);
    found.push(["journal", "journals", bytes(history.journal_bytes) + (limit ? ` of ${bytes(limit)}` : ""), tone]);
    if (history.kept) found.push(["kept", "kept by an operator", count(history.kept)]);
    if (history.forks) found.push(["forks", "forks kept", count(history.forks), WARN]);
    found.push(["retain", "retained", (history.retain || []).join(", ") || "the newest only"]);
  }
  const copies = group.test_copies || [];
  if (copies.length) found.push(["test_copies", "test copies", copies.join(", ")]);
  return found;
}

function checked(group, now) {
  const ago = (time) => `${seconds(Math.max(0, Math.round(now - Date.parse(time) / 1000)))} ago`;
  const found = [];
  const { last_drill: drill, last_verify: verify, last_scrub: scrub } = group;
  if (drill) {
    found.push(["drill", "last drill", `${plain(drill.verdict)}, ${ago(drill.started)}`, drill.verdict === "passed" ? GOOD : BAD]);
  }
  for (const [key, title, one] of [["verify", "last verify", verify], ["scrub", "last scrub", scrub]]) {
    if (one) found.push([key, title, `${plain(one.result)}, ${ago(one.ended)}`, one.result === "clean" ? GOOD : BAD]);
  }
  return found;
}

function linked(group) {
  const found = [["rate", "paced to", rate(group.link.rate_bytes_per_second)]];
  for (const [key, title] of [["certificate", "own certificate for"], ["peer_certificate", "peer's certificate for"]]) {
    const one = group.link[key];
    if (one) found.push([key, title, seconds(one.seconds_left), one.seconds_left < CERTIFICATE_SECONDS_MIN ? BAD : GOOD]);
  }
  return found;
}

/** The chain host → primary → link → remote: boxes and wires, each with words and tone. */
export function chain(status, group) {
  const isSending = group.role === "sending";
  return {
    boxes: isSending ? sendingBoxes(status, group) : receivingBoxes(status, group),
    wires: [hostWire(status, group, isSending), linkWire(group)],
  };
}

function named(role, site) {
  return site ? `${role} ${site}` : role;
}

function connections(number) {
  return number === 1 ? "1 connection" : `${count(number)} connections`;
}

function sendingBoxes(status, group) {
  const hosts = hostConnections(status, group);
  const point = group.recovery_point;
  const isAlone = ["superseded", "taken_over"].includes(group.state);
  const there = {
    superseded: ["has taken over", "serves hosts"],
    taken_over: ["receives nothing yet"],
  };
  return [
    { title: "hosts", lines: [connections(hosts)], tone: hosts ? GOOD : "" },
    {
      title: named("primary", status.site),
      lines: [plain(group.state), `${bytes(group.changed_bytes)} changed`],
      tone: stateTone(group),
    },
    {
      title: named("remote", group.link.site),
      lines: isAlone ? there[group.state] : [point ? `point ${point.number}` : "no point yet"],
      tone: isAlone || !point ? WARN : ageTone(group),
    },
  ];
}

function receivingBoxes(status, group) {
  const readers = hostConnections(status, group);
  const copies = (group.test_copies || []).length;
  const point = group.recovery_point;
  const used = [];
  if (readers) used.push(readers === 1 ? "1 reader" : `${readers} readers`);
  if (copies) used.push(copies === 1 ? "1 test copy" : `${copies} test copies`);
  const isConnected = group.link.state === "connected";
  return [
    { title: "hosts", lines: ["at the other site"], tone: "" },
    {
      title: named("primary", group.link.site),
      lines: [isConnected ? "sends" : "not heard of"],
      tone: isConnected ? GOOD : "",
    },
    {
      title: named("remote", status.site),
      lines: [point ? `point ${point.number}` : "no point yet", plain(group.state), ...(used.length ? [used.join(", ")] : [])],
      tone: stateTone(group),
    },
  ];
}

function hostWire(status, group, isSending) {
  if (!isSending) return { words: ["NBD"], tone: "", isMoving: false };
  const refused = ["superseded", "handing_over"].includes(step(group));
  if (refused) return { words: ["NBD", "writes refused"], tone: BAD, isMoving: false };
  return { words: ["NBD"], tone: hostConnections(status, group) ? GOOD : "", isMoving: false };
}

function linkWire(group) {
  const link = group.link;
  const trips = link.peers.map((peer) => peer.round_trip_seconds).filter((trip) => trip !== null);
  const living = link.peers.filter((peer) => peer.state === "connected").length;
  return {
    words: [
      `${link.state}${link.encrypted ? ", TLS" : ", plain text"}`,
      trips.length ? `${living} × ${seconds(Math.max(...trips))}` : connections(living),
    ],
    tone: linkTone(link),
    isMoving: ["draining", "first_copy"].includes(group.state) && link.state === "connected",
  };
}

const OPERATIONS = {
  first_copy: "first copy",
  compare: "comparing everything",
  takeover: "going back to the recovery point",
  failback: "failback: what either side changed",
};

export function progressWords(progress) {
  const share = progress.total_bytes ? (100 * progress.done_bytes) / progress.total_bytes : 0;
  const left = progress.eta_seconds === null ? "" : `, ${seconds(progress.eta_seconds)} left`;
  const what = OPERATIONS[progress.operation] || plain(progress.operation);
  return `${what}: ${bytes(progress.done_bytes)} of ${bytes(progress.total_bytes)} (${share.toFixed(1)} %)${left}`;
}
