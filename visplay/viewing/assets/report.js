"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 60;
const COLORS = 8;

/** An element with text and children; text of models only ever becomes a text node. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}
const svg = (tag, attributes, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const said = (text, kind = "") => make("span", { class: `said ${kind}`, dir: "auto", text });
const color = (n) => `var(--c${n % COLORS})`;
const byId = (id) => document.getElementById(id);
const number = (value) => Math.abs(value) >= 100 || Number.isInteger(value) ? String(Math.round(value)) : value.toPrecision(3).replace(/\.?0+$/, "");

// Theme

const root = document.documentElement;
function setTheme(theme) {
  root.dataset.theme = theme;
  byId("theme").textContent = theme === "dark" ? "Light" : "Dark";
}
setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
byId("theme").addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));

// Head

byId("story").textContent = data.story;
byId("tiles").append(...data.tiles.map((tile) => make("div", { class: "tile" },
  make("span", { class: "quiet", text: tile.label }), make("b", { text: tile.value }), make("span", { class: "quiet", text: tile.note }))));

// Curves

function legend(names) {
  return make("div", { class: "legend" }, ...names.map((name, n) => make("span", {}, make("i", { style: `background:${color(n)}` }), name)));
}
function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw * 0.999);
  const found = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-9; tick += step) found.push(Number(tick.toFixed(9)));
  return found;
}
function chart(curve) {
  const [width, height, left, right, top, bottom] = [380, 220, 44, 10, 8, 34];
  const points = curve.lines.flatMap((line) => line.points);
  let [x0, x1] = [Math.min(...points.map((p) => p[0])), Math.max(...points.map((p) => p[0]))];
  let [y0, y1] = [Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1]))];
  if (x0 === x1) [x0, x1] = [x0 - 1, x1 + 1];
  const margin = (y1 - y0) * 0.06 || Math.abs(y1) * 0.1 || 0.1;
  [y0, y1] = [y0 >= 0 ? Math.max(0, y0 - margin) : y0 - margin, y1 + margin];
  const x = (value) => left + ((value - x0) / (x1 - x0)) * (width - left - right);
  const y = (value) => height - bottom - ((value - y0) / (y1 - y0)) * (height - top - bottom);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": curve.title });
  for (const tick of ticks(y0, y1, 4)) {
    picture.append(svg("line", { x1: left, x2: width - right, y1: y(tick), y2: y(tick), stroke: "var(--line)" }));
    picture.append(svg("text", { x: left - 5, y: y(tick) + 4, "text-anchor": "end" }, number(tick)));
  }
  for (const tick of ticks(x0, x1, 6).filter(Number.isInteger))
    picture.append(svg("text", { x: x(tick), y: height - bottom + 15, "text-anchor": "middle" }, String(tick)));
  picture.append(svg("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, curve.x));
  curve.lines.forEach((line, n) => {
    const path = line.points.map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("");
    picture.append(svg("path", { d: path, fill: "none", stroke: color(n), "stroke-width": 2 }));
    if (line.points.length <= 40)
      for (const p of line.points)
        picture.append(svg("circle", { cx: x(p[0]), cy: y(p[1]), r: 3, fill: color(n) }, svg("title", {}, `${line.name}, ${curve.x} ${p[0]}: ${number(p[1])}`)));
  });
  return make("div", { class: "panel" }, make("h3", { text: curve.title }), picture, legend(curve.lines.map((line) => line.name)));
}
byId("charts").append(...data.curves.map(chart));

/** Rows of stacked bars: name, parts by name, and what is written at the end. */
function stacks(rows, shared) {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.parts)))];
  const most = Math.max(...rows.map((row) => Object.values(row.parts).reduce((a, b) => a + b, 0)));
  return [legend(names), ...rows.map((row) => {
    const total = Object.values(row.parts).reduce((a, b) => a + b, 0);
    const bar = make("div", { class: "stack", style: `width:${shared ? 100 : (100 * total) / most}%` },
      ...names.filter((name) => row.parts[name]).map((name) => make("span", {
        style: `width:${(100 * row.parts[name]) / total}%;background:${color(names.indexOf(name))}`,
        title: `${name}: ${number(row.parts[name])}`,
      })));
    return make("div", { class: "row" }, make("span", { text: row.name }), bar, make("span", { class: "quiet", text: row.end }));
  })];
}
if (data.reasons.length)
  byId("reasons").append(...stacks(data.reasons.map((each) => ({
    name: `iteration ${each.iteration}`, parts: each.parts,
    end: `${each.parts.kept} kept`,
  })), true));
else byId("reasons").append(make("p", { class: "quiet", text: "No data set was generated." }));
if (data.phases.length)
  byId("phases").append(...stacks(data.phases.map((each) => ({ name: each.name, parts: each.seconds, end: `${Math.round(each.total)} s` })), false));

// Gallery

const columns = data.questions;
const names = Object.keys(columns);
const questions = (columns.question || []).map((_, n) => Object.fromEntries(names.map((name) => [name, columns[name][n]])));
for (const each of questions) each.text = [each.question, each.silver, each.own, each.image].join("\n").toLowerCase();
const state = { found: questions, shown: 0, selected: -1 };

function options(id, values, all) {
  byId(id).append(make("option", { value: "", text: all }), ...values.map((value) => make("option", { value, text: value })));
}
const distinct = (values) => [...new Set(values)];
options("iteration", distinct(questions.map((each) => String(each.iteration))), "all iterations");
options("kind", distinct(questions.map((each) => each.kind)).filter(Boolean).sort(), "all types");
options("verdict", ["kept", ...distinct(questions.map((each) => each.rejected)).filter(Boolean).sort()], "kept or not");

function thumbnail(position, action) {
  const source = data.images[position];
  const content = source ? make("img", { src: `data:image/webp;base64,${source}`, alt: "", loading: "lazy" }) : make("span", { class: "none", text: "no image" });
  return make("button", { class: "picture", title: "all questions about this image", onclick: action }, content);
}
function votes(counts, silver, words) {
  const total = counts.reduce((sum, each) => sum + each[1], 0) || 1;
  const rows = counts.slice(0, 6).map(([answer, count], n) => make("div", { class: n === 0 && silver != null ? "won" : "" },
    make("span", { dir: "auto", title: answer, text: answer }), make("span", { class: "bar" }, make("i", { style: `width:${(100 * count) / total}%` })), make("span", { text: count })));
  if (counts.length > 6) rows.push(make("span", { class: "quiet", text: `${counts.length - 6} more answers` }));
  return make("div", { class: "votes" }, words ? make("span", { class: "quiet", text: words }) : null, ...rows);
}
function facts(each) {
  const chips = [make("span", { class: `chip ${each.rejected ? "rejected" : "kept"}`, text: each.rejected || "kept" }),
    make("span", { class: "chip", text: `iteration ${each.iteration}` })];
  if (each.kind) chips.push(make("span", { class: "chip", text: each.kind }));
  if (each.confidence != null) chips.push(make("span", { class: "chip", text: `confidence ${each.confidence.toFixed(2)}` }));
  if (each.accuracy != null) chips.push(make("span", { class: "chip", text: `right, estimated ${each.accuracy.toFixed(2)}` }));
  if (each.changed) chips.push(make("span", { class: "chip", text: "verdict changed" }));
  return make("div", {}, ...chips);
}
function card(each, n) {
  return make("article", { class: "card", id: `card-${n}` }, thumbnail(each.thumbnail, () => openImage(each)),
    make("div", {}, said(each.question ?? "(no question: the completion did not parse)", "question"),
      votes(each.votes, each.silver),
      make("div", { class: "quiet" }, "silver answer ", said(each.silver ?? "none"), each.own == null ? null : make("span", { class: each.disagrees ? "wrong" : "" }, " · the Questioner's own: ", said(each.own))),
      facts(each)));
}
function showMore() {
  const next = state.found.slice(state.shown, state.shown + PAGE);
  byId("cards").append(...next.map((each, n) => card(each, state.shown + n)));
  state.shown += next.length;
  byId("more").hidden = state.shown >= state.found.length;
}
function filter() {
  const value = (id) => byId(id).value;
  const [iteration, kind, verdict, text] = [value("iteration"), value("kind"), value("verdict"), value("search").toLowerCase()];
  const [low, high] = [Number(value("low") || 0), Number(value("high") || 1)];
  const [changed, disagrees] = [byId("changed").checked, byId("disagrees").checked];
  state.found = questions.filter((each) =>
    (!iteration || String(each.iteration) === iteration) && (!kind || each.kind === kind) &&
    (!verdict || (each.rejected || "kept") === verdict) && (!text || each.text.includes(text)) &&
    ((low <= 0 && high >= 1) || (each.confidence != null && each.confidence >= low - 1e-9 && each.confidence <= high + 1e-9)) &&
    (!changed || each.changed) && (!disagrees || each.disagrees));
  state.shown = 0;
  state.selected = -1;
  byId("cards").replaceChildren();
  byId("count").textContent = `${state.found.length.toLocaleString("en")} of ${questions.length.toLocaleString("en")} questions`;
  showMore();
}
for (const id of ["iteration", "kind", "verdict", "search", "low", "high", "changed", "disagrees"]) byId(id).addEventListener("input", filter);
byId("clear").addEventListener("click", () => {
  for (const id of ["iteration", "kind", "verdict", "search"]) byId(id).value = "";
  for (const [id, value] of [["low", 0], ["high", 1]]) byId(id).value = value;
  for (const id of ["changed", "disagrees"]) byId(id).checked = false;
  filter();
});
byId("more").addEventListener("click", showMore);
if (data.left_out) byId("left-out").textContent = `${data.left_out.toLocaleString("en")} further questions are left out, evenly over the run.`;
filter();

// One image across iterations

const dialog = byId("dialog");
function openImage(each) {
  const same = questions.filter((other) => other.image === each.image);
  const source = data.images[each.thumbnail];
  const rows = same.map((other) => make("tr", {}, make("td", { text: other.iteration }), make("td", {}, said(other.question ?? "(did not parse)", other === each ? "question" : "")),
    make("td", {}, said(other.silver ?? "–")), make("td", { text: other.confidence == null ? "–" : other.confidence.toFixed(2) }), make("td", { text: other.rejected || "kept", class: other.rejected ? "wrong" : "right" })));
  dialog.replaceChildren(
    source ? make("img", { class: "large", alt: "", src: `data:image/webp;base64,${source}` }) : "",
    make("h3", {}, "Image ", said(each.image)), make("p", { class: "quiet", text: `${same.length} questions in iterations ${distinct(same.map((other) => other.iteration)).join(", ")}` }),
    each.view ? make("div", {}, votes(each.votes, each.silver, "votes on the selected question"), votes(each.view, null, "second view")) : "",
    make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...["iteration", "question", "silver", "confidence", "verdict"].map((text) => make("th", { text })))), make("tbody", {}, ...rows))),
    make("p", {}, make("button", { onclick: () => dialog.close(), text: "Close (Esc)" })));
  dialog.showModal();
}

// Rollouts of training

byId("groups").append(...data.groups.map((group) => make("details", {},
  make("summary", {}, `iteration ${group.iteration}, ${group.role}, step ${group.step}: `, said(group.question ?? group.image)),
  make("div", { class: "card" }, thumbnail(group.thumbnail, () => {}),
    make("div", { class: "scroll" },
      group.silver != null ? make("div", {}, "silver answer ", said(group.silver)) : null,
      make("table", {}, make("thead", {}, make("tr", {}, ...["completion", "reward", "parts", "advantage"].map((text) => make("th", { text })))),
        make("tbody", {}, ...group.completions.map((each) => make("tr", {}, make("td", {}, said(each.text)), make("td", { text: number(each.reward) }),
          make("td", { text: Object.entries(each.parts).map(([name, value]) => `${name} ${number(value)}`).join(", ") }),
          make("td", { text: each.advantage == null ? "–" : number(each.advantage) }))))))))));
if (!data.groups.length) byId("groups").append(make("p", { class: "quiet", text: "No rollouts were recorded." }));

// Answers of base and evolved model

const CHANGES = { fixed: "wrong before, right after", broken: "right before, wrong after", right: "right in both", wrong: "wrong in both" };
for (const each of data.answers) each.change = each.base.right === each.evolved.right ? (each.base.right ? "right" : "wrong") : each.evolved.right ? "fixed" : "broken";
function answerRows() {
  const [change, benchmark] = [byId("change").value, byId("benchmark").value];
  const found = data.answers.filter((each) => (!change || each.change === change) && (!benchmark || each.benchmark === benchmark));
  byId("answer-count").textContent = `${found.length.toLocaleString("en")} of ${data.answers.length.toLocaleString("en")} items${found.length > 200 ? ", the first 200 are shown" : ""}`;
  const side = (one) => make("td", { class: one.right ? "right" : "wrong", title: one.text }, said(one.answer ?? "(no answer)"), one.samples_right[1] ? make("span", { class: "quiet", text: ` ${one.samples_right[0]} of ${one.samples_right[1]} samples` }) : null);
  byId("answers").replaceChildren(...found.slice(0, 200).map((each) => make("tr", {}, make("td", { style: "width:70px" }, thumbnail(each.thumbnail, () => {})),
    make("td", {}, said(each.question)), make("td", {}, said(each.gold)), side(each.base), side(each.evolved))));
}
if (data.answers.length) {
  const counts = (change) => data.answers.filter((each) => each.change === change).length;
  byId("change").append(make("option", { value: "", text: "all" }), ...Object.entries(CHANGES).map(([value, text]) => make("option", { value, text: `${text} (${counts(value)})` })));
  options("benchmark", distinct(data.answers.map((each) => each.benchmark)).sort(), "all benchmarks");
  for (const id of ["change", "benchmark"]) byId(id).addEventListener("input", answerRows);
  answerRows();
} else byId("answers-part").replaceChildren(make("p", { class: "quiet", text: "There are no answers of the base and of a later iteration." }));

// Health and settings

const health = data.health.length ? data.health : ["Nothing was noted."];
byId("health").append(make("ul", {}, ...health.map((text) => make("li", {}, said(text)))));
byId("settings").append(...data.settings.map(([name, value, usual]) => make("tr", {}, make("td", { class: "name", text: name }), make("td", {}, said(value)), make("td", { class: "quiet" }, said(usual)))));
if (!data.settings.length) byId("settings").append(make("tr", {}, make("td", { colspan: 3, class: "quiet", text: "none is on record" })));

// Keyboard

function select(step) {
  const next = Math.min(Math.max(state.selected + step, 0), state.found.length - 1);
  while (next >= state.shown && state.shown < state.found.length) showMore();
  byId(`card-${state.selected}`)?.classList.remove("selected");
  state.selected = next;
  const chosen = byId(`card-${next}`);
  chosen?.classList.add("selected");
  chosen?.scrollIntoView({ block: "center" });
}
addEventListener("keydown", (event) => {
  if (event.target.matches("input, select") && event.key !== "Escape") return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") { byId("search").focus(); event.preventDefault(); }
  else if (event.key === "Escape" && event.target.matches("input, select")) event.target.blur();
  else if (dialog.open) return;
  else if (event.key === "j") select(1);
  else if (event.key === "k") select(-1);
  else if (event.key === "Enter" && state.selected >= 0 && !event.target.closest("button, a, summary")) {
    event.preventDefault(); // else it also presses the dialog's button
    openImage(state.found[state.selected]);
  } else if (event.key === "t") byId("theme").click();
});
