"use strict";
// The answer: cells ranked by the chosen metric, with intervals and the paired difference to the baseline.

const chosen = { metric: null, baseline: 0, facet: null };

function ranking(group, metric) {
  const order = group.means.map((_, index) => index).filter((index) => group.means[index][0] !== null);
  return order.sort((a, b) => (better(metric, group.means[a][0], group.means[b][0]) ? -1 : group.means[a][0] === group.means[b][0] ? a - b : 1));
}

function verdict(triple, metric) {
  if (triple[1] === null) return "";
  const sign = metricOf(metric).lower_is_better ? -1 : 1;
  if (sign * triple[1] > 0 && sign * triple[2] > 0) return "better";
  if (sign * triple[1] < 0 && sign * triple[2] < 0) return "worse";
  return "not distinguishable";
}

function drawChoices() {
  const { metrics, cells, baselines, facets } = pm.analysis;
  if (!metrics.length) return;
  const redraw = (name) => (value) => {
    chosen[name] = name === "baseline" ? Number(value) : value;
    drawAnswer();
    drawFacets();
    drawPlots();
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
  fill("answer", sentence(group, order), rankedTable(group, order), note(cells.length));
}

function sentence(group, order) {
  const [best, second] = order;
  const { cells, baselines } = pm.analysis;
  const words = [el("b", {}, cells[best].name), ` has the best mean ${chosen.metric}: `, el("b", {}, digits(group.means[best][0])), ` (${interval(group.means[best])})`];
  if (best !== chosen.baseline) {
    const gap = group.differences[chosen.baseline][best];
    words.push(`, ${digits(gap[0], true)} (${interval(gap, true)}) against ${cells[chosen.baseline].name}`);
  }
  words.push(".");
  if (second !== undefined && best < baselines) {
    const gap = group.differences[best][second];
    const sure = verdict(gap, chosen.metric) === "worse";
    words.push(sure ? ` The next, ${cells[second].name}, is behind by ${digits(Math.abs(gap[0]))}.` : ` The next, ${cells[second].name}, cannot be told apart from it with these prompts.`);
  }
  return el("p", { class: "answer" }, words);
}

function rankedTable(group, order) {
  const { cells, axes } = pm.analysis;
  const names = Object.keys(axes);
  const ends = order.flatMap((i) => group.means[i].slice(0, 3)).filter((value) => value !== null);
  const scale = [Math.min(...ends), Math.max(...ends)];
  const head = ["", ...(names.length ? names : ["setting"]), chosen.metric, "95 % interval", "", "difference", "its interval", "", "prompts", "kept · rejected · failed", "s / image"];
  const numeric = new Set([chosen.metric, "difference", "prompts", "kept · rejected · failed", "s / image"]);
  const rows = order.map((index, rank) => {
    const gap = group.differences[chosen.baseline]?.[index] ?? [null, null, null, 0];
    const is = index === chosen.baseline ? "baseline" : verdict(gap, chosen.metric);
    const cell = cells[index];
    const settings = names.length ? names.map((name) => el("td", {}, shown(cell.values[name]))) : [el("td", {}, cell.name)];
    return el("tr", { class: is.replace(" ", "-") }, el("td", { class: "n" }, rank + 1), settings,
      el("td", { class: "n strong" }, digits(group.means[index][0])), el("td", {}, interval(group.means[index])), el("td", {}, whisker(group.means[index], scale)),
      el("td", { class: "n" }, is === "baseline" ? "" : digits(gap[0], true)), el("td", {}, is === "baseline" ? "" : interval(gap, true)), el("td", { class: "verdict" }, is),
      el("td", { class: "n" }, group.means[index][3]), el("td", { class: "n" }, `${cell.kept} · ${cell.rejected} · ${cell.failed}`), el("td", { class: "n" }, digits(cell.seconds)));
  });
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Settings ranked" },
    el("table", { id: "ranked" }, el("thead", {}, el("tr", {}, head.map((text) => el("th", { class: numeric.has(text) ? "n" : null, scope: "col" }, text)))), el("tbody", {}, rows)));
}

const shown = (value) => (value === null || value === undefined ? "default" : typeof value === "object" ? JSON.stringify(value) : String(value));

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
    "Intervals are 95 % bootstrap intervals over prompts, each on its own" + (count > 3 ? `; with ${count} settings, expect about one comparison in twenty to look sure by chance.` : ".") +
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
  const rows = values.map((value, row) => el("tr", {}, el("th", { scope: "row" }, value || "(empty)"), el("td", { class: "n" }, Math.max(...groups[row].means.map((m) => m[3]))),
    groups[row].means.map((mean, index) => facetCell(mean, groups[row].differences[chosen.baseline]?.[index], index, largest))));
  fill("kinds", el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "By kind of prompt" },
    el("table", { class: "kinds" }, el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, rows))),
    el("p", { class: "quiet" }, "Coloured and bold where the difference to the baseline is sure at 95 %; green is better, red is worse."));
}

function facetCell(mean, gap, index, largest) {
  const is = index === chosen.baseline || !gap ? "" : verdict(gap, chosen.metric);
  const sure = is === "better" || is === "worse";
  const strength = sure ? Math.round(15 + (45 * Math.abs(gap[0])) / largest) : 0;
  const colour = is === "better" ? "var(--good)" : "var(--bad)";
  const title = gap && index !== chosen.baseline ? `${interval(mean)}; difference ${digits(gap[0], true)} (${interval(gap, true)})` : interval(mean);
  return el("td", { class: sure ? "n strong" : "n", title, style: sure ? { background: `color-mix(in srgb, ${colour} ${strength}%, transparent)` } : null }, digits(mean[0]),
    gap && index !== chosen.baseline && gap[0] !== null ? el("small", {}, ` ${digits(gap[0], true)}`) : null);
}
