// Lines over time by uPlot, and the map of where hosts write.

import { greatest, newest, timeShown, visible } from "./series.js";
import { bytes, clockTime, rate, seconds } from "./words.js";

const HEIGHT = 190;
const TALLER = 1.08;

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** How values of a kind are written, what lies between two lines of the grid, and where
 * the chart ends. */
export const SECONDS = { write: (value) => seconds(value), steps: null, top: greatest };
export const RATES = { write: (value) => rate(value), steps: powersOfTwo(), top: visible };
export const BYTES = { write: (value) => bytes(value), steps: powersOfTwo(), top: greatest };

function powersOfTwo() {
  return Array.from({ length: 60 }, (_, power) => 2 ** power);
}

/** A chart of lines in `place`, as wide as that: `set` gives it data, `redraw` other colours. */
export class Lines {
  constructor(place, title, series, unit) {
    this.place = place;
    this.title = title;
    this.series = series;
    this.unit = unit;
    this.data = [[], ...series.map(() => [])];
    this.plot = null;
    place.setAttribute("role", "img");
    this.redraw();
    new ResizeObserver(() => {
      const width = this.place.clientWidth;
      if (width && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
    }).observe(place);
  }

  set(data) {
    this.data = data;
    this.plot.setData(data);
    this.describe();
  }

  /** Say in words what is drawn, and in the legend what is newest while nobody points. */
  describe() {
    const lines = this.data.slice(1);
    const told = this.series.map(([label], index) => `${label} now ${this.unit.write(newest(lines[index]))}`);
    const most = greatest(lines);
    const hidden = most !== null && most > this.unit.top(lines);
    this.place.setAttribute("aria-label", `${this.title}: ${told.join(", ")}, at most ${this.unit.write(most)}`);
    this.place.dataset.peak = hidden ? `up to ${this.unit.write(most)}` : "";
    if (this.data[0].length && this.plot.cursor.left < 0) {
      this.plot.setLegend({ idx: this.data[0].length - 1 }, false);
    }
  }

  redraw() {
    if (this.plot) this.plot.destroy();
    const grid = { stroke: colour("--line"), width: 1 };
    const axis = { stroke: colour("--soft"), grid, ticks: grid };
    const values = { ...axis, size: 84, values: (_plot, ticks) => ticks.map((tick) => this.unit.write(tick)) };
    if (this.unit.steps) values.incrs = this.unit.steps;
    const options = {
      width: Math.max(this.place.clientWidth, 200),
      height: HEIGHT,
      cursor: { y: false, drag: { x: false, y: false } }, // new data would undo it
      scales: { x: { range: () => timeShown(this.data[0], Date.now() / 1000) }, y: { range: () => [0, (this.unit.top(this.data.slice(1)) || 1) * TALLER] } },
      axes: [{ ...axis, space: 72, values: (_plot, ticks) => ticks.map(shortTime) }, values],
      series: [
        { label: "UTC", value: (_plot, time) => clockTime(time) },
        ...this.series.map(([label, stroke, more]) => ({
          label,
          stroke: colour(stroke),
          width: 2,
          points: { show: false },
          value: (_plot, value) => this.unit.write(value),
          ...(more ? more() : {}),
        })),
      ],
    };
    this.plot = new uPlot(options, this.data, this.place);
    this.describe();
  }
}

function shortTime(time) {
  const written = clockTime(time);
  return written.endsWith(":00") ? written.slice(0, 5) : written;
}

/** Minutes from top to bottom, the volume from left to right, darker where more was written. */
export function drawMap(canvas, written) {
  const rows = written.rows;
  const width = rows.length ? rows[0].length : 1;
  canvas.width = width;
  canvas.height = Math.max(rows.length, 12);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = colour("--one");
  const most = Math.max(1, ...rows.flat());
  rows.forEach((row, y) => {
    row.forEach((number, x) => {
      if (!number) return;
      context.globalAlpha = 0.2 + 0.8 * Math.sqrt(number / most);
      context.fillRect(x, canvas.height - rows.length + y, 1, 1);
    });
  });
  context.globalAlpha = 1;
}
