"use strict";
// The answer: cells ranked by the chosen metric, with intervals and the paired difference to the baseline.

const chosen = { metric: null, baseline: 0, facet: null, x: null, colour: null, split: null };

function ranking(group, metric) {
  const order = group.means.map((_, index) => index).filter((index) => group.means[index][0] !== null);
  return order.sort((a, b) => (better(metric, group.means[a][0], group.means[b][0]) ? -1 : group.means[a][0] === group.means[b][0] ? a - b : 1));
}

const SURE_FROM = 6; // prompts: five that agree do so once in 16 by chance

// Holm 1979: each p, raised for how many comparisons stand beside it.
function holm(chances) {
  const order = chances.map((p, i) => [p, i]).filter(([p]) => p !== null && p !== undefined).sort((a, b) => a[0] - b[0]);
  const raised = chances.map(() => null);
  let worst = 0;
  order.forEach(([p, i], rank) => (raised[i] = worst = Math.max(worst, Math.min(1, (order.length - rank) * p))));
  return raised;
}

// What each difference of a row says, all of them looked at together; `skip` is the baseline itself.
function verdicts(gaps, metric, skip) {
  const raised = holm(gaps.map((gap, i) => (i === skip || !gap ? null : gap[4])));
  return gaps.map((gap, i) => (i === skip || !gap ? "" : verdict(gap, metric, raised[i])));
}

function verdict(gap, metric, raised) {
  if (gap[1] === null) return "";
  if (gap[3] < SURE_FROM) return "too few prompts";
  if (gap[1] <= 0 && gap[2] >= 0) return "not distinguishable";
  if (raised !== null && raised !== undefined && raised >= 0.05) return "unsure among many";
  return (metricOf(metric).lower_is_better ? -1 : 1) * gap[0] > 0 ? "better" : "worse";
}

function drawChoices() {
  const { metrics, cells, baselines, facets } = pm.analysis;
  if (!metrics.length) return;
  const redraw = (name) => (value) => {
    chosen[name] = name === "baseline" ? Number(value) : value;
    drawAnswer();
    drawCompared();
    drawFacets();
    drawPlots();
    if (pm.prompts.length) drawGrid();
    remember();
  };
  fill(
    "choices",
    chooser("Judge by", metrics.map((m) => [m.name, m.name + (m.lower_is_better ? " (lower is better)" : "")]), chosen.metric, redraw("metric")),
    baselines > 1 ? chooser("Compare with", cells.slice(0, baselines).map((cell, i) => [i, cell.name]), chosen.baseline, redraw("baseline")) : null,
    Object.keys(facets).length > 1 ? chooser("Kinds by", Object.keys(facets).map((f) => [f, f]), chosen.facet, redraw("facet")) : null,
  );
}

function drawAnswer() {
  const { results, cells } = pm.analysis;
  if (!chosen.metric) return fill("answer", el("p", {}, "No sample has a score yet, so there is nothing to rank. `promptmill score` adds scores to a dataset."));
  const group = results[chosen.metric].all;
  const order = ranking(group, chosen.metric);
  if (!order.length) return fill("answer", el("p", {}, "No sample has this score."));
  const ranked = rankedTable(group, order);
  const effects = effectsTable();
  fill("answer", sentence(group, order), ranked, copiesOf(ranked.querySelector("table"), `settings-${fileName(chosen.metric)}`), note(cells.length), effects);
}

function sentence(group, order) {
  const best = order[0];
  const { cells } = pm.analysis;
  const top = order.filter((i) => group.means[i][0] === group.means[best][0]);
  const words = top.length > 1
    ? [el("b", {}, `${top.length} settings`), ` share the best mean ${chosen.metric}: `]
    : [el("b", {}, cells[best].name), ` has the best mean ${chosen.metric}: `];
  words.push(el("b", {}, digits(group.means[best][0])), ` (${interval(group.means[best])})`);
  if (!top.includes(chosen.baseline)) {
    const gap = group.differences[chosen.baseline][best];
    words.push(`, ${digits(gap[0], true)} (${interval(gap, true)}) against ${cells[chosen.baseline].name}`);
  }
  words.push(".", ...ties(group, order, best));
  if (cells.length > 3) words.push(` The best mean of ${cells.length} is partly luck: expect a little less of it on other prompts.`);
  return el("p", { class: "answer" }, words);
}

// Who cannot be told apart from the best, of however many settings; and who is the first that can.
function ties(group, order, best) {
  const { cells } = pm.analysis;
  if (order.length < 2) return [];
  const said = verdicts(group.differences[best], chosen.metric, best);
  const tied = order.filter((i) => i !== best && said[i] !== "worse");
  if (!tied.length) {
    const gap = group.differences[best][order[1]];
    return [` The next, ${cells[order[1]].name}, is behind by ${digits(Math.abs(gap[0]))}.`];
  }
  const few = Math.max(...tied.map((i) => group.differences[best][i][3])) < SURE_FROM;
  const why = few ? `with fewer than ${SURE_FROM} prompts` : "with these prompts";
  const most = cells.length > 12 ? 4 : 8;
  const names = tied.slice(0, most).map((i) => cells[i].name).join("; ") + (tied.length > most ? `; and ${tied.length - most} more` : "");
  if (tied.length === order.length - 1 && tied.length > 1) return [` None of the other ${tied.length} can be told apart from it ${why}.`];
  return [` ${tied.length === 1 ? "One other" : `${tied.length} others`} cannot be told apart from it ${why}: ${names}.`];
}

function rankedTable(group, order) {
  const { cells, axes } = pm.analysis;
  const names = Object.keys(axes);
  const ends = order.flatMap((i) => group.means[i].slice(0, 3)).filter((value) => value !== null);
  const scale = [Math.min(...ends), Math.max(...ends)];
  const head = ["", ...(names.length ? names : ["setting"]), chosen.metric, "95 % interval", "", "difference", "its interval", "", "prompts", "kept · rejected · failed", "s / image"];
  const numeric = new Set([chosen.metric, "difference", "prompts", "kept · rejected · failed", "s / image"]);
  const said = verdicts(group.differences[chosen.baseline] ?? group.means.map(() => null), chosen.metric, chosen.baseline);
  const rows = order.map((index, rank) => {
    const gap = group.differences[chosen.baseline]?.[index] ?? [null, null, null, 0];
    const is = index === chosen.baseline ? "baseline" : said[index];
    const cell = cells[index];
    const settings = names.length ? names.map((name) => el("td", {}, shown(cell.values[name]))) : [el("td", {}, cell.name)];
    return el("tr", { class: is.replaceAll(" ", "-") }, el("td", { class: "n" }, rank + 1), settings,
      el("td", { class: "n strong" }, digits(group.means[index][0])), el("td", {}, interval(group.means[index])), el("td", {}, whisker(group.means[index], scale)),
      el("td", { class: "n" }, is === "baseline" ? "" : digits(gap[0], true)), el("td", {}, is === "baseline" ? "" : interval(gap, true)), el("td", { class: "verdict" }, is),
      el("td", { class: "n" }, group.means[index][3]), el("td", { class: "n" }, `${cell.kept} · ${cell.rejected} · ${cell.failed}`), el("td", { class: "n" }, seconds(cell)));
  });
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Settings ranked" },
    el("table", { id: "ranked" }, el("thead", {}, el("tr", {}, head.map((text) => el("th", { class: numeric.has(text) ? "n" : null, scope: "col" }, text)))), el("tbody", {}, rows)));
}

// Which axis matters, by how much and how sure: each value's mean over all settings of the others.
function effectsTable() {
  const effects = Object.entries(pm.analysis.results[chosen.metric].main_effects).filter(([, one]) => one.range !== null);
  if (effects.length < 2) return null;
  effects.sort((a, b) => b[1].range - a[1].range);
  const gaps = effects.flatMap(([, one]) => one.differences["0"].slice(1));
  const said = verdicts(gaps, chosen.metric, -1);
  let place = 0;
  const rows = effects.flatMap(([axis, one]) => one.means.map((mean, i) => {
    const gap = one.differences["0"][i];
    const is = i ? said[place++] : "first";
    return el("tr", { class: is.replaceAll(" ", "-") }, el("td", {}, i ? "" : axis), el("td", { class: "n" }, i ? "" : digits(one.range)), el("td", {}, shown(pm.analysis.axes[axis][i])),
      el("td", { class: "n strong" }, digits(mean[0])), el("td", {}, interval(mean)), el("td", { class: "n" }, i ? digits(gap[0], true) : ""), el("td", {}, i ? interval(gap, true) : ""), el("td", { class: "verdict" }, is));
  }));
  const head = ["axis", "best − worst", "value", `mean ${chosen.metric}`, "95 % interval", "difference to the first", "its interval", ""];
  const table = el("table", { id: "effects" }, el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, rows));
  return el("div", {}, el("h3", {}, "Which axis matters?"),
    el("p", {}, el("b", {}, effects[0][0]), ` moves the mean most, by ${digits(effects[0][1].range)} between its best and its worst value; each value is averaged over all settings of the other axes.`),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Main effects" }, table), copiesOf(table, `axes-${fileName(chosen.metric)}`));
}

const seconds = (cell) => digits(cell.seconds) + (cell.seconds_deviation === null || cell.seconds_deviation === undefined ? "" : ` ± ${digits(cell.seconds_deviation)}`);

const shown = (value) => (value === null || value === undefined ? "default" : value === "" ? "(empty)" : typeof value === "object" ? JSON.stringify(value) : String(value));

function whisker([mean, low, high], [least, most]) {
  const width = most - least || 1;
  const at = (value) => `${((100 * (value - least)) / width).toFixed(2)}%`;
  const bar = low === null ? null : el("i", { style: { left: at(low), width: `${((100 * (high - low)) / width).toFixed(2)}%` } });
  return el("span", { class: "whisker", "aria-hidden": "true" }, bar, el("b", { style: { left: at(mean) } }));
}

function note(count) {
  const left = pm.analysis.cells_left_out;
  const scored = metricOf(chosen.metric).images;
  const some = scored < pm.analysis.made ? ` Only ${scored.toLocaleString("en")} of ${pm.analysis.made.toLocaleString("en")} made images have this score.` : " Kept and rejected images count alike.";
  return el("p", { class: "quiet" }, "Means are over prompts, each the mean of its images." + some + ` Differences are paired: the same prompts with ${pm.analysis.same_seeds === false ? "other" : "the same"} seeds. ` +
    "Intervals hold with 95 %, each on its own: Student’s t and Hall’s for means, Blaker’s and Tango’s for shares." +
    (count > 2 ? ` “Better” and “worse” hold for all ${count - 1} comparisons together (Holm), and are not said of fewer than ${SURE_FROM} prompts.` : ` “Better” and “worse” are not said of fewer than ${SURE_FROM} prompts.`) +
    " Seconds an image are of batches on a warm device, ± their deviation." +
    (left ? ` ${left} settings with lower means are left out here.` : ""));
}

function drawFacets() {
  const { facets, results, cells } = pm.analysis;
  const values = facets[chosen.facet];
  byId("by-kind").hidden = !values || !chosen.metric;
  if (!values || !chosen.metric) return;
  const groups = results[chosen.metric].facets[chosen.facet];
  const largest = Math.max(...groups.flatMap((g) => g.differences[chosen.baseline]?.map((gap) => Math.abs(gap[0] ?? 0)) ?? [0])) || 1;
  const head = [chosen.facet, "prompts", ...cells.map((cell) => cell.name)];
  // Every cell of the table is a comparison that is looked at.
  const flat = groups.flatMap((g) => cells.map((_, i) => (i === chosen.baseline ? null : (g.differences[chosen.baseline]?.[i] ?? null))));
  const said = verdicts(flat, chosen.metric, -1);
  const rows = values.map((value, row) => el("tr", {}, el("th", { scope: "row" }, value || "(empty)"), el("td", { class: "n" }, Math.max(...groups[row].means.map((m) => m[3]))),
    groups[row].means.map((mean, index) => facetCell(mean, flat[row * cells.length + index], said[row * cells.length + index], largest))));
  const table = el("table", { class: "kinds" }, el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, rows));
  fill("kinds", el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "By kind of prompt" }, table), copiesOf(table, `kinds-${fileName(chosen.metric)}`),
    el("p", { class: "quiet" }, `Coloured and bold where the difference to the baseline is sure at 95 % for the whole table together (Holm) and over at least ${SURE_FROM} prompts; green is better, red is worse.` + (groups[0].differences[chosen.baseline] ? "" : " Kinds of prompts are compared with the first and the best setting only: choose one of them as the baseline.")));
}

function facetCell(mean, gap, is, largest) {
  const sure = is === "better" || is === "worse";
  const strength = sure ? Math.round(15 + (45 * Math.abs(gap[0])) / largest) : 0;
  const colour = is === "better" ? "var(--good)" : "var(--bad)";
  const title = gap ? `${interval(mean)}; difference ${digits(gap[0], true)} (${interval(gap, true)}) ${is}` : interval(mean);
  return el("td", { class: sure ? "n strong" : "n", title, style: sure ? { background: `color-mix(in srgb, ${colour} ${strength}%, transparent)` } : null }, digits(mean[0]),
    gap && gap[0] !== null ? el("small", {}, ` ${digits(gap[0], true)}`) : null);
}
