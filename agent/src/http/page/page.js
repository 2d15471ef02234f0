// The live map: draws /mesh, and colours its tunnels by what the leaders' agents tell at /status.
//
// Names come from the cluster and may be hostile: they are only ever set as text, never as markup, and the
// page's policy (Content-Security-Policy) allows no script but this one.
"use strict";

const MESH_PERIOD = 10_000;  // ms between two looks at who is in the mesh
const STATUS_PERIOD = 5_000; // … and at how the tunnels do
const ALL_LEADERS = 24;      // with more leaders, only the tunnels of the chosen one are shown
const FRESH = 180, STALE = 600; // seconds: WireGuard gives a session up after 180
const SLOW = 0.15, VERY_SLOW = 0.4; // round trips in seconds
const BUSY = 1e6, VERY_BUSY = 3e7;  // bytes in a second
const CELL = 34, HEAD = 24, PAD = 12, NAMED = 40; // of cards; with more nodes than NAMED only leaders are named

const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

let mesh = null;              // the document of /mesh
let own = null;               // the own node's name
let statuses = new Map();     // by leader: its report, and the one before it
let failures = new Map();     // by leader: why its agent could not be asked
let places = new Map();       // by node or "peer/NAME": where it is drawn
let chosen = null;            // {kind: "node" | "peer" | "link" | "location", …}
let drawn = "";               // what the drawing was made of
let view = null, whole = null; // the part of the drawing that is seen, and all of it

function element(parent, name, attributes = {}, text) {
  const made = document.createElementNS(parent instanceof SVGElement ? SVG : "http://www.w3.org/1999/xhtml", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function cut(text, most) {
  const letters = [...text];
  return letters.length <= most ? text : letters.slice(0, most - 1).join("") + "…";
}

// --- asking ------------------------------------------------------------------------------------------

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(8000) });
  if (!answer.ok) throw new Error((await answer.text()).trim().slice(0, 200) || `HTTP status ${answer.status}`);
  return answer.json();
}

async function lookAtMesh() {
  try {
    const status = await ask("status");
    remember(status.node, status);
    own = status.node;
    mesh = await ask("mesh");
    for (const [name, why] of Object.entries(status.leftOut)) {
      if (!mesh.nodes.some((node) => node.name === name)) {
        mesh.nodes.push({ name, location: null, notReady: [why], ready: false, leader: false, segment: null,
          endpoint: null, internalIPs: [], podCIDRs: [], wireGuardIPs: [], publicKey: null, persistentKeepalive: 0 });
      }
    }
    summarise();
    draw();
  } catch (error) {
    say(`The agent does not answer: ${error.message}`, true);
  }
}

function asked() {
  if (!mesh) return [];
  const leaders = mesh.nodes.filter((node) => node.leader).map((node) => node.name);
  if (leaders.length <= ALL_LEADERS) return leaders;
  return leaders.filter((name) => name === own || isEnd(chosen, name));
}

async function lookAtTunnels() {
  await Promise.all(asked().map(async (name) => {
    try {
      remember(name, await ask(name === own ? "status" : `status?node=${encodeURIComponent(name)}`));
      failures.delete(name);
    } catch (error) {
      failures.set(name, error.message);
    }
  }));
  paint();
  show();
}

function remember(name, report) {
  const known = statuses.get(name);
  if (known && known.now.time === report.time) return;
  statuses.set(name, { now: report, before: known ? known.now : null });
}

// --- what is known of a tunnel -----------------------------------------------------------------------

// What the leader's agent tells of its WireGuard peer `label`; null when nothing.
function told(leader, label) {
  const known = statuses.get(leader);
  const peer = known && known.now.peers.find((peer) => peer.label === label);
  if (!peer) return null;
  const before = known.before && known.before.peers.find((peer) => peer.label === label);
  const seconds = known.before ? known.now.time - known.before.time : 0;
  const rate = (key) => before && seconds > 0 ? Math.max(0, peer[key] - before[key]) / seconds : null;
  const age = peer.lastHandshake === null ? Infinity : Math.max(0, known.now.time - peer.lastHandshake);
  const rtt = peer.rttMicroseconds === null ? null : peer.rttMicroseconds / 1e6;
  return { leader, peer, age, rtt, received: rate("rxBytes"), sent: rate("txBytes") };
}

function ends(link) {
  const segment = (name) => mesh.nodes.find((node) => node.name === name)?.segment;
  if (link.kind === "peer") return [told(link.from, `peer/${link.to}`)].filter(Boolean);
  return [told(link.from, segment(link.to)), told(link.to, segment(link.from))].filter(Boolean);
}

const least = (values) => values.length ? Math.min(...values) : null;

function judge(link) {
  const known = ends(link);
  if (!known.length) return "none";
  const age = least(known.map((end) => end.age));
  // A device that is switched off is no fault of the mesh.
  if (link.kind === "peer" && age > STALE) return "none";
  switch ($("mode").value) {
    case "rtt": return grade(least(known.map((end) => end.rtt).filter((rtt) => rtt !== null)), SLOW, VERY_SLOW);
    case "traffic": return grade(traffic(known), BUSY, VERY_BUSY);
    default: return grade(age, FRESH, STALE);
  }
}

const grade = (value, fair, bad) => value === null ? "none" : value <= fair ? "good" : value <= bad ? "fair" : "bad";

function traffic(known) {
  const rates = known.filter((end) => end.sent !== null).map((end) => end.sent + end.received);
  return rates.length ? Math.max(...rates) : null;
}

const LEGENDS = {
  handshake: ["within 3 minutes", "within 10 minutes", "older or never"],
  rtt: ["up to 150 ms", "up to 400 ms", "slower"],
  traffic: ["up to 1 MB/s", "up to 30 MB/s", "more"],
};

// --- drawing -----------------------------------------------------------------------------------------

function cards() {
  const byLocation = new Map();
  for (const node of mesh.nodes) {
    const key = node.location === null ? "not in the mesh" : node.location || "(no location)";
    byLocation.set(key, [...(byLocation.get(key) ?? []), { id: node.name, node }]);
  }
  const all = [...byLocation].map(([name, items]) => ({ name, items, isPeers: false }));
  const peers = mesh.peers.map((peer) => ({ id: `peer/${peer.name}`, peer }));
  if (peers.length) all.push({ name: "peers", items: peers, isPeers: true });
  const few = mesh.nodes.length + peers.length <= NAMED;
  for (const card of all) {
    card.cell = few ? 96 : CELL;
    card.columns = Math.ceil(Math.sqrt(card.items.length * (few ? 0.7 : 1.6)));
    card.w = Math.max(card.columns * card.cell + 2 * PAD, 108);
    card.h = Math.ceil(card.items.length / card.columns) * (few ? 46 : CELL) + HEAD + PAD;
    card.row = few ? 46 : CELL;
  }
  return all;
}

// On a circle when there are few, so that tunnels cross little; in rows when there are many.
function arrange(all) {
  const round = all.filter((card) => !card.isPeers);
  if (round.length > 2 && round.length <= 12) {
    const size = Math.max(...round.map((card) => Math.hypot(card.w, card.h)));
    const radius = Math.max(size * round.length / (2 * Math.PI) * 1.15, size * 0.95);
    round.forEach((card, index) => {
      const angle = 2 * Math.PI * index / round.length - Math.PI / 2;
      card.x = radius * 1.25 * Math.cos(angle) - card.w / 2;
      card.y = radius * Math.sin(angle) - card.h / 2;
    });
    const peers = all.find((card) => card.isPeers);
    if (peers) [peers.x, peers.y] = [-peers.w / 2, -peers.h / 2];
    const overlaps = peers && round.some((card) => card.x < peers.x + peers.w && peers.x < card.x + card.w
      && card.y < peers.y + peers.h && peers.y < card.y + card.h);
    if (overlaps) peers.y = Math.max(...round.map((card) => card.y + card.h)) + 60;
    return;
  }
  const box = $("map").getBoundingClientRect();
  const shape = box.height > 0 ? Math.min(2.5, Math.max(0.5, box.width / box.height)) : 1.5;
  const area = all.reduce((sum, card) => sum + (card.w + 40) * (card.h + 40), 0);
  const width = Math.max(Math.sqrt(area * shape), ...all.map((card) => card.w));
  let x = 0, y = 0, tallest = 0;
  for (const card of all) {
    if (x > 0 && x + card.w > width) [x, y, tallest] = [0, y + tallest + 40, 0];
    [card.x, card.y] = [x, y];
    x += card.w + 40;
    tallest = Math.max(tallest, card.h);
  }
}

// The tunnels that are shown: all, or with many leaders those of what is chosen.
function links() {
  const leaders = mesh.nodes.filter((node) => node.leader).map((node) => node.name);
  const toPeers = (from) => mesh.peers.map((peer) => ({ kind: "peer", from, to: peer.name }));
  const between = (from, others) => others.map((to) => ({ kind: "mesh", from, to }));
  if (leaders.length <= ALL_LEADERS) {
    return leaders.flatMap((from, index) => [...between(from, leaders.slice(index + 1)), ...toPeers(from)]);
  }
  if (chosen && chosen.kind === "link") return [{ kind: chosen.of, from: chosen.from, to: chosen.to }];
  if (chosen && chosen.kind === "peer") return leaders.map((from) => ({ kind: "peer", from, to: chosen.name }));
  const name = chosen && chosen.kind === "node" ? chosen.name : own;
  if (!leaders.includes(name)) return [];
  return [...between(name, leaders.filter((other) => other !== name)), ...toPeers(name)];
}

function draw() {
  const shown = links();
  const made = JSON.stringify([mesh.nodes, mesh.peers, shown]);
  if (made === drawn) return paint();
  drawn = made;
  const map = $("map");
  map.replaceChildren();
  places = new Map();
  const all = cards();
  arrange(all);
  const under = element(map, "g"), lines = element(map, "g"), over = element(map, "g");
  for (const card of all) drawCard(under, over, card);
  for (const link of shown) drawLink(lines, link);
  const left = Math.min(...all.map((card) => card.x)), top = Math.min(...all.map((card) => card.y));
  const right = Math.max(...all.map((card) => card.x + card.w)), bottom = Math.max(...all.map((card) => card.y + card.h));
  const box = { x: left - 30, y: top - 30, w: right - left + 60, h: bottom - top + 60 };
  if (!whole || JSON.stringify(whole) !== JSON.stringify(box)) {
    whole = box;
    look({ ...box });
  }
  paint();
}

function drawCard(under, over, card) {
  const group = element(under, "g", { class: "card" });
  group.dataset.name = card.name;
  element(group, "rect", { x: card.x, y: card.y, width: card.w, height: card.h, rx: 10 });
  const title = element(group, "text", { x: card.x + PAD, y: card.y + 17 }, cut(card.name, Math.floor(card.w / 8)));
  element(title, "title", {}, card.name);
  if (!card.isPeers) group.addEventListener("click", () => choose({ kind: "location", name: card.name }));
  card.items.forEach((item, index) => {
    const x = card.x + PAD + (index % card.columns + 0.5) * (card.w - 2 * PAD) / card.columns;
    const y = card.y + HEAD + Math.floor(index / card.columns) * card.row + 13;
    places.set(item.id, { x, y });
    const name = item.node ? item.node.name : item.peer.name;
    const words = ["node"];
    if (item.peer) words.push("peer");
    else words.push(!item.node.ready ? "absent" : item.node.leader ? "leader" : "member");
    if (name === own && item.node) words.push("self");
    const mark = element(over, "g", { class: words.join(" "), tabindex: 0, role: "button", transform: `translate(${x} ${y})` });
    mark.dataset.id = item.id;
    element(mark, "title", {}, name);
    element(mark, "circle", { r: words.includes("leader") ? 10 : 8 });
    if (card.cell > CELL) element(mark, "text", { y: 24 }, cut(name, Math.max(12, Math.floor((card.w - 2 * PAD) / card.columns / 7))));
    const what = item.node ? { kind: "node", name } : { kind: "peer", name };
    mark.addEventListener("click", (event) => { event.stopPropagation(); choose(what); });
    mark.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") choose(what); });
  });
}

function drawLink(lines, link) {
  const from = places.get(link.from), to = places.get(link.kind === "peer" ? `peer/${link.to}` : link.to);
  if (!from || !to) return;
  const bend = 0.12, mx = (from.x + to.x) / 2 + (to.y - from.y) * bend, my = (from.y + to.y) / 2 - (to.x - from.x) * bend;
  const path = `M${from.x} ${from.y}Q${mx} ${my} ${to.x} ${to.y}`;
  const line = element(lines, "path", { class: "link", d: path });
  line.link = link;
  const hit = element(lines, "path", { class: "hit", d: path });
  hit.dataset.from = link.from;
  hit.dataset.to = link.to;
  hit.addEventListener("click", () => choose({ kind: "link", of: link.kind, from: link.from, to: link.to }));
}

const isEnd = (what, name) => what && (what.name === name || what.from === name || what.to === name);

function paint() {
  if (!mesh) return;
  const find = $("find").value.trim().toLowerCase();
  for (const line of document.querySelectorAll(".link")) {
    const { link } = line, known = ends(link), rate = traffic(known) ?? 0;
    const isChosen = chosen && chosen.kind === "link" && chosen.from === link.from && chosen.to === link.to && chosen.of === link.kind;
    const isFaded = chosen && (chosen.kind === "node" || chosen.kind === "peer") && !isEnd(chosen, link.from) && !isEnd(chosen, link.to);
    line.setAttribute("class", ["link", judge(link), isChosen ? "chosen" : isFaded ? "faded" : ""].join(" ").trim());
    line.setAttribute("stroke-width", (1.5 + Math.min(4.5, Math.log10(1 + rate / 1000) * 1.1)).toFixed(2));
  }
  for (const mark of document.querySelectorAll(".node")) {
    const id = mark.dataset.id, known = statuses.get(id);
    mark.classList.toggle("chosen", Boolean(chosen) && (chosen.kind === "node" ? id : id.replace(/^peer\//, "")) === chosen.name && (chosen.kind === "peer") === mark.classList.contains("peer"));
    mark.classList.toggle("trouble", Boolean(known) && (known.now.problems.length > 0 || known.now.idle !== null));
    mark.classList.toggle("faded", Boolean(find) && !id.toLowerCase().includes(find));
  }
  for (const card of document.querySelectorAll(".card")) {
    const has = mesh.nodes.some((node) => (node.location || "(no location)") === card.dataset.name && node.name.toLowerCase().includes(find));
    card.classList.toggle("faded", Boolean(find) && !has && !card.dataset.name.toLowerCase().includes(find));
  }
  const legend = $("legend");
  legend.replaceChildren();
  LEGENDS[$("mode").value].forEach((text, index) => element(legend, "li", { class: ["good", "fair", "bad"][index] }, text));
  element(legend, "li", { class: "none" }, "not known");
}

function say(text, isBad) {
  $("summary").textContent = text;
  $("summary").classList.toggle("bad", isBad);
}

function summarise() {
  const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
  const ready = mesh.nodes.filter((node) => node.ready).length, missing = mesh.nodes.length - ready;
  const parts = [count(mesh.locations.length, "location"), count(ready, "node") + (missing ? ` (${missing} more not ready)` : ""),
    count(mesh.nodes.filter((node) => node.leader).length, "leader"), count(mesh.peers.length, "peer")];
  say(`${parts.join(", ")}; told by ${cut(own, 60)}`, missing > 0);
}

// --- details -----------------------------------------------------------------------------------------

const ageText = (age) => age === Infinity ? "never" : age < 120 ? `${Math.round(age)} s` : age < 7200 ? `${Math.round(age / 60)} min` : `${Math.round(age / 3600)} h`;
const rttText = (rtt) => rtt === null ? "–" : rtt < 0.01 ? `${(rtt * 1000).toFixed(1)} ms` : `${Math.round(rtt * 1000)} ms`;
function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; number >= 1000 && unit < units.length - 1; unit++) number /= 1000;
  return `${number < 10 && unit ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}
const rateText = (rate) => rate === null ? "–" : `${bytes(rate)}/s`;

function facts(parent, pairs) {
  const list = element(parent, "dl");
  for (const [name, value] of pairs) {
    if (value === null || value === undefined || value === "" || value.length === 0) continue;
    element(list, "dt", {}, name);
    element(list, "dd", {}, Array.isArray(value) ? value.join(", ") : String(value));
  }
}

function table(parent, heads, rows) {
  const made = element(parent, "table"), head = element(element(made, "thead"), "tr");
  heads.forEach((text) => element(head, "th", {}, text));
  const body = element(made, "tbody");
  for (const row of rows) {
    const line = element(body, "tr");
    for (const cell of row) {
      const at = element(line, "td", cell.grade ? { class: `value ${cell.grade}` } : {});
      if (cell.go) element(at, "button", { type: "button" }, cell.text).addEventListener("click", () => choose(cell.go));
      else at.textContent = cell.text ?? cell;
    }
  }
}

function tunnelCells(end) {
  return [{ text: ageText(end.age), grade: grade(end.age, FRESH, STALE) }, rttText(end.rtt), rateText(end.received), rateText(end.sent)];
}
const TUNNEL_HEADS = ["handshake", "round trip", "in", "out"];

function showNode(to, node) {
  element(to, "h2", {}, node.name);
  element(to, "p", {}, !node.ready ? "not in the mesh" : node.leader ? "leader" : "member");
  for (const why of node.notReady) element(to, "p", {}, why);
  facts(to, [["location", node.location], ["segment", node.segment], ["endpoint", node.endpoint],
    ["WireGuard IP", node.wireGuardIPs], ["internal IP", node.internalIPs], ["pods", node.podCIDRs],
    ["keepalive", node.persistentKeepalive ? `${node.persistentKeepalive} s` : ""], ["public key", node.publicKey]]);
  const known = statuses.get(node.name);
  if (failures.has(node.name)) element(to, "p", {}, `Its agent could not be asked: ${failures.get(node.name)}`);
  if (!known) return;
  const { now } = known;
  facts(to, [["agent", now.version], ["WireGuard", now.backend], ["MTU", now.mtu], ["idle", now.idle]]);
  if (now.problems.length || now.apiProblems.length) element(to, "h3", {}, "Problems");
  for (const { doing, error } of now.problems) element(to, "p", {}, `${doing}: ${error}`);
  for (const { request, error } of now.apiProblems) element(to, "p", {}, `${request}: ${error}`);
  if (!now.peers.length) return;
  element(to, "h3", {}, "Tunnels");
  table(to, ["to", ...TUNNEL_HEADS], now.peers.map((peer) => {
    const leader = mesh.nodes.find((other) => other.leader && other.segment === peer.label);
    const go = leader ? { kind: "node", name: leader.name } : { kind: "peer", name: peer.label.replace(/^peer\//, "") };
    return [{ text: cut(peer.label, 60), go }, ...tunnelCells(told(node.name, peer.label))];
  }));
}

function showEnds(to, known) {
  if (!known.length) return element(to, "p", {}, "No agent at its ends could be asked.");
  table(to, ["told by", ...TUNNEL_HEADS], known.map((end) => [{ text: end.leader, go: { kind: "node", name: end.leader } }, ...tunnelCells(end)]));
  const total = (key) => bytes(Math.max(...known.map((end) => end.peer[key])));
  facts(to, [["endpoints", known.map((end) => end.peer.endpoint).filter(Boolean)], ["received", total("rxBytes")], ["sent", total("txBytes")]]);
}

function show() {
  $("details").hidden = !chosen;
  if (!chosen) return;
  const to = $("content");
  to.replaceChildren();
  if (chosen.kind === "node") {
    const node = mesh.nodes.find((node) => node.name === chosen.name);
    return node ? showNode(to, node) : element(to, "p", {}, "It is gone.");
  }
  if (chosen.kind === "location") {
    element(to, "h2", {}, chosen.name);
    const inside = mesh.nodes.filter((node) => (node.location === null ? "not in the mesh" : node.location || "(no location)") === chosen.name);
    return table(to, ["node", "", "pods"], inside.map((node) =>
      [{ text: node.name, go: { kind: "node", name: node.name } }, node.leader ? "leader" : node.ready ? "" : "not ready", node.podCIDRs.join(", ")]));
  }
  if (chosen.kind === "peer") {
    const peer = mesh.peers.find((peer) => peer.name === chosen.name);
    if (!peer) return element(to, "p", {}, "It is gone.");
    element(to, "h2", {}, peer.name);
    element(to, "p", {}, "peer");
    facts(to, [["endpoint", peer.endpoint], ["allowed IPs", peer.allowedIPs], ["public key", peer.publicKey]]);
    const leaders = mesh.nodes.filter((node) => node.leader);
    return showEnds(to, leaders.flatMap((node) => ends({ kind: "peer", from: node.name, to: peer.name })));
  }
  element(to, "h2", {}, `${chosen.from} – ${chosen.to}`);
  const link = links().find((link) => link.kind === chosen.of && link.from === chosen.from && link.to === chosen.to);
  const isThere = link && places.has(link.from) && places.has(link.kind === "peer" ? `peer/${link.to}` : link.to);
  return isThere ? showEnds(to, ends(link)) : element(to, "p", {}, "It is gone.");
}

function choose(what) {
  chosen = what;
  draw();
  show();
  lookAtTunnels();
}

// --- moving about ------------------------------------------------------------------------------------

function look(at) {
  view = at;
  $("map").setAttribute("viewBox", `${at.x} ${at.y} ${at.w} ${at.h}`);
}

function zoom(factor, cx, cy) {
  const box = $("map").getBoundingClientRect();
  const size = Math.min(4, Math.max(0.05, view.w * factor / whole.w)) * whole.w / view.w;
  const px = view.x + (cx - box.left) / box.width * view.w, py = view.y + (cy - box.top) / box.height * view.h;
  look({ x: px + (view.x - px) * size, y: py + (view.y - py) * size, w: view.w * size, h: view.h * size });
}

function moving() {
  const map = $("map"), fingers = new Map();
  map.addEventListener("wheel", (event) => { event.preventDefault(); if (view) zoom(event.deltaY > 0 ? 1.15 : 1 / 1.15, event.clientX, event.clientY); }, { passive: false });
  map.addEventListener("pointerdown", (event) => fingers.set(event.pointerId, { x: event.clientX, y: event.clientY }));
  map.addEventListener("pointermove", (event) => {
    const last = fingers.get(event.pointerId);
    if (!last || !view) return;
    const box = map.getBoundingClientRect(), scale = Math.max(view.w / box.width, view.h / box.height);
    if (fingers.size === 1) look({ ...view, x: view.x - (event.clientX - last.x) * scale, y: view.y - (event.clientY - last.y) * scale });
    if (fingers.size === 2) {
      const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const distance = (at) => Math.max(1, Math.hypot(at.x - other.x, at.y - other.y));
      zoom(distance(last) / distance({ x: event.clientX, y: event.clientY }), (event.clientX + other.x) / 2, (event.clientY + other.y) / 2);
    }
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  for (const end of ["pointerup", "pointercancel", "pointerleave"]) map.addEventListener(end, (event) => fingers.delete(event.pointerId));
  map.addEventListener("dblclick", () => whole && look({ ...whole }));
}

// Each look begins some time after the last one ended, so that a slow agent is not asked twice at once; a page
// that nobody sees does not ask.
async function again(period, what) {
  for (;;) {
    if (!document.hidden) await what();
    await new Promise((done) => setTimeout(done, period));
  }
}

moving();
$("mode").addEventListener("change", paint);
$("find").addEventListener("input", paint);
$("close").addEventListener("click", () => choose(null));
document.addEventListener("keydown", (event) => { if (event.key === "Escape") choose(null); });
lookAtMesh().then(() => { again(STATUS_PERIOD, lookAtTunnels); setTimeout(() => again(MESH_PERIOD, lookAtMesh), MESH_PERIOD); });
