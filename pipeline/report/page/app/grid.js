"use strict";
// One prompt, its images laid out along two axes that are chosen on the page.

const grid = { prompt: 0, x: null, y: null, fixed: {}, index: "best", samples: null };
const SEEDS = "image number"; // images of one number share their seed in every setting
const PROMPTS = "prompt";
const PROMPTS_SHOWN = 6;

function startGrid() {
  const { axes } = pm.analysis;
  byId("grid-section").hidden = !pm.prompts.length;
  if (!pm.prompts.length) return;
  grid.axes = Object.fromEntries(Object.entries(axes).filter(([, values]) => values.length > 1));
  grid.samples = new Map();
  for (const sample of pm.samples) {
    if (!grid.samples.has(sample.prompt)) grid.samples.set(sample.prompt, []);
    grid.samples.get(sample.prompt).push(sample);
  }
  const count = Math.max(...pm.samples.map((s) => s.index), 0) + 1;
  if (count > 1 && count <= 100) grid.axes[SEEDS] = Array.from({ length: count }, (_, i) => i);
  if (pm.prompts.length > 1) grid.axes[PROMPTS] = Array.from({ length: Math.min(PROMPTS_SHOWN, pm.prompts.length) }, (_, i) => i);
  [grid.x = null, grid.y = null] = Object.keys(grid.axes);
  recallGrid();
  drawGrid();
}

function drawGrid() {
  const names = Object.keys(grid.axes);
  for (const name of names) if (!(name in grid.fixed)) grid.fixed[name] = 0;
  const redraw = (key) => (value) => {
    const other = key === "x" ? "y" : "x";
    if (grid[other] === value) grid[other] = grid[key];
    grid[key] = value || null;
    drawGrid();
  };
  const rest = names.filter((name) => name !== grid.x && name !== grid.y && name !== PROMPTS);
  const fix = (name) => chooser(name, [...grid.axes[name].map((value, i) => [i, shown(value)]), ...(name === SEEDS && chosen.metric ? [["best", `best by ${chosen.metric}, whatever its seed`]] : [])], grid.fixed[name], (value) => {
    grid.fixed[name] = value === "best" ? value : Number(value);
    drawGrid();
  });
  if (pm.analysis && document.documentElement.dataset.ready) remember();
  fill("grid-choices",
    names.length ? chooser("Across", names.map((n) => [n, n]), grid.x, redraw("x")) : null,
    names.length > 1 ? chooser("Down", [["", "nothing"], ...names.map((n) => [n, n])], grid.y ?? "", redraw("y")) : null, rest.map(fix));
  fill("grid-prompt", el("bdi", {}, pm.prompts[grid.prompt].text || "(empty prompt)"));
  byId("grid-place").textContent = `${grid.prompt + 1} of ${pm.prompts.length}`;
  fill("grid", gridTable());
}

// What prompts were drawn from stands before what came of it: a column for each role, or a row where prompts lie across.
function gridTable() {
  const across = grid.x ? grid.axes[grid.x] : [null];
  const down = grid.y ? grid.axes[grid.y] : [null];
  const prompts = grid.x === PROMPTS ? across.map(promptAt) : grid.y === PROMPTS ? down.map(promptAt) : down.map(() => grid.prompt);
  const roles = [...new Set(prompts.flatMap((prompt) => pm.prompts[prompt].inputs.map(({ role }) => role)))].sort();
  const beside = grid.x === PROMPTS ? [] : roles;
  const heading = (text) => el("th", { scope: "row" }, text);
  const head = el("tr", {}, grid.y ? el("th", {}, `${grid.y} ↓ ${grid.x} →`) : null,
    beside.map((role) => el("th", { scope: "col" }, roleName(role))), across.map((value) => el("th", { scope: "col" }, grid.x ? headed(grid.x, value) : "")));
  const above = grid.x === PROMPTS && grid.y ? roles.map((role) => el("tr", {}, heading(roleName(role)), prompts.map((prompt) => givenCell(prompt, role)))) : [];
  const rows = down.map((_, y) => el("tr", {}, grid.y ? heading(headed(grid.y, down[y])) : null,
    beside.map((role) => givenCell(prompts[y], role)), across.map((_, x) => gridCell(x, y))));
  return el("table", { class: "grid" }, el("thead", {}, head), el("tbody", {}, above, rows));
}

function givenCell(prompt, role) {
  const input = pm.prompts[prompt].inputs.find((one) => one.role === role);
  return el("td", { class: "given" }, input ? inputPicture(input) : el("span", { class: "noimage" }, "none"));
}

const promptAt = (offset) => (grid.prompt + (offset ?? 0)) % pm.prompts.length;
const headed = (name, value) => (name === PROMPTS ? el("bdi", { class: "headed" }, pm.prompts[promptAt(value)].text.slice(0, 80) || "(empty prompt)") : shown(value));

function gridCell(x, y) {
  const at = { ...grid.fixed, ...(grid.y ? { [grid.y]: y } : {}), ...(grid.x ? { [grid.x]: x } : {}) };
  const { cells } = pm.analysis;
  const fits = (sample) => sample.cell >= 0 && Object.keys(grid.axes).every((name) =>
    name === PROMPTS ? true : name === SEEDS ? at[name] === "best" || sample.index === at[name] : shown(cells[sample.cell].values[name]) === shown(grid.axes[name][at[name]]));
  const found = (grid.samples.get(promptAt(at[PROMPTS])) || []).filter(fits).sort((a, b) => a.status - b.status || rankOf(a, b));
  if (!found.length) return el("td", {}, el("span", { class: "noimage" }, "not made"));
  const node = tile(found[0], found);
  const here = [grid.x, grid.y];
  // What the headings say need not be said again.
  if (Object.keys(grid.axes).every((name) => name === SEEDS || name === PROMPTS || here.includes(name))) node.querySelector(".setting")?.remove();
  return el("td", {}, node);
}

function rankOf(a, b) {
  if (!chosen.metric) return a.index - b.index;
  const [x, y] = [a.scores[chosen.metric], b.scores[chosen.metric]];
  if (x === null || y === null || x === y) return (x === null) - (y === null) || a.index - b.index;
  return better(chosen.metric, x, y) ? -1 : 1;
}

function stepPrompt(by) {
  grid.prompt = (grid.prompt + by + pm.prompts.length) % pm.prompts.length;
  drawGrid();
}

function findPrompt(text) {
  const wanted = text.toLowerCase();
  const order = pm.prompts.map((_, i) => (grid.prompt + 1 + i) % pm.prompts.length);
  const found = order.find((i) => pm.prompts[i].text.toLowerCase().includes(wanted));
  byId("grid-found").textContent = found === undefined ? "no prompt has this text" : "";
  if (found !== undefined) stepPrompt(found - grid.prompt);
}
