"""Gives an adapter away: alone or merged into its base, with its model card, in a folder of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_json, write_json, write_text, writing
from jmedlora_utils.models import loading
from jmedlora_utils.models.hub import BYTES, GB
from jmedlora_utils.models.registry import ModelEntry
from jmedlora_utils.workflow import model_card
from jmedlora_utils.workflow.model_card import Tuned

SPARE_BYTES = 256 << 20
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
PROBE = "問題: 次のうち正しいのはどれか。"


def export(adapter: str, out: Path, base: str = "", merge: bool = False, dtype: str = "") -> Path:
    """Writes an adapter with its card to a new folder, which appears whole or not at all.

    Args:
        adapter: A kept checkpoint, `adapters/<run>/checkpoint-<step>`.
        out: The folder to make.
        base: Base to merge into, where it lies elsewhere now: a local folder or `name@commit`; by default the one it was trained on.
        merge: Writes a whole model in place of the adapter: the base in `dtype`, never quantised, with the adapter added to its weights.
        dtype: Of the merged weights; that of the base's files by default.

    Raises:
        JmedloraError: The folder exists, the disk is too small, there is nothing to merge, or checkpoint or base cannot be used.
    """
    if dtype and not merge:
        raise JmedloraError(f"dtype {dtype!r} is of merged weights; add --merge, or leave out --dtype to copy the adapter as it is")
    tuned = model_card.read_checkpoint(Path(adapter).expanduser())
    out = out.expanduser().resolve()
    if out.exists():
        raise JmedloraError(f"{paths.relative(out)} is there already; name a new folder, or delete it first")
    if merge and tuned.is_whole:
        raise JmedloraError(f"{tuned.name} was tuned in full, so there is no adapter to merge; leave out --merge to copy the model")
    if tuned.own_base and not merge and not tuned.is_whole:
        raise JmedloraError(f"{tuned.name} fits only the base that its own run pretrained further; add --merge to write both as one model")
    source = _base(tuned, base)
    dtype = dtype or _stored_dtype(source)
    need = _merged_bytes(source, dtype) if merge else sum(p.stat().st_size for p in tuned.folder.iterdir() if p.is_file())
    fix = "nothing was written. Free some space or name a folder on a larger disk"
    paths.require_space(out.parent, need + SPARE_BYTES, f"{paths.relative(out)} needs {need / GB:.1f} GB", fix)
    work = out.with_name(f".{out.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        merged = _merge(tuned, source, dtype, work) if merge else ""
        if not merge:
            _copy(tuned, work)
        text = model_card.card(tuned, merged)
        model_card.check(text)
        write_text(work / "README.md", text)
        os.replace(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out


def _base(tuned: Tuned, named: str) -> ModelEntry:
    if not named:
        return tuned.base
    entry = loading.find_base(named)
    if tuned.base.shape and entry.shape and entry.shape != tuned.base.shape:
        raise JmedloraError(f"base {named!r} has other sizes than {tuned.settings['base']!r}, on which {tuned.name} was trained")
    return entry


def _stored_dtype(entry: ModelEntry) -> str:
    if entry.folder is None:
        return "bfloat16" if entry.stored == 2 else "float32"
    config = read_json(entry.folder / "config.json")
    found = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return found if found in BYTES else "float32"


def _merged_bytes(entry: ModelEntry, dtype: str) -> int:
    if dtype not in BYTES:
        raise JmedloraError(f"dtype is {dtype!r}; it takes one of {', '.join(BYTES)}")
    if entry.shape is not None:
        return entry.shape.parameters() * BYTES[dtype]
    return sum(p.stat().st_size for p in entry.folder.glob("*.safetensors")) if entry.folder else 0


def _copy(tuned: Tuned, work: Path) -> None:
    """The checkpoint's own files; an adapter's configuration then names its base as others can find it."""
    if tuned.is_whole:
        for path in sorted(p for p in tuned.folder.iterdir() if p.is_file() and p.suffix in (".json", ".safetensors", ".model", ".jinja")):
            shutil.copy2(path, work / path.name)
        return
    for name in ADAPTER_FILES:
        shutil.copy2(tuned.folder / name, work / name)
    config = read_json(work / ADAPTER_FILES[0])
    config |= {"base_model_name_or_path": tuned.base.hub_id or Path(tuned.settings["base"]).name, "revision": tuned.base.revision}
    write_json(work / ADAPTER_FILES[0], config)


def _merge(tuned: Tuned, source: ModelEntry, dtype: str, work: Path) -> str:
    """Saves the merged model and its tokenizer; returns what the card says of it."""
    import torch

    # Merged on the processor: a base that fits a card only in 4 bits must be whole here.
    model, tokenizer = loading.load_base(source, quantisation="none", dtype=dtype, device="cpu")
    adapted = loading.load_adapter(model, tuned.folder)
    row = tokenizer(PROBE, return_tensors="pt").input_ids
    with torch.inference_mode():
        before = adapted(input_ids=row).logits.float()
    try:
        merged = adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise JmedloraError(
            f"{tuned.name}: the merged weights are not finite ({error}); merge in float32, or use the adapter unmerged"
        ) from error
    with torch.inference_mode():
        difference = float((merged(input_ids=row).logits.float() - before).abs().max())
    with writing(work):
        merged.save_pretrained(work)
        tokenizer.save_pretrained(work)
    trained = " It was trained on the base in 4 bits and merged into the unquantised one." if tuned.settings["method"] == "qlora" else ""
    return (
        f"This folder holds the whole model: the adapter is merged into its base in {dtype}.{trained} On one prompt the logits of the "
        f"merged and the unmerged model differ by at most {difference:.2g}. The scores below are of the unmerged adapter; merging can "
        "move them, so ask the merged model again before comparing."
    )
