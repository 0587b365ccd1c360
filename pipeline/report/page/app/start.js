"use strict";
document.addEventListener("DOMContentLoaded", () => {
  if (!pm.analysis) {
    byId("missing").hidden = false;
    return;
  }
  unpack();
  chosen.metric = pm.analysis.metrics[0]?.name ?? null;
  chosen.facet = Object.keys(pm.analysis.facets)[0] ?? null;
  drawChoices();
  drawAnswer();
  drawFacets();
  startGrid();
  startGallery();
  drawPlots();
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
