// Draws the chain host → primary → link → remote as an SVG.

const NAMESPACE = "http://www.w3.org/2000/svg";

export function svg(name, attributes, text) {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const WIDE = {
  width: 900, height: 112, box: { width: 190, height: 92 }, places: [[4, 8], [312, 8], [706, 8]],
};
const NARROW = {
  width: 330, height: 376, box: { width: 240, height: 86 }, places: [[40, 6], [40, 140], [40, 284]],
};

/** Replace what `drawing` (an svg element) shows: beside each other, or below. */
export function drawChain(drawing, found, isNarrow) {
  const plan = isNarrow ? NARROW : WIDE;
  const box = plan.box;
  drawing.setAttribute("viewBox", `0 0 ${plan.width} ${plan.height}`);
  drawing.setAttribute("role", "img");
  drawing.setAttribute("aria-label", words(found));
  drawing.replaceChildren();
  found.wires.forEach((wire, index) => {
    const [x, y] = plan.places[index];
    const [nextX, nextY] = plan.places[index + 1];
    const kind = `wire ${wire.tone}${wire.isMoving ? " moving" : ""}`;
    if (isNarrow) {
      const middle = x + box.width / 2;
      drawing.append(svg("path", { class: kind, d: `M${middle} ${y + box.height}V${nextY}` }));
      const top = (y + box.height + nextY) / 2 - 9 * (wire.words.length - 1) + 5;
      wire.words.forEach((line, place) => {
        drawing.append(svg("text", { class: "small beside", x: middle + 12, y: top + 18 * place }, line));
      });
      return;
    }
    const from = x + box.width;
    const middle = y + box.height / 2;
    drawing.append(svg("path", { class: kind, d: `M${from} ${middle}H${nextX}` }));
    wire.words.forEach((line, place) => {
      const at = place === 0 ? middle - 10 : middle + 22;
      drawing.append(svg("text", { class: "small", x: (from + nextX) / 2, y: at }, line));
    });
  });
  found.boxes.forEach((one, index) => {
    const [x, y] = plan.places[index];
    const middle = x + box.width / 2;
    drawing.append(
      svg("rect", { class: `box ${one.tone}`, x, y, width: box.width, height: box.height, rx: 10 }),
      svg("text", { x: middle, y: y + 28 }, shorten(one.title, 22)),
    );
    one.lines.forEach((line, place) => {
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
