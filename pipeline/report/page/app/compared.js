"use strict";
// Of two runs: the settings that both have, each against itself, and all of them together.

function drawCompared() {
  const answer = pm.analysis.answers?.[chosen.metric];
  byId("compared-section").hidden = !answer;
  if (!answer) return;
  const [first, second] = pm.analysis.axes.run;
  const said = verdicts(answer.cells.map((cell) => cell.difference), chosen.metric, -1);
  const together = answer.cells.length !== 1;
  const order = answer.cells.map((_, i) => i).sort((i, j) => gain(answer.cells[j]) - gain(answer.cells[i]));
  const rows = order.map((i) => comparedRow(answer.cells[i].name, answer.cells[i], said[i]));
  if (together) rows.unshift(comparedRow(answer.cells.length ? "all of these together" : "all settings of each", answer, verdict(answer.difference, chosen.metric, null)));
  const head = ["setting", first, "95 % interval", second, "95 % interval", `${second} − ${first}`, "its interval", "", "prompts"];
  const table = el("table", { id: "compared" }, el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, rows));
  fill("compared", comparedSentence(answer, said, first, second), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Setting by setting" }, table),
    copiesOf(table, `setting-by-setting-${fileName(chosen.metric)}`),
    el("p", { class: "quiet" }, "Settings that ran the same in both, on the prompts that both have, the largest gain first." + (answer.cells.length > 1 ? ` “Better” and “worse” of single settings hold for all ${answer.cells.length} together (Holm).` : "")));
}

// How much better the second is; what no prompt has in both stands last.
const gain = ({ difference: [mean] }) => (mean === null ? -Infinity : metricOf(chosen.metric).lower_is_better ? -mean : mean);

function comparedRow(name, one, is) {
  const { difference } = one;
  const means = pm.analysis.axes.run.map((run) => one.runs[run]);
  return el("tr", { class: is.replaceAll(" ", "-") }, el("td", {}, name),
    means.map((mean) => [el("td", { class: "n strong" }, digits(mean[0])), el("td", {}, interval(mean))]),
    el("td", { class: "n strong" }, digits(difference[0], true)), el("td", {}, interval(difference, true)), el("td", { class: "verdict" }, is), el("td", { class: "n" }, difference[3]));
}

function comparedSentence(answer, said, first, second) {
  const { difference, cells } = answer;
  if (difference[0] === null) return el("p", { class: "answer" }, "No prompt has this score in both.");
  const over = cells.length > 1 ? `Over the ${cells.length} settings that both have` : cells.length ? "In the one setting that both have" : "The two share no setting; over all of each";
  const words = [`${over}, `, el("b", {}, second), ` is at `, el("b", {}, digits(difference[0], true)), ` (${interval(difference, true)}) against ${first} in ${chosen.metric}.`];
  const counted = ["better", "worse"].map((word) => [word, said.filter((one) => one === word).length]).filter(([, count]) => count);
  if (cells.length > 1) words.push(counted.length ? ` Setting by setting it is surely ${counted.map(([word, count]) => `${word} in ${count}`).join(" and ")} of ${cells.length}.` : " In none of them is the difference sure.");
  return el("p", { class: "answer" }, words);
}
