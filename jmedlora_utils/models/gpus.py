"""Kinds of cards: what the data sheets say, and the speeds that `benchmarks/gpu_check.py` measured. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jmedlora_utils.core import paths
from jmedlora_utils.core.records import Record, read_record

MIB = 1 << 20
GIB = 1 << 30
GB = 1e9

# What the CUDA context, library workspaces and fragmentation take beyond the tensors. An allowance, not a derivation.
RESERVE_BYTES = GIB
RESERVE_SHARE = 0.04
CLASS_MARGIN = 0.1  # of a card's memory, see `card_class`

MEASURED = paths.RESULTS / "gpu"


@dataclass(frozen=True)
class Card:
    """One kind of accelerator."""

    name: str  #: As it is sold
    bytes: int  #: Memory as the driver reports it
    flops: float  #: Dense bfloat16 matrix rate of the data sheet, FLOP/s; only for times without a measured rate
    bandwidth: float  #: Memory bandwidth of the data sheet, bytes/s; likewise

    def usable(self) -> int:
        """Bytes left for tensors."""
        return int(self.bytes * (1 - RESERVE_SHARE)) - RESERVE_BYTES


CARDS = {
    24: Card("RTX 4090, 24 GB", 24564 * MIB, 165e12, 1.008e12),
    48: Card("RTX A6000, 48 GB", 49140 * MIB, 155e12, 0.768e12),
    80: Card("A100, 80 GB", 81920 * MIB, 312e12, 2.039e12),
    141: Card("H200, 141 GB", 143771 * MIB, 989e12, 4.8e12),
}


def card_class(memory: int) -> int | None:
    """Key of the largest card of `CARDS` that has no more memory than this, or None where each has more.

    Torch sees a few percent less than the data sheet says, and error correction takes up to 8 % more; hence a margin.
    """
    return max((key for key, card in CARDS.items() if card.bytes * (1 - CLASS_MARGIN) <= memory), default=None)


def card_at_hand(default: int = 80) -> int | None:
    """`card_class` of the GPU of this machine, or `default` where torch is missing or sees none."""
    try:
        import torch
    except ImportError:
        return default
    if not torch.cuda.is_available():
        return default
    return card_class(torch.cuda.get_device_properties(0).total_memory)


class Speeds(NamedTuple):
    """What `gpu_check.py` measured."""

    rates: dict[tuple[str, str, int], float]  #: Tokens per second by (registry name, `tune` or `generate`, card key)
    #: FLOP/s that tuning reached by (`lora` or `qlora`, card key), recomputation counted; the lowest of several bases
    flops: dict[tuple[str, int], float]


def read_speeds(folder: Path = MEASURED) -> Speeds:
    """Speeds from the records of `gpu_check.py` on cards of a known kind."""
    speeds = Speeds({}, {})
    for record in gpu_checks(folder):
        card = card_class(record.config.get("card_bytes", 0))
        for case in record.metrics.get("cases", []) if card else []:
            speeds.rates[case["base"], "tune", card] = case["tokens_per_second"]
            speeds.rates[case["base"], "generate", card] = case["generation_tokens_per_second"]
            reached = case["hardware_flops_utilisation"] * record.metrics["matmul_flops"]
            speeds.flops[case["method"], card] = min(reached, speeds.flops.get((case["method"], card), reached))
    return speeds


def gpu_checks(folder: Path = MEASURED) -> list[Record]:
    """The records of `gpu_check.py` in a folder, tests of the script itself left out."""
    records = map(read_record, sorted(folder.glob("*.json")))
    return [record for record in records if record.kind == "benchmark" and record.preset != "smoke"]
