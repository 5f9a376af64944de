"""A stand-in for vLLM's documented offline interface: it checks each call, records it, and answers with transformers.

It knows the arguments that `LLM`, `SamplingParams`, `LLM.generate` and `LoRARequest` document and refuses any other, so a call
that the real ones would refuse fails here too. What it cannot show is that the real ones do as documented.
"""

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

ENGINE_ARGUMENTS = {
    "model", "tokenizer", "tokenizer_mode", "trust_remote_code", "tensor_parallel_size", "dtype", "quantization", "revision",
    "tokenizer_revision", "seed", "gpu_memory_utilization", "max_model_len", "enable_lora", "max_loras", "max_lora_rank",
    "enable_prefix_caching", "generation_config", "enforce_eager",
}  # fmt: skip


@dataclass
class SamplingParams:
    """Fields and defaults as documented; the defaults that spoil an evaluation (16 tokens, temperature 1) among them."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = 16
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    prompt_logprobs: int | None = None
    logprobs: int | None = None


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str

    def __post_init__(self) -> None:
        assert self.lora_int_id >= 1, "vLLM: lora_int_id starts at 1"


@dataclass
class Calls:
    """What was asked of the stand-in.

    Attributes:
        engines: Arguments of each `LLM`.
        generated: Arguments of each `generate`.
        adapter_ignored: Answer as the base whatever adapter is named, as an evaluator does that drops it.
        noise: Added to log-probabilities, growing with each call, as rounding would be.
        without_eos: Leave the end token out of `token_ids`.
    """

    engines: list[dict[str, Any]] = field(default_factory=list)
    generated: list[SimpleNamespace] = field(default_factory=list)
    adapter_ignored: bool = False
    noise: float = 0.0
    without_eos: bool = False


def install(monkeypatch: Any) -> Calls:
    """Puts the stand-in where `import vllm` finds it."""
    calls = Calls()

    class LLM:
        def __init__(self, **options: Any) -> None:
            assert set(options) <= ENGINE_ARGUMENTS, f"vLLM's LLM has no argument {set(options) - ENGINE_ARGUMENTS}"
            assert not options.get("enable_lora") or options["max_lora_rank"] in (1, 8, 16, 32, 64, 128, 256, 320, 512)
            calls.engines.append(options)
            self.options = options
            self.tokenizer = AutoTokenizer.from_pretrained(options["model"])
            self.models: dict[str, Any] = {"": self.load()}

        def load(self) -> Any:
            return AutoModelForCausalLM.from_pretrained(self.options["model"]).eval()

        def generate(self, prompts: list, sampling_params: SamplingParams, *, use_tqdm: bool = True, lora_request: Any = None) -> list:
            assert all(set(p) == {"prompt_token_ids"} for p in prompts)
            assert sampling_params.temperature == 0.0, "not greedy"
            assert lora_request is None or self.options.get("enable_lora"), "vLLM: LoRA is not enabled"
            calls.generated.append(SimpleNamespace(prompts=prompts, sampling=sampling_params, lora=lora_request))
            path = "" if lora_request is None or calls.adapter_ignored else lora_request.lora_path
            if path not in self.models:
                self.models[path] = PeftModel.from_pretrained(self.load(), path).eval()
            return [self.one(self.models[path], p["prompt_token_ids"], sampling_params) for p in prompts]

        @torch.inference_mode()
        def one(self, model: Any, ids: list[int], sampling: SamplingParams) -> Any:
            new, text, reason, stop = [], "", "length", None
            ends = {self.tokenizer.eos_token_id, *(sampling.stop_token_ids or [])}
            while reason == "length" and len(new) < sampling.max_tokens:
                new.append(int(model(input_ids=torch.tensor([[*ids, *new]])).logits[0, -1].argmax()))
                if new[-1] in ends:
                    reason = "stop"
                    break
                text = self.tokenizer.decode(new, skip_special_tokens=sampling.skip_special_tokens)
                if stop := next((s for s in sampling.stop or [] if s in text), None):
                    reason = "stop"
                    text = text[: text.index(stop) + (len(stop) if sampling.include_stop_str_in_output else 0)]
            said = None
            if sampling.prompt_logprobs is not None:
                logprobs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1) + calls.noise * len(calls.generated)
                said = [None] + [{t: SimpleNamespace(logprob=float(logprobs[i, t]))} for i, t in enumerate(ids[1:])]
            kept = tuple(t for t in new if not (calls.without_eos and t in ends))
            out = SimpleNamespace(text=text, token_ids=kept, finish_reason=reason, stop_reason=stop)
            return SimpleNamespace(outputs=[out], prompt_logprobs=said, prompt_token_ids=ids)

    package, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    package.LLM, package.SamplingParams, request.LoRARequest = LLM, SamplingParams, LoRARequest
    for module in (package, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls
