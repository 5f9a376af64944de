"""Evaluation: the same answers alone or in a batch, after a kill or without one, and scores that say what they are."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from jmedlora_utils.core import identity, paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.locks import alone
from jmedlora_utils.data import fetch, igakuqa, prompts
from jmedlora_utils.data.questions import read_exam, write_exam
from jmedlora_utils.evaluation import checkpoints, evaluator, generation, metrics
from jmedlora_utils.evaluation.evaluator import EvalSettings
from jmedlora_utils.models import loading
from jmedlora_utils.tuning import training
from jmedlora_utils.tuning.training import TuneSettings
from tests import tiny
from tests.exam_fixtures import data_dir, needs_data

TUNE = TuneSettings(
    base="llama", template="plain_ja", rank=4, learning_rate=1e-2, batch_size=16, max_steps=20, save_steps=[5], max_length=128
)
ASK = EvalSettings(base="llama", adapter="run", steps=(0, 5, 20), shots=(0, 1), template="plain_ja", batch_size=8)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A workspace with a LoRA run on Llama and a full one on GPT-NeoX."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        workspace = tiny.make_workspace(tmp_path_factory.mktemp("runs"), monkeypatch, *tiny.FAMILIES)
        training.tune(TUNE, "run", workspace)
        training.tune(TUNE.changed(base="gpt_neox", method="full", learning_rate=3e-3), "full", workspace)
        yield workspace


@pytest.fixture(scope="module")
def asked(tuned):
    return evaluator.evaluate(ASK, "run", tuned)


def encode(tokenizer: Any, n: int, template: str = "plain_ja", shots: Any = ()) -> list[list[int]]:
    questions = [replace(q, text=q.text + "。" * (i % 7)) for i, q in enumerate(tiny.make_questions(n))]
    return [prompts.encode_prompt(tokenizer, prompts.build_exam_prompt(q, template, shots)) for q in questions]


# --- generation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_trap_24_a_padded_batch_with_a_shared_prefix_answers_as_one_by_one(tuned, family: str) -> None:
    model, tokenizer = loading.load_base(family, workspace=tuned)
    rows = encode(tokenizer, 10, shots=tiny.make_questions(1, "mini_shots", seed=9))
    assert len({len(r) for r in rows}) > 3
    prefix = generation.read_prefix(model, rows)
    assert prefix is not None and len(prefix.ids) >= generation.MIN_PREFIX
    alone = [generation.generate(model, tokenizer, [row], 12)[0] for row in rows]
    assert generation.generate(model, tokenizer, rows, 12) == alone
    assert generation.generate(model, tokenizer, rows, 12, prefix) == alone
    assert len({a.text for a in alone}) > 1, "answers must differ for the comparison to mean something"


def test_trap_17_generation_is_greedy_whatever_the_checkpoint_says(tuned) -> None:
    model, tokenizer = loading.load_base("llama", workspace=tuned)
    rows = encode(tokenizer, 4)
    plain = generation.generate(model, tokenizer, rows, 10)
    model.generation_config.update(do_sample=True, temperature=5.0, top_k=50, repetition_penalty=3.0)
    assert [generation.generate(model, tokenizer, rows, 10) for _ in range(2)] == [plain, plain]


def test_trap_16_an_answer_ends_at_the_first_line_break_or_eos() -> None:
    tokenizer = tiny.make_tokenizer(bos=True)
    lines = generation.line_tokens(tokenizer)
    stops = {tokenizer.eos_token_id}

    def cut(text: str, end: list[int]) -> generation.Answer:
        return generation.cut_answer(tokenizer, [*tokenizer(text, add_special_tokens=False).input_ids, *end], stops, lines)

    n = len(tokenizer("アカシ薬", add_special_tokens=False).input_ids)
    assert cut("アカシ薬", [tokenizer.eos_token_id, 7]) == generation.Answer("アカシ薬", "stop", n + 1)
    assert cut("アカシ薬\n問題:", [7]) == generation.Answer("アカシ薬", "stop", n + 1)
    assert cut("\n\n アカシ薬\nほか", []).text == "アカシ薬"
    assert cut("アカシ薬", []) == generation.Answer("アカシ薬", "length", n)
    assert cut("", [tokenizer.eos_token_id]) == generation.Answer("", "stop", 1)


def test_trap_15_the_answer_is_sliced_by_tokens_not_by_a_marker(tuned) -> None:
    model, tokenizer = loading.load_base("llama", workspace=tuned)
    marker = prompts.encode_prompt(tokenizer, "問題:答え:アカシ薬\n### 応答:\n答え:")
    [answer] = generation.generate(model, tokenizer, [marker], 5)
    ids = marker
    import torch

    with torch.inference_mode():
        for _ in range(answer.n_new_tokens):
            ids = [*ids, int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
    assert answer.text == generation._first_line(tokenizer, ids[len(marker) :])


def test_batches_are_sorted_and_the_prefix_leaves_a_token() -> None:
    assert generation.sorted_batches([3, 9, 5, 9], 3) == [[1, 3, 2], [0]]
    assert generation.common_prefix([[1, 2, 3], [1, 2, 4, 5]]) == [1, 2]
    assert generation.common_prefix([[1, 2], [1, 2, 3]]) == [1]
    assert generation.common_prefix([[1, 2]]) == []


IMPORTS = """
import os, sys
from jmedlora_utils.core import notebook
from jmedlora_utils.models import loading, registry
from jmedlora_utils.tuning import training
from jmedlora_utils.evaluation import evaluator, likelihood, variants
loaded = sorted(m for m in sys.modules if m in ("torch", "transformers", "huggingface_hub"))
assert not loaded, loaded
os.environ["HF_HOME"] = sys.argv[1]
notebook.start("smoke")
from huggingface_hub import constants
assert constants.HF_HOME == sys.argv[1] and constants.HF_HUB_CACHE.startswith(sys.argv[1]), constants.HF_HUB_CACHE
"""


def test_trap_23_the_hubs_folder_can_still_be_named_after_the_package_is_imported(tmp_path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_"))}
    command = [sys.executable, "-W", "ignore", "-c", IMPORTS, str(tmp_path / "home")]
    done = subprocess.run(command, env=environment, cwd=paths.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- evaluation -----------------------------------------------------------------------------------------------------


def test_every_condition_has_answers_and_a_record(asked, tuned) -> None:
    assert [r.name for r in asked] == [f"30_evaluate__run__step{k}__mini_trained__{s}shot" for k in (0, 5, 20) for s in (0, 1)]
    for record in asked:
        rows = [json.loads(line) for line in (tuned.answers / next(iter(record.data))).read_text(encoding="utf-8").splitlines()]
        assert [r["id"] for r in rows] == [q.id for q in read_exam(tuned.data / "exams" / "mini_trained.jsonl")]
        assert {(r["step"], r["shots"]) for r in rows} == {(record.config["step"], record.config["shots"])}
        scores = record.metrics["journal"]
        assert set(scores) == {"all", "taught", "untaught"} and scores["all"]["accuracy"]["n"] == 24
        assert scores["taught"]["accuracy"]["low"] <= scores["taught"]["accuracy"]["value"] <= scores["taught"]["accuracy"]["high"]
        assert record.config["method"] == "lora" and record.config["quantisation"] == "none"


def test_tuning_teaches_the_model_to_stop(asked) -> None:
    ended = {(r.config["step"], r.config["shots"]): r.counts["ended_by_length"] for r in asked}
    assert ended[0, 0] > 20 and ended[20, 0] == 0


def test_trap_37_one_answer_a_question_and_trap_22_every_condition_in_the_key(asked, tuned) -> None:
    keys = [json.loads(line)["key"] for f in tuned.answers.glob("run__*.jsonl") for line in f.read_text(encoding="utf-8").splitlines()]
    assert len(keys) == len(set(keys)) == 6 * 24
    paper = evaluator.prepare(ASK, "mini_trained", 0, loading.load_tokenizer(loading.find_base("llama", tuned)), 512, tuned)
    changes = [ASK, replace(ASK, quantisation="nf4"), replace(ASK, dtype="bfloat16"), replace(ASK, batch_size=4)]
    found = {evaluator.answer_keys(paper, change, model)[0] for change in changes for model in ("base", "base+adapter")}
    assert len(found) == 8


def test_a_record_of_a_default_run_holds_only_the_settings_that_shape_it(asked, tuned) -> None:
    recorded = "base adapter template quantisation dtype batch_size limit max_new_tokens margin too_long shot_seed"
    assert list(asked[0].config["settings"]) == recorded.split()
    rows = (tuned.answers / "run__step0__mini_trained__0shot.jsonl").read_text(encoding="utf-8").splitlines()
    columns = "key id exam section shots step prompt_sha256 response finish n_new_tokens"
    assert list(json.loads(rows[0])) == columns.split()
    assert list(asked[0].metrics) == list(metrics.SCORERS) and "variant_of" not in asked[0].config


def test_step_zero_is_the_base(asked, tuned) -> None:
    model, tokenizer = loading.load_base("llama", workspace=tuned)
    paper = evaluator.prepare(ASK, "mini_trained", 0, tokenizer, 512, tuned)
    texts = [a.text for a in generation.generate(model, tokenizer, [a.ids for a in paper.asked], paper.max_new_tokens)]
    rows = (tuned.answers / "run__step0__mini_trained__0shot.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(r)["response"] for r in rows] == texts


def test_trap_36_a_failure_is_no_answer_and_an_answer_is_never_altered(tuned, monkeypatch) -> None:
    ask = replace(ASK, adapter="", steps=(0,), shots=(0,), limit=2, batch_size=1)
    odd = ["　ａ、Ｂ。 ", "Timeout: 答えは\tａ\u200bです…"]
    said = iter([*odd[:1], None])

    def write(batch: Any, budget: int) -> list[generation.Answer]:
        text = next(said)
        if text is None:
            raise TimeoutError("the machine went away")
        return [generation.Answer(text, "stop", 3)]

    monkeypatch.setattr(checkpoints.Loader, "load", lambda self, step, probe: None)
    monkeypatch.setattr(checkpoints.Loader, "writer", lambda self, rows: write)
    with pytest.raises(TimeoutError):
        evaluator.evaluate(ask, "odd", tuned)
    assert not list(tuned.answers.glob("odd__*.jsonl")) and not list(tuned.records.glob("*odd__*")), "what failed is no answer"
    said = iter(odd[1:])
    [record] = evaluator.evaluate(ask, "odd", tuned)
    file = tuned.answers / "odd__step0__mini_trained__0shot.jsonl"
    assert sorted(json.loads(line)["response"] for line in file.read_text(encoding="utf-8").splitlines()) == sorted(odd)
    before = file.read_bytes()
    evaluator.scorer_table([record], tuned)
    assert evaluator.evaluate(ask, "odd", tuned) == [record] and file.read_bytes() == before, "scoring writes no text"


def test_whole_models_are_evaluated_step_by_step(tuned) -> None:
    records = evaluator.evaluate(replace(ASK, base="gpt_neox", adapter="full", shots=(0,)), "full", tuned)
    assert [r.model["differs_from_base"] for r in records] == [False, True, True]
    assert len({r.model["weights"] for r in records}) == 3


def test_a_finished_evaluation_loads_nothing(asked, tuned, monkeypatch) -> None:
    monkeypatch.setattr(loading, "load_base", lambda *a, **k: pytest.fail("loaded"))
    assert evaluator.evaluate(ASK, "run", tuned) == asked
    # Answers without a record are scored again, not asked again.
    (tuned.records / f"{asked[-1].name}.json").unlink()
    assert evaluator.evaluate(ASK, "run", tuned)[-1].comparable() == asked[-1].comparable()


def test_a_corrected_exam_is_scored_again_without_asking(asked, tuned, monkeypatch) -> None:
    monkeypatch.setattr(loading, "load_base", lambda *a, **k: pytest.fail("loaded"))
    file = tuned.data / "exams" / "mini_trained.jsonl"
    printed = file.read_bytes()
    first, *others = read_exam(file)
    corrected = [replace(first, gold=frozenset("ab"[first.gold == frozenset("a")])), *others]
    try:
        write_exam(file, corrected)
        again = evaluator.evaluate(ASK, "run", tuned)[-2]
        _, responses = evaluator.asked_questions(again, tuned)
        assert again.metrics == evaluator.score_groups(corrected, responses) != asked[-2].metrics
        assert again.data["questions of mini_trained"] != asked[-2].data["questions of mini_trained"]
        assert (again.timing, again.wall_seconds) == (asked[-2].timing, asked[-2].wall_seconds)
    finally:
        file.write_bytes(printed)
    assert evaluator.evaluate(ASK, "run", tuned)[-2].comparable() == asked[-2].comparable()


def test_trap_18_an_adapter_that_changes_nothing_is_refused(tuned) -> None:
    from safetensors.torch import load_file, save_file

    copy = tuned.adapters / "idle"
    subprocess.run(["cp", "-r", str(tuned.adapters / "run"), str(copy)], check=True)
    file = copy / "checkpoint-5" / "adapter_model.safetensors"
    save_file({k: v * 0 if "lora_B" in k else v for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(JmedloraError, match="step 5: its outputs equal the base's exactly"):
        evaluator.evaluate(replace(ASK, adapter="idle", steps=(5,)), "idle", tuned)


def test_an_adapter_folder_is_evaluated_without_its_run(tuned) -> None:
    folder = str(tuned.adapters / "run" / "checkpoint-20")
    [record] = evaluator.evaluate(replace(ASK, adapter=folder, steps=(900,), shots=(0,)), "released", tuned)
    same = (tuned.answers / "run__step20__mini_trained__0shot.jsonl").read_text(encoding="utf-8")
    ours = (tuned.answers / "released__step900__mini_trained__0shot.jsonl").read_text(encoding="utf-8")
    assert [json.loads(x)["response"] for x in ours.splitlines()] == [json.loads(x)["response"] for x in same.splitlines()]
    assert record.config["step"] == 900


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_four_bit_run_is_evaluated_on_its_four_bit_base(tuned, family: str) -> None:
    name = f"four-{family}"
    training.tune(TUNE.changed(base=family, method="qlora", max_steps=5, save_steps=[]), name, tuned)
    [record] = evaluator.evaluate(replace(ASK, base=family, adapter=name, steps=(5,), shots=(0,)), name, tuned)
    assert record.config["quantisation"] == "nf4" and record.model["differs_from_base"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": (0, 7)}, "has no checkpoint for step 7; it has 5, 20"),
        ({"base": "gpt_neox"}, "was tuned on base 'llama', not on 'gpt_neox'"),
        ({"exams": ("mini_traned",)}, "no exam 'mini_traned'; prepared: mini_general, mini_heldout, mini_shots, mini_trained"),
    ],
)
def test_what_cannot_be_asked_is_named(tuned, change: dict[str, Any], message: str) -> None:
    with pytest.raises(JmedloraError, match=message):
        evaluator.evaluate(replace(ASK, **change), "wrong", tuned)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shots": ()}, r"shots is \[\]"),
        ({"steps": (-1,)}, r"steps is \[-1\]"),
        ({"adapter": "", "steps": (0, 5)}, "a base alone has step 0 only"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"quantisation": "int8"}, "quantisation is 'int8'"),
        ({"too_long": "cut"}, "too_long is 'cut'"),
    ],
)
def test_a_setting_that_cannot_be_right_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(JmedloraError, match=message):
        replace(ASK, **change)


def test_a_long_prompt_is_an_error_or_counted(tuned) -> None:
    tokenizer = loading.load_tokenizer(loading.find_base("llama", tuned))
    lengths = [len(a.ids) for a in evaluator.prepare(ASK, "mini_trained", 0, tokenizer, 512, tuned).asked]
    context = max(lengths) - 1 + 20
    settings = replace(ASK, max_new_tokens=20)
    with pytest.raises(JmedloraError, match=r"question mini_trained-\d+: its prompt has"):
        evaluator.prepare(settings, "mini_trained", 0, tokenizer, context, tuned)
    paper = evaluator.prepare(replace(settings, too_long="exclude"), "mini_trained", 0, tokenizer, context, tuned)
    assert paper.excluded["prompt too long"] == lengths.count(max(lengths)) == 24 - len(paper.asked)


def test_the_budget_covers_the_longest_gold_answer() -> None:
    tokenizer = tiny.make_tokenizer(bos=True)
    questions = tiny.make_questions(9)
    longest = max(len(tokenizer(prompts.answer_text(q), add_special_tokens=False).input_ids) for q in questions)
    assert evaluator.answer_budget(tokenizer, questions, 8) == longest + 8


@needs_data
@pytest.mark.parametrize(
    ("exam", "shots", "file"),
    [
        ("igakuqa_2018", False, "IgakuQA/data/2018/112-A.jsonl"),
        ("jjsimqa", False, "JJSIMQA/jjsimqa.jsonl"),
        ("igakuqa_2018", True, "IgakuQA/scripts/prompts/prompt.jsonl"),
    ],
)
def test_a_changed_or_missing_published_file_is_refused(tmp_path, monkeypatch, exam: str, shots: bool, file: str) -> None:
    for part in ("IgakuQA/data/2018", "IgakuQA/scripts", "JJSIMQA"):
        shutil.copytree(data_dir() / part, tmp_path / part)
    monkeypatch.setenv("JMEDLORA_DATA", str(tmp_path))
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path / "runs"))
    workspace = paths.Workspace("smoke", 1)
    read = evaluator.shot_pool if shots else evaluator.load_exam
    assert read(exam, workspace)
    changed = bytearray((tmp_path / file).read_bytes())
    changed[-2] ^= 1
    (tmp_path / file).write_bytes(changed)
    with pytest.raises(JmedloraError, match="not the published file"):
        read(exam, workspace)
    (tmp_path / file).unlink()
    with pytest.raises(JmedloraError, match=r"1 exam files are missing[\s\S]*By hand"):
        read(exam, workspace)


def test_worked_examples_are_those_of_notebook_11_where_it_ran(tuned, monkeypatch) -> None:
    own = tuned.data / "exams" / "other_shots.jsonl"
    write_exam(own, tiny.make_questions(3, "other_shots", seed=7))
    assert [q.id for q in evaluator.shot_pool("other", tuned)] == ["other_shots-0", "other_shots-1", "other_shots-2"]
    own.unlink()
    assert {q.exam for q in evaluator.shot_pool("mini_trained", tuned)} == {"mini_shots"}
    monkeypatch.setattr(fetch, "verified", lambda parts: paths.exam_data_dir())
    monkeypatch.setattr(igakuqa, "load_worked_examples", lambda folder, language: [language])
    assert [evaluator.shot_pool("other", tuned, language) for language in ("ja", "en")] == [["ja"], ["en"]]


def test_tables_of_the_notebook(asked, tuned) -> None:
    table = evaluator.accuracy_table(asked, tuned)
    assert list(table.columns) == ["exam", "group", "answers", "n", "step 0", "step 5", "step 20"]
    answers = ["model, 0-shot", "model, 1-shot", *metrics.BASELINES]
    assert list(zip(table["group"], table["answers"], strict=True)) == [(g, a) for g in ("taught", "untaught") for a in answers]
    steps = table.set_index(["group", "answers"])[["step 0", "step 5", "step 20"]]
    assert list(steps.loc["untaught", "oracle"]) == ["100.0"] * 3 and list(steps.loc["untaught", "empty response"]) == ["0.0"] * 3
    untaught = [q for q in evaluator.asked_questions(asked[0], tuned)[0] if q.section == "untaught"]
    chance = sum(map(metrics.random_accuracy, untaught)) / len(untaught)
    assert steps.loc["untaught", "random choice"].iloc[0] == f"{100 * chance:.1f}"
    scorers = evaluator.scorer_table(asked, tuned)
    assert list(scorers["answers"]) == ["model, 0-shot"] * 3 + ["model, 1-shot"] * 3 + list(metrics.BASELINES)
    assert set(scorers["n"]) == {24} and scorers.set_index("answers").loc["oracle", "strict accuracy"] == "100.0"
    for record, unreadable in zip(sorted(asked, key=lambda r: r.config["shots"]), scorers["unreadable"], strict=False):
        assert unreadable == record.counts["unreadable"]
    differences = evaluator.difference_table(asked, tuned)
    assert len(differences) and (differences[list(metrics.SCORERS)].nunique(axis=1) > 1).all()
    excluded = evaluator.exclusion_table([replace(asked[0], counts=asked[0].counts | {"excluded": {"image": 2, "x": 0}}), *asked[1:]])
    assert list(excluded["left out"]) == ["2 image", *["none"] * 5] and list(excluded["asked"]) == [24] * 6
    examples = evaluator.example_table(asked, tuned, 2)
    assert list(examples.columns) == ["question", "gold", "step 0", "step 5", "step 20"] and len(examples) == 2


# --- kills ----------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from jmedlora_utils.core import paths
from jmedlora_utils.evaluation import evaluator, generation
from tests.evaluation.test_evaluator import ASK
batch, inner = int(sys.argv[1]), generation.generate
def dies(*args, **kwargs):
    dies.calls += 1
    if dies.calls > batch:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(*args, **kwargs)
dies.calls = 0
generation.generate = dies
evaluator.evaluate(ASK, "run", paths.Workspace("smoke", 1))
"""


def test_a_killed_evaluation_ends_byte_for_byte_the_same(tmp_path, monkeypatch) -> None:
    straight = tiny.make_workspace(tmp_path / "straight", monkeypatch, "llama")
    training.tune(TUNE, "run", straight)
    subprocess.run(["cp", "-r", str(tmp_path / "straight"), str(tmp_path / "killed")], check=True)
    records = evaluator.evaluate(ASK, "run", straight)
    expected = {f.name: f.read_bytes() for f in straight.answers.iterdir()}
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path / "killed"))
    killed = paths.Workspace("smoke", 1)
    batch = random.Random(20231016).randrange(4, 17)
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1", "JMEDLORA_PROGRESS": "0"}
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(batch)]
    died = subprocess.run(command, env=environment, cwd=paths.ROOT, capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    partial = list(killed.answers.glob("*.partial"))
    if partial:
        partial[0].write_bytes(partial[0].read_bytes() + b'{"key": "cut off in the mid')
    resumed = evaluator.evaluate(ASK, "run", killed)
    assert {f.name: f.read_bytes() for f in killed.answers.iterdir()} == expected
    assert [r.comparable() for r in resumed] == [r.comparable() for r in records]


def test_a_half_written_batch_is_asked_again_as_a_whole(tmp_path) -> None:
    log = generation.AnswerLog(tmp_path / "a.jsonl", ["k0", "k1", "k2", "k3"])
    batches = [[3, 1], [0, 2]]
    log.append([{"key": "k3"}, {"key": "k1"}, {"key": "k0"}])
    assert log.resume(batches) == 1
    assert log.partial.read_text(encoding="utf-8").count("\n") == 2
    log.append([{"key": "k0"}, {"key": "k2"}])
    assert [r["key"] for r in log.finish()] == ["k0", "k1", "k2", "k3"] and log.complete() is not None
    assert generation.AnswerLog(log.path, ["k0", "k1", "k2", "other"]).complete() is None


def test_an_adapter_on_another_base_than_its_own_is_refused(tmp_path, monkeypatch) -> None:
    """Both bases are 70B Llamas, so its layers would fit."""
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    with pytest.raises(JmedloraError, match="'medswallow-70b' was tuned on base 'swallow-70b-instruct', not on 'llama-2-70b-chat'"):
        checkpoints.Subject.find(EvalSettings("llama-2-70b-chat", "medswallow-70b", steps=(1,)), workspace)


@pytest.mark.parametrize("name", ["jmedlora-900", "owner/adapter"])
def test_an_adapter_of_the_hub_keeps_the_commit_that_was_asked_for(tmp_path, monkeypatch, name):
    """Another commit is another adapter: it is the one loaded, and its answers have keys of their own."""
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    found = {}
    for commit in ("a" * 40, "b" * 40):
        subject = checkpoints.Subject.find(EvalSettings("llama", f"{name}@{commit}", steps=(900,)), workspace)
        assert loading.find_adapter(subject.weights[900]).revision == commit
        found[commit] = subject.keys[900]
    assert len(set(found.values())) == 2


def test_two_evaluations_of_one_run_do_not_mix(tmp_path, monkeypatch) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    said = "the evaluation of twice: another process is at work on it; wait"
    with alone(workspace.logs / ".30_evaluate__twice__0.lock", "the first"), pytest.raises(JmedloraError, match=said):
        evaluator.evaluate(EvalSettings(base="llama", exams=("mini_trained",), limit=2), "twice", workspace)


def test_answers_of_other_code_or_libraries_are_not_taken_for_those_of_today(tmp_path, monkeypatch) -> None:
    """Asked, asked again from disk, then with another version of transformers: every answer is made anew."""
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    asked: list[int] = []
    inner = generation.generate
    monkeypatch.setattr(generation, "generate", lambda *a, **k: asked.append(len(a[2])) or inner(*a, **k))
    settings = EvalSettings(base="llama", exams=("mini_trained",), limit=6)
    for wanted in (6, 6, 12):
        if wanted == 12:
            monkeypatch.setattr(identity, "installed_version", lambda name: "0.0.1")
        evaluator.evaluate(settings, "code", workspace)
        assert sum(asked) == wanted
