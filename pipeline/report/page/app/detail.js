"use strict";
// One sample with all its parameters, its siblings, and the command that makes it again.

const detail = { sample: null, among: [] };

function openDetail(sample, among) {
  detail.sample = sample;
  detail.among = among;
  const prompt = pm.prompts[sample.prompt];
  const settings = pm.analysis.cells[sample.cell]?.settings ?? {};
  const same = pm.samples.filter((s) => s.prompt === sample.prompt);
  const command = `promptmill reproduce ${quoted(pm.analysis.cells[sample.cell]?.url ?? pm.analysis.url)} ${sample.id}`;
  fill("detail-body",
    el("div", { class: "pair" }, picture(sample, "large"), el("div", {},
      el("p", { class: "prompt", dir: "auto" }, prompt.text || "(empty prompt)"),
      prompt.caption ? el("p", { dir: "auto" }, el("b", {}, "caption "), prompt.caption) : null,
      sample.why ? el("p", { class: "why" }, `${STATUS[sample.status]}: ${sample.why}`) : null,
      facts({ status: STATUS[sample.status], ...sample.scores, ...settings, "negative prompt": prompt.negative || null, seed: sample.seed, "image number": sample.index, flags: sample.flags?.join(", ") || null,
        ...Object.fromEntries(Object.entries(prompt.facets).map(([name, value]) => [name, pm.analysis.facets[name][value]])), "prompt id": prompt.id, "sample id": sample.id }),
      el("p", {}, "Make it again:"), el("p", { class: "command" }, el("code", {}, command), el("button", { type: "button", onclick: (event) => copy(command, event.target) }, "copy")))),
    drawnFrom(prompt.inputs),
    siblings("Same prompt and setting, kept and rejected", same.filter((s) => s.cell === sample.cell)),
    siblings("Same prompt and seed, other settings", same.filter((s) => s.index === sample.index && s.cell !== sample.cell)));
  const dialog = byId("detail");
  if (!dialog.open) dialog.showModal();
  byId("detail-body").scrollTop = 0;
}

// What the image was drawn from: image, mask, control maps.
function drawnFrom(inputs) {
  if (!inputs.length) return null;
  return el("section", {}, el("h3", {}, "Drawn from"), el("div", { class: "strip" },
    inputs.map((input) => el("figure", { class: "input" }, inputPicture(input), el("figcaption", {}, roleName(input.role))))));
}

const roleName = (role) => role.replaceAll("_", " ");

function inputPicture({ role, thumb }) {
  const box = el("span", { class: "picture" });
  withThumb(thumb, (address) => address && box.append(el("img", { src: address, alt: roleName(role), decoding: "async", onload: sharpen })));
  return box;
}

function facts(values) {
  const rows = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", {}, rows.map(([name, value]) => [el("dt", {}, name), el("dd", { dir: "auto" }, typeof value === "number" && !Number.isInteger(value) ? digits(value) : String(value))]));
}

function siblings(title, samples) {
  if (!samples.length || (samples.length === 1 && samples[0] === detail.sample)) return null;
  return el("section", {}, el("h3", {}, title), el("div", { class: "strip" }, samples.slice(0, 24).map((sample) => {
    const node = tile(sample, detail.among);
    if (sample === detail.sample) node.setAttribute("aria-current", "true");
    node.querySelector(".text").textContent = sample.cell === detail.sample.cell ? `image ${sample.index}` : cellName(sample.cell);
    return node;
  })));
}

// For a POSIX shell.
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function copy(text, button) {
  const done = () => { button.textContent = "copied"; setTimeout(() => { button.textContent = "copy"; }, 1500); };
  // Pages from disk are no secure context everywhere, and have no clipboard there.
  if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, () => {});
}

function stepDetail(by) {
  const place = detail.among.indexOf(detail.sample);
  const next = detail.among[place + by];
  if (place >= 0 && next) openDetail(next, detail.among);
}
