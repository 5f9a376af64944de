"""Notebook start-up and close: quiet logs, seed, progress, versions."""

import ctypes
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from jmedlora_utils.core import paths
from jmedlora_utils.core.presets import assignments, compare_parameters, load_preset, require_device
from jmedlora_utils.core.records import device_name, package_versions

T = TypeVar("T")
INJECTED = "# Parameters"
RUNNER = "JMEDLORA_RUNNER"  # process id of the step whose kernel this is


def start(preset: str, seed: int | None = None, run_name: str | None = None, card: bool = False) -> paths.Workspace:
    """Opens a notebook: quiet libraries, parameters and names checked, the device checked where a model runs in it (`card`)."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    # On a CPU with AVX512-BF16 it says at import that an optional kernel is not there; `models.loading` does not use that kernel.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    end_with_parent()
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    check_injected(shell.user_ns.get("In", []) if shell else [])
    settings = load_preset(preset)
    if run_name is not None:
        paths.check_name(run_name, "parameter run_name")
    if card:
        require_device(settings.device)
    return paths.Workspace(preset, settings.seeds[0] if seed is None else seed)


def check_injected(cells: Sequence[str]) -> None:
    """Refuses parameters that papermill injected and the notebook does not declare; papermill itself only warns.

    Args:
        cells: Sources of the cells that ran, in order. papermill's own opens with `INJECTED` and follows the parameters cell.
    """
    place = next((number for number, cell in enumerate(cells) if cell.startswith(INJECTED)), 0)
    declaring = next((cell for cell in reversed(cells[:place]) if cell.strip()), "")
    if declaring:
        compare_parameters("this notebook", assignments(declaring, "parameters"), assignments(cells[place], "papermill"), "papermill")


def end_with_parent() -> None:
    """Makes the kernel of a running preset end when the process that started it is killed, so that no notebook runs on unseen (Linux)."""
    if sys.platform == "linux" and os.environ.get(RUNNER) == str(os.getppid()):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def quiet() -> bool:
    """Whether progress bars are off: under papermill and in the book build, where they are noise."""
    return os.environ.get("JMEDLORA_PROGRESS", "1") == "0"


def quiet_transformers() -> None:
    """Turns off the bars with which transformers loads and saves weights, where `quiet()` holds."""
    if quiet():
        from transformers.utils import logging

        logging.disable_progress_bar()


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """Wraps an iterable in a tqdm bar; silent where `quiet()` holds."""
    from tqdm.auto import tqdm

    return tqdm(items, desc=what, total=total, disable=quiet())


def closing_card(wrote: Iterable[Any]) -> str:
    """The last lines of a notebook, in Markdown: device, versions, and the files written."""
    shown = ", ".join(f"{name} {version}" for name, version in package_versions().items() if version != "not installed")
    files = "\n".join(f"- `{paths.relative(path)}`" for path in wrote)
    return f"**Device:** {device_name()}\n\n**Versions:** {shown}\n\n**Written:**\n\n{files}\n"
