// The page: asks the server again and again, and shows what it says. Everything is set as text, never as markup.
"use strict";

const PAUSE = { running: 1000, over: 5000, hidden: 15000, lost: 2000 };
const $ = (id) => document.getElementById(id);

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const badge = ({ text, tone }) => el("span", { class: `badge ${tone}` }, text);
const two = (number) => String(number).padStart(2, "0");

function moment(seconds) {
  const at = new Date(1000 * seconds);
  if (Number.isNaN(at.valueOf())) return "at an unknown time";
  const day = `${at.getUTCFullYear()}-${two(at.getUTCMonth() + 1)}-${two(at.getUTCDate())}`;
  return `${day} ${two(at.getUTCHours())}:${two(at.getUTCMinutes())}:${two(at.getUTCSeconds())}`;
}

// -- state -------------------------------------------------------------------------------------------------------------

const state = { runs: [], chosen: "", window: 0, since: "", points: null, base: 0, told: "", drawn: {}, charts: null };

// What has not changed is left alone: focus, selection and scrolling stay where they are.
function changed(key, value) {
  const text = JSON.stringify(value);
  if (state.drawn[key] === text) return false;
  state.drawn[key] = text;
  return true;
}

function forget() {
  Object.assign(state, { since: "", points: null, base: 0, drawn: {} });
}

function take(curves) {
  const { columns } = curves;
  if (curves.fresh || !state.points) {
    state.points = columns;
    state.base = curves.first;
  } else {
    const keep = curves.first - state.base, drop = Math.max(0, curves.begin - state.base);
    for (const name of Object.keys(columns)) {
      state.points[name] = state.points[name].slice(0, keep).concat(columns[name]).slice(drop);
    }
    state.base += drop;
  }
  state.since = curves.since;
}

// -- asking ------------------------------------------------------------------------------------------------------------

async function ask(address) {
  const answer = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(20000) });
  if (answer.status === 404) return null;
  if (!answer.ok) throw new Error(`the server said ${answer.status}`);
  return answer.json();
}

let timer = 0, asking = false, again = false;

async function look() {
  clearTimeout(timer);
  if (asking) { again = true; return; }
  asking = true;
  let pause = PAUSE.lost;
  try {
    const all = await ask("/api/runs");
    showRuns(all);
    const chosen = state.chosen;
    const run = chosen ? await ask(`/api/runs/${chosen}?since=${state.since}&window=${state.window}`) : null;
    if (run && chosen === state.chosen) showRun(run);
    connection("live", "good");
    const idle = !run || run.over;
    pause = document.hidden ? PAUSE.hidden : idle ? PAUSE.over : PAUSE.running;
  } catch (error) {
    connection("no answer: trying again", "bad");
    console.debug(String(error));
  }
  asking = false;
  if (again) { again = false; look(); return; }
  timer = setTimeout(look, pause);
}

function connection(text, tone) {
  if (!changed("connection", text)) return;
  $("connection").textContent = text;
  $("connection").className = `connection ${tone}`;
  document.body.classList.toggle("stale", tone === "bad");
  if (tone === "bad") say("No answer from the server; what is shown is old");
}

function say(text) {
  if (state.told !== text) $("status").textContent = text;
  state.told = text;
}

// -- the list of runs --------------------------------------------------------------------------------------------------

function showRuns(all) {
  state.runs = all.runs;
  if (!all.runs.some((run) => run.id === state.chosen)) {
    const asked = location.hash.slice(1);
    choose(all.runs.some((run) => run.id === asked) ? asked : all.runs[0]?.id ?? "", false);
  }
  $("runs").hidden = all.runs.length < 2;
  $("run").hidden = !state.chosen;
  $("empty").hidden = Boolean(state.chosen);
  $("empty").textContent = `No run in ${all.folder} yet. The first one shows up here by itself.`;
  $("footer").textContent = `ryzen_mpi ${all.version}. This page reads the run directory and changes nothing in it. Times are UTC.`;
  if (changed("runs", [all.runs, state.chosen])) {
    const held = document.activeElement?.getAttribute("role") === "tab" ? document.activeElement.dataset.run : "";
    $("tabs").replaceChildren(...all.runs.map(tab));
    if (held) $("tabs").querySelector(`[data-run="${held}"]`)?.focus();
  }
  if (changed("gates", all.gates)) showGates(all.gates);
}

function tab(run) {
  const chosen = run.id === state.chosen;
  const made = el("button", {
    type: "button", role: "tab", class: "tab", "data-run": run.id, id: `tab-${run.id}`, "aria-controls": "run",
    "aria-selected": String(chosen), tabindex: chosen ? "0" : "-1",
  }, el("span", { class: "tab-name" }, run.name), badge(run.state),
  el("span", { class: "soft" }, run.progress),
  el("span", { class: "soft" }, [run.loss && `loss ${run.loss}`, run.rate].filter(Boolean).join(" · ")));
  made.addEventListener("click", () => choose(run.id, true));
  return made;
}

function choose(id, now) {
  if (id === state.chosen) return;
  state.chosen = id;
  forget();
  if (id && now) history.replaceState(null, "", `#${id}`);
  $("run").setAttribute("aria-labelledby", state.runs.length > 1 ? `tab-${id}` : "name");
  if (now) look();
}

function arrows(event) {
  const here = state.runs.findIndex((run) => run.id === state.chosen), last = state.runs.length - 1;
  const to = { ArrowDown: here + 1, ArrowRight: here + 1, ArrowUp: here - 1, ArrowLeft: here - 1, Home: 0, End: last }[event.key];
  if (to === undefined || here < 0) return;
  event.preventDefault();
  choose(state.runs[(to + last + 1) % (last + 1)].id, false);
  history.replaceState(null, "", `#${state.chosen}`);
  for (const made of $("tabs").children) {
    const chosen = made.dataset.run === state.chosen;
    made.setAttribute("aria-selected", String(chosen));
    made.tabIndex = chosen ? 0 : -1;
    if (chosen) made.focus();
  }
  look();
}

// -- one run -----------------------------------------------------------------------------------------------------------

function showRun(run) {
  $("name").textContent = run.name;
  $("state").textContent = run.state.text;
  $("state").className = `badge large ${run.state.tone}`;
  $("sentence").textContent = run.state.sentence;
  $("moments").textContent = [run.about, run.over ? "" : run.ago].filter(Boolean).join(" · ");
  document.title = `${run.state.text}: ${run.name} · ryzen_mpi watch`;
  say(`${run.name}: ${run.state.text}. ${run.state.sentence}`);
  const bar = $("bar"), share = run.total ? Math.min(1, run.step / run.total) : 0;
  bar.style.width = `${100 * share}%`;
  bar.setAttribute("aria-valuenow", run.step);
  bar.setAttribute("aria-valuemax", run.total ?? Math.max(1, run.step));
  bar.parentElement.hidden = !run.total;
  if (changed("cards", run.cards)) $("cards").replaceChildren(...Object.entries(run.cards).map(card));
  showCurves(run);
  if (changed("ranks", [run.ranks, run.rank_steps, run.no_temperature])) showRanks(run);
  if (changed("nodes", run.nodes)) showNodes(run.nodes);
  if (changed("communication", [run.communication, run.totals])) showCommunication(run);
  if (changed("events", run.events)) showEvents(run.events);
  if (changed("checkpoints", run.checkpoints)) showCheckpoints(run.checkpoints);
  if (changed("advice", run.advice)) showAdvice(run.advice);
  $("missing-section").hidden = !run.missing.length;
  if (changed("missing", run.missing)) $("missing").replaceChildren(...run.missing.map((text) => el("li", {}, text)));
}

function card([key, figure]) {
  const judged = figure.badge ? [badge(figure.badge)] : [];
  return el("div", { class: "card", "data-card": key },
    el("h3", {}, figure.name),
    figure.number === "" ? el("p", { class: "value none" }, "none yet", ...judged)
      : el("p", { class: "value" }, el("span", { class: "number" }, figure.number),
        el("span", { class: "unit" }, figure.unit), ...judged),
    ...(figure.target ? [el("p", { class: "target" }, figure.target)] : []),
    ...[figure.spread, figure.note].filter(Boolean).map((text) => el("p", { class: "spread" }, text)));
}

function showCurves(run) {
  take(run.curves);
  if (!state.charts) {
    state.charts = Object.fromEntries(Object.keys(Charts.KINDS).map((key) => [key, new Charts.Chart(key, el)]));
    $("charts").replaceChildren(...Object.values(state.charts).map((chart) => chart.figure));
  }
  const { rate, why } = run.expected, size = run.curves.size;
  for (const [key, chart] of Object.entries(state.charts)) {
    const data = Charts.dataOf(key, state.points, run.evaluations, rate);
    if (changed(`chart-${key}`, data.map((column) => [column.length, column[0], column.slice(-2)])) || run.curves.fresh) {
      chart.set(data);
    }
  }
  const together = size > 1 ? ` Each point is ${size} steps: their mean, and the band from lowest to highest.` : "";
  const basis = rate === null ? `Nothing is expected of the rate yet: ${why}.` : `Expected samples a second: ${why}.`;
  $("expected").textContent = `${basis}${together}`;
}

// A table that a telephone can stack: every cell knows its column. Columns without anything are left out.
function table(columns, rows, more = {}) {
  const used = columns.map((_, i) => rows.some((row) => row[i] !== "" && row[i] !== null));
  const some = (list) => list.filter((_, i) => used[i]);
  const names = some(columns);
  return el("table", more,
    el("thead", {}, el("tr", {}, ...names.map(([name, kind]) => el("th", { class: kind ?? "", scope: "col" }, name)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...some(row).map((cell, i) =>
      el("td", { class: names[i][1] ?? "", "data-column": names[i][0] }, cell ?? ""))))));
}

const MOST_BARS = 64;

function showRanks(run) {
  const rows = run.ranks;
  const length = (row) => (row.computation_s ?? 0) + (row.communication_s ?? 0) + (row.other_s ?? 0);
  const longest = Math.max(...rows.map(length), 1e-12);
  const slowest = [...rows].sort((a, b) => (b.computation_s ?? 0) - (a.computation_s ?? 0)).slice(0, MOST_BARS);
  const shown = rows.length > MOST_BARS ? slowest : rows;
  const which = rows.length > MOST_BARS ? ` The ${MOST_BARS} of ${rows.length} ranks that compute longest.` : "";
  $("ranks-note").replaceChildren(...(rows.length ? [
    el("span", { class: "swatch computing" }), "computing ", el("span", { class: "swatch waiting" }),
    "waiting in collectives ", el("span", { class: "swatch other" }), "between steps (data, saving, evaluation). ",
    `Mean of the newest ${run.rank_steps} measured steps.${which}`] : ["No step yet."]));
  if (!rows.length) { $("ranks").replaceChildren(); return; }
  const columns = [["rank", "right"], ["where"], ["time of a step", "bars"], ["computing", "right"], ["waiting", "right"],
    ["memory", "right"], ["NUMA domain", "right"], ["temperature", "right"], [""]];
  $("ranks").replaceChildren(table(columns, shown.map((row) => [
    String(row.rank), [row.host, row.cores && `cores ${row.cores}`].filter(Boolean).join(", "),
    bars(row, longest), row.computation, row.communication, row.memory, row.numa, row.temperature,
    row.slower ? badge({ text: row.slower, tone: "bad" }) : ""]), { class: "ranks" }));
  $("heat").textContent = rows.some((row) => row.temperature) ? "" : `No temperature: ${run.no_temperature}.`;
}

function bars(row, longest) {
  const track = el("div", { class: "track", "aria-hidden": "true" });
  for (const [kind, value] of [["computing", row.computation_s], ["waiting", row.communication_s], ["other", row.other_s]]) {
    const part = el("div", { class: `part ${kind}` });
    part.style.width = `${100 * (value ?? 0) / longest}%`;
    track.append(part);
  }
  return track;
}

function showNodes(nodes) {
  $("nodes").replaceChildren(...(nodes.length ? nodes.map((node) => {
    const fill = el("div", { class: "part memory" });
    fill.style.width = `${100 * Math.min(1, node.share ?? 0)}%`;
    return el("div", { class: "node" },
      el("p", {}, el("b", {}, node.host), ` ${node.ranks} rank${node.ranks === 1 ? "" : "s"}: ${node.text}`,
        node.share === null ? "" : ` (${(100 * node.share).toFixed(1)} %)`),
      ...(node.share === null ? [] : [el("div", { class: "track", "aria-hidden": "true" }, fill)]),
      ...(node.available ? [el("p", { class: "spread" }, node.available)] : []));
  }) : [el("p", { class: "soft" }, "No step yet, or the ranks did not record where they run.")]),
  el("p", { class: "spread" }, "Resident memory of the ranks; what they share counts once a rank."));
}

function showCommunication(run) {
  const totals = run.totals.filter((one) => one.number).map((one) =>
    [one.name, `${one.number} ${one.unit}`.trim(), one.spread]);
  const rows = [...totals, ...run.communication.map(([name, text]) => [name, text, ""])];
  $("communication").replaceChildren(rows.length
    ? table([["what"], ["value", "right"], [""]], rows, { class: "facts" })
    : el("p", { class: "soft" }, "Nothing measured yet."));
  if (run.sampled) $("communication").append(el("p", { class: "spread" }, `sampled ${run.sampled}`));
}

function showEvents(events) {
  const rows = events.map((event) => [moment(event.time), badge({ text: event.kind, tone: event.tone }), event.who,
    event.step === null ? "" : event.step.toLocaleString("en-US"),
    event.evidence ? el("div", {}, event.text, el("small", {}, event.evidence)) : event.text]);
  $("events").replaceChildren(rows.length
    ? table([["when"], ["what"], ["who"], ["step", "right"], ["", "long"]], rows, { class: "timeline" })
    : el("p", { class: "soft" }, "No events yet."));
  scrollable("events");
}

function showCheckpoints(rows) {
  $("checkpoints").replaceChildren(rows.length
    ? table([["step", "right"], ["saved"], ["age", "right"]],
      rows.map((row) => [row.step.toLocaleString("en-US"), row.when, row.ago]))
    : el("p", { class: "soft" }, "None on disk yet."));
  scrollable("checkpoints");
}

// What can be scrolled can be reached with the keyboard.
function scrollable(id) {
  const box = $(id);
  if (box.scrollHeight > box.clientHeight + 1) box.tabIndex = 0; else box.removeAttribute("tabindex");
}

function showGates(gates) {
  $("gates").replaceChildren(...(gates.length ? gates.map((gate) => el("div", { class: "gate" },
    el("p", {}, el("b", {}, `Phase ${gate.phase} `), badge({ text: gate.verdict, tone: gate.tone }), ` ${gate.met}`),
    el("p", { class: "spread" }, `${gate.when}, ${gate.folder}`),
    el("ul", { class: "text" }, ...gate.reasons.map((reason) => el("li", {}, reason))))) : [
    el("p", { class: "soft" }, "No results beside the runs: ryzen-mpi validate makes some, --results DIR names them.")]));
}

function showAdvice(advice) {
  $("advice-section").hidden = !advice.length;
  $("advice").replaceChildren(...advice.map((one) => el("li", {},
    el("span", { class: `level ${one.level}` }, one.level),
    el("div", {}, el("b", {}, one.what), `: ${one.why}`, el("p", { class: "do" }, one.do)))));
}

// -- begin -------------------------------------------------------------------------------------------------------------

$("tabs").addEventListener("keydown", arrows);
$("windows").addEventListener("change", (event) => { state.window = Number(event.target.value); look(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of Object.values(state.charts ?? {})) chart.redraw();
});
look();
