// Puts each table of the article into a frame that scrolls sideways, so a wide one does not push the page; its caption stays in sight.
// On a phone a table that is wider than its frame, or that has rows of many lines, turns into cards, one per row, with the heading beside
// each cell.
document.addEventListener("DOMContentLoaded", () => {
  const phone = window.matchMedia("(max-width: 600px)");
  const framed = [];
  for (const table of document.querySelectorAll(".bd-article table")) {
    let frame = table.closest(".jm-scroll, .pst-scrollable-table-container");
    if (!frame) {
      frame = document.createElement("div");
      frame.tabIndex = 0;
      table.before(frame);
      frame.append(table);
    }
    frame.classList.add("jm-scroll");
    const heads = table.tHead?.rows;
    if (heads?.length !== 1) continue; // two rows of headings do not fit beside a cell
    for (const row of table.tBodies[0]?.rows ?? []) {
      [...row.cells].forEach((cell, i) => {
        cell.dataset.label = heads[0].cells[i]?.textContent.trim() ?? "";
        cell.classList.toggle("jm-empty", !cell.textContent.trim());
      });
    }
    framed.push([frame, table]);
  }
  for (const caption of document.querySelectorAll(".bd-article caption")) {
    const text = document.createElement("div");
    text.className = "jm-caption";
    text.append(...caption.childNodes);
    caption.append(text);
  }
  const TALL = 170; // pixels: a row of more than seven lines is easier to read as a card
  const unfit = (frame, table) =>
    frame.clientWidth > 0 &&
    (frame.scrollWidth > frame.clientWidth + 1 || [...(table.tBodies[0]?.rows ?? [])].some((row) => row.offsetHeight > TALL));
  const fit = () => {
    for (const [frame, table] of framed) {
      table.classList.remove("jm-cards");
      table.classList.toggle("jm-cards", phone.matches && unfit(frame, table));
    }
  };
  fit();
  window.addEventListener("resize", fit);
  document.addEventListener("toggle", fit, true); // a table in a closed dropdown has no width yet
});
