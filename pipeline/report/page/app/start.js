"use strict";
document.addEventListener("DOMContentLoaded", () => {
  if (!pm.analysis) {
    return; // the note that says so is shown by the style sheet, which is there even if no script came
  }
  unpack();
  chosen.metric = pm.analysis.metrics[0]?.name ?? null;
  chosen.facet = Object.keys(pm.analysis.facets)[0] ?? null;
  recall();
  drawChoices();
  drawAnswer();
  drawCompared();
  drawFacets();
  startGrid();
  startGallery();
  drawPlots();
  addCopies();
  keepAddress();
  byId("grid-png").addEventListener("click", () => save("grid.png", gridCanvas().toDataURL("image/png")));
  byId("grid-back").addEventListener("click", () => stepPrompt(-1));
  byId("grid-next").addEventListener("click", () => stepPrompt(1));
  byId("grid-find").addEventListener("submit", (event) => { event.preventDefault(); findPrompt(byId("grid-text").value); });
  byId("detail-close").addEventListener("click", () => byId("detail").close());
  byId("detail").addEventListener("click", (event) => { if (event.target === byId("detail")) byId("detail").close(); });
  byId("detail").addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") stepDetail(1);
    if (event.key === "ArrowLeft") stepDetail(-1);
  });
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; drawPlots(); } });
  document.documentElement.dataset.ready = "yes";
});
