"use strict";
// Data arrives by calls of `promptmill(kind, number, content)` from scripts beside the page: a page that was opened
// from disk may load scripts and may not fetch files. Text is only ever set as text, never as HTML.

const pm = { analysis: null, prompts: [], samples: [], thumbs: new Map(), waiting: new Map(), parts: { prompts: [], samples: [] } };

function promptmill(kind, number, content) {
  if (kind === "thumbs") {
    pm.thumbs.set(number, content);
    (pm.waiting.get(number) || []).forEach((tell) => tell());
    pm.waiting.delete(number);
  } else if (kind === "analysis") pm.analysis = content;
  else pm.parts[kind][number] = content;
}

const THUMBS_A_PIECE = 64;
const STATUS = ["kept", "rejected", "failed"];

function unpack() {
  for (const part of pm.parts.prompts.filter(Boolean))
    part.id.forEach((id, i) => {
      const facets = {};
      for (const name in part.facets) facets[name] = part.facets[name][i];
      const inputs = Object.entries(part.inputs || {}).map(([role, thumbs]) => ({ role, thumb: thumbs[i] })).filter((one) => one.thumb >= 0);
      pm.prompts.push({ id, inputs, text: part.prompt?.[i] ?? "", caption: part.caption?.[i] ?? null, negative: part.negative_prompt?.[i] ?? "", facets });
    });
  for (const part of pm.parts.samples.filter(Boolean)) {
    const names = Object.keys(part.scores);
    part.sample_id.forEach((id, i) => {
      const scores = {};
      for (const name of names) scores[name] = part.scores[name][i];
      pm.samples.push({
        id, scores, place: pm.samples.length, prompt: part.prompt[i], cell: part.cell[i], index: part.sample_index[i], seed: part.seed[i],
        status: part.status[i], why: part.why[i], flags: part.flags[i], thumb: part.thumb[i],
      });
    });
  }
  pm.parts = { prompts: [], samples: [] };
}

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return node;
}

const byId = (id) => document.getElementById(id);

function fill(id, ...children) {
  byId(id).replaceChildren(...children.flat(Infinity).filter(Boolean));
}

function digits(value, signed) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size >= 1000 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : size >= 0.0995 ? value.toFixed(3) : size === 0 ? "0" : size >= 0.001 ? value.toFixed(4) : value.toExponential(1);
  return (signed && value > 0 ? "+" : "") + text.replace("-", "−");
}

const interval = (triple, signed) => (triple[1] === null ? "–" : `${digits(triple[1], signed)} to ${digits(triple[2], signed)}`);

function chooser(label, options, value, onchange) {
  const select = el("select", { onchange: () => onchange(select.value) }, options.map(([key, text]) => el("option", { value: key }, text)));
  select.value = value;
  return el("label", { class: "choose" }, el("span", {}, label), select);
}

// Calls `show` with the picture's address, at once or when its piece has come; null where there is none.
function withThumb(number, show) {
  if (number < 0) return show(null);
  const piece = Math.floor(number / THUMBS_A_PIECE);
  const ready = () => show(pm.thumbs.get(piece)?.[number % THUMBS_A_PIECE] ?? null);
  if (pm.thumbs.has(piece)) return ready();
  if (pm.waiting.has(piece)) return void pm.waiting.get(piece).push(ready);
  pm.waiting.set(piece, [ready]);
  const source = pm.analysis.thumb_files[piece];
  const fail = () => {
    const waiting = pm.waiting.get(piece) || [];
    pm.thumbs.set(piece, []);
    pm.waiting.delete(piece);
    waiting.forEach((tell) => tell());
  };
  document.head.append(el("script", { src: source, onerror: fail }));
}

function picture(sample, size) {
  const box = el("span", { class: "picture" });
  const text = pm.prompts[sample.prompt]?.text ?? "";
  withThumb(sample.thumb, (address) => {
    if (address) box.append(el("img", { src: address, alt: text.slice(0, 200), decoding: "async", class: size, onload: sharpen }));
    else box.append(el("span", { class: "noimage" }, sample.status === 2 ? "failed" : sample.status === 1 ? "rejected, image not stored" : "no image"));
  });
  return box;
}

function sharpen(event) {
  // Of a 64×64 image every pixel is worth seeing; larger ones look better smooth.
  if (event.target.naturalWidth <= 96) event.target.classList.add("pixels");
}

const metricOf = (name) => pm.analysis.metrics.find((metric) => metric.name === name);
const better = (name, a, b) => (metricOf(name).lower_is_better ? a < b : a > b);
const cellName = (index) => pm.analysis.cells[index]?.name ?? "other settings";
