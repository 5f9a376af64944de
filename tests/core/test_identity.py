"""Results of old code or other libraries are never taken for those of the code at hand."""

from pathlib import Path

import pytest

from jmedlora_utils.core import identity, paths

FILES = {
    "__init__.py": "",
    "core/__init__.py": "",
    "core/deep.py": 'def value():\n    """One."""\n    return 1  # one\n',
    "data/__init__.py": "",
    "data/reader.py": "class Reader:\n    def read(self):\n        from jmedlora_utils.core import deep\n        return deep.value()\n",
    "tuning/__init__.py": "",
    "tuning/training.py": "import os\n\nif os.name:\n    import jmedlora_utils.data.reader as reader\n",
    "tuning/other.py": "OTHER = 1\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "jmedlora_utils"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(paths, "PACKAGE", root)
    return root


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("core/deep.py", "return 1", "return 2", True),  # imported inside a method of a module imported under an `if`
        ("core/__init__.py", "", "VALUE = 1", True),
        ("data/reader.py", "read", "look", True),
        ("tuning/other.py", "OTHER = 1", "OTHER = 2", False),
        ("core/deep.py", "# one", "# still one", False),
        ("core/deep.py", '    """One."""\n', "", False),
        ("core/deep.py", "return 1", "return (1)", False),
    ],
)
def test_only_code_that_a_module_reaches_changes_its_identity(package: Path, file: str, old: str, new: str, counts: bool) -> None:
    before = identity.produced_by("tuning.training")
    path = package / file
    path.write_text(path.read_text().replace(old, new, 1))
    assert (identity.produced_by("tuning.training") != before) is counts


def test_an_added_import_and_a_missing_module_are_noticed(package: Path) -> None:
    before = identity.produced_by("tuning.training")
    (package / "core" / "deep.py").write_text(FILES["core/deep.py"] + "from jmedlora_utils.tuning.other import OTHER\n")
    assert identity.produced_by("tuning.training") != before
    with pytest.raises(ModuleNotFoundError, match=r"tuning\.trainer: no such module"):
        identity.produced_by("tuning.trainer")


def test_the_versions_of_the_libraries_are_part_of_it(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "bitsandbytes":
            raise identity.importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(identity.importlib.metadata, "version", version)
    found = identity.produced_by("tuning.training")
    assert found | {"code": ""} == {"torch": "1.0", "transformers": "1.0", "peft": "1.0", "bitsandbytes": "not installed", "code": ""}


def test_the_real_package_is_followed_into_its_rooms() -> None:
    reached = {path.relative_to(paths.PACKAGE).as_posix() for path in identity.files_reached("import jmedlora_utils.tuning.training")}
    assert {"__init__.py", "tuning/__init__.py", "tuning/training.py", "core/records.py", "data/prompts.py", "models/loading.py"} <= reached
    assert not {name.split("/")[0] for name in reached} & {"analysis", "figures", "book", "workflow"}
