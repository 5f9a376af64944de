"""The notebooks of one preset. `make reproduce` calls it; `snakemake --cores 2 --config preset=mini` works too.

On a cluster, `make reproduce PROFILE=slurm` runs it with `profiles/slurm`; a step that is tried again gets more memory.

A step is stale when its job card is newer than its executed copy. A card changes with the step's parameters, its
notebook, or a module that the notebook imports, so reading this file refuses a bad preset before anything runs.
"""

import shlex
import sys

from jmedlora_utils.core import paths
from jmedlora_utils.workflow.runner import plan

PRESET = str(config.get("preset", "mini"))
STEPS = plan(PRESET)


rule all:
    default_target: True
    input:
        [step.target for step in STEPS],


def memory(step):
    """Host memory of a step at its first, second ... try: what the cluster ended for want of memory gets more."""
    return lambda wildcards, attempt: step.resources["mem_mb"] * attempt


# Earlier steps first: a preset names its longest runs first, so that none of them is left for the end.
for place, step in enumerate(STEPS):

    rule:
        name:
            step.job.output if step.job.seed is None else f"seed{step.job.seed}__{step.job.output}"
        input:
            card=step.card,
            after=step.after,
        output:
            step.target,
        params:
            python=sys.executable,
            output=step.job.output,
            seed="" if step.job.seed is None else f"--seed {step.job.seed}",
        priority: len(STEPS) - place
        threads: step.threads
        resources:
            gpu=step.resources["gpu"],
            mem_mb=memory(step),
            runtime=step.resources["runtime"],
        shell:
            f"cd {shlex.quote(str(paths.ROOT))} && "
            f"{{params.python:q}} -m jmedlora_utils run --preset {shlex.quote(PRESET)} --output {{params.output:q}} "
            "{params.seed} --threads {threads}"
