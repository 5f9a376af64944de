"""Presets: the order of jobs, and every mistake refused with its place before anything runs."""

from pathlib import Path

import pytest
from conftest import write_notebook

from jmedlora_utils.core import paths, presets
from jmedlora_utils.core.errors import JmedloraError

COMMON = 'preset = "mini"  # preset\nseed = 1  # seed\n'
RUN = COMMON + 'run_name = ""  # run\nbase = ""  # base\n'


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Dummy notebooks 10, 19, 20, 30 and 40 in a folder of their own; returns the folder of the presets."""
    (tmp_path / "presets").mkdir()
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(paths, "PRESETS", tmp_path / "presets")
    presets.declared_parameters.cache_clear()
    write_notebook(tmp_path / "10_prepare.ipynb", COMMON)
    write_notebook(tmp_path / "19_pretrain.ipynb", COMMON + 'bases = ["en"]  # bases\n')
    write_notebook(tmp_path / "20_tune_lora.ipynb", RUN + "rank = 4  # rank\nrate = 1e-3  # rate\n")
    write_notebook(tmp_path / "30_evaluate_exam.ipynb", RUN + "shots = [0]  # shots\n")
    write_notebook(tmp_path / "40_findings.ipynb", 'preset = "mini"  # preset\n')
    yield tmp_path / "presets"
    presets.declared_parameters.cache_clear()


def save(folder: Path, text: str, name: str = "mini") -> None:
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def test_a_preset_becomes_jobs_in_order(folder: Path) -> None:
    runs = "{a: {tune: {rank: 16}}, only: {tune: null}, 病院.b-1_x: {tune: {base: ja}, evaluate: {base: ja}}}"
    prepare = "{10_prepare: , 19_pretrain__en: {bases: [en]}, 19_pretrain__ja: {bases: [ja]}, 19_pretrain: {}}"
    defaults = "{tune: {rank: 8, base: en}, evaluate: {base: en}}"
    save(folder, f"seeds: [1, 2]\nprepare: {prepare}\ndefaults: {defaults}\nruns: {runs}\nanalyse: {{40_findings: {{}}}}\n")
    preset = presets.load_preset("mini")
    jobs = {(job.output, job.seed): job for job in preset.jobs()}
    assert len(jobs) == 2 * (4 + 2 + 1 + 2) + 1
    assert jobs["20_tune_lora__a", 1].parameters == {"preset": "mini", "seed": 1, "run_name": "a", "rank": 16, "base": "en"}
    assert "20_tune_lora__only" not in {output for output, _ in jobs}
    assert jobs["20_tune_lora__病院.b-1_x", 2].after == ("10_prepare", "19_pretrain__ja")
    assert jobs["30_evaluate_exam__病院.b-1_x", 2].after == ("10_prepare", "19_pretrain__ja", "20_tune_lora__病院.b-1_x")
    assert set(jobs["19_pretrain", 1].after) == {"10_prepare", "19_pretrain__en", "19_pretrain__ja"}
    assert jobs["40_findings", None].parameters == {"preset": "mini"}
    done: set[str] = set()
    for job in preset.jobs():
        assert job.seed is None or set(job.after) <= done or job.seed != 1
        done.add(job.output)


def test_a_run_that_asks_the_adapter_of_another_one_waits_for_its_tuning(folder: Path) -> None:
    write_notebook(folder.parent / "30_evaluate_exam.ipynb", RUN + 'shots = [0]  # shots\nadapter = ""  # adapter\n')
    presets.declared_parameters.cache_clear()
    save(
        folder,
        "runs: {other: {tune: null, evaluate: {adapter: a}}, hub: {tune: null, evaluate: {adapter: b}}, a: {evaluate: {adapter: a}}}",
    )
    after = {job.output: job.after for job in presets.load_preset("mini").jobs()}
    assert after["30_evaluate_exam__other"] == after["30_evaluate_exam__a"] == ("20_tune_lora__a",)
    assert after["30_evaluate_exam__hub"] == ()


def test_a_preset_states_only_what_differs_from_the_one_it_extends(folder: Path) -> None:
    save(folder, "seeds: [3]\ndefaults: {tune: {rank: 8, rate: 1}}\nruns: {a: {}}\nshow: a\n", "parent")
    save(folder, "extends: parent\nseeds: [1, 2]\ndefaults: {tune: {rank: 16}}\nruns: {b: {}}\n")
    preset = presets.load_preset("mini")
    assert (preset.seeds, preset.show, [run.name for run in preset.runs]) == ((1, 2), "a", ["a", "b"])
    assert preset.runs[0].tune == {"rank": 16, "rate": 1}
    presets.compare_parameters("notebook 41", {"shares": [0.1, 0.5]}, {"shares": [0.1, 1]}, "here")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rums: {}", "mini.yaml: no field 'rums'; did you mean 'runs'?"),
        ("[a, b]", "mini.yaml: a mapping of names to values is expected, found list"),
        ("runs: {a: 3}", "'runs.a'"),
        ("runs: {1: {}}", "the key 1 is no text; put it in quotes"),
        ("runs: {a: {tunes: {}}}", "no field 'runs.a.tunes'"),
        ("prepare: {11_prepare: {}}", "no notebook '11_prepare'; did you mean '10_prepare'?"),
        ("device: tpu", "'device': Input should be 'any' or 'cuda'"),
        ("seeds: []", "'seeds'"),
        ("seeds: [1, 1]", "seeds must differ"),
        ("seeds: [-1]", "'seeds.0'"),
        ("runs: {a: {}}\nshow: b", "show names the run 'b'"),
        ("extends: mini", "extends itself: mini -> mini"),
        ("extends: minj", "no preset 'minj'; did you mean 'mini'?"),
        ("extends: ../mini", "preset '../mini': a name has letters"),
        ("seeds: [1]\nruns: {a", ":2: not valid YAML"),
        ("runs:\n  a: {}\n  b: {}\n  a: {tune: {rank: 8}}", "mini.yaml:4: not valid YAML (duplicate key 'a')"),
        ("runs: {a: {tune: {rnak: 8}}}", "20_tune_lora__a: notebook 20_tune_lora has no parameter 'rnak'; did you mean 'rank'?"),
        ("runs: {a: {tune: {rank: 8.5}}}", "parameter 'rank' of notebook 20_tune_lora takes int"),
        ("runs: {a: {tune: {rank: true}}}", "takes int"),
        ("runs: {a: {evaluate: {shots: [one]}}}", "takes list of int"),
        ("runs: {a: {evaluate: {shots: 1}}}", "takes list of int"),
        ("prepare: {10_prepare: {preset: paper}}", "'preset' comes from the preset itself"),
        ("prepare: {19_pretrain: {bases: [../x]}}", "bases '../x': a name has letters"),
        ("prepare: {19_pretrain__a b: {}}", "19_pretrain__a b 'a b': a name has letters"),
    ],
)
def test_a_mistake_is_refused_with_its_place(folder: Path, text: str, said: str) -> None:
    save(folder, text)
    with pytest.raises(JmedloraError) as error:
        presets.load_preset("mini")
    assert said in str(error.value)


NAMES = {
    "a$(touch PWN)": False, "../../x": False, "a b": False, "a__b": False, ".a": False, "-a": False, "_a": False, "a_": False,
    "a/b": False, "a..b": True, "a;b": False, "a'b": False, "a\nb": False, "": False, "a" * 101: False, "a" * 100: True,
    "病" * 34: False, "病" * 33: True,
    "病院1": True, "Llama-2-70b_qlora": True, "v0.1": True, "7": True,
}  # fmt: skip


@pytest.mark.parametrize(("name", "good"), NAMES.items())
def test_names_can_stand_in_files_commands_and_pages(folder: Path, name: str, good: bool) -> None:
    save(folder, f"runs: {{{name!r}: {{}}}}" if "\n" not in name else 'runs: {"a\\nb": {}}')
    if good:
        assert presets.load_preset("mini").runs[0].name == name
        return
    for called in (lambda: presets.load_preset("mini"), lambda: presets.load_preset(name)):
        with pytest.raises(JmedloraError, match="a name has letters, digits"):
            called()


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ("rank = 4 + x", "parameter 'rank' is no literal"),
        ("import os", "the parameters cell holds more than assignments"),
        (None, "0 cells are tagged 'parameters'"),
    ],
)
def test_a_parameters_cell_holds_flat_literals_only(folder: Path, cells: str | None, said: str) -> None:
    path = folder.parent / "50_own.ipynb"
    write_notebook(path, cells or "")
    if cells is None:
        path.write_text(path.read_text().replace('"parameters"', '"other"'))
    with pytest.raises(JmedloraError, match=said):
        presets.declared_parameters("50_own")
