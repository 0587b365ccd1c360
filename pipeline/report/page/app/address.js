"use strict";
// What is chosen stands in the address behind #, so that a link shows what its sender saw.

const FILTERS = { text: "text", status: "status", cell: "setting", low: "from", high: "to" };

function written() {
  const said = new URLSearchParams();
  const put = (name, value) => { if (value !== null && value !== undefined && value !== "") said.set(name, value); };
  put("metric", chosen.metric);
  put("baseline", chosen.baseline || "");
  put("kinds", chosen.facet);
  put("x", chosen.x);
  put("colour", chosen.colour);
  put("facet", chosen.split);
  if (pm.prompts.length) {
    put("prompt", grid.prompt ? pm.prompts[grid.prompt].id : "");
    put("across", grid.x);
    put("down", grid.y ?? "-");
    for (const [name, value] of Object.entries(grid.fixed)) if (name !== grid.x && name !== grid.y && value) put(`at:${name}`, value);
  }
  for (const [name, word] of Object.entries(FILTERS)) put(word, gallery.filters[name]);
  for (const [name, value] of Object.entries(gallery.filters.facets)) put(`is:${name}`, value);
  put("sort", gallery.sort);
  return said.toString();
}

let asWritten = "";

function remember() {
  asWritten = written();
  // A page from disk may change what follows #, and nothing else of its address.
  history.replaceState(null, "", `#${asWritten}`);
}

const said = () => new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");

// Before anything is drawn. What the page does not have is passed over: links outlive reports.
function recall() {
  const from = said();
  const { metrics, cells, facets, axes } = pm.analysis;
  const has = (names, word) => Object.hasOwn(names, from.get(word)); // `in` also finds what every object has
  if (metrics.some((m) => m.name === from.get("metric"))) chosen.metric = from.get("metric");
  if (cells[Number(from.get("baseline"))]) chosen.baseline = Number(from.get("baseline"));
  if (has(facets, "kinds")) chosen.facet = from.get("kinds");
  for (const [word, name] of [["x", "x"], ["colour", "colour"], ["facet", "split"]]) if (has(axes, word)) chosen[name] = from.get(word);
  for (const [name, word] of Object.entries(FILTERS)) if (from.has(word)) gallery.filters[name] = from.get(word);
  for (const [word, value] of from) if (word.startsWith("is:") && facets[word.slice(3)]?.[Number(value)] !== undefined) gallery.filters.facets[word.slice(3)] = value;
}

function recallGrid() {
  const from = said();
  const has = (word) => Object.hasOwn(grid.axes, from.get(word));
  const place = pm.prompts.findIndex((prompt) => prompt.id === from.get("prompt"));
  if (place >= 0) grid.prompt = place;
  if (has("across")) grid.x = from.get("across");
  if (from.get("down") === "-") grid.y = null;
  else if (has("down") && from.get("down") !== grid.x) grid.y = from.get("down");
  for (const name in grid.axes) {
    const value = from.get(`at:${name}`);
    if (value === "best" || grid.axes[name][Number(value)] !== undefined) grid.fixed[name] = value === "best" ? value : Number(value);
  }
}

// Links to sections move the page, and leave the address to what is chosen.
function keepAddress() {
  document.querySelectorAll("nav a").forEach((link) => link.addEventListener("click", (event) => {
    event.preventDefault();
    document.querySelector(link.getAttribute("href"))?.scrollIntoView();
  }));
  addEventListener("hashchange", () => { if (location.hash.includes("=") && location.hash.slice(1) !== asWritten) location.reload(); });
}
