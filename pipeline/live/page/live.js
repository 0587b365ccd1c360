"use strict";
// Everything that comes is text: nothing here makes HTML of it.
const at = (id) => document.getElementById(id);
const number = (value, digits = 0) => (value === null ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits }));
const element = (name, text, ...children) => {
  const made = document.createElement(name);
  if (text !== null) made.textContent = text;
  made.append(...children);
  return made;
};
const duration = (seconds) => {
  if (seconds === null) return "–";
  const whole = Math.round(seconds), hours = Math.floor(whole / 3600), minutes = Math.floor((whole % 3600) / 60);
  return hours ? `${number(hours)} h ${minutes} min` : minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
};
const counted = (counts) => Object.entries(counts).map(([name, count]) => `${name} ${number(count)}`).join(" · ");

function facts(view) {
  const money = view.cost === null ? [] : [["cost so far", number(view.cost, 2)], ["for 1,000 kept", number(view.cost_per_thousand, 2)]];
  const all = [
    ["samples", `${number(view.samples_done)} / ${number(view.samples)}`], ["images per second", number(view.images_per_second, 2)],
    ["left", duration(view.eta_s)], ["workers", number(view.workers)], ["kept", number(view.kept)], ["rejected", number(view.rejected)],
    ["failed", number(view.failed)], ["shards", `${number(view.shards_done)} / ${number(view.shards)}`], ...money,
  ];
  return all.map(([name, value]) => element("li", null, element("b", value), name));
}

const row = (cells) => element("tr", null, ...cells.map((cell) => element("td", cell)));

function show(view) {
  at("problem").hidden = !view.problem;
  at("problem").textContent = view.problem;
  if (view.name === undefined) return;
  at("name").textContent = view.name;
  at("output").textContent = view.output;
  const state = view.complete && view.state !== "running" ? "complete" : view.state;
  document.title = `${Math.floor((100 * view.samples_done) / Math.max(1, view.samples))} % ${view.name}`;
  at("state").textContent = state === "none" ? "no run yet" : view.error ? `${state}: ${view.error}` : state;
  at("state").className = `state ${state}`;
  at("since").textContent = view.since === null ? "" : `since ${view.since} on ${view.host ?? "an unknown machine"}`;
  at("done").max = Math.max(1, view.samples);
  at("done").value = view.samples_done;
  at("facts").replaceChildren(...facts(view));
  at("nodes").tBodies[0].replaceChildren(...view.nodes.map((node) => row([
    node.node, number(node.workers), number(node.shards), number(node.images), number(node.seconds_per_image, 3),
    node.silent_s === null ? "–" : `${duration(node.silent_s)} ago`,
  ])));
  at("lost").hidden = !view.failed;
  at("kinds").textContent = counted(view.failed_by_kind);
  at("failures").replaceChildren(...view.failures.map((one) => row([number(one.shard), one.kind, one.message, one.prompt])));
  at("turned").hidden = !view.rejected;
  at("reasons").textContent = counted(view.rejected_by_reason);
  follow(view.complete && view.state !== "running" ? view.report : "");
}

function picture(one) {
  const caption = element("figcaption", null, element("span", one.prompt), element("div", one.note));
  caption.lastChild.className = "quiet";
  if (!one.image) return element("figure", null, caption);
  const image = document.createElement("img");
  image.src = one.image;
  image.alt = one.prompt;
  return element("figure", null, image, caption);
}

let followed = "";
function follow(version) {
  if (!version || version === followed) return;
  followed = version;
  const frame = document.createElement("iframe");
  frame.src = "report/index.html";
  frame.title = "Report";
  at("report").hidden = false;
  at("report").replaceChildren(at("report").firstElementChild, frame);
}

const events = new EventSource("events");
events.addEventListener("view", (event) => show(JSON.parse(event.data)));
events.addEventListener("pictures", (event) => {
  const { kept, rejected } = JSON.parse(event.data);
  at("kept").replaceChildren(...kept.map(picture));
  at("rejected").replaceChildren(...rejected.map(picture));
});
events.addEventListener("error", () => {
  at("problem").hidden = false;
  at("problem").textContent = "promptmill watch does not answer: is it still running?";
});
