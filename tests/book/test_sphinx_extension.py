import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from jmedlora_utils.book import sphinx_extension
from jmedlora_utils.core import paths

SETTINGS = yaml.safe_load((paths.ROOT / "_config.yml").read_text(encoding="utf-8"))
PAGE = """# 日本語の要約 A page

医師国家試験に対する公開済みの解答を採点します。 Tuned models.

a. first choice\\
b. second choice <b onclick="hit()">bold</b>

```{eval-rst}
.. automodule:: jmedlora_utils.evaluation.metrics
   :members: gestalt_distance, Score, score

.. automodule:: jmedlora_utils.data.questions
   :members: Question

.. automodule:: jmedlora_utils.core.paths
   :members: Workspace
```
"""


def build(folder: Path, address: str) -> Path:
    """A book of one page, with the settings of `_config.yml`, without torch, warnings as errors."""
    (folder / "source").mkdir()
    (folder / "source" / "index.md").write_text(PAGE, encoding="utf-8")
    config = {k: v for k, v in SETTINGS["sphinx"]["config"].items() if not k.startswith(("bibtex", "html_", "nb_"))}
    config |= {"extensions": ["myst_parser", *SETTINGS["sphinx"]["extra_extensions"]], "html_title": "A title", "nitpicky": True}
    config |= {"html_theme": "sphinx_book_theme", "html_theme_options": {"repository_url": address}}
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("torch", "transformers", "peft", "bitsandbytes", "accelerate")))
from sphinx.application import Sphinx
app = Sphinx("source", None, "html", "doctrees", "html", confoverrides={config!r}, warningiserror=True, freshenv=True, status=None)
app.build()
sys.exit(app.statuscode)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("published"), "https://github.com/Someone/jmedlora")


@pytest.mark.parametrize(
    ("baseurl", "repository", "address"),
    [
        ("", "", ""),
        ("", "https://github.com/Someone/jmedlora", "https://someone.github.io/jmedlora/"),
        ("", "https://github.com/someone/jmedlora.git/", "https://someone.github.io/jmedlora/"),
        ("", "https://github.com/someone/someone.github.io", "https://someone.github.io/"),
        ("", "https://gitlab.com/someone/jmedlora", ""),
        ("https://book.example.org", "https://github.com/someone/jmedlora", "https://book.example.org/"),
    ],
)
def test_the_public_address_follows_from_one_setting(baseurl: str, repository: str, address: str) -> None:
    assert sphinx_extension.public_address(baseurl, repository) == address


def test_with_an_address_there_are_sitemap_social_card_and_citation(published: Path) -> None:
    places = [element.text for element in ElementTree.parse(published / "sitemap.xml").iter() if element.tag.endswith("loc")]
    assert "https://someone.github.io/jmedlora/index.html" in places
    page = (published / "index.html").read_text(encoding="utf-8")
    assert '<meta property="og:image" content="https://someone.github.io/jmedlora/_static/social_card.png" />' in page
    assert '<link rel="canonical" href="https://someone.github.io/jmedlora/index.html"' in page
    assert 'name="citation_public_url" content="https://someone.github.io/jmedlora/"' in page
    assert (paths.BOOK / sphinx_extension.CARD).is_file()


def test_without_an_address_nothing_points_anywhere(tmp_path: Path) -> None:
    html = build(tmp_path, "")
    page = (html / "index.html").read_text(encoding="utf-8")
    assert not (html / "sitemap.xml").exists()
    assert not [name for name in ("og:image", "canonical", "citation_public_url") if name in page]
    title = sphinx_extension.citation()["title"]
    assert f'<meta name="citation_title" content="{title}" />' in page and "citation_publication_date" in page


def test_the_index_holds_japanese_words_and_english_ones(published: Path) -> None:
    text = (published / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("Search.setIndex(").rstrip().removesuffix(")"))
    assert {"国家", "解答", "医師国家試験に対する公開済みの解答を採点します", "tune", "model"} <= set(index["terms"])
    assert {"要約", "日本"} <= set(index["titleterms"])


def test_docstrings_classes_japanese_paragraphs_and_line_breaks_are_read_as_written(published: Path) -> None:
    page = (published / "index.html").read_text(encoding="utf-8")
    assert "2|K| / (|R| + |C|)" in page
    assert "Name of the exam: <" in page and ">Type<" not in page, "the words before a colon are no type"
    assert "checkpoint-&lt;step&gt;" in page, "a name in angle brackets is no link"
    assert page.count('href="#jmedlora_utils.data.questions.Question"') >= 2, "its own anchor alone: no docstring links to it"
    assert '<p lang="ja">医師国家試験に' in page and '<h1 lang="ja">日本語の要約' in page
    assert page.count('lang="ja"') == 2, "a text of another language"
    assert re.search(r"a\. first choice<br />\s*b\. second choice &lt;b", page), "the LaTeX of the line break is shown, or HTML is not text"


def test_japanese_is_indexed_by_neighbouring_characters() -> None:
    found = sphinx_extension.BilingualSearch({}).split("用語の説明, two words")
    assert {"用語の説明", "用語", "語の", "説明", "two", "words"} <= set(found)
