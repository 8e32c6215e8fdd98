// The status page: listens to the daemon's events and shows them.

import { Card, element } from "./card.js";
import { BAD, GOOD, WARN, stateTone } from "./standing.js";
import { seconds } from "./words.js";

const HISTORY_MILLISECONDS = 5000;
const RETRY_MILLISECONDS = 3000;
const WARN_SILENT_MILLISECONDS = 8000;

const cards = new Map();
let lastHeard = 0;
let version = null;

// Only what somebody looks at is asked for, and drawn.
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const card = cards.get(entry.target.dataset.group);
    if (!card) continue;
    if (entry.isIntersecting) card.look();
    else card.isSeen = false;
  }
});

function say(text, kind) {
  const live = document.getElementById("live");
  if (live.textContent !== text) live.textContent = text;
  live.className = `live ${kind}`;
  document.getElementById("groups").classList.toggle("stale", kind === "off");
}

function showTrouble(text) {
  const trouble = document.getElementById("trouble");
  trouble.hidden = !text;
  trouble.textContent = text;
}

function show(status) {
  if (version !== null && version !== status.version) location.reload(); // another release
  version = status.version;
  lastHeard = Date.now();
  window.farshore = { status, cards }; // for whoever debugs, and for tests
  say("live", "on");
  showTrouble("");
  document.title = `${status.site} – farshore`;
  document.getElementById("site").textContent = `at ${status.site} (${status.role}, ${status.version})`;
  const names = new Set(status.groups.map((group) => group.name));
  for (const [name, card] of cards) {
    if (!names.has(name)) {
      seen.unobserve(card.root);
      card.root.remove();
      cards.delete(name);
    }
  }
  for (const group of status.groups) {
    if (!cards.has(group.name)) {
      const card = new Card(group.name);
      cards.set(group.name, card);
      seen.observe(card.root);
    }
    cards.get(group.name).show(status, group);
  }
  showOverview(status.groups);
}

const GRAVEST_FIRST = [BAD, WARN, GOOD];

/** With several groups: all at a glance, the gravest first, each a link to its card. */
function showOverview(groups) {
  const overview = document.getElementById("overview");
  overview.hidden = groups.length < 2;
  if (overview.hidden) return;
  const rank = (group) => GRAVEST_FIRST.indexOf(stateTone(group));
  [...groups].sort((one, other) => rank(one) - rank(other)).forEach((group, index) => {
    let link = overview.children[index];
    if (!link) {
      link = element("a");
      overview.append(link);
    }
    const age = group.recovery_point_age_seconds;
    link.href = `#group-${encodeURIComponent(group.name)}`;
    link.className = stateTone(group);
    link.textContent = `${group.name} ${age === null ? "no point" : seconds(age)}`;
  });
  while (overview.children.length > groups.length) overview.lastChild.remove();
}

function begin() {
  const events = new EventSource("events");
  events.addEventListener("status", (event) => show(JSON.parse(event.data)));
  events.addEventListener("trouble", (event) => showTrouble(JSON.parse(event.data).reason));
  events.addEventListener("error", () => {
    say("no connection to the daemon; trying again", "off");
    if (events.readyState !== EventSource.CLOSED) return;
    setTimeout(begin, RETRY_MILLISECONDS);
    sayWhy().catch(() => {});
  });
}

/** It answers, and yet gives no events: it starts, stops, or too many pages are open. */
async function sayWhy() {
  const answer = await fetch("readyz");
  const told = (await answer.text()).trim();
  say(answer.ok ? "too many pages are being watched; trying again" : `${told}; trying again`, "off");
}

setInterval(() => {
  for (const card of cards.values()) if (card.isSeen && !document.hidden) card.load().catch(() => {});
  if (lastHeard && Date.now() - lastHeard > WARN_SILENT_MILLISECONDS) {
    say(`nothing heard since ${new Date(lastHeard).toLocaleTimeString()}`, "off");
  }
}, HISTORY_MILLISECONDS);

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => cards.forEach((card) => card.redraw()));
addEventListener("resize", () => {
  for (const card of cards.values()) {
    if (!card.isMade) continue;
    card.drawChain();
    card.draw();
  }
});
begin();
