"""Light and dark: text stands out from its ground, and plots keep their white one."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from .conftest import PAGES
from .test_pages import WIDTHS, look, resize

pytestmark = pytest.mark.book

# WCAG 2.1, 1.4.3: 4.5, and 3 for large text.
PALE = """
const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const painter = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
const seen = new Map();
const rgba = (colour) => {
    if (!seen.has(colour)) {
        painter.clearRect(0, 0, 1, 1); painter.fillStyle = colour; painter.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = painter.getImageData(0, 0, 1, 1).data; seen.set(colour, [r, g, b, a / 255]);
    }
    return seen.get(colour);
};
const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3]));
const ground = (e) => {
    const layers = [];
    for (let p = e; p; p = p.parentElement) {
        const colour = rgba(getComputedStyle(p).backgroundColor);
        layers.push(colour);
        if (colour[3] === 1) break;
    }
    const bottom = document.documentElement.dataset.theme === "dark" ? [18, 18, 18] : [255, 255, 255];
    return layers.reverse().reduce((below, top) => over(top, below), bottom);
};
const pale = [];
for (const e of document.querySelectorAll(".bd-main *, .bd-sidebar-primary *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const visible = e.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    if (!own || !visible || e.closest("svg, math, .visually-hidden")) continue;
    const style = getComputedStyle(e), below = ground(e), text = over(rgba(style.color), below);
    const [dark, bright] = [light(text), light(below)].sort((a, b) => a - b);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const contrast = (bright + 0.05) / (dark + 0.05);
    const where = `${e.tagName}.${e.className} on ${below.map(Math.round)}: ${e.textContent.trim().slice(0, 40)}`;
    if (contrast < (large ? 3 : 4.5)) pale.push(`${contrast.toFixed(2)} ${where}`);
}
return [...new Set(pale)];
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_text_stands_out_and_plots_stand_on_white(browser, address: str, shots: Path, page: str, theme: str) -> None:
    width, height = WIDTHS["desktop"]
    browser.get(f"{address}/{page}")
    browser.execute_script("localStorage.setItem('mode', arguments[0]); localStorage.setItem('theme', arguments[0])", theme)
    look(browser, f"{address}/{page}", width, height)
    assert browser.execute_script("return document.documentElement.dataset.theme") == theme
    pale = browser.execute_script(PALE)
    if theme == "dark":
        resize(browser, *WIDTHS["phone"])
        pale += browser.execute_script(PALE)
    grounds = browser.execute_script(
        "return [...document.querySelectorAll('.bd-article .cell_output img, .bd-article figure img')]"
        ".map((i) => getComputedStyle(i).backgroundColor)"
    )
    if theme == "dark":
        look(browser, browser.current_url, width, browser.execute_script("return document.body.scrollHeight"))
        picture = browser.execute_cdp_cmd("Page.captureScreenshot", {})
        (shots / f"{page.replace('/', '-').removesuffix('.html')}-dark.png").write_bytes(base64.b64decode(picture["data"]))
    browser.execute_script("localStorage.setItem('mode', 'light'); localStorage.setItem('theme', 'light')")
    assert not pale, "\n".join(pale[:10])
    assert theme == "light" or set(grounds) <= {"rgb(255, 255, 255)"}
