// Puts each table of the article into a frame that scrolls sideways, so a wide one does not push the page; its caption stays in sight.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll(".bd-article table")) {
    if (table.closest(".jm-scroll, .pst-scrollable-table-container")) continue;
    const frame = document.createElement("div");
    frame.className = "jm-scroll";
    frame.tabIndex = 0;
    table.before(frame);
    frame.append(table);
  }
  for (const caption of document.querySelectorAll(".bd-article caption")) {
    const text = document.createElement("div");
    text.className = "jm-caption";
    text.append(...caption.childNodes);
    caption.append(text);
  }
});
