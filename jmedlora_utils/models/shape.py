"""The sizes of a causal language model: its parameters, and the bytes its weights take, also in 4 bits. No torch."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.settings import explain

Architecture = Literal["llama", "gpt_neox", "qwen3", "gemma3_text"]
ARCHITECTURES = get_args(Architecture)
# bitsandbytes: NF4 packs two weights in a byte; 64 weights share a scale; double quantisation stores each scale in one byte, and 256
# scales share a float32; each tensor has one float32 offset and two lookup tables of float32 (16 and 256 entries).
NF4_BLOCK = 64
NF4_NESTED_BLOCK = 256
NF4_TABLES = 4 * (16 + 256) + 4

STRICT = ConfigDict(extra="forbid", strict=True)
Size = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class Shape:
    """The sizes of a causal language model, enough to count its parameters and bytes."""

    architecture: Architecture  #: One of `ARCHITECTURES`, the `model_type` of config.json
    layers: Size  #: Transformer blocks
    hidden: Size  #: Width of the residual stream
    intermediate: Size  #: Width of the feed-forward block
    heads: Size  #: Query heads
    kv_heads: Size  #: Key and value heads
    head_dim: Size  #: Width of one head
    vocab: Size  #: Rows of the embedding table
    tied: bool = False  #: Whether input and output embeddings are one table

    @property
    def queries(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all key heads."""
        return self.kv_heads * self.head_dim

    def linears(self) -> dict[str, tuple[int, int]]:
        """Linear modules of one block: name to (input width, output width)."""
        if self.architecture == "gpt_neox":
            return {
                "query_key_value": (self.hidden, 3 * self.hidden),
                "dense": (self.hidden, self.hidden),
                "dense_h_to_4h": (self.hidden, self.intermediate),
                "dense_4h_to_h": (self.intermediate, self.hidden),
            }
        return {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    def largest_linear(self) -> int:
        """Weights of the largest linear module."""
        return max(i * o for i, o in self.linears().values())

    def linear_parameters(self) -> int:
        """Weights of all linear modules in all blocks: what 4-bit loading quantises."""
        return self.layers * sum(i * o for i, o in self.linears().values())

    def other_parameters(self) -> int:
        """Parameters that 4-bit loading leaves alone: embeddings, output head, norms and biases."""
        if self.architecture == "gpt_neox":  # its norms have biases, and so have its linear modules
            block, last_norm = 4 * self.hidden + sum(width for _, width in self.linears().values()), 2 * self.hidden
        else:
            block = (4 if self.architecture == "gemma3_text" else 2) * self.hidden
            block += 2 * self.head_dim if self.architecture in ("qwen3", "gemma3_text") else 0  # norms of queries and keys
            last_norm = self.hidden
        return (1 if self.tied else 2) * self.vocab * self.hidden + self.layers * block + last_norm

    def parameters(self) -> int:
        """All parameters."""
        return self.linear_parameters() + self.other_parameters()

    def load_bytes(self, quantisation: str = "none", weight_bytes: int = 2) -> int:
        """Bytes of the weights on the card; `weight_bytes` is that of one parameter that is not quantised.

        NF4 takes the linear modules of the blocks and leaves embeddings, output head, norms and biases.
        """
        if quantisation == "none":
            return self.parameters() * weight_bytes
        if quantisation != "nf4":
            raise JmedloraError(f"quantisation {quantisation!r} is not one of none, nf4")
        return self.layers * sum(nf4_bytes(i * o) for i, o in self.linears().values()) + self.other_parameters() * weight_bytes

    @classmethod
    def read(cls, values: dict[str, Any], where: str) -> Shape:
        """Makes one from the content of a file."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise JmedloraError(f"{where}: {explain(error, cls.__annotations__)}") from error

    @classmethod
    def from_config(cls, config: dict[str, Any], where: str) -> Shape:
        """Reads the sizes from the content of a config.json.

        Raises:
            JmedloraError: The architecture is not one of `ARCHITECTURES`, or a size is missing or is not a whole number above 0.
        """
        sizes = {
            "heads": "num_attention_heads",
            "layers": "num_hidden_layers",
            "hidden": "hidden_size",
            "intermediate": "intermediate_size",
            "vocab": "vocab_size",
        }
        if missing := [name for name in sizes.values() if name not in config]:
            raise JmedloraError(f"{where}: {missing[0]!r} is missing; is this the config.json of a causal language model?")
        if bad := [name for name in sizes.values() if not isinstance(config[name], int) or config[name] < 1]:
            raise JmedloraError(f"{where}: a size in config.json is no whole number above 0 ({bad[0]}: {config[bad[0]]!r}); copy it again")
        architecture, heads = config.get("model_type", ""), config["num_attention_heads"]
        values = {name: config[theirs] for name, theirs in sizes.items()} | {
            "architecture": architecture,
            "kv_heads": config.get("num_key_value_heads") or heads,
            "head_dim": config.get("head_dim") or max(1, config["hidden_size"] // heads),
            # transformers leaves out what equals its default, which for Gemma is one table.
            "tied": bool(config.get("tie_word_embeddings", architecture == "gemma3_text")),
        }
        return cls.read(values, where)


def nf4_bytes(elements: int) -> int:
    """Bytes of one NF4 tensor with double quantisation: packed weights, scales, scales of the scales, tables."""
    scales = math.ceil(elements / NF4_BLOCK)
    return math.ceil(elements / 2) + scales + 4 * math.ceil(scales / NF4_NESTED_BLOCK) + NF4_TABLES
