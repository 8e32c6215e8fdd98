// Everything that the page shows of one group.

import { drawChain, svg } from "./chain.js";
import { BYTES, Lines, RATES, SECONDS, colour, drawMap } from "./charts.js";
import { drawBars, drawPoints } from "./marks.js";
import { chain, figures, progressWords } from "./pictures.js";
import * as series from "./series.js";
import { alarmsShown, moment, roleBanner, stateTone } from "./standing.js";
import { bytes, plain, seconds } from "./words.js";

const NARROW_PIXELS = 560;
const POINTS_LISTED_MAX = 50;
const LONG_LETTERS = 18;

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function figure(caption, ...shown) {
  const [title, more] = caption;
  return element("figure", {}, element("figcaption", {}, element("b", {}, title), more), ...shown);
}

/** Replace what a place holds where `key` says that it is something else: whoever has the
 * page read to them, or text of it marked, is not disturbed each second. */
function fill(place, key, make) {
  const told = JSON.stringify(key);
  if (place.dataset.told === told) return;
  place.dataset.told = told;
  place.replaceChildren(...make());
}

export class Card {
  constructor(name) {
    this.name = name;
    this.ring = "fine";
    this.history = null;
    this.isSeen = false;
    this.isMade = false;
    this.sizes = {};
    this.heading = element("h2");
    this.banner = element("div", { "aria-live": "polite" });
    this.alarms = element("div", { "aria-live": "polite" });
    this.chain = svg("svg", { class: "chain", role: "img" });
    this.progress = element("div", { class: "progress", hidden: "" });
    this.figures = element("dl", { class: "figures" });
    this.choice = element("div", { class: "choice", role: "group", "aria-label": "time shown" });
    this.pictures = element("div", { class: "pictures" });
    this.maps = new Map();
    this.root = element(
      "section", { class: "group", "data-group": name, id: `group-${name}`, "aria-label": `group ${name}` },
      this.heading, this.banner, this.alarms, this.chain, this.progress, this.figures, this.choice, this.pictures,
    );
    document.getElementById("groups").append(this.root);
  }

  /** Somebody looks at it: with hundreds of groups, most are never drawn. */
  look() {
    this.isSeen = true;
    if (!this.isMade) this.makePictures();
    if (this.shown) this.show(...this.shown);
    this.load().catch(() => {});
  }

  makePictures() {
    this.isMade = true;
    for (const [ring, words] of [["fine", "last hour"], ["coarse", "last day"]]) {
      const button = element("button", { type: "button", "data-ring": ring }, words);
      button.addEventListener("click", () => this.choose(ring));
      this.choice.append(button, " ");
    }
    const lines = (title, more, drawn, unit) => {
      const place = element("div", { class: "plot" });
      this.pictures.append(figure([title, more], place));
      return new Lines(place, title, drawn, unit);
    };
    const filled = () => ({ fill: colour("--fill") });
    this.age = lines("Age of the recovery point", ", and the promise", [["age", "--one", filled], ["promised", "--bad", () => ({ dash: [6, 4] })]], SECONDS);
    this.flow = lines("Changed and sent", ", a second, by cycles committed", [["changed", "--two"], ["on the wire", "--one"]], RATES);
    this.hold = lines("Hold times", " of the newest cut", [["hold", "--one"]], SECONDS);
    this.bars = svg("svg", { class: "holds", role: "img" });
    this.barsFigure = figure(["How long cuts held host writes", ", all since the start"], this.bars);
    this.journals = lines("Journals", " of the recovery points, and their limit", [["journals", "--one", filled], ["limit", "--bad", () => ({ dash: [6, 4] })]], BYTES);
    this.points = svg("svg", { class: "points", role: "img" });
    this.legend = legend();
    this.listed = element("details", {}, element("summary"), element("table", { class: "list" }));
    this.pictures.insertBefore(this.barsFigure, this.journals.place.parentElement);
    this.pictures.append(
      figure(["Recovery points", ", oldest to newest; longer times further back"], this.points, this.legend, this.listed),
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
    this.shown = [status, group];
    const tone = stateTone(group);
    fill(this.heading, [group.state, group.role, tone], () => [
      group.name,
      element("span", { class: `badge ${tone}`, "data-key": "state" }, plain(group.state)),
      element("span", { class: "soft" }, group.role),
    ]);
    fill(this.banner, group.role_change, () => this.bannerOf(group));
    const alarms = alarmsShown(group);
    fill(this.alarms, alarms, () =>
      alarms.map((alarm) => element("p", { class: "alarm" }, element("b", {}, plain(alarm.name)), ` ${alarm.message}`)),
    );
    this.sizes = Object.fromEntries(group.volumes.map((volume) => [volume.name, volume.size_bytes]));
    this.found = chain(status, group);
    this.showProgress(group.progress);
    if (!this.isSeen) return;
    this.drawChain();
    this.figures.replaceChildren(
      ...figures(group, Date.now() / 1000).map(([key, title, text, figureTone]) =>
        element("div", {}, element("dt", {}, title), element("dd", { "data-key": key, class: `${figureTone || ""}${text.length > LONG_LETTERS ? " long" : ""}` }, text))),
    );
    const isSending = group.role === "sending";
    const holds = group.totals && group.totals.hold_seconds;
    for (const one of [this.flow, this.hold]) one.place.parentElement.hidden = !isSending;
    this.journals.place.parentElement.hidden = isSending;
    this.barsFigure.hidden = !holds;
    if (holds) drawBars(this.bars, series.holdBars(holds));
  }

  bannerOf(group) {
    const told = roleBanner(group);
    if (!told) return [];
    return [element("p", { class: `banner ${told.tone}`, "data-key": "role_change" }, element("b", {}, told.title), ` ${told.words}`)];
  }

  showProgress(progress) {
    this.progress.hidden = !progress;
    if (!progress) return;
    const words = progressWords(progress);
    const bar = element("progress", { max: Math.max(progress.total_bytes, 1), value: progress.done_bytes, "aria-label": words });
    this.progress.replaceChildren(element("div", { "data-key": "progress" }, words), bar);
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
    if (!history || !this.isMade) return;
    this.age.set(series.agePlot(history, this.ring));
    this.flow.set(series.flowPlot(history, this.ring));
    this.hold.set(series.holdPlot(history, this.ring));
    this.journals.set(series.journalPlot(history, this.ring));
    drawPoints(this.points, series.timeline(history.points, Date.now() / 1000), (age) => seconds(Math.round(age)));
    this.listPoints(history.points);
    for (const [name, written] of Object.entries(history.written)) this.drawMap(name, written);
  }

  listPoints(points) {
    const [summary, table] = this.listed.children;
    const shown = points.slice(0, POINTS_LISTED_MAX);
    this.legend.hidden = this.listed.hidden = points.length < 2;
    summary.textContent = `as a table${points.length > shown.length ? `: the newest ${shown.length} of ${points.length}` : ""}`;
    fill(table, shown, () => [
      element("tr", {}, ...["point", "cut", "label", "size", ""].map((title) => element("th", { scope: "col" }, title))),
      ...shown.map((point) =>
        element("tr", {}, ...[point.number, moment(point.cut_time), point.label || "", bytes(point.bytes), point.pinned ? "pinned" : ""].map((text) => element("td", {}, String(text))))),
    ]);
  }

  drawMap(name, written) {
    let canvas = this.maps.get(name);
    if (!canvas) {
      canvas = element("canvas", { class: "map", role: "img", "aria-label": `where hosts write in ${name}` });
      this.maps.set(name, canvas);
      const ends = element("div", { class: "ends" }, element("span", {}, "0"), element("span", {}, bytes(this.sizes[name])));
      this.pictures.append(figure([`Where hosts write in ${name}`, "; a row a minute, the newest below"], canvas, ends));
    }
    drawMap(canvas, written);
  }

  redraw() {
    if (!this.isMade) return;
    for (const one of [this.age, this.flow, this.hold, this.journals]) one.redraw();
    this.drawChain();
    this.draw();
  }
}

function legend() {
  const kinds = [["newest", "newest"], ["pinned", "pinned: kept, a fork, or in use"], ["labelled", "with a label"]];
  return element("p", { class: "legend" }, ...kinds.map(([kind, words]) => element("span", { class: kind }, words)));
}
