"""What the repository as a whole keeps to: pins that agree, presets that hold, nothing in git that must not be there."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from jmedlora_utils.book.builder import ADDRESS, BIBLIOGRAPHY
from jmedlora_utils.book.notebook_pages import MACHINE_PATH
from jmedlora_utils.core import paths
from jmedlora_utils.core.presets import load_preset, preset_names
from jmedlora_utils.core.records import read_jsonl, read_record
from jmedlora_utils.workflow.runner import matrix, steps
from tests.servers import run_python

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXT = {".py", ".md", ".ipynb", ".yml", ".yaml", ".toml", ".txt", ".cff", ".json", ".jsonl", ".csv", ".bib", ".css", ".js", ""}
WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ckpt"}


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!~;\[ ]", requirement)[0].lower().replace("_", "-")


def pins() -> dict[str, str]:
    lines = (paths.ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {name_of(name): version for name, version in found.items()}


def requirements() -> list[str]:
    extras = PROJECT["optional-dependencies"].values()
    return [r for group in [PROJECT["dependencies"], *extras] for r in group if name_of(r) != PROJECT["name"]]


def tracked() -> list[Path]:
    done = subprocess.run(["git", "-C", str(paths.ROOT), "ls-files"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for path in (paths.ROOT / line for line in done.stdout.splitlines()) if path.is_file()]


def test_every_requirement_has_an_exact_pin_that_satisfies_it_and_conda_users_get_the_same() -> None:
    from packaging.requirements import Requirement

    assert all(re.fullmatch(r"[0-9][0-9a-z.!]*", version) for version in pins().values()), "no ranges, no local suffix"
    assert pins()["jupyter-book"].startswith("1.") and pins()["sphinx"].startswith("7.") and pins()["torch"] == "2.13.0"
    for requirement in requirements():
        assert name_of(requirement) in pins(), f"{requirement}: run `make pins`"
        assert Requirement(requirement).specifier.contains(pins()[name_of(requirement)]), requirement
    environment = yaml.safe_load((paths.ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, _, pip = environment["dependencies"]
    assert python == "python=3.11" and PROJECT["requires-python"] == ">=3.11" and "-c constraints.txt" in pip["pip"]
    extras = re.search(r"-e .*\[(.*)\]", "\n".join(pip["pip"])).group(1).split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])


def test_the_installed_packages_are_the_pinned_ones() -> None:
    import importlib.metadata

    for requirement in requirements():
        name = name_of(requirement)
        assert importlib.metadata.version(name).split("+")[0] == pins()[name], f"{name}: run `make test` to install the pins"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_can_be_planned(name: str) -> None:
    preset = load_preset(name)
    assert preset.about
    every = steps(preset)
    targets = {step.target for step in every}
    assert len(targets) == len(every) and all(set(step.after) <= targets for step in every)
    assert matrix(preset)


def test_pages_name_every_preset_and_no_other() -> None:
    for name in ("README.md", "book/run.md", "Makefile"):
        named = set(re.findall(r"PRESET=(\w[\w-]*)", (paths.ROOT / name).read_text(encoding="utf-8")))
        assert (named or name == "Makefile") and named <= set(preset_names()), f"{name}: {sorted(named - set(preset_names()))}"
    table = (paths.BOOK / "run.md").read_text(encoding="utf-8").split("## Run in batch")[1].split("```")[0]
    assert sorted(re.findall(r"^\| `([\w-]+)`", table, flags=re.MULTILINE)) == sorted(preset_names())


def test_the_package_imports_without_torch() -> None:
    """Every module that does not say otherwise; the book is built, and models and settings are checked, where torch is not installed."""
    sources = {_module(path): path.read_text(encoding="utf-8") for path in paths.PACKAGE.rglob("*.py")}
    modules = sorted(name for name, source in sources.items() if "Importing this module needs torch" not in source)
    assert sources.keys() - set(modules) == {"tuning.trainer"}
    code = f"""
import importlib, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers", "peft", "bitsandbytes", "accelerate"):
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
for name in {modules!r}:
    importlib.import_module("jmedlora_utils." + name)
from jmedlora_utils.models import registry
from jmedlora_utils.tuning.settings import TuneSettings
registry.entries(), TuneSettings(base="x")
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


def test_committed_records_are_evidence() -> None:
    for path in sorted(p for p in paths.RESULTS.rglob("*.json") if p.parent.name == "records"):
        record = read_record(path)
        assert (record.name, record.status, f"seed{record.seed}") == (path.stem, "done", path.parent.parent.name), path
        assert record.preset != "smoke" and record.git_commit, path


def test_no_path_of_a_machine_no_weights_and_no_large_file_in_git() -> None:
    texts = [path for path in tracked() if path.suffix in TEXT and path.name != "LICENSE"]
    lines = [(path, line) for path in texts for line in path.read_text(encoding="utf-8").splitlines()]
    assert not [f"{path.relative_to(paths.ROOT)}: {found[0]}" for path, line in lines if (found := MACHINE_PATH.search(line))]
    assert not [path for path in tracked() if path.suffix in WEIGHTS or path.stat().st_size > 1_000_000]


def test_no_examination_text_in_git() -> None:
    """Stems of the examinations at hand, wherever they would stand."""
    if not os.environ.get("JMEDLORA_DATA"):
        pytest.skip("JMEDLORA_DATA is not set")
    files = sorted((paths.exam_data_dir() / "IgakuQA" / "data").glob("*/???-?.jsonl"))
    stems = {row["problem_text"].strip() for path in files for row in read_jsonl(path)}
    long = [stem for stem in stems if len(stem) >= 60]
    assert len(long) > 100
    held = "\n".join(path.read_text(encoding="utf-8") for path in tracked() if path.suffix in {".json", ".jsonl", ".csv", ".py"})
    assert not [stem[:20] for stem in long if stem[:60] in held]


def test_the_bibliography_is_tidy_and_complete() -> None:
    from pybtex.database import parse_file

    keys = list(parse_file(BIBLIOGRAPHY).entries)
    assert keys == sorted(keys)
    sources = [*paths.BOOK.glob("*.md"), *paths.NOTEBOOKS.glob("*.ipynb")]
    groups = [g for path in sources for g in re.findall(r"\{cite:[a-z]+\}`([^`]+)`", path.read_text(encoding="utf-8"))]
    cited = {key.strip() for group in groups for key in group.split(",")}
    assert cited <= set(keys), f"not in references.bib: {sorted(cited - set(keys))}"


def test_the_published_book_asks_for_the_real_question_goes_on_without_it_and_knows_its_address() -> None:
    build = yaml.safe_load((paths.ROOT / ".github" / "workflows" / "book.yml").read_text(encoding="utf-8"))["jobs"]["build"]
    by_command = {step.get("run"): step for step in build["steps"]}
    commands = list(by_command)
    assert commands.index("make example") < commands.index("make book") and by_command["make example"]["continue-on-error"] is True
    asked = next(step for step in build["steps"] if step.get("uses", "").startswith("actions/configure-pages@"))
    assert by_command["make book"]["env"][ADDRESS] == f"${{{{ steps.{asked['id']}.outputs.base_url }}}}"
    assert build["permissions"] == {"contents": "read", "pages": "read"}


def test_the_question_of_the_book_needs_no_torch(tmp_path: Path) -> None:
    """On a machine without an environment, `make example` installs what `make book` needs and nothing else."""
    command = ["make", "--dry-run", f"VENV={tmp_path / 'venv'}", "example"]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=True)
    assert ".ci/install" in done.stdout and "venv book" in done.stdout and "exams --example" in done.stdout
    assert "venv dev" not in done.stdout


def _module(path: Path) -> str:
    """`data.questions` of `jmedlora_utils/data/questions.py`; a room's `__init__` is the room."""
    return ".".join(path.relative_to(paths.PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def test_the_builder_runs_no_notebook_and_shows_no_library_chatter() -> None:
    settings = yaml.safe_load((paths.ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert settings["execute"]["execute_notebooks"] == "off"
    assert settings["execute"]["stderr_output"] == "remove"
    assert {".*/**", "**/.*/**"} <= set(settings["exclude_patterns"])
    assert settings["only_build_toc_files"] is True
    assert settings["repository"]["url"] == "" or settings["repository"]["url"].startswith("https://github.com/")


def test_ci_runs_the_command_of_the_readme() -> None:
    assert "\nmake test\n" in (paths.ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make test" in (paths.ROOT / "README.md").read_text(encoding="utf-8")
