"""Every file that a user writes is read by one reader: another encoding is named with its file, its line and the way to convert it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jmedlora_utils.core import manifest, paths, presets, records
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data.articles import load_articles
from jmedlora_utils.data.questions import read_exam
from jmedlora_utils.models import registry
from jmedlora_utils.models.launch_config import read_launch_config
from jmedlora_utils.tuning import encoding

READERS: dict[str, Callable[[Path], object]] = {
    "articles.jsonl": load_articles,
    "article.txt": lambda path: load_articles(path.parent),
    "train.jsonl": encoding.read_instructions,
    "articles_to_pretrain.jsonl": encoding.read_articles,
    "exam.jsonl": read_exam,
    "record.json": records.read_record,
    "ward.yaml": lambda path: presets.load_preset("ward"),
    "models.yaml": lambda path: registry.read_models(registry.MODELS_FILE, path),
    "config.json": lambda path: registry.resolve(str(path.parent)),
    "adapter_config.json": lambda path: registry.resolve(str(path.parent)),
    "launch.yaml": lambda path: read_launch_config(str(path)),
    "manifest.json": lambda path: manifest.check_manifest(path.parent),
}


@pytest.mark.parametrize("encoding_", ["cp932", "utf-16"])
@pytest.mark.parametrize("name", READERS)
def test_a_file_in_another_encoding_is_refused_with_its_line_and_the_fix(tmp_path: Path, monkeypatch, name: str, encoding_: str) -> None:
    monkeypatch.setattr(paths, "PRESETS", tmp_path)
    (tmp_path / name).write_text('{"a": 1,\n "about": "病院の記事"}\n', encoding=encoding_)
    line = 1 if encoding_ == "utf-16" else 2
    with pytest.raises(JmedloraError, match=rf"{name}:{line}: not UTF-8; save the file as UTF-8 \(from Shift_JIS: iconv"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("name", [name for name in READERS if name != "article.txt"])
def test_a_byte_order_mark_is_no_fault(tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.setattr(paths, "PRESETS", tmp_path)
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf[1]\n")
    with pytest.raises(JmedloraError) as refused:
        READERS[name](tmp_path / name)
    assert "UTF-8" not in str(refused.value) and "not valid" not in str(refused.value)
