"""Memory from first principles: bytes of weights, adapter, gradients, optimizer state, activations and cache. No torch.

Every term is counted from the tensors that the code makes; the tests compare with real tiny models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.models.shape import Shape

METHODS = ("lora", "qlora", "full")
OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit")

# The modules at the end of a block, where a passing copy of an input comes on top of everything the block keeps.
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj", "dense_h_to_4h", "dense_4h_to_h")

# bitsandbytes: an 8-bit state has one scale (float32) for 256 values; tensors under 4,096 elements keep float32 states.
ADAM_8BIT_BLOCK = 256
ADAM_8BIT_SMALLEST = 4096


@dataclass(frozen=True)
class Tuning:
    """What decides the memory of one tuning step on one card."""

    shape: Shape  #: Sizes of the base
    method: str = "lora"  #: One of `METHODS`
    rank: int = 8  #: LoRA r
    targets: tuple[str, ...] = ()  #: Module names with an adapter; empty for every linear module of the blocks
    embeddings: bool = False  #: Whether input and output embeddings are trained too (full copies)
    optimizer: str = "adamw_torch_fused"  #: One of `OPTIMIZERS`
    micro_batch: int = 1  #: Rows in one forward pass
    length: int = 1024  #: Tokens of the longest row
    supervised: int = 0  #: Tokens of one row that carry loss, for which logits are computed; 0 for all
    checkpointing: bool = False  #: Whether only the inputs of the blocks are kept and the rest is computed again
    dropout: float = 0.0  #: LoRA dropout; above 0 each adapted module keeps a mask
    accumulating: bool = False  #: Whether a step takes several micro-batches, so that gradients of the earlier ones are there
    mixed: bool = True  #: bfloat16 under autocast with a float32 adapter (peft's default); False for float32 throughout
    weight_bytes: int = 2  #: Bytes of one parameter that is not quantised
    #: Kernels of a GPU: a byte per dropout mask element, layer norms in float32, NF4 unpacked before each product. False for a CPU, where
    #: the tests measure.
    cuda: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise JmedloraError(f"method {self.method!r} is not one of {', '.join(METHODS)}")
        if self.optimizer not in OPTIMIZERS:
            raise JmedloraError(f"optimizer {self.optimizer!r} is not one of {', '.join(OPTIMIZERS)}")
        if unknown := set(self.targets) - set(self.shape.linears()):
            known = ", ".join(self.shape.linears())
            raise JmedloraError(f"{sorted(unknown)[0]!r} is no linear module of {self.shape.architecture}; it has {known}")

    @property
    def adapted(self) -> tuple[str, ...]:
        """Modules of one block that have an adapter."""
        return self.targets or tuple(self.shape.linears())

    @property
    def quantisation(self) -> str:
        """How the base is loaded: `none` or `nf4`."""
        return "nf4" if self.method == "qlora" else "none"


@dataclass(frozen=True)
class Memory:
    """Bytes of one process on one card, by what they hold."""

    weights: int  #: Base weights with their quantisation constants
    adapter: int = 0  #: Trained parameters that are not the base's own, float32
    #: What gradients add to the peak: one float32 per trained parameter while accumulating; else they grow as activations go, and only the
    #: surplus counts
    gradients: int = 0
    optimizer: int = 0  #: Its state; 0 where it is paged to the host when memory is short
    activations: int = 0  #: What the forward pass keeps for the backward pass
    work: int = 0  #: The larger of two passing needs: logits and their gradient, or one block computed again
    cache: int = 0  #: Keys and values in generation

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def adapter_parameters(shape: Shape, rank: int, targets: Sequence[str] = (), embeddings: bool = False) -> int:
    """Parameters of a LoRA: r × (input + output width) for each adapted module of each block, plus the embedding copies if trained."""
    return sum(trained_tensors(Tuning(shape, rank=rank, targets=tuple(targets), embeddings=embeddings)))


def trained_tensors(run: Tuning) -> list[int]:
    """Sizes of the trained tensors: A and B of each adapted module (for full tuning, one entry for all parameters)."""
    if run.method == "full":
        return [run.shape.parameters()]
    linears = run.shape.linears()
    pairs = [run.rank * width for name in run.adapted for width in linears[name]]
    tables = [run.shape.vocab * run.shape.hidden] * (1 if run.shape.tied else 2)
    return pairs * run.shape.layers + (tables if run.embeddings else [])


def trained_parameters(run: Tuning) -> int:
    """Parameters that receive a gradient."""
    return sum(trained_tensors(run))


def optimizer_bytes(sizes: Iterable[int], optimizer: str = "adamw_torch_fused") -> int:
    """Bytes of an optimizer's state for tensors of these sizes: two float32 per parameter, or two bytes and their block scales."""
    eight = optimizer.endswith("8bit")
    return sum(2 * n + 8 * math.ceil(n / ADAM_8BIT_BLOCK) if eight and n >= ADAM_8BIT_SMALLEST else 8 * n for n in sizes)


def block_activations(run: Tuning) -> tuple[int, int]:
    """Bytes that one block keeps for the backward pass, for one token: outside its feed-forward part, and in it.

    Counted from the forward code of transformers and peft; frozen linear modules keep nothing. Norms work in float32.
    Under autocast every adapted module keeps its own bfloat16 copy of its input, in float32 neighbours share one.
    """
    shape = run.shape
    wide, c = 4, 2 if run.mixed else 4
    linears = shape.linears()
    softmax = 4 * shape.heads
    if shape.architecture == "gpt_neox":
        norms = 2 * ((wide if run.cuda else c) * shape.hidden + 2 * 4)
        attention = c * (3 * shape.hidden + 3 * shape.hidden) + softmax
        feed_forward = c * shape.intermediate
        shared = {"query_key_value": "norm 1", "dense": "attention", "dense_h_to_4h": "norm 2", "dense_4h_to_h": "feed forward"}
    else:
        norms = (4 if shape.architecture == "gemma3_text" else 2) * (wide * shape.hidden + 4)
        if shape.architecture in ("qwen3", "gemma3_text"):
            norms += wide * (shape.queries + shape.keys) + 4 * (shape.heads + shape.kv_heads)
        attention = c * (2 * shape.queries + 2 * shape.keys) + softmax
        feed_forward = 3 * c * shape.intermediate
        shared = {"q_proj": "norm 1", "k_proj": "norm 1", "v_proj": "norm 1", "o_proj": "attention"}
        shared |= {"gate_proj": "norm 2", "up_proj": "norm 2", "down_proj": "feed forward"}

    def adapted(late: bool) -> int:
        names = [name for name in run.adapted if (name in FEED_FORWARD) == late]
        if run.mixed or run.dropout > 0:
            inputs = sum(linears[name][0] for name in names)
        else:
            inputs = sum({shared[name]: linears[name][0] for name in names if shared[name] != "attention"}.values())
        middle = 0 if run.method == "full" else run.rank * len(names)
        masks = (1 if run.cuda else 4) * sum(linears[name][0] for name in names) if run.dropout > 0 else 0
        return c * (inputs + middle) + masks

    return norms + attention + adapted(late=False), feed_forward + adapted(late=True)


def tuning_memory(run: Tuning) -> Memory:
    """Peak bytes of one tuning step.

    The peak is taken at the start of the backward pass. Kept: every block's activations, those of the last one's feed-forward part at
    supervised tokens alone, or with checkpointing its input alone. At work, whichever is more: the logits of the supervised tokens
    (log-softmax and two gradients, float32), or one block (computed again with checkpointing) with its feed-forward product, its input
    cast for the adapter, and on a GPU the largest NF4 weight unpacked. Without checkpointing that is the last block, or the one before
    it when the last one's activations are gone.
    """
    shape = run.shape
    tokens = run.micro_batch * run.length
    supervised = run.micro_batch * (run.supervised or run.length)
    c = 2 if run.mixed else 4
    trained = trained_parameters(run)
    outside, inside = block_activations(run)
    block, last = tokens * (outside + inside), tokens * outside + supervised * inside
    if run.checkpointing:
        kept = shape.layers * tokens * c * shape.hidden
    else:
        kept = (shape.layers - 1) * block + last + (2 * trained if run.mixed and run.method != "full" else 0)
    head = 12 * supervised * shape.vocab + tokens * (4 + c) * shape.hidden
    late = [shape.linears()[name][0] for name in run.adapted if name in FEED_FORWARD]
    cast = max(late, default=0) * (4 + (4 if run.dropout > 0 else 0)) if run.mixed else 0
    unpacked = 2 * shape.largest_linear() if run.method == "qlora" and run.cuda else 0
    product, residual = c * shape.intermediate + cast, tokens * 4 * c * shape.hidden + unpacked
    through = tokens * product + residual
    work = through + block if run.checkpointing else max(supervised * product + residual, through - last)
    return Memory(
        weights=shape.load_bytes(run.quantisation, 4 if run.method == "full" else run.weight_bytes),
        adapter=0 if run.method == "full" else 4 * trained,
        gradients=4 * trained if run.accumulating else max(4 * trained - kept, 0),
        optimizer=0 if run.optimizer.startswith("paged") else optimizer_bytes(trained_tensors(run), run.optimizer),
        activations=kept,
        work=max(head, work),
    )


def cache_bytes(shape: Shape, batch: int, length: int, element_bytes: int = 2) -> int:
    """Bytes of keys and values: 2 × blocks × width of all key heads × tokens; with a sliding window the most it can be."""
    return 2 * shape.layers * shape.keys * batch * length * element_bytes


def generation_memory(
    shape: Shape, quantisation: str = "none", batch: int = 1, prompt: int = 1024, new: int = 64, adapter: int = 0
) -> Memory:
    """Peak bytes of batched greedy generation, bfloat16: weights, adapter (`adapter` parameters, float32), cache, one block at work."""
    wide = 2 if shape.architecture == "gpt_neox" else 3  # arrays of the feed-forward part at once: a gate is one more
    block = batch * prompt * 2 * (4 * shape.hidden + wide * shape.intermediate)
    logits = batch * shape.vocab * (2 + 4)
    return Memory(
        weights=shape.load_bytes(quantisation),
        adapter=4 * adapter,
        cache=cache_bytes(shape, batch, prompt + new),
        work=block + logits + (2 * shape.largest_linear() if quantisation == "nf4" else 0),
    )


def sharded_total(run: Tuning, cards: int) -> int:
    """Bytes on each of several cards under FSDP2: parameters, gradients and state divided, two blocks gathered. An estimate."""
    memory = tuning_memory(run)
    if cards == 1:
        return memory.total
    fixed = memory.weights + memory.adapter + memory.gradients + memory.optimizer
    gathered = 2 * (memory.weights + memory.adapter) // run.shape.layers
    return math.ceil(fixed / cards) + gathered + memory.activations + memory.work


def fit_tuning(run: Tuning, batch: int, usable: int) -> Tuning | None:
    """The fastest way to run a batch within `usable` bytes, or None.

    Checkpointing computes every block twice, so it comes only when one row does not fit without it, and an optimizer state paged
    to the host only when that does not fit either; then the largest micro-batch that divides the batch.
    """
    sizes = [n for n in range(batch, 0, -1) if batch % n == 0]
    for optimizer in (run.optimizer, "paged_adamw_32bit"):
        for checkpointing in (False, True):
            for micro in sizes:
                changes = {"micro_batch": micro, "accumulating": micro < batch, "checkpointing": checkpointing, "optimizer": optimizer}
                option = replace(run, **changes)
                if tuning_memory(option).total <= usable:
                    return option
    return None


def step_flops(run: Tuning, tokens: int) -> float:
    """FLOP of one step over `tokens` real tokens: 2 per weight forward, 2 backward through frozen weights, 2 more for recomputing,
    and 2 for the gradient of each trained weight (6 × parameters in all for full fine-tuning). Attention scores are left out: under
    2 % at 1,024 tokens."""
    matrix = run.shape.linear_parameters()
    head = run.shape.vocab * run.shape.hidden
    trained = matrix + head if run.method == "full" else adapter_parameters(run.shape, run.rank, run.targets)
    passes = 6 if run.checkpointing else 4
    extra = 2 * trained if run.method == "full" else (passes + 2) * trained
    return tokens * (passes * (matrix + head) + extra)
