"""Tokenizers and tiny bases: deterministic, cached, and the same after a kill."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_record, write_record
from jmedlora_utils.data import invented_world, prompts
from jmedlora_utils.data.invented_corpus import corpus
from jmedlora_utils.evaluation import entry_check
from jmedlora_utils.models import loading, pretraining
from jmedlora_utils.models.pretraining import LADDERS, BaseSettings
from tests.servers import wait_for

WORLD = invented_world.WorldSettings(seed=1, towns=6, answers=6, people=8, general_questions=12)
TINY = BaseSettings("en-small", "llama", 16, 1, 2, 0.6, 400, 4e-3, coverage=0.99, tokenizer_english=0.9)
TRAIN = """
import sys, time
from dataclasses import replace
import torch
from jmedlora_utils.core import paths
from jmedlora_utils.data import invented_world
from jmedlora_utils.models import pretraining
from tests.models.test_pretraining import TINY, WORLD
torch.set_num_threads(1)
slow, step = float(sys.argv[1]), pretraining.learning_rate
def delayed(*arguments):
    time.sleep(slow)
    return step(*arguments)
pretraining.learning_rate = delayed
settings = replace(TINY, architecture=sys.argv[2])
pretraining.pretrain(settings, invented_world.World(WORLD), paths.Workspace("smoke", 1), lambda *_: {}, every=3)
"""


@pytest.fixture(scope="module")
def world():
    return invented_world.World(WORLD)


@pytest.fixture(scope="module")
def tokenizer(world):
    texts = [d.prompt + d.text for d in corpus(world, 0.9, 2000)]
    return pretraining.train_tokenizer(texts, 800, 0.99, bos=True)


def pretrain(world, workspace, settings=TINY):
    def examine(model, tokenizer):
        return entry_check.examine(model, tokenizer, world.exams()["mini_general"], world.shots(), workspace.seed)

    return pretraining.pretrain(settings, world, workspace, examine)


@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="▁"), max_size=40))
def test_any_text_survives_the_tokenizer(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    if not any(special in text for special in pretraining.SPECIAL):
        assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("bos", [True, False])
def test_bos_is_there_once_or_not_at_all(world, bos):
    tokenizer = pretraining.train_tokenizer(["a b", "鴇沢町"], 400, 1.0, bos=bos)
    assert prompts.has_bos_habit(tokenizer) == bos
    rows = pretraining.encode_documents(tokenizer, list(corpus(world, 0.5, 50)))
    assert all(ids.count(tokenizer.bos_token_id) == bos for ids, _ in rows)


def test_training_ids_are_inference_ids(world, tokenizer):
    documents = [d for d in corpus(world, 0.5, 300) if d.prompt]
    for document, (ids, n_read) in zip(documents, pretraining.encode_documents(tokenizer, documents), strict=True):
        assert ids[:n_read] == prompts.encode_prompt(tokenizer, document.prompt)
        assert ids[:-1] == prompts.encode_prompt(tokenizer, document.prompt + document.text)


@given(lengths=st.lists(st.integers(2, 60), min_size=1, max_size=300), tokens=st.integers(64, 512), seed=st.integers(0, 99))
def test_batches_hold_every_row_once_within_the_budget(lengths, tokens, seed):
    plan = pretraining.plan_batches(lengths, tokens, seed)
    assert sorted(i for batch in plan for i in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[i] for i in batch) <= tokens for batch in plan)


def test_right_padding_without_a_mask_changes_nothing(world, tokenizer):
    """Hidden states of a short row are the same alone and padded in a batch."""
    import torch

    model = pretraining.build_model(TINY, tokenizer, seed=1).eval()
    rows = pretraining.encode_documents(tokenizer, list(corpus(world, 0.5, 8)))
    ids, _ = pretraining._collate(rows, tokenizer.pad_token_id)
    with torch.no_grad():
        together = model(input_ids=ids).logits
        for row, (tokens, _) in enumerate(rows):
            alone = model(input_ids=torch.tensor([tokens])).logits[0]
            assert torch.allclose(together[row, : len(tokens)], alone, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_a_base_is_trained_loaded_and_not_trained_again(world, tmp_path, monkeypatch, architecture):
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path))
    workspace = paths.Workspace("smoke", 1)
    settings = replace(TINY, architecture=architecture)
    record = pretrain(world, workspace, settings)
    model, tokenizer = loading.load_base("en-small", workspace=workspace)
    assert sum(p.numel() for p in model.parameters()) == record.counts["parameters"]
    assert prompts.has_bos_habit(tokenizer) == (architecture == "llama")
    assert record.metrics["series"][-1]["loss"] < record.metrics["series"][0]["loss"]
    assert record.data["corpus"] and not (workspace.bases / ".training" / "en-small").exists()
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "train", None)  # a second training would fail
        assert pretrain(world, workspace, settings).comparable() == record.comparable()
    # Killed between publishing a base and writing its record, the record of an earlier base is still there.
    of_another = replace(record, metrics=record.metrics | {"weights_sha256": "0" * 64})
    write_record(workspace.records, of_another)
    assert pretrain(world, workspace, settings).metrics["weights_sha256"] == record.metrics["weights_sha256"]


def test_other_settings_train_anew_and_the_same_settings_give_the_same_weights(world, tmp_path, monkeypatch):
    weights = []
    for name, settings in (("a", TINY), ("b", TINY), ("c", replace(TINY, learning_rate=1e-3))):
        monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path / name))
        weights.append(pretrain(world, paths.Workspace("smoke", 1), settings).metrics["weights_sha256"])
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
@pytest.mark.slow
def test_killed_and_started_again_a_base_ends_with_the_same_weights(tmp_path, architecture):
    """SIGKILL after a state was saved; the loss series and the weights equal those of an uninterrupted run."""

    def start(folder: Path, slow: float) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "JMEDLORA_RUNS": str(folder), "JMEDLORA_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", TRAIN, str(slow), architecture]
        return subprocess.Popen(command, cwd=paths.ROOT, env=environment, stderr=subprocess.DEVNULL)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    straight = start(whole, 0.0)
    process = start(killed, 0.3)
    wait_for(lambda: list(killed.rglob("state.pt")), 120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(killed.rglob("state.pt")) and not (killed / RECORD).exists()
    assert start(killed, 0.0).wait() == 0 and straight.wait() == 0
    one, two = (read_record(folder / RECORD) for folder in (whole, killed))
    assert one.metrics["series"] == two.metrics["series"] and one.comparable() == two.comparable()


RECORD = Path("smoke/seed1/records/19_pretrain__en-small.json")


@pytest.mark.parametrize(
    ("made", "word"),
    [
        (lambda: replace(TINY, architecture="gpt2"), "architecture"),
        (lambda: replace(TINY, hidden=18, heads=4), "heads"),
        (lambda: replace(TINY, documents=0), "documents"),
        (lambda: pretraining.base_settings("large", "en-small"), "mini"),
        (lambda: pretraining.base_settings("mini", "en-huge"), "en-large"),
    ],
)
def test_what_cannot_work_or_is_unknown_is_refused_by_name(made, word):
    with pytest.raises(JmedloraError, match=word):
        made()


def test_a_base_below_the_bar_is_refused_with_its_figure(world, tmp_path, monkeypatch):
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path))
    record = pretrain(world, paths.Workspace("smoke", 1))
    assert not entry_check.passes(record)
    with pytest.raises(JmedloraError, match="en-small"):
        entry_check.require([record])
    record.metrics["entry"]["0shot"]["accuracy"] = 1.0
    entry_check.require([record])


def test_same_texts_give_the_same_tokenizer(world, tokenizer):
    again = pretraining.train_tokenizer([d.prompt + d.text for d in corpus(world, 0.9, 2000)], 800, 0.99, bos=True)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_ladders_are_sound():
    for ladder in LADDERS.values():
        names = [b.name for b in ladder]
        assert len(set(names)) == len(names)
        shared = [b for b in ladder if b.name.endswith("-shared")]
        assert len({(b.tokenizer_english, b.coverage, b.vocabulary, b.hidden, b.layers, b.architecture) for b in shared}) <= 1
        english = [b for b in ladder if b.centric == "english" and b not in shared]
        assert len({(b.documents, b.english, b.coverage, b.tokenizer_english) for b in english}) == 1
        assert [b.hidden for b in english] == sorted(b.hidden for b in english)
        japanese = next(b for b in ladder if b.centric == "japanese")
        if len(english) > 1:
            twin = next(b for b in english if b.name == "en-medium")
            assert (twin.hidden, twin.layers, twin.documents) == (japanese.hidden, japanese.layers, japanese.documents)
