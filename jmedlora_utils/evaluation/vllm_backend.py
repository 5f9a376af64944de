"""vLLM as an optional backend: the same prompts, the same end of an answer, and an adapter proven to be applied.

Written against vLLM's documented interface and tested against a stand-in that checks the calls; `benchmarks/vllm_check.py` asks vLLM
itself, which is no dependency of the project. vLLM batches as it likes, so two runs may differ by rounding, and its answers have keys of
their own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_json
from jmedlora_utils.evaluation import generation
from jmedlora_utils.evaluation.transformers_backend import Writer
from jmedlora_utils.models import loading
from jmedlora_utils.models.registry import ModelEntry

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as `max_lora_rank`."""

NOISE_FACTOR = 2.0
"""By how much an adapter's effect must exceed the difference between two equal calls to the base."""


class VllmBackend:
    """One vLLM engine for a base and the LoRA adapters of its steps; see `TransformersBackend` for the arguments.

    Args:
        context: Tokens the base can read and write in all.
    """

    def __init__(
        self, base: ModelEntry, weights: Mapping[int, str], tokenizer: Any, context: int, quantisation: str = "none", dtype: str = "float32"
    ) -> None:
        self.base, self.weights, self.tokenizer, self.context = base, weights, tokenizer, context
        self.quantisation, self.dtype = quantisation, dtype
        self._engine: Any = None
        self._adapters: dict[int, str] = {}
        self._step = 0

    def close(self) -> None:
        """Lets go of the engine; `load` then starts afresh."""
        self._engine, self._step = None, 0

    def load(self, step: int, probe: Sequence[int]) -> None:
        """Makes answers come from a step, 0 being the base, after proving on the prompt `probe` that the adapter changes something."""
        if self._engine is None:
            self._engine = self._start()
        if step and step != self._step:
            self._check_differs(step, probe)
        self._step = step

    def writer(self, rows: Sequence[Sequence[int]]) -> Writer:
        """Greedy generation at the loaded step; vLLM keeps shared prefixes by itself."""
        lines, step = generation.line_tokens(self.tokenizer), self._step
        stops = generation.stop_ids(_end_tokens(self.base), self.tokenizer)

        def write(batch: Sequence[Sequence[int]], max_new_tokens: int, names: Sequence[str] = ()) -> list[generation.Answer]:
            common = {"temperature": 0.0, "max_tokens": max_new_tokens, "stop_token_ids": sorted(stops)}
            done = [out.outputs[0] for out in self._ask(batch, step, **common, stop=["\n"], include_stop_str_in_output=True)]
            # A line break that opens an answer is skipped, not an end: those few are asked again without it as a stop.
            blank = [i for i, out in enumerate(done) if out.stop_reason == "\n" and not out.text.strip()]
            for i, out in zip(blank, self._ask([batch[i] for i in blank], step, **common) if blank else [], strict=True):
                done[i] = out.outputs[0]
            return [_answer(self.tokenizer, out, stops, lines) for out in done]

        return write

    def _start(self) -> Any:
        try:
            from vllm import LLM
        except ImportError as error:
            raise JmedloraError(
                "backend 'vllm' is not installed: `pip install vllm` in an environment of its own on a machine with a card, "
                "or use backend='transformers'"
            ) from error
        import torch

        self._adapters = {step: _local_adapter(weights) for step, weights in self.weights.items()}
        options: dict[str, Any] = {}
        if self._adapters:
            options = {"enable_lora": True, "max_loras": 1, "max_lora_rank": _lora_rank(self._adapters.values())}
        if self.quantisation == "nf4":
            options["quantization"] = "bitsandbytes"
        if not torch.cuda.is_available():
            options["enforce_eager"] = True  # compiling takes minutes there
        return LLM(
            model=self.base.location,
            revision=self.base.revision,
            tokenizer_revision=self.base.revision,
            dtype=self.dtype,
            seed=0,
            max_model_len=self.context,
            enable_prefix_caching=True,
            generation_config="vllm",  # without it, the checkpoint's own sampling settings are mixed in
            tensor_parallel_size=max(1, torch.cuda.device_count()),
            **options,
        )

    def _ask(self, batch: Sequence[Sequence[int]], step: int, **sampling: Any) -> list[Any]:
        """What vLLM returns for each prompt at a step."""
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        request = LoRARequest(f"step{step}", step, self._adapters[step]) if step else None
        prompts = [{"prompt_token_ids": list(ids)} for ids in batch]
        return self._engine.generate(prompts, SamplingParams(**sampling), use_tqdm=False, lora_request=request)

    def _check_differs(self, step: int, probe: Sequence[int]) -> None:
        """Compares log-probabilities of the probe's tokens with and without adapter; two equal calls to the base give the noise."""
        plain, again = self._prompt_logprobs(probe, 0), self._prompt_logprobs(probe, 0)
        tuned = self._prompt_logprobs(probe, step)
        noise, effect = _gap(plain, again), _gap(plain, tuned)
        if effect <= NOISE_FACTOR * noise:
            raise JmedloraError(
                f"step {step}: its outputs equal the base's within the noise of two equal calls ({effect:.2g}, noise {noise:.2g}), "
                "so vLLM does not apply the adapter or it was never trained; use backend='transformers'"
            )

    def _prompt_logprobs(self, probe: Sequence[int], step: int) -> list[float]:
        [output] = self._ask([probe], step, temperature=0.0, max_tokens=1, prompt_logprobs=1)
        # Nothing predicts the first token; of the others vLLM always gives the prompt's own beside the likeliest.
        return [said[token].logprob for token, said in zip(probe[1:], output.prompt_logprobs[1:], strict=True)]


def _gap(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _answer(tokenizer: Any, out: Any, stops: set[int], lines: generation.LineTokens) -> generation.Answer:
    answer = generation.cut_answer(tokenizer, list(out.token_ids), stops, lines)
    return replace(answer, finish="stop") if out.finish_reason == "stop" else answer


def _end_tokens(base: ModelEntry) -> Any:
    """End tokens of the base's own generation settings, as transformers finds them."""
    from transformers import AutoConfig, GenerationConfig

    try:
        return GenerationConfig.from_pretrained(base.location, revision=base.revision).eos_token_id
    except OSError:
        return AutoConfig.from_pretrained(base.location, revision=base.revision, trust_remote_code=False).eos_token_id


def _local_adapter(weights: str) -> str:
    """Folder of an adapter; one of the hub is fetched at its pinned revision, which `LoRARequest` cannot name."""
    entry = loading.find_adapter(weights)
    if entry.folder is not None:
        return str(entry.folder)
    from huggingface_hub import snapshot_download

    return snapshot_download(entry.hub_id, revision=entry.revision)


def _lora_rank(folders: Iterable[str]) -> int:
    """The smallest rank vLLM can be told that holds every adapter."""
    largest = max(read_json(Path(f) / "adapter_config.json")["r"] for f in folders)
    fitting = [rank for rank in LORA_RANKS if rank >= largest]
    if not fitting:
        raise JmedloraError(f"adapter of rank {largest}: vLLM takes at most {LORA_RANKS[-1]}; use backend='transformers'")
    return fitting[0]
