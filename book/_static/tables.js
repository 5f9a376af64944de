// Puts each table of the article into a frame that scrolls sideways, so a wide one does not push the page.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll(".bd-article table")) {
    if (table.closest(".jm-scroll, .pst-scrollable-table-container")) continue;
    const frame = document.createElement("div");
    frame.className = "jm-scroll";
    frame.tabIndex = 0;
    table.before(frame);
    frame.append(table);
  }
});
