"use strict";
// Drawn with Observable Plot, as SVG that takes its colours from the page.

function drawPlots() {
  const figures = chosen.metric ? [distribution(), ...alongAxes(), price(), agreement()].filter(Boolean) : [];
  byId("plots-section").hidden = !figures.length;
  fill("plots", figures.map(([title, node, wide]) => el("figure", { class: wide ? "wide" : null }, el("figcaption", {}, title), node)));
}

const plotBase = () => ({ width: Math.min(560, byId("plots").clientWidth || 560), marginBottom: 42, style: { background: "none", fontFamily: "inherit", fontSize: "12px" } });

function estimates() {
  const { results, cells } = pm.analysis;
  return results[chosen.metric].all.means
    .map(([mean, low, high, n], index) => ({ mean, low: low ?? mean, high: high ?? mean, n, index, name: cells[index].name, seconds: cells[index].seconds, values: cells[index].values }))
    .filter((row) => row.mean !== null);
}

// Lines that share their x stand beside each other, so that no interval hides another.
const beside = (data, x, key) => {
  const groups = d3.groups(data, (row) => row[key]);
  return groups.flatMap(([, rows], i) => whiskers(rows, x, { stroke: key, dx: (i - (groups.length - 1) / 2) * 6 }));
};

const whiskers = (data, x, extra) => [
  Plot.ruleX(data, { x, y1: "low", y2: "high", strokeWidth: 2, strokeOpacity: 0.6, ...extra }),
  Plot.dot(data, { x, y: "mean", r: 4, dx: extra?.dx, ...(extra?.stroke ? { fill: extra.stroke } : { fill: "currentColor" }), title: (d) => `${d.name}\n${digits(d.mean)} (${digits(d.low)} to ${digits(d.high)})`, tip: true }),
];

function distribution() {
  const cells = pm.analysis.cells.slice(0, 12);
  const data = pm.samples.filter((s) => s.cell >= 0 && s.cell < cells.length && s.scores[chosen.metric] !== null).map((s) => ({ score: s.scores[chosen.metric], cell: cells[s.cell].name }));
  // Of a score that is 0 or 1 the mean says all.
  if (new Set(data.map((row) => row.score)).size < 3) return null;
  const node = Plot.plot({ ...plotBase(), height: 50 + cells.length * 58, marginRight: 12, marginLeft: 12, marginTop: 20, x: { labelOffset: 36, label: chosen.metric }, y: { axis: null }, fy: { axis: null, domain: cells.map((c) => c.name), padding: 0.4 },
    marks: [Plot.rectY(data, Plot.binX({ y: "proportion-facet" }, { x: "score", fy: "cell", fill: "var(--accent)", fillOpacity: 0.75, thresholds: 40, inset: 0.3 })), Plot.ruleY([0]),
      Plot.text(cells, { fy: "name", text: "name", frameAnchor: "top-left", dy: -11, textAnchor: "start" })] });
  return [`Distribution of ${chosen.metric}, made images`, node];
}

function alongAxes() {
  const { axes } = pm.analysis;
  const rows = estimates();
  return Object.keys(axes).filter((name) => axes[name].length > 1 && axes[name].every((v) => typeof v === "number")).map((name) => {
    const others = Object.keys(axes).filter((other) => other !== name && axes[other].length > 1);
    const data = rows.map((row) => ({ ...row, x: row.values[name], line: others.map((o) => `${o} ${shown(row.values[o])}`).join(" · ") || chosen.metric }));
    const many = new Set(data.map((d) => d.line)).size;
    const node = Plot.plot({ ...plotBase(), height: 320, marginLeft: 56, grid: true, x: { labelOffset: 36, label: name, ticks: axes[name].length <= 8 ? axes[name] : undefined, inset: 16 }, y: { label: `mean ${chosen.metric}` },
      color: { legend: many > 1 && many <= 10, scheme: "observable10", domain: many <= 10 ? [...new Set(data.map((d) => d.line))] : undefined },
      marks: [Plot.line(data, { x: "x", y: "mean", z: "line", stroke: many <= 10 ? "line" : "currentColor", strokeOpacity: 0.7, sort: "x" }), ...(many > 1 && many <= 10 ? beside(data, "x", "line") : whiskers(data, "x", { stroke: "var(--accent)" }))] });
    return [`${chosen.metric} against ${name}`, node];
  });
}

function price() {
  const data = estimates().filter((row) => row.seconds);
  if (data.length < 2) return null;
  const few = data.length <= 10;
  const node = Plot.plot({ ...plotBase(), height: 320, marginLeft: 56, grid: true, x: { labelOffset: 36, label: "seconds per image", inset: 16 }, y: { label: `mean ${chosen.metric}` },
    color: { legend: few, scheme: "observable10", domain: few ? data.map((row) => row.name) : undefined }, marks: whiskers(data, "seconds", { stroke: few ? "name" : "var(--accent)" }) });
  return [`The price of quality: ${chosen.metric} against seconds per image`, node];
}

function agreement() {
  const pairs = pm.analysis.correlations.filter((pair) => pair.spearman[0] !== null && (pair.a === chosen.metric || pair.b === chosen.metric));
  if (!pairs.length) return null;
  return [`Does ${chosen.metric} agree with other scores? Spearman’s rank correlation over images`, el("div", { class: "scroll" }, el("table", { id: "correlations" },
    el("thead", {}, el("tr", {}, ["with", "ρ", "95 % interval", "images"].map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, pairs.map(({ a, b, spearman }) => el("tr", {}, el("td", {}, a === chosen.metric ? b : a), el("td", { class: "n strong" }, digits(spearman[0])), el("td", {}, interval(spearman)), el("td", { class: "n" }, spearman[3]))))))];
}
