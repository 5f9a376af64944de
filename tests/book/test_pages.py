"""The built pages as a reader sees them, on a phone and on a desktop, in light and in dark."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit

import pytest

from jmedlora_utils.core import paths

from .conftest import DESKTOP, HTML, PAGES, PHONE

pytestmark = pytest.mark.book

WIDE = """
const limit = document.documentElement.clientWidth;
const scrolls = (e) => { for (let p = e.parentElement; p; p = p.parentElement) {
    if (["auto", "scroll", "hidden"].includes(getComputedStyle(p).overflowX)) return true; } return false; };
return [...document.querySelectorAll(".bd-article *")]
    .filter((e) => !e.matches(".headerlink") && e.getBoundingClientRect().right > limit + 1 && !scrolls(e))
    .map((e) => e.tagName + " " + (e.textContent || "").trim().slice(0, 60)).slice(0, 5);
"""
# A table that scrolls sideways hides its last column from a reader who does not scroll it.
CUT = """
return [...document.querySelectorAll(".jm-scroll")].filter((e) => e.clientWidth && e.scrollWidth > e.clientWidth + 1)
    .map((e) => e.textContent.trim().replace(/\\s+/g, " ").slice(0, 80));
"""
CODE = """
return [...document.querySelectorAll("div.highlight pre")].filter((e) => e.clientWidth && e.scrollWidth > e.clientWidth + 1)
    .map((e) => e.textContent.trim().slice(0, 80));
"""
# A character that no font has is painted like one that no font can have.
TOFU = """
const family = getComputedStyle(document.body).fontFamily;
const canvas = document.createElement("canvas"); canvas.width = canvas.height = 40;
const p = canvas.getContext("2d", { willReadFrequently: true });
const paint = (text) => { p.clearRect(0, 0, 40, 40); p.font = "24px " + family; p.fillText(text, 4, 30);
    return p.getImageData(0, 0, 40, 40).data.join(); };
const boxes = new Set(["\\uFFFF", "\\u{10FFFE}", "\\u{E0FFE}", "\\uFDD0"].map(paint));
return [...arguments[0]].filter((c) => boxes.has(paint(c)));
"""
# WCAG 2.1, 1.4.3: contrast 4.5, and 3 for large text.
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


def source(page: str) -> str:
    return (HTML / page).read_text(encoding="utf-8")


def check_fit(browser) -> None:
    assert not (wide := browser.execute_script(WIDE)), f"wider than the page: {wide}"
    scroll, client = browser.execute_script("const d = document.documentElement; return [d.scrollWidth, d.clientWidth]")
    assert scroll <= client, f"the page scrolls sideways: {scroll} > {client}"
    broken = browser.execute_script("return [...document.images].filter((i) => !i.complete || !i.naturalWidth).map((i) => i.src)")
    assert not broken, f"images that did not load: {broken}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_a_phone(browser, address: str, look, picture, page: str) -> None:
    look(f"{address}/{page}", PHONE)
    picture(f"{Path(page).stem}-phone")
    check_fit(browser)
    assert not (cut := browser.execute_script(CUT)), f"tables whose last column is out of sight: {cut}"
    assert not (long := browser.execute_script(CODE)), f"code that scrolls sideways: {long}"


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_text_has_contrast_and_plots_are_on_white(browser, address: str, look, picture, page: str, theme: str) -> None:
    browser.get(f"{address}/{page}")
    browser.execute_script("localStorage.setItem('mode', arguments[0]); localStorage.setItem('theme', arguments[0])", theme)
    try:
        look(f"{address}/{page}", DESKTOP)
        assert browser.execute_script("return document.documentElement.dataset.theme") == theme
        check_fit(browser)
        pale = browser.execute_script(PALE)
        images = "[...document.querySelectorAll('.bd-article .cell_output img, .bd-article figure img')]"
        grounds = browser.execute_script(f"return {images}.map((i) => getComputedStyle(i).backgroundColor)")
        picture(f"{Path(page).stem}-{theme}")
    finally:
        browser.execute_script("localStorage.setItem('mode', 'light'); localStorage.setItem('theme', 'light')")
    assert not pale, "\n".join(pale[:10])
    assert theme == "light" or set(grounds) <= {"rgb(255, 255, 255)"}


def test_every_character_of_the_book_has_a_glyph(browser, address: str, look) -> None:
    shown: set[str] = set()
    for page in PAGES:
        text = unescape(re.sub(r"<(script|style)[\s\S]*?</\1>|<[^>]*>", "", source(page)))
        shown |= {c for c in text if c > "~" and c.isprintable()}
    assert {"禁", "肢", "薬", "。"} <= shown
    look(f"{address}/book/intro.html", (800, 600))
    assert not (missing := browser.execute_script(TOFU, "".join(sorted(shown)))), f"no font has {missing} (Debian: fonts-noto-cjk)"


@pytest.mark.parametrize(
    ("words", "page"),
    [("Glossary", "glossary"), ("要約", "summary_ja"), ("日本語の要約", "summary_ja"), ("禁忌", "glossary"), ("医師国家試験", "glossary")],
)
def test_search_finds_a_page_in_both_languages(browser, address: str, words: str, page: str) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(f"{address}/search.html?q={quote(words)}")
    found = "return [...document.querySelectorAll('#search-results li a')].map((a) => a.href)"

    def listed(b) -> bool:  # the page lists its hits one by one
        return any(f"/book/{page}.html" in hit for hit in b.execute_script(found))

    WebDriverWait(browser, 20).until(listed, f"the search for {words} does not list {page}")


class Links(HTMLParser):
    """Targets and anchors of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {""}
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        self.links += [found[key] for key in ("href", "src") if tag in ("a", "img", "script", "link") and found.get(key)]


def test_internal_links_resolve(html: Path) -> None:
    pages = {path: Links(path) for path in HTML.rglob("*.html")}
    dead = []
    for page, found in pages.items():
        for link in found.links:
            parts = urlsplit(urljoin(page.as_uri(), link))
            if parts.scheme != "file" or "_static" in parts.path:
                continue
            target = Path(unquote(parts.path))
            if not target.is_file() or (target in pages and unquote(parts.fragment) not in pages[target].anchors):
                dead.append(f"{page.relative_to(HTML)}: {link}")
    assert pages and not dead


@pytest.mark.parametrize("page", PAGES)
def test_figures_have_a_number_and_a_description_and_the_page_needs_no_network(html: Path, page: str) -> None:
    text = source(page)
    captioned = [*re.findall(r"<figure[\s\S]*?</figure>", text), *re.findall(r"<caption>[\s\S]*?</caption>", text)]
    assert not [found[:80] for found in captioned if 'class="caption-number"' not in found], "a figure or table without a number"
    images = [image for figure in captioned for image in re.findall(r"<img[^>]*>", figure)]
    assert not [image for image in images if not re.search(r'alt="[^"]', image)], "a figure without an alternative text"
    # A formula would be typeset by a script from elsewhere; in a closed network it would stay raw TeX.
    assert 'class="math' not in text
    assert str(paths.ROOT) not in text, "a path of this machine"
    assert not re.search(r"&lt;[\w.]+ (at 0x|size )", text), "the repr of an object in place of what it shows"
