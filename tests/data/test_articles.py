"""Reading articles: folders, JSONL, and what each broken input says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data.articles import Article, load_articles, split_text


def test_a_folder_with_subfolders_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.MD").write_text("\ufeff# 二\n本文", encoding="utf-8")
    (tmp_path / "one.txt").write_text("一つ目", encoding="utf-8")
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    (tmp_path / ".hidden.txt").write_text("no", encoding="utf-8")
    articles, counts = load_articles(tmp_path)
    assert articles == [Article("b/two.MD", "# 二\n本文"), Article("one.txt", "一つ目")]
    assert counts == {"read": 2, "empty": 0, "same text": 0}


def test_empty_articles_and_copies_are_left_out_and_counted(tmp_path):
    for name, text in {"a.txt": "本文です。", "b.txt": "本文で す", "c.txt": " \n\u3000", "d.txt": "別の本文"}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    articles, counts = load_articles(tmp_path)
    assert [a.id for a in articles] == ["a.txt", "d.txt"]
    assert counts == {"read": 4, "empty": 1, "same text": 1}


def test_jsonl_with_titles_and_numeric_ids(tmp_path):
    path = tmp_path / "articles.jsonl"
    path.write_text('{"id": 7, "text": "本文", "title": "題"}\n\n{"id": "x", "text": "別"}\n', encoding="utf-8")
    assert load_articles(path)[0] == [Article("7", "本文", "題"), Article("x", "別")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "a", "text": "x"}\n{"id": "b", "text": ', r"articles\.jsonl:2: not valid JSON .* fix or remove the line"),
        ('{"id": "a"}\n', r"articles\.jsonl:1: field 'text' is missing"),
        ('{"text": "x"}\n', r"articles\.jsonl:1: field 'id' is missing"),
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', r"articles\.jsonl:2: id 'a' stands in line 1 too"),
        ('{"id": true, "text": "x"}\n', r"articles\.jsonl:1: field 'id' must be a text or a whole number"),
        ('{"id": "a", "text": ["x"]}\n', r"articles\.jsonl:1: field 'text' must be a text, found list"),
        ('["a"]\n', r"articles\.jsonl:1: expected a JSON object"),
        ('{"id": "a", "text": " "}\n', r"holds no text; 1 articles in it are empty"),
        ("", r"holds no text"),
    ],
)
def test_broken_jsonl_names_file_line_and_mend(tmp_path, content, message):
    path = tmp_path / "articles.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(JmedloraError, match=message):
        load_articles(path)


def test_folders_without_texts_and_other_encodings_say_so(tmp_path):
    with pytest.raises(JmedloraError, match=r"parameter articles_path: .* is neither a folder nor a file"):
        load_articles(tmp_path / "missing")
    with pytest.raises(JmedloraError, match=r"articles_path: missing is neither .*looked for below .*write the whole path"):
        load_articles("missing")
    with pytest.raises(JmedloraError, match="it is empty"):
        load_articles(tmp_path)
    (tmp_path / "a.docx").write_bytes(b"PK")
    with pytest.raises(JmedloraError, match=r"it holds \.docx: convert them to plain text"):
        load_articles(tmp_path)
    (tmp_path / "b.txt").write_bytes("日本語".encode("cp932"))
    with pytest.raises(JmedloraError, match=r"b\.txt: byte 0 is not UTF-8; .*CP932"):
        load_articles(tmp_path)
    (tmp_path / "c.jsonl").write_bytes("日本語".encode("cp932"))
    with pytest.raises(JmedloraError, match=r"c\.jsonl:1: not UTF-8"):
        load_articles(tmp_path / "c.jsonl")


@given(st.text("あ。\n x.", max_size=200), st.integers(1, 50))
def test_parts_join_to_the_text_and_fit(text, limit):
    parts = split_text(text, limit)
    assert "".join(parts) == text
    assert all(len(part.rstrip()) <= limit for part in parts)


def test_a_long_text_is_cut_between_paragraphs():
    paragraphs = [f"第{i}段落。" * 8 + "\n\n" for i in range(4)]
    assert split_text("".join(paragraphs), 90) == ["".join(paragraphs[:2]), "".join(paragraphs[2:])]
    assert split_text("短い。", 90) == ["短い。"]


def test_the_home_folder_can_be_written_short(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ward").mkdir()
    (tmp_path / "ward" / "a.txt").write_text("夜間のしびれ。", encoding="utf-8")
    assert [a.id for a in load_articles("~/ward")[0]] == ["a.txt"]
