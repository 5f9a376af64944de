"""A built book served on this machine only, and a headless Chromium that reaches nothing else."""

import base64
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jmedlora_utils.core import paths
from tests.servers import serve_files

# The smoke preset's book, which `.ci/checks` builds first, or the one that JMEDLORA_BOOK names.
HTML = paths.ROOT / (os.environ.get("JMEDLORA_BOOK") or "_build/smoke/html")
PAGES = sorted(str(p.relative_to(HTML)) for folder in ("book", "notebooks") for p in (HTML / folder).glob("*.html"))
DESKTOP, PHONE = (1280, 900), (390, 844)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # the pages must stand on their own
)


@pytest.fixture(scope="session")
def html() -> Path:
    if not (HTML / "index.html").is_file():
        pytest.fail(f"no built book in {paths.relative(HTML)}; run `make test`, which builds it first")
    return HTML


@pytest.fixture(scope="session")
def address(html: Path) -> Iterator[str]:
    with serve_files(html) as found:
        yield found


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not chromium or not driver:
        said = "Chromium and chromedriver are needed to look at the built pages (Debian: chromium chromium-driver)"
        pytest.fail(said) if os.environ.get("CI") == "true" else pytest.skip(said)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    found = webdriver.Chrome(options=options, service=Service(driver))
    yield found
    found.quit()


@pytest.fixture(scope="session")
def look(browser) -> Callable[[str, tuple[int, int]], None]:
    """Opens a page in a viewport of exactly this size; a headless window cannot be narrower than 500 pixels."""

    def at(url: str, size: tuple[int, int]) -> None:
        viewport = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", viewport)
        browser.get(url)
        browser.execute_async_script("const done = arguments[0]; document.fonts.ready.then(() => setTimeout(done, 200));")

    return at


@pytest.fixture(scope="session")
def picture(browser) -> Callable[[str], None]:
    """Saves what the browser shows below _build/screenshots, for a person to look at."""
    folder = paths.ROOT / "_build" / "screenshots" / HTML.parent.name
    folder.mkdir(parents=True, exist_ok=True)

    def save(name: str) -> None:
        data = browser.execute_cdp_cmd("Page.captureScreenshot", {})["data"]
        (folder / f"{name}.png").write_bytes(base64.b64decode(data))

    return save
