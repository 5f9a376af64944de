"""Notebook start-up and close: quiet logs, seed, progress, versions."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable
from typing import Any, TypeVar

from jmedlora_utils.core import paths
from jmedlora_utils.core.presets import load_preset, require_device
from jmedlora_utils.core.records import device_name, package_versions

T = TypeVar("T")


def start(preset: str, seed: int | None = None, card: bool = False) -> paths.Workspace:
    """Opens a notebook: quiet libraries, the device checked where a model runs in it.

    Args:
        preset: Name of the preset; an unknown one is refused.
        seed: Seed of the workspace; None for analysis over all seeds, which uses the first.
        card: Whether the notebook runs a model, and so needs the GPU that the preset may ask for.

    Returns:
        The folders this notebook reads and writes.

    Raises:
        JmedloraError: The preset is unknown, or the notebook needs a GPU that is not there.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    # On a CPU with AVX512-BF16 it says at import that an optional kernel is not there; `models.loading` does not use that kernel.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    settings = load_preset(preset)
    if card:
        require_device(settings.device)
    return paths.Workspace(preset, settings.seeds[0] if seed is None else seed)


def quiet() -> bool:
    """Whether progress bars are off: under papermill and in the book build, where they are noise."""
    return os.environ.get("JMEDLORA_PROGRESS", "1") == "0"


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """Wraps an iterable in a tqdm bar; silent where `quiet()` holds."""
    from tqdm.auto import tqdm

    return tqdm(items, desc=what, total=total, disable=quiet())


def closing_card(wrote: Iterable[Any]) -> str:
    """The last lines of a notebook, in Markdown: device, versions, and the files written."""
    shown = ", ".join(f"{name} {version}" for name, version in package_versions().items() if version != "not installed")
    files = "\n".join(f"- `{paths.relative(path)}`" for path in wrote)
    return f"**Device:** {device_name()}\n\n**Versions:** {shown}\n\n**Written:**\n\n{files}\n"
