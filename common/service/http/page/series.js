// What charts draw, as plain values, from a history. Pure.

import { bytes, seconds } from "./words.js";

/** A column of a history by its field's name. */
export function column(history, ring, name) {
  return history[ring][history.fields.indexOf(name)];
}

function columns(history, ring, names) {
  return names.map((name) => column(history, ring, name));
}

/** [times, ages, targets] */
export function agePlot(history, ring) {
  return columns(history, ring, ["time_seconds", "age_seconds", "target_seconds"]);
}

/** [times, hold seconds] */
export function holdPlot(history, ring) {
  return columns(history, ring, ["time_seconds", "hold_seconds"]);
}

/** [times, bytes of journals, what they may have] */
export function journalPlot(history, ring) {
  return columns(history, ring, ["time_seconds", "journal_bytes", "journal_limit_bytes"]);
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

/** The greatest number of some lines; null: there is none. */
export function greatest(lines) {
  const known = lines.flat().filter((value) => value !== null && value !== undefined);
  return known.length ? Math.max(...known) : null;
}

/** The last number of a line that is known, or null. */
export function newest(line) {
  for (let index = line.length - 1; index >= 0; index -= 1) {
    if (line[index] !== null && line[index] !== undefined) return line[index];
  }
  return null;
}

const SPAN_SECONDS_MIN = 60;

/** From when to when a chart goes: of few samples, or none, a minute all the same. */
export function timeShown(times, nowSeconds) {
  const end = newest(times) ?? nowSeconds;
  return [Math.min(times.length ? times[0] : end, end - SPAN_SECONDS_MIN), end];
}

const PEAK_TIMES = 4;

/** Up to where lines are drawn: a rare peak, a first copy say, must not flatten the rest. */
export function visible(lines) {
  const most = greatest(lines);
  if (most === null) return null;
  const usual = Math.max(
    ...lines.map((line) => {
      const known = line.filter((value) => value > 0).sort((a, b) => a - b);
      return known.length ? known[Math.floor(0.95 * (known.length - 1))] : 0;
    }),
  );
  return usual > 0 && most > PEAK_TIMES * usual ? 2 * usual : most;
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

const NEAR_SECONDS = 10;
const TICKS_SECONDS = [60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400, 365 * 86400, 3650 * 86400];
const TICKS_APART = 0.09;

/**
 * Points on a line, 0 oldest to 1 now, where each step back is a longer time:
 * {marks: [{place, number, words, kind}], ticks: [{place, words}]}.
 */
export function timeline(points, nowSeconds) {
  const ages = points.map((point) => Math.max(0, nowSeconds - Date.parse(point.cut_time) / 1000));
  const span = Math.max(60, ...ages);
  const place = (age) => 1 - Math.log1p(age / NEAR_SECONDS) / Math.log1p(span / NEAR_SECONDS);
  const marks = points.map((point, index) => ({
    place: place(ages[index]),
    number: point.number,
    words: `point ${point.number}, cut ${point.cut_time}${point.label ? `, ${point.label}` : ""}, ${bytes(point.bytes)}`,
    kind: point.pinned ? "pinned" : index === 0 ? "newest" : point.label ? "labelled" : "",
  }));
  const ticks = [];
  for (const age of TICKS_SECONDS) {
    const at = place(age);
    const last = ticks.length ? ticks[ticks.length - 1].place : 1;
    if (age < span && at > TICKS_APART / 2 && last - at > TICKS_APART) ticks.push({ place: at, words: seconds(age) });
  }
  return { marks, ticks, span };
}
