"""Reading articles: folders, JSONL, and what each broken input says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data.articles import Article, load_articles, split_text


def test_a_folder_with_subfolders_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "ward"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "two.MD").write_text("\ufeff# 二\n本文", encoding="utf-8")
    (folder / "one.txt").write_text("一つ目", encoding="utf-8")
    (folder / "notes.pdf").write_bytes(b"%PDF")
    (folder / ".hidden.txt").write_text("no", encoding="utf-8")
    articles, counts = load_articles("~/ward")
    assert articles == [Article("b/two.MD", "# 二\n本文"), Article("one.txt", "一つ目")]
    assert counts == {"read": 2, "empty": 0, "same text": 0}


def test_empty_articles_and_copies_are_left_out_and_counted(tmp_path):
    for name, text in {"a.txt": "本文です。", "b.txt": "本文で す", "c.txt": " \n\u3000", "d.txt": "別の本文"}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    articles, counts = load_articles(tmp_path)
    assert [a.id for a in articles] == ["a.txt", "d.txt"]
    assert counts == {"read": 4, "empty": 1, "same text": 1}


def test_jsonl_with_titles_numeric_ids_and_further_fields(tmp_path):
    path = tmp_path / "articles.jsonl"
    path.write_text('{"id": 7, "text": "本文", "title": "題"}\n\n{"id": "x", "text": "別", "year": 1}\n', encoding="utf-8")
    assert load_articles(path)[0] == [Article("7", "本文", "題"), Article("x", "別")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "a", "text": "x"}\n{"id": "b", "text": ', r"articles\.jsonl:2: not valid JSON .* fix or remove the line"),
        ('{"id": "a"}\n', r"articles\.jsonl:1: field 'text' is missing"),
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', r"articles\.jsonl:2: id 'a' is already used in line 1"),
        ('{"id": " ", "text": "x"}\n', r"articles\.jsonl:1: 'id"),
        ('["a"]\n', r"articles\.jsonl:1: expected a JSON object"),
        ('{"id": "a", "text": " "}\n', r"holds no text; 1 articles in it are empty"),
        ("", r"holds no text"),
    ],
)
def test_broken_jsonl_names_file_line_and_fix(tmp_path, content, message):
    path = tmp_path / "articles.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(JmedloraError, match=f"parameter articles_path: .*{message}"):
        load_articles(path)


@pytest.mark.parametrize(
    ("files", "asked", "message"),
    [
        ({}, "", "it is empty"),
        ({}, "missing", r"is neither a folder nor a file; give a folder"),
        ({"a.docx": b"PK"}, "", r"it holds \.docx: convert them to plain text"),
    ],
)
def test_what_cannot_be_read_says_so(tmp_path, files, asked, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(JmedloraError, match=f"parameter articles_path: .*{message}"):
        load_articles(tmp_path / asked)
    with pytest.raises(JmedloraError, match=r"missing is neither .*looked for below .*write the whole path"):
        load_articles("missing")


@pytest.mark.parametrize("target", ["secret.txt", "elsewhere"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, target):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "secret.txt").write_text("秘密", encoding="utf-8")
    folder = tmp_path / "ward"
    folder.mkdir()
    (folder / "a.txt").write_text("本文", encoding="utf-8")
    (folder / "inside.txt").symlink_to(folder / "a.txt")
    assert load_articles(folder)[1] == {"read": 2, "empty": 0, "same text": 1}
    (folder / "link.txt").symlink_to(tmp_path / target)
    with pytest.raises(JmedloraError, match=rf"link\.txt is a link to .*{target}, outside the folder"):
        load_articles(folder)


@given(st.text("あ。\n x.", max_size=200), st.integers(1, 50))
def test_parts_join_to_the_text_and_fit(text, limit):
    parts = split_text(text, limit)
    assert "".join(parts) == text
    assert all(len(part.rstrip()) <= limit for part in parts)


def test_a_long_text_is_cut_between_paragraphs():
    paragraphs = [f"第{i}段落。" * 8 + "\n\n" for i in range(4)]
    assert split_text("".join(paragraphs), 90) == ["".join(paragraphs[:2]), "".join(paragraphs[2:])]
