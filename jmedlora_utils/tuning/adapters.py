"""The model that is trained: the base in its precision, its attention kernel, and the adapter on it."""

from collections.abc import Sequence
from typing import Any

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.models import loading
from jmedlora_utils.models.registry import ModelEntry
from jmedlora_utils.tuning import processes
from jmedlora_utils.tuning.settings import TuneSettings

FLASH = "flash_attention_2"


def build_model(settings: TuneSettings, base: ModelEntry) -> Any:
    """Loads the base and puts the adapter on it; call after the seed is set, since the adapter's start is random."""
    sharded = processes.sharded()  # such weights are loaded on the CPU before they are divided
    mixed = settings.method == "full" and settings.dtype == "bfloat16"
    model = loading.load_model(
        base,
        quantisation="nf4" if settings.method == "qlora" else "none",
        dtype="float32" if mixed else settings.dtype,
        device=processes.local_device(settings.device),
        attention=choose_attention(settings, _config(base), on_cpu=settings.device == "cpu" or sharded),
        quant_storage="bfloat16" if sharded else "uint8",
    )
    if settings.method == "full":
        return model.requires_grad_(True)
    from peft import get_peft_model

    # peft's prepare_model_for_kbit_training is left out: it casts embeddings, head and norms to float32, and with them every activation.
    adapted = get_peft_model(model, lora_config(settings, base, model))
    kept = adapted.peft_config["default"]
    # What is saved names the base as the run does, not this machine's folder, and the layers in one order.
    kept.base_model_name_or_path, kept.revision = base.hub_id or base.name.rsplit("/", 1)[-1], base.revision
    if not isinstance(kept.target_modules, str):
        kept.target_modules = sorted(kept.target_modules)
    return adapted


def lora_config(settings: TuneSettings, base: ModelEntry, model: Any) -> Any:
    """The peft configuration of the adapter."""
    from peft import LoraConfig

    embeddings: list[str] = []
    if settings.train_embeddings:
        wanted = (model.get_input_embeddings(), model.get_output_embeddings())
        embeddings = [name.rsplit(".", 1)[-1] for name, module in model.named_modules() if any(module is w for w in wanted)]
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias="none",
        target_modules=settings.target_modules or loading.lora_targets(base, model),
        modules_to_save=embeddings or None,
        ensure_weight_tying=bool(embeddings) and bool(model.config.tie_word_embeddings),
    )


def step_zero_difference(model: Any, ids: Sequence[int]) -> float:
    """Largest difference between the logits of the adapted model and of its base on one row; 0 before training.

    LoRA's B starts at zero, so an untrained adapter must change nothing at all.
    """
    if not hasattr(model, "disable_adapter"):
        return 0.0
    import torch

    was_training = model.training
    model.eval()
    row = torch.tensor([list(ids)], device=next(model.parameters()).device)
    with torch.no_grad():
        adapted = model(input_ids=row).logits
        with model.disable_adapter():
            plain = model(input_ids=row).logits
    model.train(was_training)
    return float((adapted.float() - plain.float()).abs().max())


def choose_attention(settings: TuneSettings, model_config: Any, on_cpu: bool) -> str | None:
    """The attention kernel to load a model with, in the words of transformers; None for its own choice (SDPA where the model has it).

    `auto` takes FlashAttention 2 where package, card, dtype and model allow it. `on_cpu`: the model computes on the CPU, if only at first.
    """
    wanted = settings.attn_implementation
    if wanted not in ("auto", FLASH):
        return wanted
    obstacle = _flash_obstacle(settings.dtype, model_config, on_cpu)
    if obstacle and wanted == FLASH:
        raise JmedloraError(f"attn_implementation 'flash_attention_2' cannot run: {obstacle}; use 'auto' or 'sdpa'")
    return None if obstacle else FLASH


def _flash_obstacle(dtype: str, model_config: Any, on_cpu: bool) -> str:
    """Why FlashAttention 2 cannot run here; empty where it can."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import is_flash_attn_2_available

    if on_cpu or not torch.cuda.is_available():
        return "the model computes on a CPU, or starts there (FSDP)"
    if torch.cuda.get_device_capability()[0] < 8:
        return "the card is older than Ampere"
    if dtype == "float32":
        return "it has no float32 kernel, and dtype is float32"
    if not is_flash_attn_2_available():
        return "the package flash-attn is not installed"
    model_class = AutoModelForCausalLM._model_mapping.get(type(model_config), None)
    if not getattr(model_class, "_supports_flash_attn", False):
        return f"{model_config.model_type} has no FlashAttention in transformers"
    return ""


def _config(base: ModelEntry) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(base.location, revision=base.revision, trust_remote_code=False)
