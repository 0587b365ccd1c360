"use strict";
// Everything shown can be taken along: tables as CSV, Markdown and LaTeX, plots as SVG, the grid as one PNG.

// The texts of a table, without columns that hold only drawings.
function rowsOf(table) {
  const rows = [...table.querySelectorAll("tr")].map((row) => [...row.children].map((cell) => cell.textContent.trim()));
  const used = rows[0].map((_, i) => rows.some((row) => row[i]));
  return rows.map((row) => row.filter((_, i) => used[i]));
}

// A text that a spreadsheet would take for a formula is marked as text; numbers keep their sign.
const csvCell = (text) => {
  const plain = text.replace(/^−/, "-");
  const safe = /^[=+@\t\r\n＝＋－＠-]/.test(plain) && !/^[+-]?[\d.,]+(e[+-]?\d+)?$/i.test(plain) ? `'${plain}` : plain;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};
// `\\` takes a bracket or a star that begins the next row for its own.
const LATEX = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "−": "$-$", "±": "$\\pm$", "–": "--", "·": "$\\cdot$", "ρ": "$\\rho$", "×": "$\\times$", "<": "$<$", ">": "$>$", "|": "$|$", "[": "{[}", "]": "{]}", "*": "{*}" };
const latexCell = (text) => text.replace(/[\\~^−±–·ρ×<>|[\]*]|[&%$#_{}]/g, (sign) => LATEX[sign] ?? `\\${sign}`).replace(/\s+/g, " ");

const FORMS = {
  CSV: ["csv", "text/csv", (rows) => rows.map((row) => row.map(csvCell).join(",") + "\r\n").join("")],
  Markdown: ["md", "text/markdown", ([head, ...rows]) => [head, head.map(() => "---"), ...rows].map((row) => `| ${row.map((text) => text.replace(/[\\|`<*_[\]&~$]/g, "\\$&").replace(/\s+/g, " ")).join(" | ")} |\n`).join("")],
  LaTeX: ["tex", "text/x-tex", ([head, ...rows]) => `\\begin{tabular}{${"l".repeat(head.length)}}\n\\hline\n${[head, ...rows].map((row, i) => `${row.map(latexCell).join(" & ")} \\\\\n${i ? "" : "\\hline\n"}`).join("")}\\hline\n\\end{tabular}\n`],
};

function save(name, content) {
  const address = content instanceof Blob ? URL.createObjectURL(content) : content;
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

function copiesOf(table, name) {
  const one = (form) => {
    const [ending, type, write] = FORMS[form];
    return el("button", { type: "button", onclick: () => save(`${name}.${ending}`, new Blob([write(rowsOf(table))], { type: `${type};charset=utf-8` })) }, form);
  };
  return el("p", { class: "copies" }, "this table as ", Object.keys(FORMS).map(one));
}

// Tables that the page itself holds get the same copies as those that are drawn.
function addCopies() {
  for (const [id, name] of [["differences", "jobs"], ["references", "reference"], ["outcomes", "outcomes"], ["run", "run"]])
    byId(id)?.querySelectorAll("table").forEach((table) => (table.closest(".scroll") ?? table).after(copiesOf(table, name)));
}

// The picture as it stands, with the page's colours written out: a file has no style sheet beside it.
function svgText(svg) {
  const copy = svg.cloneNode(true);
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.style.color = colourOf("var(--ink)");
  copy.style.background = colourOf("var(--page)");
  copy.style.fontFamily = "sans-serif";
  const text = new XMLSerializer().serializeToString(copy).replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/g, "\ufffd"); // which XML cannot hold
  return text.replace(/var\((--[a-z-]+)\)/g, (whole, name) => (name === "--plot-background" ? colourOf("var(--page)") : colourOf(whole)));
}

function colourOf(value) {
  const probe = el("i", { style: { color: value } });
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function svgCopies(node, title) {
  // A legend is a picture of its own beside the plot.
  const svgs = node instanceof SVGElement ? [node] : [...node.querySelectorAll("svg")];
  if (!svgs.length) return null;
  const largest = svgs.reduce((a, b) => (Number(a.getAttribute("width")) * Number(a.getAttribute("height")) >= Number(b.getAttribute("width")) * Number(b.getAttribute("height")) ? a : b));
  return el("p", { class: "copies" }, "this plot as ", el("button", { type: "button", onclick: () => save(`${fileName(title)}.svg`, new Blob([svgText(largest)], { type: "image/svg+xml" })) }, "SVG"));
}

const fileName = (text) => text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 60) || "plot";

const PNG_TILE = 256;

// The grid with its headings, as large as its pictures are shown at least.
function gridCanvas() {
  const rows = [...document.querySelectorAll("#grid tr")].map((row) => [...row.children]);
  const columns = Math.max(...rows.map((row) => row.length));
  const canvas = document.createElement("canvas");
  const headed = rows[1]?.[0]?.tagName === "TH";
  const left = headed ? 160 : 0, top = 40;
  canvas.width = left + (columns - (headed ? 1 : 0)) * PNG_TILE;
  canvas.height = top + (rows.length - 1) * PNG_TILE;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#ffffff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = "#1b1f24";
  pen.font = "16px sans-serif";
  pen.textBaseline = "middle";
  rows.forEach((row, y) => row.forEach((cell, i) => {
    const x = headed ? left + (i - 1) * PNG_TILE : i * PNG_TILE;
    if (y === 0) pen.fillText(cell.textContent, headed && i === 0 ? 6 : x + 6, top / 2, headed && i === 0 ? left - 12 : PNG_TILE - 12);
    else if (cell.tagName === "TH") pen.fillText(cell.textContent, 6, top + (y - 0.5) * PNG_TILE, left - 12);
    else drawPicture(pen, cell.querySelector("img"), x, top + (y - 1) * PNG_TILE);
  }));
  return canvas;
}

function drawPicture(pen, image, x, y) {
  if (!image?.naturalWidth) return pen.fillText(image ? "…" : "no image", x + 6, y + PNG_TILE / 2);
  const scale = (PNG_TILE - 4) / Math.max(image.naturalWidth, image.naturalHeight);
  pen.imageSmoothingEnabled = image.naturalWidth > 96;
  pen.drawImage(image, x + 2, y + 2, image.naturalWidth * scale, image.naturalHeight * scale);
}
