// The status page: listens to the daemon's events and shows them.

import { Lines, asRate, asSeconds, drawMap } from "./charts.js";
import { drawBars, drawChain, drawPoints, svg } from "./chain.js";
import * as pictures from "./pictures.js";
import { plain } from "./words.js";

const HISTORY_MILLISECONDS = 5000;
const NARROW_PIXELS = 560;
const WARN_SILENT_MILLISECONDS = 8000;

const cards = new Map();
let lastHeard = 0;

// Only what somebody looks at is asked for.
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const card = cards.get(entry.target.dataset.group);
    if (!card) continue;
    card.isSeen = entry.isIntersecting;
    if (card.isSeen) card.load().catch(() => {});
  }
});

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Everything of one group. */
class Card {
  constructor(name) {
    this.name = name;
    this.ring = "fine";
    this.history = null;
    this.heading = element("h2");
    this.alarms = element("div");
    this.chain = svg("svg", { class: "chain" });
    this.progress = element("div", { class: "progress", hidden: "" });
    this.figures = element("dl", { class: "figures" });
    this.pictures = element("div", { class: "pictures" });
    this.maps = new Map();
    this.root = element(
      "section", { class: "group", "data-group": name },
      this.heading, this.alarms, this.chain, this.progress, this.figures, this.pictures,
    );
    document.getElementById("groups").append(this.root);
    this.isSeen = true;
    seen.observe(this.root);
    this.makePictures();
  }

  makePictures() {
    const plot = (caption) => {
      const place = element("div", { class: "plot" });
      this.pictures.append(element("figure", {}, element("figcaption", {}, element("b", {}, caption[0]), caption[1]), place));
      return place;
    };
    this.choice = element("div", { class: "choice" });
    for (const [ring, words] of [["fine", "last hour"], ["coarse", "last day"]]) {
      const button = element("button", { type: "button", "data-ring": ring }, words);
      button.addEventListener("click", () => this.choose(ring));
      this.choice.append(button, " ");
    }
    this.root.insertBefore(this.choice, this.pictures);
    this.age = new Lines(
      plot(["Age of the recovery point", ", and the promise"]),
      [["age", "--one", { fill: colourFill() }], ["promised", "--bad", { dash: [6, 4] }]],
      asSeconds,
    );
    this.flow = new Lines(
      plot(["Changed and sent", ", a second, by cycles committed"]),
      [["changed", "--two"], ["on the wire", "--one"]],
      asRate,
    );
    this.hold = new Lines(plot(["Hold times", " of the newest cut"]), [["hold", "--one"]], asSeconds);
    this.bars = svg("svg", { class: "holds", role: "img" });
    this.barsFigure = element("figure", {}, element("figcaption", {}, element("b", {}, "How long cuts held host writes"), ", all since the start"), this.bars);
    this.points = svg("svg", { class: "points", role: "img" });
    this.pictures.append(
      this.barsFigure,
      element("figure", {}, element("figcaption", {}, element("b", {}, "Recovery points"), ", oldest to newest"), this.points),
    );
    this.choose("fine");
  }

  choose(ring) {
    this.ring = ring;
    for (const button of this.choice.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.ring === ring));
    }
    this.draw();
  }

  show(status, group) {
    const tone = pictures.stateTone(group);
    this.heading.replaceChildren(
      group.name,
      element("span", { class: `badge ${tone}`, "data-key": "state" }, plain(group.state)),
      element("span", { class: "soft" }, group.role),
    );
    this.alarms.replaceChildren(
      ...group.alarms.map((alarm) => element("p", { class: "alarm" }, element("b", {}, plain(alarm.name)), ` ${alarm.message}`)),
    );
    this.found = pictures.chain(status, group);
    this.drawChain();
    this.figures.replaceChildren(
      ...pictures.figures(group).map(([key, title, text, figureTone]) =>
        element("div", {}, element("dt", {}, title), element("dd", { "data-key": key, class: figureTone || "" }, text))),
    );
    this.progress.hidden = !group.progress;
    if (group.progress) {
      const { done_bytes: done, total_bytes: total } = group.progress;
      this.progress.replaceChildren(
        element("label", {}, pictures.progressWords(group.progress)),
        element("progress", { max: Math.max(total, 1), value: done }),
      );
    }
    const holds = group.totals && group.totals.hold_seconds;
    this.barsFigure.hidden = !holds;
    drawBars(this.bars, pictures.holdBars(holds));
    for (const one of [this.flow, this.hold]) {
      one.place.parentElement.hidden = group.role !== "sending";
    }
  }

  drawChain() {
    if (this.found) drawChain(this.chain, this.found, this.root.clientWidth < NARROW_PIXELS);
  }

  async load() {
    const answer = await fetch(`history.json?group=${encodeURIComponent(this.name)}`);
    if (!answer.ok) return;
    this.history = await answer.json();
    this.draw();
  }

  draw() {
    const history = this.history;
    if (!history) return;
    this.age.set(pictures.agePlot(history, this.ring));
    this.flow.set(pictures.flowPlot(history, this.ring));
    this.hold.set(pictures.holdPlot(history, this.ring));
    drawPoints(this.points, pictures.pointMarks(history.points, Date.now() / 1000));
    for (const [name, written] of Object.entries(history.written)) this.drawMap(name, written);
  }

  drawMap(name, written) {
    let canvas = this.maps.get(name);
    if (!canvas) {
      canvas = element("canvas", { class: "map", role: "img", "aria-label": `where hosts write in ${name}` });
      this.maps.set(name, canvas);
      this.pictures.append(
        element("figure", {}, element("figcaption", {}, element("b", {}, `Where hosts write in ${name}`), ", start to end; a row a minute, the newest below"), canvas),
      );
    }
    drawMap(canvas, written);
  }

  redraw() {
    for (const one of [this.age, this.flow, this.hold]) one.redraw();
    this.drawChain();
    this.draw();
  }
}

function colourFill() {
  return getComputedStyle(document.documentElement).getPropertyValue("--fill").trim();
}

function say(text, kind) {
  const live = document.getElementById("live");
  live.textContent = text;
  live.className = `live ${kind}`;
}

function showTrouble(text) {
  const trouble = document.getElementById("trouble");
  trouble.hidden = !text;
  trouble.textContent = text;
}

function show(status) {
  lastHeard = Date.now();
  window.farshore = { status, cards }; // for whoever debugs, and for tests
  say("live", "on");
  showTrouble("");
  document.title = `${status.site} – farshore`;
  document.getElementById("site").textContent = `at ${status.site} (${status.role}, ${status.version})`;
  const names = new Set(status.groups.map((group) => group.name));
  for (const [name, card] of cards) {
    if (!names.has(name)) {
      card.root.remove();
      cards.delete(name);
    }
  }
  for (const group of status.groups) {
    if (!cards.has(group.name)) {
      const card = new Card(group.name);
      cards.set(group.name, card);
    }
    cards.get(group.name).show(status, group);
  }
}

function begin() {
  const events = new EventSource("events");
  events.addEventListener("status", (event) => show(JSON.parse(event.data)));
  events.addEventListener("trouble", (event) => showTrouble(JSON.parse(event.data).reason));
  events.addEventListener("error", () => {
    say("no connection to the daemon; trying again", "off");
    if (events.readyState === EventSource.CLOSED) setTimeout(begin, 3000);
  });
}

setInterval(() => {
  for (const card of cards.values()) if (card.isSeen && !document.hidden) card.load().catch(() => {});
  if (lastHeard && Date.now() - lastHeard > WARN_SILENT_MILLISECONDS) {
    say(`nothing heard since ${new Date(lastHeard).toLocaleTimeString()}`, "off");
  }
}, HISTORY_MILLISECONDS);

const redrawAll = () => cards.forEach((card) => card.redraw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
addEventListener("resize", () => cards.forEach((card) => card.drawChain()));
begin();
