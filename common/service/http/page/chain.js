// Draws the chain host → primary → link → remote as an SVG, and marks of points and bars.

const NAMESPACE = "http://www.w3.org/2000/svg";

export function svg(name, attributes, text) {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const BOX = { width: 190, height: 92 };
const WIDE = { width: 900, height: 112, places: [[10, 8], [290, 8], [700, 8]] };
const NARROW = { width: 330, height: 500, places: [[70, 8], [70, 184], [70, 400]] };

/** Replace what `drawing` (an svg element) shows: beside each other, or below. */
export function drawChain(drawing, found, isNarrow) {
  const plan = isNarrow ? NARROW : WIDE;
  drawing.setAttribute("viewBox", `0 0 ${plan.width} ${plan.height}`);
  drawing.setAttribute("role", "img");
  drawing.setAttribute("aria-label", words(found));
  drawing.replaceChildren();
  found.wires.forEach((wire, index) => {
    const [x, y] = plan.places[index];
    const [nextX, nextY] = plan.places[index + 1];
    const kind = `wire ${wire.tone}${wire.isMoving ? " moving" : ""}`;
    if (isNarrow) {
      const middle = x + BOX.width / 2;
      drawing.append(svg("path", { class: kind, d: `M${middle} ${y + BOX.height}V${nextY}` }));
      const top = (y + BOX.height + nextY) / 2 - 9 * (wire.words.length - 1) + 5;
      wire.words.forEach((line, place) => {
        drawing.append(svg("text", { class: "small beside", x: middle + 12, y: top + 18 * place }, line));
      });
      return;
    }
    const from = x + BOX.width;
    const middle = y + BOX.height / 2;
    drawing.append(svg("path", { class: kind, d: `M${from} ${middle}H${nextX}` }));
    wire.words.forEach((line, place) => {
      const at = place === 0 ? middle - 10 : middle + 22;
      drawing.append(svg("text", { class: "small", x: (from + nextX) / 2, y: at }, line));
    });
  });
  found.boxes.forEach((box, index) => {
    const [x, y] = plan.places[index];
    const middle = x + BOX.width / 2;
    drawing.append(
      svg("rect", { class: `box ${box.tone}`, x, y, width: BOX.width, height: BOX.height, rx: 10 }),
      svg("text", { x: middle, y: y + 28 }, shorten(box.title, 22)),
    );
    box.lines.forEach((line, place) => {
      drawing.append(svg("text", { class: "small", x: middle, y: y + 50 + 18 * place }, shorten(line, 26)));
    });
  });
}

function words(found) {
  const boxes = found.boxes.map((box) => `${box.title}: ${box.lines.join(", ")}`);
  return `${boxes.join("; ")}; link: ${found.wires[1].words.join(", ")}`;
}

function shorten(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

/** Points on a line of time. */
export function drawPoints(drawing, marks) {
  drawing.setAttribute("viewBox", "0 0 600 56");
  drawing.replaceChildren(svg("path", { class: "axis", d: "M10 24H590" }));
  for (const mark of marks) {
    const circle = svg("circle", { class: `point ${mark.kind}`, cx: 14 + 572 * mark.place, cy: 24, r: mark.kind ? 7 : 5 });
    circle.append(svg("title", {}, mark.words));
    drawing.append(circle);
  }
  drawing.append(
    svg("text", { x: 10, y: 50 }, marks.length ? `oldest: ${marks[marks.length - 1].number}` : "no point yet"),
    svg("text", { x: 590, y: 50, "text-anchor": "end" }, "now"),
  );
}

/** A histogram: how often hosts were held for how long. */
export function drawBars(drawing, bars) {
  drawing.setAttribute("viewBox", "0 0 600 170");
  drawing.replaceChildren(svg("path", { class: "axis", d: "M10 130H590" }));
  if (!bars.length) {
    drawing.append(svg("text", { x: 300, y: 80, "text-anchor": "middle" }, "none yet"));
    return;
  }
  const most = Math.max(...bars.map((bar) => bar.number));
  const step = 580 / Math.max(bars.length, 4);
  bars.forEach((bar, index) => {
    const height = (104 * bar.number) / most;
    const x = 10 + step * index;
    const middle = x + step / 2;
    const one = svg("rect", { class: "bar", x: x + 3, y: 130 - height, width: step - 6, height });
    one.append(svg("title", {}, `${bar.words}: ${bar.number}`));
    drawing.append(
      one,
      svg("text", { x: middle, y: 124 - height, "text-anchor": "middle" }, String(bar.number)),
      svg("text", { x: middle, y: 146 + 16 * (index % 2), "text-anchor": "middle" }, bar.words),
    );
  });
}
