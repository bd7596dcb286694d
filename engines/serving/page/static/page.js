// Asks the server for its state every second, and shows it. What the server says is set as text, never as HTML.

import { codeOf, exampleOf, showAnswer, showTensors } from "./answers.js";

const EVERY_MS = 1000;
const PATIENCE_MS = 10_000; // for a state; an image has the server's own limit
const WINDOW_S = 60;
const TOKEN = "plainconv-token";
const BACKENDS = { onnxruntime: "ONNX Runtime", tensorrt: "TensorRT", tensorrt_rtx: "TensorRT-RTX" };
const VERBS = { classify: "Classify", segment: "Segment", detect: "Detect" };
const FAILURES = { BACKEND: "failed", REJECTED: "refused: overload", CANCELED: "too late or left", OTHER: "not valid" };

const byId = (id) => document.getElementById(id);
const cards = new Map(); // name of a model → what shows it
const past = []; // states of the last minute, oldest first
let timer = 0;
let isAsking = false;

// ---------------------------------------------------------------- the server

class Refusal extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch {
    throw new Refusal(0, "The server does not answer.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    const said = String(answer.error ?? answer.detail ?? "the server could not answer");
    throw new Refusal(response.status, `${said[0].toUpperCase()}${said.slice(1)}.`);
  }
  return answer;
}

async function poll() {
  clearTimeout(timer);
  if (isAsking || document.hidden || !byId("sign-in").hidden) return;
  isAsking = true;
  try {
    show(await ask("ui/state", { signal: AbortSignal.timeout(PATIENCE_MS) }));
  } catch (error) {
    if (error.status === 401) signIn();
    else setChip(byId("health"), "bad", error.status ? "refuses" : "not reachable");
    if (!error.status) cards.forEach((card) => setChip(card.is("health"), "wait", "unknown"));
  } finally {
    isAsking = false;
    clearTimeout(timer);
    timer = setTimeout(poll, EVERY_MS);
  }
}

function signIn() {
  const wasGiven = sessionStorage.getItem(TOKEN) !== null;
  sessionStorage.removeItem(TOKEN);
  byId("sign-in-error").textContent = wasGiven ? "That is not this server's token." : "";
  byId("sign-in").hidden = false;
  byId("models").hidden = true;
  setChip(byId("health"), "warn", "token wanted");
  byId("token").focus();
}

byId("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId("token").value.trim());
  byId("token").value = "";
  byId("sign-in").hidden = true;
  byId("models").hidden = false;
  poll();
});

// ---------------------------------------------------------------- the state

function show(state) {
  const newest = past.at(-1);
  if (newest && state.seconds < newest.seconds) past.length = 0; // another server
  past.push(state);
  while (past.length > 2 && past[1].seconds <= state.seconds - WINDOW_S) past.shift();

  if (state.draining) setChip(byId("health"), "warn", "live, draining");
  else setChip(byId("health"), state.ready ? "good" : "bad", state.ready ? "live and ready" : "live, not ready");
  byId("none").hidden = state.models.length > 0;
  const names = new Set(state.models.map((model) => model.name));
  for (const [name, card] of cards) {
    if (!names.has(name)) {
      card.root.remove();
      cards.delete(name);
    }
  }
  state.models.forEach((model, place) => {
    showModel(model, state);
    const { root } = cards.get(model.name);
    const there = byId("models").children[place];
    if (there !== root) byId("models").insertBefore(root, there ?? null);
  });
}

function showModel(model, state) {
  const { counts, waiting, ...facts } = model;
  const kind = JSON.stringify(facts);
  let card = cards.get(model.name);
  if (card?.kind !== kind) {
    const fresh = makeCard(model, kind);
    card?.root.replaceWith(fresh.root);
    cards.set(model.name, (card = fresh));
  }
  if (!model.loaded) {
    setChip(card.is("health"), "bad", "not loaded");
    return;
  }
  setChip(card.is("health"), state.draining ? "warn" : "good", state.draining ? "draining" : "ready");
  showCounts(card, model, state);
}

function makeCard(model, kind) {
  const root = byId("of-model").content.firstElementChild.cloneNode(true);
  const parts = new Map([...root.querySelectorAll("[data-is]")].map((each) => [each.dataset.is, each]));
  const card = { root, kind, is: (name) => parts.get(name) };
  card.is("name").textContent = model.name;
  if (!model.loaded) {
    root.querySelector(".grid").hidden = true;
    list(card.is("facts"), [model.reason]);
    return card;
  }
  const batch = model.batch === null ? "requests run one by one" : `batches of up to ${model.batch} rows`;
  list(card.is("facts"), [BACKENDS[model.backend] ?? model.backend, model.precision, batch].filter(Boolean));
  for (const side of ["inputs", "outputs"]) {
    card.is(side).replaceChildren(...model[side].map((tensor) => {
      const cells = [tensor.name, tensor.datatype, `[${tensor.shape.join(", ")}]`];
      return make("tr", {}, ...cells.map((text) => make("td", { textContent: text })));
    }));
  }
  if (model.report) linkReport(card.is("report"), model.name);
  makeForm(card, model);
  return card;
}

// A link sends no token: where one is wanted, the report is fetched with it, and saved as a file.
function linkReport(link, name) {
  link.href = `ui/reports/${encodeURIComponent(name)}`;
  link.hidden = false;
  link.addEventListener("click", async (event) => {
    const token = sessionStorage.getItem(TOKEN);
    if (!token) return;
    event.preventDefault();
    const response = await fetch(link.href, { headers: { Authorization: `Bearer ${token}` }, cache: "no-store" });
    if (!response.ok) return poll();
    const file = make("a", { href: URL.createObjectURL(await response.blob()), download: `${name}.html` });
    file.click();
    URL.revokeObjectURL(file.href);
  });
}

function showCounts(card, model, state) {
  const isMinute = document.querySelector("input[name=period]:checked").value === "minute";
  const first = past[0].models.find((each) => each.name === model.name);
  const since = isMinute && first?.counts ? first.counts : null;
  const isOf = isMinute ? "in the last minute" : "since the start";
  const request = between(since?.request, model.counts.request);
  const rows = between(since?.rows, model.counts.rows);
  const seconds = state.seconds - past[0].seconds;
  const rate = isMinute && seconds > 0 ? request.total / seconds : null;

  pairs(card.is("latency"), [
    ["p50", ...duration(quantile(request, 0.5))],
    ["p90", ...duration(quantile(request, 0.9))],
    ["p99", ...duration(quantile(request, 0.99))],
    ["mean", ...duration(request.total ? request.sum / request.total : null, "")],
  ]);
  chart(card.is("latency-chart"), request, (low, high) => (high === null ? `> ${ms(low)}` : ms(high)), {
    none: `No request ${isOf}`,
    said: (label, count) => `${count} up to ${label} ms`,
    what: `Requests by latency ${isOf}`,
  });
  pairs(card.is("batches"), [
    ["runs", number(rows.total), ""],
    ["rows", number(rows.sum), ""],
    ["rows a run", rows.total ? (rows.sum / rows.total).toFixed(1) : "–", ""],
    ["waiting", number(model.waiting), ""],
  ]);
  chart(card.is("batch-chart"), rows, rowsLabel, {
    none: `No run ${isOf}`,
    said: (label, count) => `${count} of ${label} rows`,
    what: `Runs by rows ${isOf}`,
  });
  const failures = Object.entries(model.counts.failures).map(([reason, count]) => {
    const before = since?.failures?.[reason] ?? 0;
    return [FAILURES[reason] ?? reason.toLowerCase(), number(count - before), ""];
  });
  pairs(card.is("counts"), [
    ["answered", number(request.total), ""],
    ...(rate === null ? [] : [["per second", rate < 10 ? rate.toFixed(1) : number(Math.round(rate)), ""]]),
    ...(failures.length ? failures : [["not answered", "0", ""]]),
  ]);
}

// ---------------------------------------------------------------- histograms

// {edges, counts a bucket, total, sum} of what was counted after `before`, where that is given.
function between(before, after) {
  if (!after) return { edges: [], counts: [], largest: [], total: 0, sum: 0 };
  const upTo = after.counts.map((count, i) => count - (before?.counts[i] ?? 0));
  const counts = upTo.map((count, i) => count - (i ? upTo[i - 1] : 0));
  const { edges, largest = [] } = after;
  return { edges, counts, largest, total: upTo.at(-1) ?? 0, sum: after.sum - (before?.sum ?? 0) };
}

// Within a bucket what was counted is taken to be spread evenly, as Prometheus does it, but only up to the largest
// that there was in it, and no further above its lower edge than all that was counted is above theirs.
function quantile({ edges, counts, largest, total, sum }, share) {
  if (!total) return null;
  const above = sum - counts.reduce((least, count, i) => least + count * (i ? edges[i - 1] : 0), 0);
  let below = 0;
  for (let i = 0; i < counts.length; i++) {
    if (counts[i] && below + counts[i] >= share * total) {
      const low = i ? edges[i - 1] : 0;
      const high = Math.min(edges[i] ?? Infinity, largest[i] ?? Infinity, low + Math.max(0, above));
      return low + (Math.max(0, high - low) * (share * total - below)) / counts[i];
    }
    below += counts[i];
  }
  return largest.at(-1) ?? edges.at(-1);
}

function chart(place, histogram, labelOf, words) {
  const key = JSON.stringify([histogram.counts, words.none]);
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  place.classList.toggle("none", !histogram.total);
  if (!histogram.total) {
    place.replaceChildren(make("span", { className: "empty", textContent: words.none }));
    place.setAttribute("aria-label", words.none);
    return;
  }
  const { edges, counts } = histogram;
  const full = counts.flatMap((count, i) => (count ? [i] : []));
  let [first, last] = [Math.max(0, full[0] - 1), Math.min(counts.length - 1, full.at(-1) + 1)];
  while (last - first < 4 && (first > 0 || last < edges.length - 1)) {
    if (last < edges.length - 1) last++;
    else first--;
  }
  if (last === edges.length && !counts[last]) last--;
  const most = Math.max(...counts);
  const columns = [];
  const said = [];
  for (let i = first; i <= last; i++) {
    const label = labelOf(i ? edges[i - 1] : 0, edges[i] ?? null);
    const bar = make("div", { className: "bar" });
    bar.style.height = `${(counts[i] / most) * 75}%`;
    columns.push(make("div", { className: "column", title: words.said(label, counts[i]) },
      make("span", { textContent: counts[i] ? number(counts[i]) : "" }), bar,
      make("span", { className: "edge", textContent: label })));
    if (counts[i]) said.push(words.said(label, counts[i]));
  }
  place.replaceChildren(...columns);
  place.setAttribute("aria-label", `${words.what}: ${said.join(", ")}`);
}

const ms = (seconds) => String(Number((seconds * 1000).toPrecision(3)));

function rowsLabel(low, high) {
  if (high === null) return `> ${low}`;
  return high - low <= 1 ? String(high) : `${low + 1}–${high}`;
}

// ---------------------------------------------------------------- a request

function makeForm(card, model) {
  const form = card.is("form");
  makeCode(card, model);
  if (model.image.refused) {
    card.is("try").textContent = "Try a request";
    form.hidden = true;
    const example = exampleOf(model);
    const size = example === null ? " Its inputs are too large to write out here." : "";
    card.is("takes").textContent = `No images: ${model.image.refused}.${size}`;
    if (example !== null) makeJsonForm(card, model, example);
    return;
  }
  card.is("takes").textContent = `Images become ${model.image.takes}.`;
  card.is("button").textContent = VERBS[model.image.kind] ?? "Send";
  const file = card.is("file");
  file.id = `file-of-${model.name}`;
  card.is("file-label").htmlFor = file.id;
  file.addEventListener("change", () => {
    card.is("error").textContent = "";
    card.is("answer").hidden = true;
    preview(card.is("preview"), file.files[0]);
  });
  const drop = card.is("drop");
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    file.files = event.dataTransfer.files;
    file.dispatchEvent(new Event("change"));
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(card, model, file.files[0].type || "image/png", file.files[0], (answer) => showAnswer(card, answer, file.files[0]));
  });
}

function makeJsonForm(card, model, example) {
  const form = card.is("json-form");
  const place = card.is("json");
  place.id = `json-of-${model.name}`;
  card.is("json-label").htmlFor = place.id;
  place.value = example;
  form.hidden = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(card, model, "application/json", place.value, (answer) => showTensors(card, answer));
  });
}

function makeCode(card, model) {
  const code = codeOf(model, sessionStorage.getItem(TOKEN) !== null);
  for (const kind of ["curl", "python"]) {
    card.is(`copy-${kind}`).addEventListener("click", async () => {
      card.is("code").textContent = code[kind];
      card.is("code").hidden = false;
      const isCopied = await navigator.clipboard?.writeText(code[kind]).then(() => true, () => false);
      card.is("copied").textContent = isCopied ? "Copied." : "Select it to copy.";
    });
  }
}

async function send(card, model, type, body, show) {
  const buttons = [card.is("button"), card.is("json-button")];
  buttons.forEach((button) => (button.disabled = true));
  card.is("error").textContent = "";
  try {
    const path = `v2/models/${encodeURIComponent(model.name)}/infer`;
    await show(await ask(path, { method: "POST", headers: { "Content-Type": type }, body }));
  } catch (error) {
    card.is("answer").hidden = true;
    if (error.status === 401) signIn();
    else card.is("error").textContent = error.message;
  } finally {
    buttons.forEach((button) => (button.disabled = false));
  }
}

async function preview(canvas, file) {
  canvas.hidden = true;
  if (!file) return;
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    return; // the server will say what is wrong with it
  }
  const scale = Math.min(1, 192 / Math.max(image.width, image.height));
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  const longest = Math.max(canvas.width, canvas.height);
  canvas.style.width = `${(6 * canvas.width) / longest}rem`;
  canvas.style.height = `${(6 * canvas.height) / longest}rem`;
  canvas.classList.toggle("small", longest < 96);
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.hidden = false;
}

// ---------------------------------------------------------------- elements

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function list(place, texts) {
  place.replaceChildren(...texts.map((text) => make("li", { textContent: text })));
}

function pairs(place, rows) {
  const key = JSON.stringify(rows);
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  place.replaceChildren(...rows.map(([term, value, unit]) => make("div", {},
    make("dt", { textContent: term }),
    make("dd", {}, value, ...(unit ? [make("small", { textContent: unit })] : [])))));
}

function setChip(chip, state, text) {
  chip.dataset.state = state;
  if (chip.textContent !== text) chip.textContent = text;
}

// A number and its unit; those read off a histogram are about right, and say so.
function duration(seconds, about = "≈ ") {
  if (seconds === null) return ["–", ""];
  if (seconds >= 1) return [about + seconds.toPrecision(3), "s"];
  return [about + Number((seconds * 1000).toPrecision(3)), "ms"];
}

const number = (value) => value.toLocaleString("en");

document.addEventListener("visibilitychange", poll);
document.querySelectorAll("input[name=period]").forEach((each) => each.addEventListener("change", () => {
  const state = past.at(-1);
  state?.models.forEach((model) => model.loaded && showCounts(cards.get(model.name), model, state));
}));
poll();
