// How a group stands: tones, and what is said of roles that change. Pure.

import { UNKNOWN, plain } from "./words.js";

export const GOOD = "good";
export const WARN = "warn";
export const BAD = "bad";

const BROKEN_STATES = ["failed", "superseded"];
const DOUBTFUL_STATES = ["disconnected", "suspect", "suspended", "taken_over"];

export function step(group) {
  return group.role_change ? group.role_change.step : null;
}

export function stateTone(group) {
  if (BROKEN_STATES.includes(group.state) || step(group) === "split_brain") return BAD;
  if (group.alarms.length || DOUBTFUL_STATES.includes(group.state)) return WARN;
  return GOOD;
}

export function ageTone(group) {
  const age = group.recovery_point_age_seconds;
  const forecast = group.forecast;
  if (age === null) return WARN;
  if (!forecast) return stateTone(group) === GOOD ? GOOD : WARN;
  if (forecast.promise === "breached" || age > forecast.target_seconds) return BAD;
  return forecast.promise === "in_danger" ? WARN : GOOD;
}

export function linkTone(link) {
  if (link.state !== "connected") return BAD;
  return link.peers.some((peer) => peer.state !== "connected") ? WARN : GOOD;
}

/** "2026-11-23T17:27:45.123456Z" -> "2026-11-23 17:27:45 UTC" */
export function moment(text) {
  return text ? `${text.slice(0, 10)} ${text.slice(11, 19)} UTC` : UNKNOWN;
}

const TOLD = {
  handing_over: (_group, change) => [
    WARN,
    "Switchover",
    `Hosts' writes are refused here: the other site gets the rest, then takes over${change.point === null ? "" : ` from point ${change.point}`}.`,
  ],
  taking_over: (_group, change) => [
    WARN,
    "Takeover under way",
    `The volumes go back to point ${change.point}, cut ${moment(change.cut_time)}; hosts are served once they are there.`,
  ],
  taken_over: (group, change) => [
    group.state === "taken_over" ? WARN : "",
    "Taken over",
    `This site serves since ${moment(change.at)}, from point ${change.point}.${group.state === "taken_over" ? " Nothing is replicated until the other site receives." : ""}`,
  ],
  superseded: (group, change) => [
    BAD,
    "Superseded",
    `The other site took over ${moment(change.at)}, from point ${change.point}. Writes are refused here, nothing is sent, nothing was overwritten. To receive from it: farshore failback ${group.name}. Lineage there ${change.lineage}, here ${group.lineage}.`,
  ],
  split_brain: () => [
    BAD,
    "Split brain",
    "Both sites serve this group and drift apart with every write. Keep hosts away from one of them.",
  ],
  failing_back: (_group, change) => [
    WARN,
    "Failback",
    `This site receives what the other one has. What it alone had is kept as fork ${change.point}.`,
  ],
};

const TOLD_BY_BANNER = ["superseded", "handing_over"];

/** The alarms that nothing else on the card tells. */
export function alarmsShown(group) {
  return group.alarms.filter((alarm) => !(TOLD_BY_BANNER.includes(alarm.name) && alarm.name === step(group)));
}

/** What is to be said of the roles of the sites: {tone, title, words}, or null. */
export function roleBanner(group) {
  const change = group.role_change;
  if (!change) return null;
  const tell = TOLD[change.step];
  const [tone, title, words] = tell ? tell(group, change) : [WARN, plain(change.step), ""];
  return { tone, title, words };
}
