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
KINDS = (("cp932", 2), ("utf-16", 1), ("utf-8-sig", 0))
CASES = [(name, *kind) for name in READERS for kind in KINDS if (name, kind[1]) != ("article.txt", 0)]


@pytest.mark.parametrize(("name", "encoding", "line"), CASES)
def test_another_encoding_is_refused_with_its_line_and_a_byte_order_mark_is_no_fault(tmp_path, monkeypatch, name, encoding, line):
    monkeypatch.setattr(paths, "PRESETS", tmp_path)
    text = '{"a": 1,\n "about": "病院の記事"}\n' if line else "[1]\n"
    (tmp_path / name).write_text(text, encoding=encoding)
    with pytest.raises(JmedloraError) as refused:
        READERS[name](tmp_path / name)
    if line:
        assert f"{name}:{line}: not UTF-8; save the file as UTF-8 (from Shift_JIS: iconv" in str(refused.value)
    else:
        assert "UTF-8" not in str(refused.value) and "not valid" not in str(refused.value)
