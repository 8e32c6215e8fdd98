// Lines over time by uPlot, and the map of where hosts write.

import { bytes, clockTime, rate, seconds } from "./words.js";

const HEIGHT = 190;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** A chart of lines in `place`, as wide as that: `set` gives it data, `redraw` other colours. */
export class Lines {
  constructor(place, series, write) {
    this.place = place;
    this.series = series;
    this.write = write;
    this.data = [[], ...series.map(() => [])];
    this.plot = null;
    this.redraw();
    new ResizeObserver(() => {
      const width = this.place.clientWidth;
      if (width && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
    }).observe(place);
  }

  set(data) {
    this.data = data;
    this.plot.setData(data);
  }

  redraw() {
    if (this.plot) this.plot.destroy();
    const grid = { stroke: colour("--line"), width: 1 };
    const axis = { stroke: colour("--soft"), grid, ticks: grid };
    const options = {
      width: Math.max(this.place.clientWidth, 200),
      height: HEIGHT,
      cursor: { y: false },
      scales: { y: { range: (_plot, _low, high) => [0, high > 0 ? high * 1.08 : 1] } },
      axes: [{ ...axis, values: (_plot, ticks) => ticks.map(shortTime) }, { ...axis, size: 84, values: (_plot, ticks) => ticks.map((tick) => this.write(tick)) }],
      series: [
        { label: "UTC", value: (_plot, time) => (time === null ? "–" : clockTime(time)) },
        ...this.series.map(([label, stroke, more]) => ({
          label,
          stroke: colour(stroke),
          width: 2,
          points: { show: false },
          value: (_plot, value) => this.write(value),
          ...(more || {}),
        })),
      ],
    };
    this.plot = new uPlot(options, this.data, this.place);
  }
}

function shortTime(time) {
  const written = clockTime(time);
  return written.endsWith(":00") ? written.slice(0, 5) : written;
}

export const asSeconds = (value) => seconds(value);
export const asRate = (value) => rate(value);
export const asBytes = (value) => bytes(value);

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
