"""Models: find, load (also in 4-bit), attach adapters, count parameters, fingerprint weights."""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path
from typing import Any

from jmedlora_utils import paths
from jmedlora_utils.records import sha256_file

QUANTISATIONS = ("none", "nf4")
DTYPES = ("float32", "bfloat16", "float16")
FULL_HASH_BYTES = 1 << 30

# Linear layers of a block, where the first and the second projections of the paper's two architectures go by other names.
LORA_TARGETS = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "gpt_neox": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
}


class ModelError(ValueError):
    """A model or an adapter that cannot be found or loaded; names it and the mend."""


def resolve_base(name_or_path: str, workspace: paths.Workspace | None = None) -> str:
    """Where a base model lies: a local folder, a base trained in the workspace, or a hub id (`owner/name`), in this order.

    Raises:
        ModelError: It is none of them; names the nearest known base.
    """
    if (Path(name_or_path) / "config.json").is_file():
        return str(Path(name_or_path).resolve())
    known = sorted(p.parent.name for p in workspace.bases.glob("*/config.json")) if workspace else []
    if workspace and name_or_path in known:
        return str(workspace.bases / name_or_path)
    local = name_or_path.startswith(("/", ".", "~")) or name_or_path.count("/") != 1
    if not name_or_path or local:
        near = difflib.get_close_matches(name_or_path, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"bases of this workspace: {', '.join(known) or 'none yet; run notebook 19 first'}"
        raise ModelError(f"no base model {name_or_path!r}: neither a folder with a config.json nor a hub id (owner/name); {hint}")
    return name_or_path


def load_tokenizer(name_or_path: str, revision: str | None = None) -> Any:
    """Loads a tokenizer; one without a padding token pads with EOS, which is harmless as padding is masked by position.

    Raises:
        ModelError: It cannot be found or loaded.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, revision=revision)
    except (OSError, ValueError) as error:
        raise _load_error("tokenizer", name_or_path, error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(
    name_or_path: str,
    quantisation: str = "none",
    dtype: str = "float32",
    device: str = "auto",
    revision: str | None = None,
    workspace: paths.Workspace | None = None,
) -> tuple[Any, Any]:
    """Loads a causal language model and its tokenizer.

    Args:
        name_or_path: Local folder, base of the workspace or hub id.
        quantisation: `none`, or `nf4` (4-bit NormalFloat with double quantisation, computing in bfloat16, as QLoRA does).
        dtype: Of the weights that are not quantised, one of `DTYPES`.
        device: `auto` takes the first GPU where there is one, else the CPU.
        revision: Pinned commit of a hub model.
        workspace: Where bases trained here are looked up.

    Returns:
        The model in evaluation mode, and the tokenizer.

    Raises:
        ModelError: An argument is not allowed, or the model cannot be found or loaded.
    """
    if quantisation not in QUANTISATIONS:
        raise ModelError(f"quantisation {quantisation!r} is not one of {', '.join(QUANTISATIONS)}")
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    where = resolve_base(name_or_path, workspace)
    import torch
    from transformers import AutoModelForCausalLM

    target = ("cuda:0" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "revision": revision}
    if target != "cpu" or quantisation != "none":
        options["device_map"] = {"": target}
    if quantisation == "nf4":
        options["quantization_config"] = nf4_config()
    tokenizer = load_tokenizer(where, revision)
    try:
        model = AutoModelForCausalLM.from_pretrained(where, **options)
    except (OSError, ValueError, ImportError) as error:
        raise _load_error("model", name_or_path, error) from error
    return model.eval(), tokenizer


def nf4_config() -> Any:
    """The paper's quantisation: NF4, double quantisation, bfloat16 compute."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )


def load_adapter(model: Any, folder: Path | str) -> Any:
    """Attaches a peft adapter to a loaded base for inference, unmerged.

    Raises:
        ModelError: The folder (or hub id) holds no adapter, or it does not fit the base.
    """
    from peft import PeftModel

    if Path(folder).exists() and not (Path(folder) / "adapter_config.json").is_file():
        raise ModelError(f"{paths.relative(folder)}: no adapter_config.json; give a folder such as adapters/<run>/checkpoint-<step>")
    try:
        return PeftModel.from_pretrained(model, str(folder)).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise _load_error("adapter", str(folder), error) from error


def lora_targets(model: Any) -> list[str] | str:
    """LoRA targets where none are named: every linear layer of the blocks, by architecture."""
    return list(LORA_TARGETS.get(model.config.model_type, ())) or "all-linear"


def model_family(model: Any) -> str:
    """Architecture, as `config.json` names it: `llama`, `gpt_neox` ..."""
    return str(model.config.model_type)


def count_parameters(model: Any) -> dict[str, int]:
    """True parameter counts; a 4-bit tensor packs two weights a byte and is counted unpacked.

    Returns:
        `total` without adapter weights' copies of frozen ones, and `trainable`.
    """
    total = trainable = 0
    for parameter in model.parameters():
        n = parameter.numel()
        if parameter.__class__.__name__ == "Params4bit":
            state = parameter.quant_state
            n = state.shape.numel() if state is not None else 2 * n
        total += n
        trainable += n if parameter.requires_grad else 0
    return {"total": total, "trainable": trainable}


def fingerprint(name_or_path: str, revision: str | None = None) -> str:
    """What identifies the weights: for a folder, a SHA-256 over its weights and config; else `id@revision`.

    Weights over 1 GiB enter by file name and size, since hashing them costs minutes.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        return f"{name_or_path}@{revision or 'main'}"
    digest = hashlib.sha256()
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin") or p.name.endswith("config.json"))
    files = [p for p in files if p.name != "training_args.bin"]
    whole = sum(p.stat().st_size for p in files) <= FULL_HASH_BYTES
    for path in files:
        content = sha256_file(path) if whole or path.suffix == ".json" else str(path.stat().st_size)
        digest.update(f"{path.name}:{content}\n".encode())
    return digest.hexdigest()


def _load_error(what: str, name: str, error: Exception) -> ModelError:
    """Turns a library's error into one that says what to do."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    causes: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in causes:
        causes.append(current)
        current = current.__cause__ or current.__context__
    text = " ".join(str(error).split())
    if any(isinstance(c, GatedRepoError) for c in causes):
        mend = "it is gated: accept its licence on its page and log in with `hf auth login`"
    elif any(isinstance(c, RevisionNotFoundError) for c in causes):
        mend = "the hub has no such revision; check the pinned commit"
    elif any(isinstance(c, RepositoryNotFoundError) for c in causes):
        mend = "the hub knows no such id (or it is private): check the spelling"
    elif isinstance(error, OSError) and not Path(name).exists():
        mend = (
            "the hub cannot be reached and the model is not in the local cache: fetch it on a machine with network, or give a local folder"
        )
    else:
        mend = "check the folder and the installed versions"
    return ModelError(f"{what} {name!r} could not be loaded: {mend} ({text[:300]})")
