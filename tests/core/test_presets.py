from pathlib import Path

import pytest
from conftest import write_notebook

from jmedlora_utils.core import paths, presets
from jmedlora_utils.core.errors import JmedloraError

COMMON = 'preset = "mini"  # preset\nseed = 1  # seed\n'


@pytest.fixture
def notebooks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Dummy notebooks 10, 19, 20, 30 and 40 in a folder of their own; returns the folder of the presets."""
    folder = tmp_path / "presets"
    folder.mkdir()
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(paths, "PRESETS", folder)
    presets.declared_parameters.cache_clear()
    write_notebook(tmp_path / "10_prepare.ipynb", COMMON)
    write_notebook(tmp_path / "19_pretrain.ipynb", COMMON + 'bases = ["en"]  # bases\n')
    write_notebook(
        tmp_path / "20_tune_lora.ipynb", COMMON + 'run_name = ""  # run\nbase = ""  # base\nrank = 4  # rank\nrate = 1e-3  # rate\n'
    )
    write_notebook(tmp_path / "30_evaluate_exam.ipynb", COMMON + 'run_name = ""  # run\nbase = ""  # base\nshots = [0]  # shots\n')
    write_notebook(tmp_path / "40_findings.ipynb", 'preset = "mini"  # preset\n')
    yield folder
    presets.declared_parameters.cache_clear()


def save(presets: Path, text: str, name: str = "mini") -> None:
    (presets / f"{name}.yaml").write_text(text, encoding="utf-8")


def test_a_preset_becomes_jobs_in_order(notebooks: Path) -> None:
    save(
        notebooks,
        """
about: a test
seeds: [1, 2]
prepare: {10_prepare: {}, 19_pretrain__en: {bases: [en]}, 19_pretrain__ja: {bases: [ja]}, 19_pretrain: {}}
defaults: {tune: {rank: 8, base: en}, evaluate: {base: en}}
runs: {a: {tune: {rank: 16}}, only: {tune: null}, b: {tune: {base: ja}, evaluate: {base: ja}}}
analyse: {40_findings: {}}
""",
    )
    preset = presets.load_preset("mini")
    jobs = {(job.output, job.seed): job for job in preset.jobs()}
    assert len(jobs) == 2 * (4 + 2 + 1 + 2) + 1
    assert jobs["20_tune_lora__a", 1].parameters == {"preset": "mini", "seed": 1, "run_name": "a", "rank": 16, "base": "en"}
    assert "20_tune_lora__only" not in {output for output, _ in jobs}
    assert jobs["20_tune_lora__b", 2].after == ("10_prepare", "19_pretrain__ja")
    assert jobs["30_evaluate_exam__b", 2].after == ("10_prepare", "19_pretrain__ja", "20_tune_lora__b")
    assert set(jobs["19_pretrain", 1].after) == {"10_prepare", "19_pretrain__en", "19_pretrain__ja"}
    assert jobs["40_findings", None].parameters == {"preset": "mini"}
    done: set[str] = set()
    for job in preset.jobs():
        assert job.seed is None or set(job.after) <= done or job.seed != 1
        done.add(job.output)


def test_a_preset_extends_another(notebooks: Path) -> None:
    save(notebooks, "seeds: [1]\ndefaults: {tune: {rank: 8}}\nruns: {a: {tune: {rate: 0.5}}}\n")
    save(notebooks, "extends: mini\nseeds: [1, 2, 3]\ndefaults: {tune: {rank: 2}}\n", "more")
    preset = presets.load_preset("more")
    assert preset.seeds == (1, 2, 3)
    assert preset.runs[0].tune == {"rank": 2, "rate": 0.5}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runs: {a: {tune: {rnak: 8}}}", r"20_tune_lora__a: notebook 20_tune_lora has no parameter 'rnak'; did you mean 'rank'"),
        ("runs: {a: {tune: {rank: '8'}}}", r"parameter 'rank' of notebook 20_tune_lora takes int \(default 4\), got '8'"),
        ("runs: {a: {tune: {rank: true}}}", r"'rank'.* takes int"),
        ("runs: {a: {evaluate: {shots: 1}}}", r"'shots' of notebook 30_evaluate_exam takes list"),
        ("runs: {a: {tun: {}}}", r"run 'a': no key 'tun'"),
        ("defaults: {tuning: {}}", r"defaults has no key 'tuning'"),
        ("sedes: [1]", r"mini\.yaml: no key 'sedes'; did you mean 'seeds'"),
        ("seeds: [1, 1]", r"seeds must be a list of different whole numbers"),
        ("seeds: 3", r"seeds must be a list"),
        ("device: gpu", r"device 'gpu' is not one of any, cuda"),
        ("show: b\nruns: {a: {}}", r"show names the run 'b'"),
        ("prepare: {10_prepar: {}}", r"no notebook '10_prepar'; did you mean '10_prepare'"),
        ("seeds: [1\nruns: {}", r"mini\.yaml:\d+: not valid YAML"),
        ("extends: mini", r"extends itself"),
    ],
)
def test_a_bad_preset_is_refused_with_place_and_mend(notebooks: Path, text: str, said: str) -> None:
    save(notebooks, text)
    with pytest.raises(JmedloraError, match=said):
        presets.load_preset("mini")


def test_a_misspelt_preset_names_the_nearest(notebooks: Path) -> None:
    save(notebooks, "")
    with pytest.raises(JmedloraError, match="no preset 'mnii'; did you mean 'mini'"):
        presets.load_preset("mnii")


def test_a_whole_number_serves_where_a_fraction_is_declared(notebooks: Path) -> None:
    presets.check_parameters("20_tune_lora", {"rate": 1})
    with pytest.raises(JmedloraError, match=r"'rate'.*takes float"):
        presets.check_parameters("20_tune_lora", {"rate": "1e-3"})


def test_trap_3_an_undeclared_parameter_is_refused(notebooks: Path) -> None:
    with pytest.raises(JmedloraError, match="papermill: notebook 20_tune_lora has no parameter 'learning_rate'; known: base, preset"):
        presets.check_parameters("20_tune_lora", {"learning_rate": 1e-3})


def test_trap_4_every_declared_parameter_is_seen_whatever_its_annotation(notebooks: Path) -> None:
    write_notebook(paths.NOTEBOOKS / "50_typed.ipynb", "limit: int | None = None  # limit\nrate: float = 1e-3  # rate\n")
    assert presets.declared_parameters("50_typed") == {"limit": None, "rate": 1e-3}


@pytest.mark.parametrize(
    ("source", "said"),
    [("a = 1 + b", "parameter 'a' is no literal"), ("print(1)", "more than assignments"), ("a: int", "more than assign")],
)
def test_a_parameters_cell_holds_flat_literals_only(notebooks: Path, source: str, said: str) -> None:
    write_notebook(paths.NOTEBOOKS / "50_odd.ipynb", source)
    with pytest.raises(JmedloraError, match=said):
        presets.declared_parameters("50_odd")


def test_a_notebook_that_is_not_json_is_named_with_its_line(notebooks: Path) -> None:
    (paths.NOTEBOOKS / "50_broken.ipynb").write_text('{"cells": [\n,]}', encoding="utf-8")
    with pytest.raises(JmedloraError, match=r"50_broken\.ipynb:2: not valid JSON"):
        presets.declared_parameters("50_broken")


def test_a_preset_for_cards_is_refused_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    presets.require_device("any")
    with pytest.raises(JmedloraError, match="needs a CUDA GPU and torch sees none; use PRESET=mini"):
        presets.require_device("cuda")


def test_an_evaluation_in_shards_is_a_job_a_shard_and_one_that_sums_up(notebooks: Path) -> None:
    declared = COMMON + 'run_name = ""  # run\nbase = ""  # base\nshard_index = 0  # shard\nnum_shards = 1  # shards\n'
    write_notebook(notebooks.parent / "30_evaluate_exam.ipynb", declared)
    save(notebooks, "prepare: {10_prepare: {}}\nruns: {a: {evaluate: {num_shards: 2}}, b: {evaluate: {num_shards: 1}}}\n")
    asked = {job.output: job for job in presets.load_preset("mini").jobs() if job.notebook == presets.EVALUATE_NOTEBOOK}
    assert list(asked) == [f"30_evaluate_exam__{name}" for name in ("a__shard0", "a__shard1", "a", "b")]
    first, second, whole, plain = asked.values()
    assert [job.parameters["shard_index"] for job in (first, second)] == [0, 1] and first.parameters["num_shards"] == 2
    assert "20_tune_lora__a" in first.after and "30_evaluate_exam__a__shard0" not in second.after
    assert {first.output, second.output} < set(whole.after) and "num_shards" not in whole.parameters
    assert plain.after == ("10_prepare", "20_tune_lora__b")
