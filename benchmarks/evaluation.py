"""How fast evaluation is: this project beside the plain ways of asking, and lm-eval, in one process on one CPU.

    python -m venv bench && bench/bin/pip install -e '.[train]' -c constraints.txt
    bench/bin/pip install -r benchmarks/requirements.txt
    bench/bin/python benchmarks/evaluation.py          # minutes, on an idle machine; writes benchmarks/results/evaluation.json
    bench/bin/python benchmarks/evaluation.py --quick  # one repetition on a few questions, nothing written: proves the script
    bench/bin/python benchmarks/evaluation.py --real   # SmolLM2-135M on short questions of IgakuQA; writes evaluation__real.json

A fresh Llama of about five million parameters is asked questions of the mini world with worked examples. For writing, its forward pass
is computed in full and its answer then replaced by the right one from a script, in two kinds: one ends with EOS, one goes on after
the line break for ever, as base models do. Against it stands a loop that asks one question at a time for 256 tokens and cuts the
first line. For log-likelihood the plain ways read every prompt five times, once a choice. All arms start from the same texts, and
before anything is timed all must give the same answers, or the same log-probabilities and Accuracy. Then the arms run in turn, and
the fastest of several runs counts. Only ratios within one run mean anything, and one below 1.3 means nothing.

With `--real` the model is SmolLM2-135M-Instruct (`make fetch PRESET=small`), asked short questions of the examination of 2021, read where
`JMEDLORA_DATA` names them, behind one of IgakuQA's worked examples; only log-likelihood is timed. `vllm_check.py` has vLLM's writing.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jmedlora_utils.core import records
from jmedlora_utils.data import controlled, igakuqa, invented_world, prompts
from jmedlora_utils.data.invented_corpus import corpus
from jmedlora_utils.data.questions import Question
from jmedlora_utils.evaluation import generation, likelihood, metrics
from jmedlora_utils.models import loading, pretraining, registry

# Before torch is imported, which happens in functions only.
THREADS = 2
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(THREADS)
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a thread that waits must not take the core from one that works
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["JMEDLORA_PROGRESS"] = "0"

QUESTIONS, SHOTS, LOOP_TOKENS, MARGIN, SEED = 24, 3, 256, 8, 1
TEMPLATE = "plain_ja"
VOCABULARY = 700  # so small that choices have several tokens, as in a real exam; with one token each, their pass would not be timed
RESULTS = Path(__file__).resolve().parent / "results"
TOLERANCE = 1e-3  # log-probabilities of a whole choice, float32
LM_EVAL_BATCHES = (1, 8, 64)
REAL_MODEL, REAL_QUESTIONS, REAL_CHARS = "smollm2-135m-instruct", 12, 120
ONE_BY_ONE = "likelihood: five full prompts"
GOALS = {"writing, never stops": 40.0, "writing, stops": 1.5, "likelihood": 5.0, "likelihood, lm-eval": 1.0}

Arm = Callable[[], Any]


def make_questions(n: int) -> tuple[list[Question], list[Question], list[str]]:
    """Questions of the mini world, worked examples, and texts to make a tokenizer from."""
    world = invented_world.World(invented_world.WorldSettings(seed=SEED))
    asked = world.exams()["mini_trained"][:n]
    texts = [document.text for document in corpus(world, 0.5, 2000)]
    return asked, prompts.pick_shots(world.shots(), SHOTS, asked), texts


def make_model(tokenizer: Any, kind: type | None = None) -> Any:
    """A random Llama of about five million parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 8}
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, tie_word_embeddings=True, **sizes, **special)
    torch.manual_seed(SEED)
    return (kind or LlamaForCausalLM)(config).eval()


def scripted(scripts: dict[tuple[int, ...], list[int]]) -> type:
    """A Llama that does all its work and then says what is written for the prompt: the last ids of a prompt to the ids of its answer."""
    import torch
    from transformers import LlamaForCausalLM

    length = len(next(iter(scripts)))

    class Scripted(LlamaForCausalLM):
        @functools.wraps(LlamaForCausalLM.forward)  # `generate` reads the signature to see what it may pass
        def forward(self, input_ids: Any = None, **kwargs: Any) -> Any:
            output = super().forward(input_ids=input_ids, **kwargs)
            if input_ids.shape[1] > 1:
                self.said = [scripts.get(tuple(row[-length:])) for row in input_ids.tolist()]
                self.at = 0
            else:
                self.at += 1
            # The prefix that many prompts share is read alone; nothing is said after it.
            if None not in self.said:
                tokens = torch.tensor([script[self.at % len(script)] for script in self.said])
                output.logits[torch.arange(len(tokens)), -1, tokens] = 1e4
            return output

    return Scripted


class Bench:
    """The questions as texts, the models, and the arms over them."""

    def __init__(self, n: int) -> None:
        self.questions, shots, texts = make_questions(n)
        self.tokenizer = pretraining.train_tokenizer(texts, VOCABULARY, 1.0, bos=True)
        self.model = make_model(self.tokenizer)
        self.build(shots)
        said = [self.tokenizer(gold, add_special_tokens=False).input_ids for gold in self.gold]
        self.budget = max(map(len, said)) + MARGIN
        rows = self.encoded()
        # From the token after the first difference on, the end of each prompt is its own.
        length = min(map(len, rows)) - len(generation.common_prefix(rows))
        ends = [tuple(row[-length:]) for row in rows]
        assert len(set(ends)) == len(ends), "two prompts end alike; the script could not tell them apart"
        line = self.tokenizer("\n問題:", add_special_tokens=False).input_ids
        stops = {end: [*ids, self.tokenizer.eos_token_id] for end, ids in zip(ends, said, strict=True)}
        never = {end: [*ids, *line] for end, ids in zip(ends, said, strict=True)}
        self.writers = {"stops": make_model(self.tokenizer, scripted(stops)), "never stops": make_model(self.tokenizer, scripted(never))}

    def build(self, shots: Sequence[Question]) -> None:
        """The prompts, and what is counted of them."""
        self.texts = [prompts.build_exam_prompt(q, TEMPLATE, shots) for q in self.questions]
        self.gold = [prompts.answer_text(q) for q in self.questions]
        self.lengths = [len(ids) for ids in self.encoded()]
        choices = [choice for q in self.questions for choice in q.choices]
        self.choice_lengths = [len(self.tokenizer(choice, add_special_tokens=False).input_ids) for choice in choices]

    def encoded(self) -> list[list[int]]:
        return [prompts.encode_prompt(self.tokenizer, text) for text in self.texts]

    # --- writing ---------------------------------------------------------------------------------------------------

    def loop(self, kind: str) -> list[str]:
        """One question at a time, 256 tokens unless the model ends by itself, then the first line."""
        import torch

        model, answers = self.writers[kind], []
        for text in self.texts:
            ids = torch.tensor([prompts.encode_prompt(self.tokenizer, text)])
            with torch.inference_mode():
                out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=LOOP_TOKENS)
            answers.append(self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip().split("\n")[0].strip())
        return answers

    def ours(self, kind: str, batch_size: int, shared: bool) -> list[str]:
        """As notebook 30 asks: sorted batches, padded left, a shared prefix read once, an end at the line break."""
        model, rows = self.writers[kind], self.encoded()
        prefix = generation.read_prefix(model, rows) if shared else None
        answers = [""] * len(rows)
        for batch in generation.sorted_batches([len(r) for r in rows], batch_size):
            found = generation.generate(model, self.tokenizer, [rows[i] for i in batch], self.budget, prefix)
            for i, answer in zip(batch, found, strict=True):
                answers[i] = answer.text
        return answers

    # --- log-likelihood --------------------------------------------------------------------------------------------

    def full_prompts(self, together: bool) -> list[list[float]]:
        """Every prompt read five times, once a choice: one after the other, or the five choices of a question in one batch."""
        import torch

        sums = []
        for text, question in zip(self.texts, self.questions, strict=True):
            ids = prompts.encode_prompt(self.tokenizer, text)
            rows = [prompts.encode_prompt(self.tokenizer, text + choice) for choice in question.choices]
            found: list[float] = []
            for group in [rows] if together else [[row] for row in rows]:
                width = max(map(len, group))
                # Padding on the right is never seen by the tokens before it.
                batch = torch.tensor([row + [0] * (width - len(row)) for row in group])
                with torch.inference_mode():
                    logits = self.model(input_ids=batch, use_cache=False).logits
                for row, said in zip(group, logits, strict=True):
                    logprobs = said[len(ids) - 1 : len(row) - 1].float().log_softmax(-1)
                    found.append(float(logprobs.gather(1, torch.tensor(row[len(ids) :])[:, None]).sum()))
            sums.append(found)
        return sums

    def our_likelihood(self, batch_size: int, shared: bool) -> list[list[float]]:
        """As notebook 30 does: the prompt once, the choices from its cache, a shared prefix read once."""
        rows = self.encoded()
        prefix = generation.read_prefix(self.model, rows) if shared else None
        sums: list[list[float]] = [[] for _ in rows]
        for batch in generation.sorted_batches([len(r) for r in rows], batch_size):
            options = [likelihood.encode_options(self.tokenizer, self.texts[i], rows[i], self.questions[i].choices)[0] for i in batch]
            found = likelihood.score_batch(self.model, [rows[i] for i in batch], options, prefix)
            for i, scores in zip(batch, found, strict=True):
                sums[i] = scores
        return sums

    def lm_eval(self, batch_size: int) -> Arm:
        """lm-eval's own scoring of the same texts and choices, with the model handed over loaded."""
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM

        bos = self.encoded()[0][0] == self.tokenizer.bos_token_id
        lm = HFLM(pretrained=self.model, tokenizer=self.tokenizer, batch_size=batch_size, add_bos_token=bos)

        def run() -> list[list[float]]:
            asked = [(text, choice) for text, q in zip(self.texts, self.questions, strict=True) for choice in q.choices]
            requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(asked)]
            sums = iter([float(logprob) for logprob, _ in lm.loglikelihood(requests, disable_tqdm=True)])
            return [[next(sums) for _ in q.choices] for q in self.questions]

        return run

    def accuracy(self, sums: Sequence[Sequence[float]]) -> float:
        """Share of questions whose likeliest choices are the gold ones, under the plain sum."""
        right = [metrics.is_right(q, likelihood.choose(q, scores)) for q, scores in zip(self.questions, sums, strict=True)]
        return sum(right) / len(right)

    def arms(self, with_lm_eval: bool) -> dict[str, Arm]:
        """Name to what is timed; a name begins with what it is compared within."""
        found: dict[str, Arm] = {}
        for kind in self.writers:
            found |= {
                f"writing, {kind}: loop of {LOOP_TOKENS} tokens": lambda kind=kind: self.loop(kind),
                f"writing, {kind}: ours": lambda kind=kind: self.ours(kind, 64, True),
                f"writing, {kind}: ours, batch 8": lambda kind=kind: self.ours(kind, 8, True),
                f"writing, {kind}: ours, batch 8, no shared prefix": lambda kind=kind: self.ours(kind, 8, False),
            }
        found |= {
            ONE_BY_ONE: lambda: self.full_prompts(False),
            "likelihood: five full prompts in a batch": lambda: self.full_prompts(True),
            "likelihood: ours": lambda: self.our_likelihood(64, True),
            "likelihood: ours, batch 8": lambda: self.our_likelihood(8, True),
            "likelihood: ours, batch 8, no shared prefix": lambda: self.our_likelihood(8, False),
        }
        if with_lm_eval:
            found |= {f"likelihood: lm-eval, batch {n}": self.lm_eval(n) for n in LM_EVAL_BATCHES}
        return found


class RealBench(Bench):
    """SmolLM2-135M and short questions of the national examination; nothing is written, since nobody can say what it should write."""

    def __init__(self, n: int) -> None:
        if not (folder := os.environ.get("JMEDLORA_DATA")):
            raise SystemExit("JMEDLORA_DATA is not set: name the folder that holds IgakuQA/")
        self.model, self.tokenizer = loading.load_base(REAL_MODEL, device="cpu")
        asked = [q for q in igakuqa.load_igakuqa(folder, [2021]) if q.choices and q.text_only]
        self.questions = controlled.short_questions(asked, n, REAL_CHARS, [])
        self.writers, self.budget = {}, 0
        self.build(prompts.pick_shots(igakuqa.load_worked_examples(folder), 1, self.questions))

    def arms(self, with_lm_eval: bool) -> dict[str, Arm]:
        """All but the slowest, which only the others are compared with before they are timed."""
        found = super().arms(with_lm_eval)
        found.pop(ONE_BY_ONE)
        return found


def assert_equal(bench: Bench, arms: dict[str, Arm]) -> dict[str, float]:
    """Runs every arm once and returns the Accuracy of those that score choices.

    Raises:
        SystemExit: An arm gives another answer or another log-probability, so times could not be compared.
    """
    plain = bench.full_prompts(False)
    accuracies = {}
    for name, arm in arms.items():
        print(f"first run, to compare the answers: {name}", file=sys.stderr, flush=True)
        found = arm()
        if name.startswith("writing"):
            if found != bench.gold:
                wrong = next(i for i, (a, b) in enumerate(zip(found, bench.gold, strict=True)) if a != b)
                raise SystemExit(f"{name}: answers {found[wrong]!r} where the script says {bench.gold[wrong]!r}")
            continue
        gap = max(abs(a - b) for one, other in zip(found, plain, strict=True) for a, b in zip(one, other, strict=True))
        accuracies[name] = bench.accuracy(found)
        if gap > TOLERANCE or accuracies[name] != bench.accuracy(plain):
            raise SystemExit(f"{name}: log-probabilities differ by {gap:.2g}, Accuracy {accuracies[name]} against {bench.accuracy(plain)}")
    return accuracies


def ratios(best: dict[str, float]) -> dict[str, float]:
    """By what factor ours is faster, for each goal; lm-eval at its own best batch size."""
    found = {
        f"writing, {kind}": best[f"writing, {kind}: loop of {LOOP_TOKENS} tokens"] / best[f"writing, {kind}: ours"]
        for kind in ("never stops", "stops")
        if f"writing, {kind}: ours" in best
    }
    ours = best["likelihood: ours"]
    if ONE_BY_ONE in best:
        found["likelihood"] = best[ONE_BY_ONE] / ours
    found["likelihood, choices in a batch"] = best["likelihood: five full prompts in a batch"] / ours
    if theirs := [seconds for name, seconds in best.items() if "lm-eval" in name]:
        found["likelihood, lm-eval"] = min(theirs) / ours
    return {name: round(ratio, 2) for name, ratio in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="runs of each arm; the fastest counts")
    parser.add_argument("--real", action="store_true", help="SmolLM2-135M on short questions of IgakuQA, log-likelihood alone")
    parser.add_argument("--questions", type=int, default=0, help=f"questions asked: {QUESTIONS}, or {REAL_QUESTIONS} with --real")
    parser.add_argument("--threads", type=int, default=THREADS, help="of each arm; one where other work shares the machine")
    parser.add_argument("--quick", action="store_true", help="one repetition on six questions, nothing written")
    parser.add_argument("--without-lm-eval", action="store_true", help="leave lm-eval's arms out")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where the record goes")
    chosen = parser.parse_args()
    with_lm_eval = not chosen.without_lm_eval
    if with_lm_eval and importlib.util.find_spec("lm_eval") is None:
        raise SystemExit("lm-eval is not installed: pip install -r benchmarks/requirements.txt, or give --without-lm-eval")
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(chosen.threads)
    meter = records.Meter()
    repeats = 1 if chosen.quick else chosen.repeats
    n = 6 if chosen.quick else chosen.questions or (REAL_QUESTIONS if chosen.real else QUESTIONS)
    bench = RealBench(n) if chosen.real else Bench(n)
    arms = bench.arms(with_lm_eval)
    accuracies = assert_equal(bench, arms)  # and a warm-up
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    load = [os.getloadavg()[0]]
    for _ in range(repeats):
        for name, arm in arms.items():
            start = time.perf_counter()
            arm()
            seconds[name].append(round(time.perf_counter() - start, 4))
            print(f"{len(seconds[name])} of {repeats}: {name}: {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
        load.append(os.getloadavg()[0])
    best = {name: min(taken) for name, taken in seconds.items()}
    gains = ratios(best)
    print(f"{'arm':52}{'best s':>9}{'slowest s':>11}{'Accuracy':>10}")
    for name, taken in seconds.items():
        accuracy = f"{accuracies[name]:10.3f}" if name in accuracies else ""
        print(f"{name:52}{min(taken):9.3f}{max(taken):11.3f}{accuracy}")
    reached = {}
    for name, gain in gains.items():
        goal = None if chosen.real and "lm-eval" not in name else GOALS.get(name)
        reached |= {name: gain > goal if goal == 1.0 else gain >= goal} if goal else {}
        note = f"goal {goal:g}: {'reached' if reached[name] else 'NOT reached'}" if goal else ""
        print(f"ours is {gain:6.2f} times as fast: {name:32}{note}")
    record = records.Record(
        kind="benchmark",
        name="evaluation__real" if chosen.real else "evaluation",
        preset="",
        seed=SEED,
        config={"questions": n, "shots": 1 if chosen.real else SHOTS, "template": TEMPLATE, "threads": chosen.threads, "repeats": repeats}
        | ({"model": REAL_MODEL, "weights": registry.resolve(REAL_MODEL).came_from} if chosen.real else {}),
        metrics={
            "arms": [
                {
                    "arm": name,
                    "seconds": min(taken),
                    "median": statistics.median(taken),
                    "slowest": max(taken),
                    "accuracy": accuracies.get(name),
                }
                for name, taken in seconds.items()
            ],
            "all_seconds": seconds,
            "ours_times_as_fast": gains,
            "ours_times_as_fast_by_medians": ratios({name: statistics.median(taken) for name, taken in seconds.items()}),
            "goals": {name: {"goal": GOALS[name], "reached": done} for name, done in reached.items()},
            "load": [round(x, 2) for x in load],
        },
        counts={
            "prompt_tokens": sum(bench.lengths),
            "longest_prompt": max(bench.lengths),
            "shared_prefix": len(generation.common_prefix(bench.encoded())),
            "answer_budget": bench.budget,
            "choice_tokens": sum(bench.choice_lengths),
            "choices": len(bench.choice_lengths),
            "parameters": loading.count_parameters(bench.model)["total"],
        },
        **meter.fields(),
    )
    if with_lm_eval:
        record.versions["lm_eval"] = importlib.metadata.version("lm_eval")
    if not chosen.quick:
        print(f"written: {records.write_record(chosen.folder, record).name}")
    return 0 if all(reached.values()) or chosen.quick else 1


if __name__ == "__main__":
    sys.exit(main())
