"""The same adapter unmerged, merged and in 4 bits: what changes, and a table that says so."""

import pytest

from jmedlora_utils.analysis import studies
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.evaluation import evaluator, results, transformers_backend, variants
from jmedlora_utils.evaluation.settings import EvalSettings
from jmedlora_utils.evaluation.transformers_backend import TransformersBackend
from jmedlora_utils.models import loading
from tests import tiny

PROBE = list(range(5, 40))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Bases of every architecture, each with two adapters."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        workspace = tiny.make_workspace(tmp_path_factory.mktemp("runs"), monkeypatch, *tiny.FAMILIES)
        for family in tiny.FAMILIES:
            for seed in (1, 2):
                tiny.make_adapter(workspace.bases / family, workspace.root / f"{family}-{seed}", seed)
        yield workspace


def settings(workspace, family: str, **changes) -> EvalSettings:
    ask = EvalSettings(base=family, adapter=str(workspace.root / f"{family}-1"), steps=[0, 5], template="plain_ja", quantisation="none")
    return ask.changed(**changes)


def loaded(workspace, ask: EvalSettings, step: int = 5):
    backend = evaluator.Examinee.find(ask, workspace).backend
    backend.load(step, PROBE)
    return transformers_backend.logits(backend.model, PROBE), backend.model


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_merged_weights_are_the_unmerged_ones_but_for_rounding(workspace, family: str) -> None:
    plain, _ = loaded(workspace, settings(workspace, family), 0)
    unmerged, _ = loaded(workspace, settings(workspace, family))
    merged, model = loaded(workspace, settings(workspace, family, adapter_mode="merged"))
    assert not [name for name, _ in model.named_parameters() if "lora_" in name]
    difference = float((merged - unmerged).abs().max())
    assert 0 < difference < 1e-3 * float((unmerged - plain).abs().max())
    # In 4 bits the merged weights are quantised again: no longer only rounding, which is why it is reported.
    four, _ = loaded(workspace, settings(workspace, family, quantisation="nf4"))
    four_merged, _ = loaded(workspace, settings(workspace, family, quantisation="nf4", adapter_mode="merged"))
    assert float((four_merged - four).abs().max()) > 100 * difference


def test_every_step_is_merged_into_a_fresh_base(workspace) -> None:
    weights = {5: str(workspace.root / "llama-1"), 9: str(workspace.root / "llama-2")}
    backend = TransformersBackend(loading.find_base("llama", workspace), weights, None, merged=True)
    found = []
    for step in (0, 5, 9):
        backend.load(step, PROBE)
        found.append(transformers_backend.logits(backend.model, PROBE))
    with pytest.raises(JmedloraError, match="ask steps in rising order"):
        backend.load(5, PROBE)
    second, _ = loaded(workspace, settings(workspace, "llama", adapter=str(workspace.root / "llama-2")))
    assert float((found[2] - second).abs().max()) < 1e-3 < float((found[2] - found[1]).abs().max())


def test_a_merge_that_rounds_the_adapter_away_is_refused(workspace, monkeypatch) -> None:
    from peft import PeftModel

    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self, **k: self.unload(), raising=False)
    with pytest.raises(JmedloraError, match="step 5: its outputs equal the base's exactly"):
        loaded(workspace, settings(workspace, "llama", adapter_mode="merged"))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_run_is_asked_again_in_every_way_to_load_it(workspace, family: str) -> None:
    ask = settings(workspace, family)
    records = evaluator.evaluate(ask, family, workspace)
    found = variants.evaluate(ask, family, workspace, ["merged-none", "unmerged-nf4", "merged-nf4"])
    assert [r.config["step"] for r in found["merged-none"]] == [5] and [r.config["step"] for r in found["unmerged-nf4"]] == [0, 5]
    assert {r.config["variant_of"] for f in found.values() for r in f} == {family} and "variant_of" not in records[0].config
    assert found["merged-none"][0].config["settings"]["adapter_mode"] == "merged"
    asked = (records[1], found["merged-none"][0], found["unmerged-nf4"][1])
    before, merged, four = (results.asked_questions(record, workspace)[1] for record in asked)
    assert merged == before and four != before, "merging only rounds; 4 bits change some answers of a random model"


def test_variants_do_not_count_as_runs(workspace) -> None:
    ask = settings(workspace, "llama", exams=["mini_trained"])
    [record] = variants.evaluate(ask.changed(steps=[5]), "llama", workspace, ["merged-none"])["merged-none"]
    assert (workspace.records / f"{record.name}.json").is_file()
    for file in (file for family in tiny.FAMILIES for file in workspace.records.glob(f"30_evaluate__{family}__*")):
        file.unlink()
    with pytest.raises(JmedloraError, match="no evaluation record"):
        studies.read_runs("smoke", [1])
