// How figures are written for people. Pure: no page, no clock.

export const UNKNOWN = "–";

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** 1536 -> "1.50 KiB"; null or NaN -> "–". */
export function bytes(count) {
  if (count === null || count === undefined || Number.isNaN(count)) return UNKNOWN;
  let unit = 0;
  let value = count;
  while (Math.abs(value) >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value.toFixed(0) : digits(value)} ${UNITS[unit]}`;
}

export function rate(bytesPerSecond) {
  const written = bytes(bytesPerSecond);
  return written === UNKNOWN ? UNKNOWN : `${written}/s`;
}

/** 0.00004 -> "40 µs", 90 -> "1 min 30 s", 90000 -> "1 d 1 h". */
export function seconds(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return UNKNOWN;
  if (value < 0) return `-${seconds(-value)}`;
  if (value === 0) return "0 s";
  if (value < 0.001) return `${digits(value * 1e6)} µs`;
  if (value < 1) return `${digits(value * 1e3)} ms`;
  if (value < 60) return `${digits(value)} s`;
  const whole = Math.round(value);
  for (const [size, name, below, belowName] of [
    [86400, "d", 3600, "h"],
    [3600, "h", 60, "min"],
    [60, "min", 1, "s"],
  ]) {
    if (whole >= size) {
      const rest = Math.floor((whole % size) / below);
      return `${Math.floor(whole / size)} ${name}${rest ? ` ${rest} ${belowName}` : ""}`;
    }
  }
  return `${whole} s`;
}

/** Three digits that matter. */
export function digits(value) {
  const size = Math.abs(value);
  if (size >= 100) return value.toFixed(0);
  return size >= 10 ? value.toFixed(1) : value.toFixed(2);
}

export function count(value) {
  return value === null || value === undefined ? UNKNOWN : String(value);
}

/** "first_copy" -> "first copy". */
export function plain(word) {
  return word.replaceAll("_", " ");
}

/** The time of day in UTC; of what is no time, as of a chart without data, "–". */
export function clockTime(secondsSince1970) {
  if (!Number.isFinite(secondsSince1970)) return UNKNOWN;
  return new Date(secondsSince1970 * 1000).toISOString().slice(11, 19);
}
