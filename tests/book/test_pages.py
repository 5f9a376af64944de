"""The built pages as a reader sees them, on a desktop and on a phone."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit

import pytest

from .conftest import HTML, PAGES

pytestmark = pytest.mark.book
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


def resize(browser, width: int, height: int) -> None:
    """Makes the viewport exactly this large; a headless window cannot be narrower than 500 pixels."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def look(browser, url: str, width: int, height: int) -> None:
    """Opens a page in a viewport of this size."""
    resize(browser, width, height)
    browser.get(url)
    browser.execute_async_script("const done = arguments[0]; document.fonts.ready.then(() => setTimeout(done, 200));")


def test_every_part_of_the_book_was_built(html: Path) -> None:
    assert {"book/intro.html", "book/run.html", "book/status.html", "book/references.html"} <= set(PAGES)
    assert "notebooks/20_tune_lora.html" in PAGES
    assert "notebooks/30_evaluate_exam.html" in PAGES


@pytest.mark.parametrize("device", WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_page_fits_and_is_whole(browser, address: str, shots: Path, page: str, device: str) -> None:
    import base64

    width, height = WIDTHS[device]
    look(browser, f"{address}/{page}", width, height)
    wide = browser.execute_script(
        """
        const limit = document.documentElement.clientWidth;
        const scrolls = (e) => { for (let p = e.parentElement; p; p = p.parentElement) {
            if (["auto", "scroll", "hidden"].includes(getComputedStyle(p).overflowX)) return true; } return false; };
        return [...document.querySelectorAll(".bd-article *")]
            .filter((e) => !e.matches(".headerlink") && e.getBoundingClientRect().right > limit + 1 && !scrolls(e))
            .map((e) => e.tagName + " " + (e.textContent || "").trim().slice(0, 60)).slice(0, 5);
        """
    )
    scroll, client = browser.execute_script("const d = document.documentElement; return [d.scrollWidth, d.clientWidth]")
    broken = browser.execute_script("return [...document.images].filter((i) => !i.complete || !i.naturalWidth).map((i) => i.src)")
    nameless = browser.execute_script(
        'return [...document.querySelectorAll(".bd-article figure img")].filter((i) => !i.alt).map((i) => i.src)'
    )
    if device == "desktop":
        look(browser, browser.current_url, width, browser.execute_script("return document.body.scrollHeight"))
    picture = browser.execute_cdp_cmd("Page.captureScreenshot", {})
    (shots / f"{page.replace('/', '-').removesuffix('.html')}-{device}.png").write_bytes(base64.b64decode(picture["data"]))
    assert not wide, f"wider than the page: {wide}"
    assert scroll <= client, f"the page scrolls sideways: {scroll} > {client}"
    assert not broken, f"images that did not load: {broken}"
    assert not nameless, f"figures without an alternative text: {nameless}"


@pytest.fixture(scope="session")
def characters(html: Path) -> str:
    """Every character beyond ASCII that stands in an article."""
    found: set[str] = set()
    for page in PAGES:
        source = (HTML / page).read_text(encoding="utf-8")
        found |= {c for c in unescape(re.sub(r"<(script|style)[\s\S]*?</\1>|<[^>]*>", "", source)) if c > "~" and c.isprintable()}
    return "".join(sorted(found))


def test_every_character_of_the_book_has_a_glyph(browser, address: str, characters: str) -> None:
    """A character that no font has is painted like one that no font can have."""
    assert {"禁", "肢", "薬", "。"} <= set(characters)
    look(browser, f"{address}/book/intro.html", 800, 600)
    missing = browser.execute_script(
        """
        const family = getComputedStyle(document.body).fontFamily;
        const canvas = document.createElement("canvas"); canvas.width = canvas.height = 40;
        const p = canvas.getContext("2d", { willReadFrequently: true });
        const paint = (text) => { p.clearRect(0, 0, 40, 40); p.font = "24px " + family; p.fillText(text, 4, 30);
            return p.getImageData(0, 0, 40, 40).data.join(); };
        const boxes = new Set(["\\uFFFF", "\\u{10FFFE}", "\\u{E0FFE}", "\\uFDD0"].map(paint));
        return [...arguments[0]].filter((c) => boxes.has(paint(c)));
        """,
        characters,
    )
    assert not missing, f"no font has {missing} (Debian: fonts-noto-cjk)"


def test_tofu_would_be_seen(browser, address: str) -> None:
    """Two different characters do not paint the same pixels, as boxes would."""
    look(browser, f"{address}/book/intro.html", 800, 600)
    same = browser.execute_script(
        """
        const family = getComputedStyle(document.body).fontFamily;
        const paint = (text) => { const c = document.createElement("canvas"); c.width = c.height = 40;
            const p = c.getContext("2d"); p.font = "24px " + family; p.fillText(text, 4, 30); return c.toDataURL(); };
        const seen = [..."禁忌肢必修問題正答薬"].map(paint);
        return new Set(seen).size !== seen.length;
        """
    )
    assert not same, "no Japanese font (Debian: fonts-noto-cjk)"


@pytest.mark.parametrize(
    ("words", "page"), [("Glossary", "glossary"), ("status of this book", "status"), ("要約", "summary_ja"), ("日本語の要約", "summary_ja")]
)
def test_search_finds_a_page_by_a_word_of_its_title(browser, address: str, words: str, page: str) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(f"{address}/search.html?q={quote(words)}")
    found = "return [...document.querySelectorAll('#search-results li a')].map((a) => a.href)"
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(found))
    hits = browser.execute_script(found)
    assert any(f"/book/{page}.html" in hit for hit in hits[:3]), hits[:5]


@pytest.mark.parametrize("words", ["禁忌", "禁忌肢", "指示データ", "医師国家試験"])
def test_search_finds_japanese_words_of_a_page(browser, address: str, words: str) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(f"{address}/search.html?q={quote(words)}")
    found = "return [...document.querySelectorAll('#search-results li a')].map((a) => a.href)"
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(found))
    assert any("/book/glossary.html" in hit for hit in browser.execute_script(found))


@pytest.mark.parametrize("page", PAGES)
def test_figures_and_tables_are_numbered_and_captioned(html: Path, page: str) -> None:
    source = (HTML / page).read_text(encoding="utf-8")
    figures = re.findall(r"<figure[\s\S]*?</figure>", source)
    bare = [f[:80] for f in figures if 'class="caption-number"' not in f]
    assert not bare, "a figure without a number"
    tables = re.findall(r"<caption>[\s\S]*?</caption>", source)
    assert not [t for t in tables if 'class="caption-number"' not in t], "a table's caption without a number"


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
        for key in ("href", "src"):
            if tag in ("a", "img", "script", "link") and found.get(key):
                self.links.append(found[key])


def test_internal_links_resolve(html: Path) -> None:
    pages = {path: Links(path) for path in HTML.rglob("*.html")}
    dead = []
    for page, found in pages.items():
        for link in found.links:
            parts = urlsplit(urljoin(page.as_uri(), link))
            if parts.scheme != "file" or "_static" in parts.path:
                continue
            target = Path(unquote(parts.path))
            missing = not target.is_file()
            if missing or (target in pages and unquote(parts.fragment) not in pages[target].anchors):
                dead.append(f"{page.relative_to(HTML)}: {link}")
    assert not dead


def test_no_page_shows_a_path_of_this_machine(html: Path) -> None:
    from jmedlora_utils.core import paths

    assert not [page for page in PAGES if str(paths.ROOT) in (HTML / page).read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_needs_no_network(html: Path, page: str) -> None:
    """A formula would be typeset by a script from elsewhere; behind a hospital's wall it stays raw TeX."""
    assert 'class="math' not in (HTML / page).read_text(encoding="utf-8")
