"""The explorer as a researcher meets it: a real JupyterLab, a real kernel, a click on another question."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from jmedlora_utils.core import paths
from tests import synthetic_study
from tests.servers import free_port, wait_for

pytestmark = [pytest.mark.book, pytest.mark.slow]
RUNS = [r for r in synthetic_study.RUNS if r.name in ("en-small_lora", "en-large_lora")]
SECONDS = 240  # for a busy machine; a quiet one needs a tenth of that


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """JupyterLab on a copy of notebook 50 and a made-up run, with nothing of this machine's own settings."""
    home = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JMEDLORA_RUNS", str(home / "runs"))
        synthetic_study.write_study("smoke", (1,), RUNS, answers=6)
    (home / "notebooks").mkdir()
    shutil.copy(paths.NOTEBOOKS / "50_explore.ipynb", home / "notebooks")
    quiet = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}), encoding="utf-8")
    port = free_port()
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR", "JMEDLORA_DATA")
    environment = os.environ | {name: str(home / name.lower()) for name in folders}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JMEDLORA_RUNS": str(home / "runs"), "JUPYTER_PREFER_ENV_PATH": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment.pop("JMEDLORA_PROGRESS", None)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += ["--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=for-the-test", f"--ServerApp.root_dir={home / 'notebooks'}"]
    command += ["--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"]
    address = f"http://127.0.0.1:{port}"
    with (home / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=home)
        try:
            wait_for(lambda: _answers(f"{address}/api"), SECONDS, lambda: server.poll() is None)
            yield f"{address}/lab/tree/50_explore.ipynb?token=for-the-test"
        finally:
            server.terminate()
            server.wait(60)


def _answers(url: str) -> bool:
    try:
        return urlopen(url, timeout=5).status == 200
    except OSError:
        return False


def test_another_question_picked_in_jupyterlab_changes_the_view(lab: str, browser, picture) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.select import Select
    from selenium.webdriver.support.wait import WebDriverWait

    wait = WebDriverWait(browser, SECONDS, poll_frequency=0.3)

    def menu(name: str) -> Select:
        return Select(browser.find_element(By.CSS_SELECTOR, f".jm-menu-{name} select"))

    def shown() -> tuple[str, str]:
        """Id of the question, and the picture of its bars."""
        script = """const card = document.querySelector(".jm-shown .jm-card"), image = document.querySelector(".jm-shown img");
                    return [card ? card.dataset.question || "" : "", image ? image.src : ""];"""
        return tuple(browser.execute_script(script))

    size = {"width": 1400, "height": 1300, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(lab)
    wait.until(lambda b: b.execute_script('return !!window.jupyterapp && !!document.querySelector(".jp-Notebook .jp-Cell")'))
    kernel = "return window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"
    wait.until(lambda b: b.execute_script(kernel) == "idle")
    browser.execute_script("jupyterapp.commands.execute('notebook:run-all-cells')")
    wait.until(lambda _: shown()[1])
    first = shown()
    assert menu("question").first_selected_option.text.startswith(first[0])

    other = next(option.text for option in menu("question").options if not option.is_selected())
    menu("question").select_by_visible_text(other)
    wait.until(lambda _: shown()[0] != first[0])
    second = shown()
    assert other.startswith(second[0])
    assert second[1] != first[1], "the bars are still those of the first question"
    browser.execute_script('document.querySelector(".jm-menu-exam").scrollIntoView()')
    picture("jupyterlab")
    assert not browser.find_elements(By.CSS_SELECTOR, ".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']")
