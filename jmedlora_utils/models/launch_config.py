"""Configurations of `accelerate launch`: whether they divide a base's weights, and over how many machines."""

from pathlib import Path
from typing import NamedTuple

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_yaml

CONFIGS = paths.PRESETS / "accelerate"
SHARDED = {"MULTI_GPU": False, "FSDP": True}


class LaunchConfig(NamedTuple):
    """One configuration file; `sharded` says whether the processes divide the base's weights (FSDP) or copy them (DDP)."""

    path: Path
    sharded: bool
    machines: int


def read_launch_config(name: str) -> LaunchConfig:
    """Reads the configuration of that name in `notebooks/presets/accelerate/`, or the YAML file of that path."""
    path = next((p for p in (CONFIGS / f"{name}.yaml", Path(name)) if p.is_file()), None)
    if path is None:
        known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
        raise JmedloraError(f"launch_config {name!r} is no file, and no configuration has that name; known: {known}")
    where, raw = paths.relative(path), read_yaml(path)
    kind, machines = raw.get("distributed_type"), raw.get("num_machines", 1)
    if kind not in SHARDED:
        raise JmedloraError(
            f"{where}: distributed_type is {kind!r}; it takes {' or '.join(SHARDED)} (`accelerate config` writes such a file)"
        )
    if SHARDED[kind] and (raw.get("fsdp_config") or {}).get("fsdp_version") != 2:
        raise JmedloraError(f"{where}: fsdp_version must be 2; version 1 is gone from transformers")
    if type(machines) is not int or machines < 1:
        raise JmedloraError(f"{where}: num_machines is {machines!r}; it must be a whole number of at least 1")
    return LaunchConfig(path, SHARDED[kind], machines)
