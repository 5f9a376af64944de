"""How fast tuning is: this project beside a loop in the manner of qlora.py and TRL's SFTTrainer, in one process on one CPU.

    python -m venv bench && bench/bin/pip install -e '.[train]' -c constraints.txt
    bench/bin/pip install -r benchmarks/requirements.txt
    bench/bin/python benchmarks/tuning.py          # minutes, on an idle machine; writes benchmarks/results/tuning.json
    bench/bin/python benchmarks/tuning.py --quick  # one repetition of everything, nothing written: proves the script
    bench/bin/python benchmarks/tuning.py --real   # SmolLM2-135M on short questions of IgakuQA; writes tuning__real.json

Every arm trains the same LoRA adapter (r = 64, every linear layer) on the same fresh Llama of about five million parameters, over the
same token ids, batch 8, one epoch. There are 256 rows: length grouping sorts within up to 400 of them, and of half as many the batch of
the longest rows alone would hold most of the padding, as it does in no real run. First each arm takes one step over the same eight rows,
and all losses must agree. Then the arms run in turn, and the fastest of several runs counts. Only ratios within one run mean anything, and
one below 1.3 means nothing. A CPU says nothing about FlashAttention, bfloat16 or 4-bit speed.

With `--real` the base is SmolLM2-135M-Instruct (`make fetch PRESET=small`), the rows are the first short questions of IgakuQA, read where
`JMEDLORA_DATA` names them, with an adapter of rank 16; of TRL its two fastest settings stand beside a plain loop of peft.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jmedlora_utils.core import records
from jmedlora_utils.data import controlled, igakuqa, prompts
from jmedlora_utils.models import loading
from jmedlora_utils.tuning import adapters, encoding, training
from jmedlora_utils.tuning.encoding import Row

THREADS = 2
ROWS, BATCH, MAX_LENGTH, SEED = 256, 8, 1024, 1
RESULTS = Path(__file__).resolve().parent / "results"
LOSS_TOLERANCE = 2e-3
BF16_TOLERANCE = 3e-2
GOAL = 2.5  # times the plain loop
REAL_BASE, REAL_ROWS, REAL_BATCH, REAL_CHARS, REAL_GOAL = "smollm2-135m-instruct", 16, 4, 200, 1.5
PLAIN = "qlora.py-like"


def make_records(template: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """Training records, others of their kind, and where they come from: IgakuQA where `JMEDLORA_DATA` names it, else invented."""
    rng = random.Random(SEED)
    if folder := os.environ.get("JMEDLORA_DATA"):
        questions = [q for q in igakuqa.load_igakuqa(folder, [2018, 2019, 2020]) if q.gold and q.choices and q.text_only]
        made = [prompts.as_record(q, template) for q in rng.sample(questions, len(questions))]
        return made[:ROWS], made[ROWS:], "IgakuQA 2018-2020"
    syllables = "アイウエオカキクケコサシスセソタチツテトナニヌネノ患者治療検査病薬心肺肝腎"

    def text(length: int) -> str:
        return "".join(rng.choices(syllables, k=length))

    # Stems of IgakuQA: half are below 50 characters, a tenth above 400; choices have about 8.
    lengths = [min(900, int(rng.lognormvariate(4.0, 1.2)) + 10) for _ in range(4 * ROWS)]
    made = []
    for number, length in enumerate(lengths):
        choices = [text(rng.randint(3, 14)) for _ in range(5)]
        lines = "\n".join(f"{letter}. {choice}" for letter, choice in zip("abcde", choices, strict=True))
        made.append({"id": str(number), "instruction": f"{text(length)}どれか。", "input": lines, "output": choices[0]})
    return made[:ROWS], made[ROWS:], "invented, of the lengths of IgakuQA"


def short_questions(template: str) -> list[dict[str, Any]]:
    """Records of short questions of IgakuQA, which must be there."""
    if not (folder := os.environ.get("JMEDLORA_DATA")):
        raise SystemExit("JMEDLORA_DATA is not set: name the folder that holds IgakuQA/")
    questions = [q for q in igakuqa.load_igakuqa(folder, [2018, 2019, 2020]) if q.choices and q.text_only]
    questions = random.Random(SEED).sample(questions, len(questions))
    return [prompts.as_record(q, template) for q in controlled.short_questions(questions, REAL_ROWS, REAL_CHARS, [])]


def make_base(texts: Sequence[str], folder: Path) -> Path:
    """A random Llama of about five million parameters with a tokenizer trained on these texts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4096, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    torch.manual_seed(SEED)
    LlamaForCausalLM(LlamaConfig(vocab_size=4096, max_position_embeddings=4096, **sizes, **special)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Bench:
    """The base, the rows, and the arms over them."""

    def __init__(self, folder: Path, template: str, real: bool = False) -> None:
        self.folder, self.batch, base, rank = folder, REAL_BATCH if real else BATCH, REAL_BASE, 16
        if real:
            made, self.source = short_questions(template), f"IgakuQA 2018-2020, questions of at most {REAL_CHARS} characters"
        else:
            made, others, self.source = make_records(template)
            # A tokenizer trained on the rows would know long ones by heart, and they would take fewer tokens than they do in earnest.
            base = str(make_base([f"{r['instruction']}\n{r['input']}\n{r['output']}" for r in others], folder / "base"))
            rank = 64
        self.base = loading.find_base(base)
        self.tokenizer = loading.load_tokenizer(self.base)
        self.rows, self.audit = encoding.encode_records(made, self.tokenizer, template, MAX_LENGTH, "exclude")
        self.settings = training.TuneSettings(
            base=base,
            rank=rank,
            alpha=16,
            batch_size=self.batch,
            max_length=MAX_LENGTH,
            learning_rate=2e-4,
            seed=SEED,
            device="cpu",
        )

    def model(self) -> Any:
        """A fresh base with a fresh adapter, the same every time."""
        from transformers import set_seed

        set_seed(SEED)
        return adapters.build_model(self.settings, self.base)

    def arguments(self, steps: int) -> Any:
        return training.training_arguments(self.settings.changed(max_steps=steps), self.folder / "out", cpu=True)

    def ours(self, rows: Sequence[Row]) -> Any:
        """Logits for supervised tokens; rows of similar length together and padded."""
        from torch.utils.data import Subset

        from jmedlora_utils.tuning.trainer import ResponseTrainer

        class Unsaved(ResponseTrainer):
            def _save_checkpoint(self, model: Any, trial: Any) -> None:
                return

        steps = len(rows) // self.batch
        data = Subset(rows, encoding.data_order([len(r.ids) for r in rows], steps, self.batch, SEED))
        return Unsaved(
            model=self.model(),
            args=self.arguments(steps),
            train_dataset=data,
            keep_steps=(),
            checkpoint_every=0,
            collator=encoding.Collator(self.tokenizer.pad_token_id),
        )

    def qlora_like(self, rows: Sequence[Row]) -> Any:
        """Random order, padded to the longest of the batch, a mask over padding, logits for all tokens, the model's own loss."""
        import torch
        from transformers import Trainer

        pad = self.tokenizer.pad_token_id

        def collate(batch: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
            width = max(len(row["input_ids"]) for row in batch)

            def filled(name: str, value: int) -> Any:
                return torch.tensor([row[name] + [value] * (width - len(row[name])) for row in batch])

            ids = filled("input_ids", pad)
            return {"input_ids": ids, "labels": filled("labels", -100), "attention_mask": ids.ne(pad).long()}

        arguments = self.arguments(len(rows) // self.batch)
        return Trainer(model=self.model(), args=arguments, train_dataset=[_columns(r) for r in rows], data_collator=collate)

    def trl(self, rows: Sequence[Row], **settings: Any) -> Any:
        """SFTTrainer on the same token ids and labels; `settings` are SFTConfig's."""
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        common = {
            "output_dir": str(self.folder / "trl"),
            "per_device_train_batch_size": self.batch,
            "num_train_epochs": 1,
            "learning_rate": self.settings.learning_rate,
            "max_length": MAX_LENGTH,
            "use_cpu": True,
            "seed": SEED,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "logging_steps": 1,
            "dataloader_pin_memory": False,
        }
        data = Dataset.from_list([_columns(r) for r in rows])
        config = SFTConfig(**(common | settings))
        return SFTTrainer(model=self.model(), args=config, train_dataset=data, processing_class=self.tokenizer)


def _columns(row: Row) -> dict[str, list[int]]:
    return {"input_ids": list(row.ids), "labels": [-100] * row.n_prompt + list(row.ids[row.n_prompt :])}


Arm = Callable[[Sequence[Row]], Any]


def make_arms(bench: Bench, with_trl: bool, real: bool = False) -> dict[str, Arm]:
    """Name to a maker of a trainer over rows. The packs of TRL hold about as many tokens as a batch of the others."""
    arms: dict[str, Arm] = {"ours": bench.ours, PLAIN: bench.qlora_like}
    if with_trl:
        plain = {"gradient_checkpointing": False, "bf16": False}
        packs = {"packing": True, "packing_strategy": "bfd", "per_device_train_batch_size": 1}
        arms |= {
            "TRL, as shipped": lambda rows: bench.trl(rows),
            "TRL, no checkpointing, float32": lambda rows: bench.trl(rows, **plain),
            "TRL, group_by_length": lambda rows: bench.trl(rows, **plain, train_sampling_strategy="group_by_length"),
            "TRL, packing bfd": lambda rows: bench.trl(rows, **plain, **packs),
        }
    slow = ("TRL, as shipped", "TRL, no checkpointing, float32") if real else ()
    return {name: make for name, make in arms.items() if name not in slow}


def run(trainer: Any) -> tuple[float, list[float]]:
    """Seconds of training, and the loss of each step."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    if hasattr(trainer, "detach"):
        trainer.detach()
    return seconds, [row["loss"] for row in trainer.state.log_history if "loss" in row]


def assert_equal_first_step(arms: dict[str, Arm], rows: Sequence[Row], batch: int = BATCH) -> dict[str, float]:
    """The loss of one step over the same rows, one batch of short ones, by arm.

    Raises:
        SystemExit: Two arms do not agree, so their times could not be compared.
    """
    first = {}
    short = sorted(rows, key=lambda r: len(r.ids))[:batch]  # so few that they fit one pack
    for name, make in arms.items():
        losses = run(make(short))[1]
        assert len(losses) == 1, f"{name}: {len(losses)} steps over {batch} rows"
        first[name] = losses[0]
        print(f"first step: {name}: loss {losses[0]:.4f}", file=sys.stderr, flush=True)
    for name, loss in first.items():
        tolerance = BF16_TOLERANCE if name == "TRL, as shipped" else LOSS_TOLERANCE
        if abs(loss - first["ours"]) > tolerance:
            raise SystemExit(f"{name}: its first loss is {loss:.4f}, ours {first['ours']:.4f}; the arms do not do the same work")
    return first


def quiet_and_pinned() -> None:
    """Sets what has to be set before torch is imported, which happens in functions only."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(THREADS)
    os.environ["JMEDLORA_PROGRESS"] = "0"
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}


def main() -> int:
    quiet_and_pinned()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="runs of each arm; the fastest counts")
    parser.add_argument("--threads", type=int, default=THREADS, help="of each arm; one where other work shares the machine")
    parser.add_argument("--quick", action="store_true", help="one repetition, nothing written")
    parser.add_argument("--template", default="plain_ja", help="prompt template; a longer one makes rows more alike in length")
    parser.add_argument("--real", action="store_true", help="SmolLM2-135M on short questions of IgakuQA")
    parser.add_argument("--without-trl", action="store_true", help="leave TRL's arms out")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where the record goes")
    chosen = parser.parse_args()
    with_trl = not chosen.without_trl
    if with_trl and importlib.util.find_spec("trl") is None:
        raise SystemExit("TRL is not installed: pip install -r benchmarks/requirements.txt, or give --without-trl")
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(chosen.threads)
    meter = records.Meter()
    repeats = 1 if chosen.quick else chosen.repeats
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), chosen.template, chosen.real)
        arms = make_arms(bench, with_trl, chosen.real)
        first = assert_equal_first_step(arms, bench.rows, bench.batch)  # and a warm-up
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        load = [os.getloadavg()[0]]
        for _ in range(repeats):
            for name, make in arms.items():
                seconds[name].append(round(run(make(bench.rows))[0], 3))
                print(f"{len(seconds[name])} of {repeats}: {name}: {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
            load.append(os.getloadavg()[0])
        parameters = loading.count_parameters(bench.model())
        lengths = [len(r.ids) for r in bench.rows]
    best = {name: min(taken) for name, taken in seconds.items()}
    arms_table = [
        {
            "arm": name,
            "seconds": best[name],
            "median": statistics.median(seconds[name]),
            "slowest": max(seconds[name]),
            "speed_against_qlora_like": round(best[PLAIN] / best[name], 2),
            "speed_of_medians": round(statistics.median(seconds[PLAIN]) / statistics.median(seconds[name]), 2),
            "first_loss": round(first[name], 5),
        }
        for name in arms
    ]
    print(f"{'arm':34}{'best s':>9}{'median s':>10}{'slowest s':>11}{'gain':>8}{'of medians':>12}{'first loss':>12}")
    for row in arms_table:
        times = f"{row['seconds']:9.2f}{row['median']:10.2f}{row['slowest']:11.2f}"
        print(f"{row['arm']:34}{times}{row['speed_against_qlora_like']:8.2f}{row['speed_of_medians']:12.2f}{row['first_loss']:12.4f}")
    against_trl = {name: round(taken / best["ours"], 2) for name, taken in best.items() if name.startswith("TRL")}
    goal = REAL_GOAL if chosen.real else GOAL
    reached = best[PLAIN] / best["ours"] >= goal and all(taken > best["ours"] for name, taken in best.items() if "TRL" in name)
    print(f"goal ({goal} times the qlora.py-like loop, ahead of every setting of TRL): {'reached' if reached else 'NOT reached'}")
    record = records.Record(
        kind="benchmark",
        name="tuning" + ("__real" if chosen.real else "") + ("" if chosen.template == "plain_ja" else f"__{chosen.template}"),
        preset="",
        seed=SEED,
        config={
            "rows": len(lengths),
            "batch": bench.batch,
            "rank": bench.settings.rank,
            "threads": chosen.threads,
            "repeats": repeats,
            "data": bench.source,
            "template": chosen.template,
        }
        | ({"base": REAL_BASE, "weights": bench.base.came_from} if chosen.real else {}),
        metrics={
            "arms": arms_table,
            "all_seconds": seconds,
            "ours_ahead_of_trl": against_trl,
            "best_of_ours_ahead_of_qlora_like": round(best[PLAIN] / best["ours"], 2),
            "goal_reached": reached,
            "load": [round(x, 2) for x in load],  # other work than this run's two threads shows as more than 2
        },
        counts={"tokens": sum(lengths), "supervised_tokens": bench.audit.supervised_tokens, "parameters": parameters["total"]},
        **meter.fields(),
    )
    if with_trl:
        record.versions["trl"] = importlib.metadata.version("trl")
    if not chosen.quick:
        print(f"written: {records.write_record(chosen.folder, record).name}")
    return 0 if reached or chosen.quick else 1


if __name__ == "__main__":
    sys.exit(main())
