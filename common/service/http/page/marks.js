// Draws recovery points on a line of time, and bars of a histogram, as SVG.

import { svg } from "./chain.js";

const MARGIN = 12;
const NARROW_PIXELS = 480;

/** Make `drawing` as wide as its place, one unit a pixel, so that words stay legible. */
function sized(drawing, height, label) {
  const width = Math.max(drawing.parentElement.clientWidth, 260);
  drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
  drawing.setAttribute("aria-label", label);
  drawing.replaceChildren();
  return width;
}

/** What `timeline` returned; newest first. */
export function drawPoints(drawing, { marks, ticks, span }, asSeconds) {
  const none = "no recovery point yet";
  const width = sized(drawing, 64, marks.length ? `${marks.length} recovery points` : none);
  const at = (place) => MARGIN + (width - 2 * MARGIN) * place;
  if (!marks.length) {
    drawing.append(svg("text", { x: width / 2, y: 34, "text-anchor": "middle" }, none));
    return;
  }
  drawing.append(svg("path", { class: "axis", d: `M${MARGIN} 24H${width - MARGIN}` }));
  for (const tick of ticks) {
    drawing.append(
      svg("path", { class: "axis", d: `M${at(tick.place)} 16V32` }),
      svg("text", { x: at(tick.place), y: 52, "text-anchor": "middle" }, tick.words),
    );
  }
  for (const mark of [...marks].reverse()) {
    const circle = svg("circle", { class: `point ${mark.kind}`, cx: at(mark.place), cy: 24, r: mark.kind ? 7 : 5 });
    circle.append(svg("title", {}, mark.words));
    drawing.append(circle);
  }
  const first = ticks.length ? ticks[ticks.length - 1].place : 1;
  if (at(first) > 110) drawing.append(svg("text", { x: MARGIN, y: 52 }, `${asSeconds(span)} ago`));
  drawing.append(svg("text", { x: width - MARGIN, y: 52, "text-anchor": "end" }, "now"));
}

/** A histogram: how often hosts were held for how long. */
export function drawBars(drawing, bars) {
  const told = bars.map((bar) => `${bar.words}: ${bar.number}`).join(", ");
  const width = sized(drawing, 170, told || "none yet");
  drawing.append(svg("path", { class: "axis", d: `M${MARGIN} 130H${width - MARGIN}` }));
  if (!bars.length) {
    drawing.append(svg("text", { x: width / 2, y: 80, "text-anchor": "middle" }, "none yet"));
    return;
  }
  const most = Math.max(...bars.map((bar) => bar.number));
  const step = (width - 2 * MARGIN) / Math.max(bars.length, 4);
  const lines = width < NARROW_PIXELS || step < 70 ? 2 : 1;
  bars.forEach((bar, index) => {
    const height = (104 * bar.number) / most;
    const x = MARGIN + step * index;
    const middle = x + step / 2;
    const one = svg("rect", { class: "bar", x: x + 2, y: 130 - height, width: step - 4, height });
    one.append(svg("title", {}, `${bar.words}: ${bar.number}`));
    drawing.append(
      one,
      svg("text", { x: middle, y: 124 - height, "text-anchor": "middle" }, String(bar.number)),
      svg("text", { x: middle, y: 146 + 16 * (index % lines), "text-anchor": "middle" }, bar.words),
    );
  });
}
