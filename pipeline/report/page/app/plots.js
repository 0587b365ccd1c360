"use strict";
// Drawn with Observable Plot, as SVG that takes its colours from the page.

function drawPlots() {
  drawPlotChoices();
  const figures = chosen.metric ? [distribution(), ...alongAxes(), ...mainEffects(), heatMap(), price(), agreement()].filter(Boolean) : [];
  byId("plots-section").hidden = !figures.length;
  fill("plots", figures.map(([title, node]) => el("figure", {}, el("figcaption", {}, title), node, node.querySelector("table") ? copiesOf(node.querySelector("table"), fileName(title)) : svgCopies(node, title))));
}

const swept = () => Object.keys(pm.analysis.axes).filter((name) => pm.analysis.axes[name].length > 1);

// What stands along x, in colour and in panels beside each other; the other axes are averaged over.
function drawPlotChoices() {
  const names = swept();
  if (names.length < 2 || !chosen.metric) return fill("plot-choices");
  const numeric = names.filter((name) => pm.analysis.axes[name].every((value) => typeof value === "number"));
  chosen.x ??= numeric[0] ?? names[0];
  if (chosen.colour === chosen.x || chosen.colour === null) chosen.colour = names.find((name) => name !== chosen.x) ?? null;
  if (chosen.split === chosen.x || chosen.split === chosen.colour) chosen.split = null;
  const redraw = (name) => (value) => { chosen[name] = value || null; drawPlots(); remember(); };
  const rest = (...taken) => names.filter((name) => !taken.includes(name)).map((name) => [name, name]);
  fill("plot-choices", chooser("Along x", names.map((name) => [name, name]), chosen.x, redraw("x")), chooser("Colour", rest(chosen.x), chosen.colour, redraw("colour")),
    names.length > 2 ? chooser("Panels", [["", "one"], ...rest(chosen.x, chosen.colour)], chosen.split ?? "", redraw("split")) : null);
}

// Settings that agree in these axes as one point: the mean of their means, with an interval only where it is one setting.
function averaged(names) {
  return d3.groups(estimates(), (row) => names.map((name) => shown(row.values[name])).join(" · ")).map(([key, rows]) => {
    const mean = d3.mean(rows, (row) => row.mean);
    const one = rows.length === 1 ? rows[0] : { low: mean, high: mean };
    return { ...rows[0], key, mean, low: one.low, high: one.high, name: names.map((name) => `${name} ${shown(rows[0].values[name])}`).join(" · ") };
  });
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
  const names = swept();
  if (!names.length) return [];
  const [x, colour, split] = names.length > 1 ? [chosen.x, chosen.colour, chosen.split] : [names[0], null, null];
  const used = [x, colour, split].filter(Boolean);
  const data = averaged(used).map((row) => ({ ...row, x: row.values[x], line: colour ? shown(row.values[colour]) : chosen.metric, panel: split ? `${split} ${shown(row.values[split])}` : "" }));
  const numeric = axes[x].every((value) => typeof value === "number");
  const points = numeric ? data : data.map((row) => ({ ...row, x: shown(row.x) }));
  const lines = [...new Set(points.map((d) => d.line))];
  const panel = split ? { fx: "panel" } : {};
  const node = Plot.plot({ ...plotBase(), width: split ? Math.max(560, 260 * axes[split].length) : plotBase().width, height: 320, marginLeft: 56, grid: true,
    x: { labelOffset: 36, label: x, ticks: numeric && axes[x].length <= 8 ? axes[x] : undefined, inset: 16, ...(numeric ? {} : { type: "point", domain: axes[x].map(shown) }) }, y: { label: `mean ${chosen.metric}` }, fx: { label: null },
    // A legend for however many lines: above ten as a scale from first to last.
    color: { legend: lines.length > 1, label: colour, domain: lines, ...(lines.length <= 10 ? { scheme: "observable10" } : { type: "ordinal", scheme: "turbo" }) },
    marks: [Plot.line(points, { x: "x", y: "mean", z: "line", stroke: lines.length > 1 ? "line" : "currentColor", strokeOpacity: 0.7, sort: "x", ...panel }),
      ...(lines.length > 1 && lines.length <= 10 && !split && points.some((row) => row.low < row.high) ? beside(points, "x", "line") : whiskers(points, "x", { stroke: lines.length > 1 ? "line" : "var(--accent)", ...panel }))] });
  const over = names.filter((name) => !used.includes(name));
  return [[`${chosen.metric} against ${x}${colour ? `, colour ${colour}` : ""}${over.length ? `; mean over ${over.join(", ")}` : ""}`, node]];
}

// Each axis by itself, all of one scale: the longest ladder matters most.
function mainEffects() {
  const effects = Object.entries(pm.analysis.results[chosen.metric].main_effects).filter(([, one]) => one.range !== null);
  if (effects.length < 2) return [];
  const data = effects.flatMap(([axis, one]) => one.means.map(([mean, low, high], i) => ({ axis, value: shown(pm.analysis.axes[axis][i]), mean, low: low ?? mean, high: high ?? mean, name: `${axis} ${shown(pm.analysis.axes[axis][i])}` })).filter((row) => row.mean !== null));
  const rows = data.map((row) => row.name);
  const node = Plot.plot({ ...plotBase(), height: 60 + rows.length * 22, marginLeft: 190, grid: true, x: { labelOffset: 36, label: `mean ${chosen.metric}`, inset: 8 }, y: { label: null, domain: rows },
    color: { legend: false, domain: effects.map(([axis]) => axis), scheme: "observable10" },
    marks: [Plot.ruleY(data, { y: "name", x1: "low", x2: "high", stroke: "axis", strokeWidth: 2, strokeOpacity: 0.6 }), Plot.dot(data, { y: "name", x: "mean", r: 4, fill: "axis", title: (d) => `${d.name}\n${digits(d.mean)} (${digits(d.low)} to ${digits(d.high)})`, tip: true })] });
  return [[`Main effects on ${chosen.metric}: each value over all settings of the other axes`, node]];
}

function heatMap() {
  const names = swept();
  if (names.length < 2) return null;
  const [x, y] = [chosen.x, chosen.colour];
  const data = averaged([x, y]).map((row) => ({ ...row, x: shown(row.values[x]), y: shown(row.values[y]) }));
  const { axes } = pm.analysis;
  const node = Plot.plot({ ...plotBase(), height: 90 + axes[y].length * 34, marginLeft: 90, x: { labelOffset: 36, label: x, domain: axes[x].map(shown) }, y: { label: y, domain: axes[y].map(shown) },
    color: { legend: true, scheme: "blues", reverse: metricOf(chosen.metric).lower_is_better, label: `mean ${chosen.metric}` },
    marks: [Plot.cell(data, { x: "x", y: "y", fill: "mean", inset: 1 }), Plot.text(data, { x: "x", y: "y", text: (d) => digits(d.mean), fill: "black", stroke: "white", strokeWidth: 3 })] });
  return [`${chosen.metric} by ${x} and ${y}`, node];
}

function price() {
  const data = estimates().filter((row) => row.seconds);
  if (data.length < 2) return null;
  const few = data.length <= 20;
  const node = Plot.plot({ ...plotBase(), height: 320, marginLeft: 56, grid: true, x: { labelOffset: 36, label: "seconds per image", inset: 16 }, y: { label: `mean ${chosen.metric}` },
    color: { legend: few, ...(data.length <= 10 ? { scheme: "observable10" } : { type: "ordinal", scheme: "turbo" }), domain: few ? data.map((row) => row.name) : undefined }, marks: whiskers(data, "seconds", { stroke: few ? "name" : "var(--accent)" }) });
  return [`The price of quality: ${chosen.metric} against seconds per image`, node];
}

function agreement() {
  const pairs = pm.analysis.correlations.filter((pair) => pair.spearman[0] !== null && (pair.a === chosen.metric || pair.b === chosen.metric));
  if (!pairs.length) return null;
  return [`Does ${chosen.metric} agree with other scores? Spearman’s rank correlation over images`, el("div", { class: "scroll" }, el("table", { id: "correlations" },
    el("thead", {}, el("tr", {}, ["with", "ρ", "95 % interval", "images"].map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, pairs.map(({ a, b, spearman }) => el("tr", {}, el("td", {}, a === chosen.metric ? b : a), el("td", { class: "n strong" }, digits(spearman[0])), el("td", {}, interval(spearman)), el("td", { class: "n" }, spearman[3]))))))];
}
