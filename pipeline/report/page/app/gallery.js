"use strict";
// Thousands of tiles, of which only those in view exist.

const gallery = { shown: [], columns: 1, tile: [176, 236], filters: { text: "", status: "", cell: "", low: "", high: "", facets: {} }, sort: "order", drawn: new Map() };

function startGallery() {
  byId("gallery-section").hidden = !pm.samples.length;
  if (!pm.samples.length) return;
  const { cells, metrics, facets } = pm.analysis;
  const set = (name) => (value) => { gallery.filters[name] = value; applyFilters(); };
  const typed = (label, name, attributes) => el("label", { class: "choose" }, el("span", {}, label), el("input", { ...attributes, value: gallery.filters[name], oninput: (event) => set(name)(event.target.value) }));
  const order = [["order", "order of the source"], ...metrics.flatMap((m) => [[`-${m.name}`, `${m.name}, highest first`], [`+${m.name}`, `${m.name}, lowest first`]]), ["seed", "seed"]];
  gallery.sort = metrics.length ? (metrics[0].lower_is_better ? "+" : "-") + metrics[0].name : "order";
  if (order.some(([key]) => key === said().get("sort"))) gallery.sort = said().get("sort");
  gallery.metric = metrics[0]?.name ?? null;
  fill("gallery-choices",
    typed("Text or id", "text", { type: "search", id: "gallery-text", maxlength: 200 }),
    chooser("Status", [["", "all"], ...STATUS.map((word, i) => [i, word])], gallery.filters.status, set("status")),
    cells.length > 1 ? chooser("Setting", [["", "all"], ...cells.map((cell, i) => [i, cell.name])], gallery.filters.cell, set("cell")) : null,
    Object.entries(facets).map(([name, values]) => chooser(name, [["", "all"], ...values.map((value, i) => [i, value || "(empty)"])], gallery.filters.facets[name] ?? "", (value) => { gallery.filters.facets[name] = value; applyFilters(); })),
    metrics.length ? chooser("Score", metrics.map((m) => [m.name, m.name]), gallery.metric, (value) => { gallery.metric = value; applyFilters(); }) : null,
    metrics.length ? typed("from", "low", { type: "number", step: "any", class: "short", id: "gallery-low" }) : null,
    metrics.length ? typed("to", "high", { type: "number", step: "any", class: "short", id: "gallery-high" }) : null,
    chooser("Sort by", order, gallery.sort, (value) => { gallery.sort = value; applyFilters(); }));
  const view = byId("gallery");
  view.addEventListener("scroll", () => requestAnimationFrame(drawTiles), { passive: true });
  view.addEventListener("keydown", moveFocus);
  new ResizeObserver(() => layout()).observe(view);
  applyFilters();
}

function applyFilters() {
  const { text, status, cell, low, high, facets } = gallery.filters;
  const wanted = text.toLowerCase();
  const kinds = Object.entries(facets).filter(([, value]) => value !== "").map(([name, value]) => [name, Number(value)]);
  const number = (value) => (value === "" || !Number.isFinite(Number(value)) ? null : Number(value));
  const [least, most] = [number(low), number(high)];
  gallery.shown = pm.samples.filter((s) => {
    const prompt = pm.prompts[s.prompt];
    const score = gallery.metric ? s.scores[gallery.metric] : null;
    return (status === "" || s.status === Number(status)) && (cell === "" || s.cell === Number(cell)) &&
      (least === null || (score !== null && score >= least)) && (most === null || (score !== null && score <= most)) &&
      kinds.every(([name, value]) => prompt.facets[name] === value) &&
      (!wanted || prompt.text.toLowerCase().includes(wanted) || s.id.startsWith(wanted) || prompt.id.toLowerCase() === wanted);
  });
  if (gallery.sort === "seed") gallery.shown.sort((a, b) => a.seed - b.seed || a.place - b.place);
  else if (gallery.sort !== "order") {
    const [sign, name] = [gallery.sort[0] === "-" ? -1 : 1, gallery.sort.slice(1)];
    // A sample without the score comes last either way.
    gallery.shown.sort((a, b) => (a.scores[name] === null) - (b.scores[name] === null) || sign * (a.scores[name] - b.scores[name]) || a.place - b.place);
  }
  byId("gallery-count").textContent = `${gallery.shown.length.toLocaleString("en")} of ${pm.samples.length.toLocaleString("en")} samples`;
  byId("gallery").scrollTop = 0;
  layout();
  remember();
}

function layout() {
  const view = byId("gallery");
  const wide = view.clientWidth - 4;
  gallery.columns = Math.max(wide < 420 ? 2 : 1, Math.floor(wide / 170));
  gallery.tile = [wide / gallery.columns, Math.min(wide / gallery.columns, 400) + (pm.analysis.cells.length > 1 ? 82 : 62)];
  const rows = Math.ceil(gallery.shown.length / gallery.columns);
  byId("gallery-space").style.height = `${rows * gallery.tile[1]}px`;
  byId("gallery-space").replaceChildren();
  gallery.drawn.clear();
  drawTiles();
}

function drawTiles() {
  const view = byId("gallery");
  const [width, height] = gallery.tile;
  const first = Math.max(0, Math.floor(view.scrollTop / height) - 1) * gallery.columns;
  const last = Math.min(gallery.shown.length, (Math.ceil((view.scrollTop + view.clientHeight) / height) + 1) * gallery.columns);
  for (const [place, node] of gallery.drawn) if (place < first || place >= last) { node.remove(); gallery.drawn.delete(place); }
  for (let place = first; place < last; place++) {
    if (gallery.drawn.has(place)) continue;
    const node = tile(gallery.shown[place], gallery.shown);
    Object.assign(node.style, { position: "absolute", width: `${width - 8}px`, height: `${height - 8}px`, left: `${(place % gallery.columns) * width}px`, top: `${Math.floor(place / gallery.columns) * height}px` });
    node.dataset.place = place;
    gallery.drawn.set(place, node);
    byId("gallery-space").append(node);
  }
}

function tile(sample, among) {
  const metric = among === gallery.shown ? gallery.metric : chosen.metric;
  const score = metric ? digits(sample.scores[metric]) : "";
  return el("button", { class: `tile ${STATUS[sample.status]}`, type: "button", onclick: () => openDetail(sample, among) },
    picture(sample), el("span", { class: "line" }, el("b", {}, score), el("span", { class: "badge" }, STATUS[sample.status])),
    pm.analysis.cells.length > 1 ? el("span", { class: "setting", title: cellName(sample.cell) }, cellName(sample.cell)) : null,
    el("span", { class: "text", dir: "auto" }, pm.prompts[sample.prompt].text || "(empty prompt)"));
}

function moveFocus(event) {
  const here = Number(document.activeElement?.dataset?.place ?? -1);
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: gallery.columns, ArrowUp: -gallery.columns, Home: -here, End: gallery.shown.length - 1 - here }[event.key];
  if (step === undefined || here < 0) return;
  const next = Math.max(0, Math.min(gallery.shown.length - 1, here + step));
  const view = byId("gallery");
  const top = Math.floor(next / gallery.columns) * gallery.tile[1];
  if (top < view.scrollTop) view.scrollTop = top;
  if (top + gallery.tile[1] > view.scrollTop + view.clientHeight) view.scrollTop = top + gallery.tile[1] - view.clientHeight;
  drawTiles();
  gallery.drawn.get(next)?.focus({ preventScroll: true });
  event.preventDefault();
}
