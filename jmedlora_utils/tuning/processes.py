"""One training run in several processes, as `accelerate launch` starts them: who is the main one, and what all must agree on."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def count() -> int:
    """Processes of this run; 1 where nothing was launched."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes what is written once."""
    return int(os.environ.get("RANK", "0")) == 0


def sharded() -> bool:
    """Whether the weights are divided among the processes (FSDP) instead of copied to each (DDP)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")


def local_device(device: str) -> str:
    """The device that this process loads a model to; sharded weights start on the CPU, since a card holds only its share of them."""
    if count() == 1 or device == "cpu":
        return device
    import torch

    if sharded() or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def on_card(model: Any) -> bool:
    """Whether a model trains on a card; sharded weights still lie on the CPU before training."""
    if next(model.parameters()).device.type != "cpu":
        return True
    import torch

    return sharded() and torch.cuda.is_available()


def from_main(compute: Callable[[], T]) -> T:
    """What `compute` returns in the main process, given to all; an error there is raised in all, so that none waits for ever."""
    if count() == 1:
        return compute()
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=not torch.cuda.is_available())
    told: list[Any] = [None, None]
    if is_main():
        try:
            told[0] = compute()
        except Exception as error:
            told[1] = error
    broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    return told[0]


def leave() -> None:
    """Ends the process group, where there is one."""
    if count() > 1:
        import torch.distributed

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
