"""Evaluation: the same answers alone or in a batch, after a kill or without one, and scores that say what they are."""

import os
import random
import signal
import subprocess
from dataclasses import replace
from typing import Any

import pytest

from jmedlora_utils.core import identity, paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.locks import alone
from jmedlora_utils.core.records import read_jsonl
from jmedlora_utils.data.questions import read_exam, write_exam
from jmedlora_utils.evaluation import evaluator, exam_prompts, generation, results, transformers_backend
from jmedlora_utils.evaluation.checkpoints import Checkpoints
from jmedlora_utils.evaluation.settings import EvalSettings
from jmedlora_utils.models import loading
from jmedlora_utils.tuning import training
from jmedlora_utils.tuning.training import TuneSettings
from tests import tiny
from tests.servers import run_python

TUNE = TuneSettings(
    base="llama", template="plain_ja", rank=4, learning_rate=1e-2, batch_size=16, max_steps=20, save_steps=[5], max_length=128
)
ASK = EvalSettings(base="llama", adapter="run", steps=[0, 5, 20], shots=[0, 1], template="plain_ja", batch_size=8)


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


def test_a_closed_backend_starts_afresh(tuned) -> None:
    examinee = evaluator.Examinee.find(ASK, tuned)
    probe = examinee.prepare(ASK.exams[0], 0, tuned).asked[0].ids
    examinee.backend.load(max(ASK.steps), probe)
    examinee.backend.close()
    examinee.backend.load(0, probe)
    assert examinee.backend.model is not None


def answers(workspace: Any, stem: str) -> list[dict[str, Any]]:
    return read_jsonl(workspace.answers / f"{stem}.jsonl")


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


def test_the_hubs_folder_can_still_be_named_after_the_package_is_imported(tmp_path) -> None:
    inherited = [name for name in os.environ if name.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_"))]
    done = run_python("-W", "ignore", "-c", IMPORTS, str(tmp_path / "home"), **dict.fromkeys(inherited))
    assert done.returncode == 0, done.stderr


def test_every_condition_has_answers_and_a_record(asked, tuned) -> None:
    assert [r.name for r in asked] == [f"30_evaluate__run__step{k}__mini_trained__{s}shot" for k in (0, 5, 20) for s in (0, 1)]
    for record in asked:
        rows = read_jsonl(tuned.answers / next(iter(record.data)))
        assert [r["id"] for r in rows] == [q.id for q in read_exam(tuned.data / "exams" / "mini_trained.jsonl")]
        assert {(r["step"], r["shots"]) for r in rows} == {(record.config["step"], record.config["shots"])}
        scores = record.metrics["journal"]
        assert set(scores) == {"all", "taught", "untaught"} and scores["all"]["accuracy"]["n"] == 24
        assert scores["taught"]["accuracy"]["low"] <= scores["taught"]["accuracy"]["value"] <= scores["taught"]["accuracy"]["high"]
        assert record.config["method"] == "lora" and record.config["quantisation"] == "none"


def test_every_condition_is_in_the_key(asked, tuned) -> None:
    keys = [row["key"] for file in tuned.answers.glob("run__*.jsonl") for row in read_jsonl(file)]
    assert len(keys) == len(set(keys)) == 6 * 24
    paper = exam_prompts.prepare(ASK, "mini_trained", 0, loading.load_tokenizer(loading.find_base("llama", tuned)), 512, tuned)
    changes = [ASK, ASK.changed(quantisation="nf4"), ASK.changed(dtype="bfloat16"), ASK.changed(batch_size=4)]
    found = {evaluator.answer_keys(paper, change, model)[0] for change in changes for model in ("base", "base+adapter")}
    assert len(found) == 8


def test_step_zero_is_the_base(asked, tuned) -> None:
    model, tokenizer = loading.load_base("llama", workspace=tuned)
    paper = exam_prompts.prepare(ASK, "mini_trained", 0, tokenizer, 512, tuned)
    texts = [a.text for a in generation.generate(model, tokenizer, [a.ids for a in paper.asked], paper.max_new_tokens)]
    assert [r["response"] for r in answers(tuned, "run__step0__mini_trained__0shot")] == texts


def test_a_failure_is_no_answer_and_an_answer_is_never_altered(tuned, monkeypatch) -> None:
    ask = ASK.changed(adapter="", steps=[0], shots=[0], limit=2, batch_size=1)
    odd = ["　ａ、Ｂ。 ", "Timeout: 答えは\tａ\u200bです…"]
    said = iter([*odd[:1], None])

    def write(batch: Any, budget: int, names: Any) -> list[generation.Answer]:
        text = next(said)
        if text is None:
            raise TimeoutError("the machine went away")
        return [generation.Answer(text, "stop", 3)]

    monkeypatch.setattr(transformers_backend.TransformersBackend, "load", lambda self, step, probe: None)
    monkeypatch.setattr(transformers_backend.TransformersBackend, "writer", lambda self, rows: write)
    with pytest.raises(TimeoutError):
        evaluator.evaluate(ask, "odd", tuned)
    assert not list(tuned.answers.glob("odd__*.jsonl")) and not list(tuned.records.glob("*odd__*")), "what failed is no answer"
    said = iter(odd[1:])
    [record] = evaluator.evaluate(ask, "odd", tuned)
    file = tuned.answers / "odd__step0__mini_trained__0shot.jsonl"
    assert sorted(row["response"] for row in read_jsonl(file)) == sorted(odd)
    before = file.read_bytes()
    assert evaluator.evaluate(ask, "odd", tuned) == [record] and file.read_bytes() == before, "scoring writes no text"


def test_a_finished_evaluation_loads_nothing(asked, tuned, monkeypatch) -> None:
    monkeypatch.setattr(loading, "load_model", lambda *a, **k: pytest.fail("loaded"))
    assert evaluator.evaluate(ASK, "run", tuned) == asked
    # Answers without a record are scored again, not asked again.
    (tuned.records / f"{asked[-1].name}.json").unlink()
    assert evaluator.evaluate(ASK, "run", tuned)[-1].comparable() == asked[-1].comparable()


def test_a_corrected_exam_is_scored_again_without_asking(asked, tuned, monkeypatch) -> None:
    monkeypatch.setattr(loading, "load_model", lambda *a, **k: pytest.fail("loaded"))
    file = tuned.data / "exams" / "mini_trained.jsonl"
    printed = file.read_bytes()
    first, *others = read_exam(file)
    corrected = [replace(first, gold=frozenset("ab"[first.gold == frozenset("a")])), *others]
    try:
        write_exam(file, corrected)
        again = evaluator.evaluate(ASK, "run", tuned)[-2]
        _, responses = results.asked_questions(again, tuned)
        assert again.metrics == results.score_groups(corrected, responses) != asked[-2].metrics
        assert again.data["questions of mini_trained"] != asked[-2].data["questions of mini_trained"]
        assert (again.timing, again.wall_seconds) == (asked[-2].timing, asked[-2].wall_seconds)
    finally:
        file.write_bytes(printed)
    assert evaluator.evaluate(ASK, "run", tuned)[-2].comparable() == asked[-2].comparable()


def test_an_adapter_that_changes_nothing_is_refused(tuned) -> None:
    from safetensors.torch import load_file, save_file

    copy = tuned.adapters / "idle"
    subprocess.run(["cp", "-r", str(tuned.adapters / "run"), str(copy)], check=True)
    file = copy / "checkpoint-5" / "adapter_model.safetensors"
    save_file({k: v * 0 if "lora_B" in k else v for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(JmedloraError, match="step 5: its outputs equal the base's exactly"):
        evaluator.evaluate(ASK.changed(adapter="idle", steps=[5]), "idle", tuned)


def test_an_adapter_folder_is_evaluated_without_its_run(tuned) -> None:
    folder = str(tuned.adapters / "run" / "checkpoint-20")
    [record] = evaluator.evaluate(ASK.changed(adapter=folder, steps=[900], shots=[0]), "released", tuned)
    ours, same = (answers(tuned, f"{stem}__mini_trained__0shot") for stem in ("released__step900", "run__step20"))
    assert [row["response"] for row in ours] == [row["response"] for row in same]
    assert record.config["step"] == 900


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_four_bit_run_is_evaluated_on_its_four_bit_base(tuned, family: str) -> None:
    training.tune(TUNE.changed(base=family, method="qlora", max_steps=5, save_steps=[]), f"four-{family}", tuned)
    [record] = evaluator.evaluate(ASK.changed(base=family, adapter=f"four-{family}", steps=[5], shots=[0]), f"four-{family}", tuned)
    assert record.config["quantisation"] == "nf4" and record.model["differs_from_base"]


def test_whole_models_are_evaluated_step_by_step(tuned) -> None:
    records = evaluator.evaluate(ASK.changed(base="gpt_neox", adapter="full", shots=[0]), "full", tuned)
    assert [r.model["differs_from_base"] for r in records] == [False, True, True]
    assert len({r.model["weights"] for r in records}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": [0, 7]}, "has no checkpoint for step 7; it has 5, 20"),
        ({"base": "gpt_neox"}, "was tuned on base 'llama', not on 'gpt_neox'"),
        ({"exams": ["mini_traned"]}, "no exam 'mini_traned'; prepared: mini_general, mini_heldout, mini_shots, mini_trained"),
    ],
)
def test_what_cannot_be_asked_is_named(tuned, change: dict[str, Any], message: str) -> None:
    with pytest.raises(JmedloraError, match=message):
        evaluator.evaluate(ASK.changed(**change), "wrong", tuned)


KILLED = """
import os, signal, sys
from jmedlora_utils.core import paths
from jmedlora_utils.evaluation import evaluator, generation, likelihood
from tests.evaluation.test_evaluator import KILLED_ASK
module = {"generate": generation, "score_batch": likelihood}[sys.argv[1]]
batch, inner = int(sys.argv[2]), getattr(module, sys.argv[1])
def dies(*args, **kwargs):
    dies.calls += 1
    if dies.calls > batch:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(*args, **kwargs)
dies.calls = 0
setattr(module, sys.argv[1], dies)
evaluator.evaluate(KILLED_ASK, "run", paths.Workspace("smoke", 1))
"""
KILLED_ASK = ASK.changed(likelihood=True)


def test_an_evaluation_killed_while_it_writes_and_while_it_scores_ends_byte_for_byte_the_same(tmp_path, monkeypatch) -> None:
    straight = tiny.make_workspace(tmp_path / "straight", monkeypatch, "llama")
    training.tune(TUNE, "run", straight)
    subprocess.run(["cp", "-r", str(tmp_path / "straight"), str(tmp_path / "killed")], check=True)
    records = evaluator.evaluate(KILLED_ASK, "run", straight)
    expected = {f.name: f.read_bytes() for f in straight.answers.iterdir()}
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path / "killed"))
    killed, seen = paths.Workspace("smoke", 1), []
    for inside, batch in (("generate", random.Random(20231016).randrange(4, 9)), ("score_batch", 4)):  # three batches a file
        died = run_python("-W", "ignore", "-c", KILLED, inside, str(batch), OMP_NUM_THREADS="1", JMEDLORA_PROGRESS="0")
        assert died.returncode == -signal.SIGKILL, died.stderr
        for partial in killed.answers.glob("*.partial"):
            seen.append(partial.name)
            partial.write_bytes(partial.read_bytes() + b'{"key": "cut off in the mid')
    assert any("__likelihood" in name for name in seen) and any("__likelihood" not in name for name in seen)
    resumed = evaluator.evaluate(KILLED_ASK, "run", killed)
    assert {f.name: f.read_bytes() for f in killed.answers.iterdir()} == expected
    assert [r.comparable() for r in resumed] == [r.comparable() for r in records]


def test_an_adapter_on_another_base_than_its_own_is_refused(tmp_path, monkeypatch) -> None:
    """Both bases are 70B Llamas, so its layers would fit."""
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    settings = EvalSettings(base="llama-2-70b-chat", adapter="medswallow-70b", steps=[1])
    with pytest.raises(JmedloraError, match="'medswallow-70b' was tuned on base 'swallow-70b-instruct', not on 'llama-2-70b-chat'"):
        Checkpoints.find(settings, workspace)


@pytest.mark.parametrize("name", ["jmedlora-900", "owner/adapter"])
def test_an_adapter_of_the_hub_keeps_the_commit_that_was_asked_for(tmp_path, monkeypatch, name):
    """Another commit is another adapter: it is the one loaded, and its answers have keys of their own."""
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    keys = set()
    for commit in ("a" * 40, "b" * 40):
        found = Checkpoints.find(EvalSettings(base="llama", adapter=f"{name}@{commit}", steps=[900]), workspace)
        assert loading.find_adapter(found.weights[900]).revision == commit
        keys.add(found.keys[900])
    assert len(keys) == 2


def test_two_evaluations_of_one_run_do_not_mix(tmp_path, monkeypatch) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    said = "the evaluation of twice: another process is at work on it; wait"
    with alone(workspace.logs / ".30_evaluate__twice.lock", "the first"), pytest.raises(JmedloraError, match=said):
        evaluator.evaluate(EvalSettings(base="llama", exams=["mini_trained"], limit=2), "twice", workspace)


def test_answers_of_other_code_or_libraries_are_not_taken_for_those_of_today(tmp_path, monkeypatch) -> None:
    """Asked, asked again from disk, then with another version of transformers: every answer is made anew."""
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    asked: list[int] = []
    inner = generation.generate
    monkeypatch.setattr(generation, "generate", lambda *a, **k: asked.append(len(a[2])) or inner(*a, **k))
    settings = EvalSettings(base="llama", exams=["mini_trained"], limit=6)
    for wanted in (6, 6, 12):
        if wanted == 12:
            monkeypatch.setattr(identity, "installed_version", lambda name: "0.0.1")
        evaluator.evaluate(settings, "code", workspace)
        assert sum(asked) == wanted
