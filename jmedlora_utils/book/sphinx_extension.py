"""What the book asks of Sphinx beyond its settings; `_config.yml` names it among the extensions."""

from __future__ import annotations

import html
import importlib
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml
from docutils import nodes
from sphinx import search

from jmedlora_utils.core import paths

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config

CARD = "_static/social_card.png"
CARD_SIZE = (1200, 630)
_LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_JAPANESE = re.compile(r"[々〆ぁ-ゖァ-ヺー一-鿿㐀-䶿]{2,}")
_JAPANESE_LETTER = re.compile(r"[々〆ぁ-ゖァ-ヺー一-鿿㐀-䶿]")
_BULLET = re.compile(r"\s*(?:[*-] )?")
_LITERAL = re.compile(r"(`+[^`]*`+)")
_LINKED = re.compile(r"(?<!`)(`[^`]*<[^`]*>`)(?!`)")
_COLON = "\ue000"  # of the private use area, in place of a colon while Napoleon reads a docstring


class BilingualSearch(search.SearchEnglish):
    """English as Sphinx splits it, and every two neighbouring characters of Japanese.

    A reader's word of two characters is then in the index; a longer one is found inside the whole run, which the search
    page compares in part.
    """

    def split(self, input: str) -> list[str]:
        """Words of a text, for the index."""
        found = super().split(input)
        for run in _JAPANESE.findall(input):
            found += [run, *(run[i : i + 2] for i in range(len(run) - 1))]
        return found


def public_address(baseurl: str, repository: str) -> str:
    """Where the book will stand, with a slash at its end: as set, else on the Pages of a GitHub repository; empty while it is not known."""
    if baseurl:
        return f"{baseurl.rstrip('/')}/"
    parts = urlsplit(repository.rstrip("/")).path.strip("/").split("/")
    if not repository.startswith("https://github.com/") or len(parts) != 2:
        return ""
    owner, name = parts[0].lower(), parts[1].removesuffix(".git")
    return f"https://{owner}.github.io/" + ("" if name.lower() == f"{owner}.github.io" else f"{name}/")


def _import_models() -> None:
    """Imports pydantic models before autodoc does: it changes pydantic's own annotations, and models made after that stay undefined."""
    for path in sorted(paths.PACKAGE.rglob("*.py")):
        if re.search(r"^from (pydantic|jmedlora_utils\.core\.settings) import", path.read_text(encoding="utf-8"), re.MULTILINE):
            importlib.import_module(".".join(path.relative_to(paths.ROOT).with_suffix("").parts))


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers everything; called by Sphinx."""
    _import_models()
    search.languages["en"] = BilingualSearch
    address = public_address(app.config.html_baseurl or "", app.config.html_theme_options.get("repository_url", ""))
    if address:
        app.setup_extension("sphinx_sitemap")
        app.setup_extension("sphinxext.opengraph")
        app.connect("config-inited", lambda app, config: _publish(config, address))
    app.connect("doctree-read", _show_html_as_text)
    app.connect("doctree-read", _mark_japanese)
    app.connect("html-page-context", _cite)
    app.connect("autodoc-process-docstring", _plain_marks, priority=100)
    app.connect("autodoc-process-docstring", _restore_colons, priority=900)
    app.connect("missing-reference", _find_class)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _show_html_as_text(app: Sphinx, doctree: nodes.document) -> None:
    """Markdown may bring no HTML but line breaks: what a model wrote stays text even where a notebook forgot to escape it.

    The HTML output of a notebook's cell has the class `text_html`; any other comes from Markdown. Raw text for another format, such as
    the LaTeX that stands beside each line break, is not shown in HTML.
    """
    for node in list(doctree.findall(lambda node: isinstance(node, nodes.raw) and "html" in node["format"].split())):
        if "text_html" not in node["classes"] and not _LINE_BREAK.fullmatch(node.astext().strip()):
            text = nodes.Text(node.astext())
            node.replace_self(text if isinstance(node.parent, nodes.TextElement) else nodes.paragraph("", "", text))


def _mark_japanese(app: Sphinx, doctree: nodes.document) -> None:
    """For the forms of characters and for screen readers; docutils writes the class `language-ja` as `lang="ja"`."""
    for node in doctree.findall(lambda node: isinstance(node, (nodes.paragraph, nodes.title))):
        text = node.astext()
        if 2 * len(_JAPANESE_LETTER.findall(text)) > sum(map(str.isalnum, text)):
            node["classes"].append("language-ja")


def _publish(config: Config, address: str) -> None:
    """Social cards and a sitemap, where the book has a public address."""
    config.html_baseurl = config.ogp_site_url = address
    config.sitemap_url_scheme = "{link}"
    config.ogp_image = f"{address}{CARD}"
    config.ogp_image_alt = "A frozen matrix, and beside it the tall and the wide one that LoRA trains"
    config.ogp_site_name = config.html_title
    width, height = CARD_SIZE
    config.ogp_custom_meta_tags = [
        f'<meta property="og:image:width" content="{width}" />',
        f'<meta property="og:image:height" content="{height}" />',
        '<meta name="twitter:card" content="summary_large_image" />',
    ]


def citation() -> dict[str, Any]:
    """`CITATION.cff`."""
    return yaml.safe_load((paths.ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def _cite(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Citation tags of the first page."""
    if pagename != app.config.root_doc:
        return
    about = citation()
    tags = [("citation_title", about["title"])]
    tags += [("citation_author", a.get("name") or f"{a['family-names']}, {a['given-names']}") for a in about["authors"]]
    tags += [("citation_publication_date", str(about["date-released"])[:4]), ("citation_language", "en")]
    if app.config.html_baseurl:
        tags.append(("citation_public_url", app.config.html_baseurl))
    lines = (f'<meta name="{name}" content="{html.escape(content)}" />' for name, content in tags)
    context["metatags"] = context.get("metatags", "") + "\n".join(lines) + "\n"


def _plain_marks(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Lets a bar, a star or a name such as `<run>` in a docstring stand for itself; reST reads them as substitutions and links.

    Of an attribute or property, Napoleon takes what stands before a colon for its type, so colons are put aside until it is done.
    """
    for number, line in enumerate(lines):
        line = lines[number] = _LINKED.sub(r"`\1`", line.replace(":", _COLON) if what in ("attribute", "property") else line)
        start = _BULLET.match(line).end()  # type: ignore[union-attr]  # the pattern also matches nothing
        pieces = _LITERAL.split(line[start:])
        pieces[::2] = [re.sub(r"([|*])", r"\\\1", piece) for piece in pieces[::2]]
        lines[number] = line[:start] + "".join(pieces)


def _restore_colons(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Puts the colons of attributes back, after Napoleon."""
    lines[:] = [line.replace(_COLON, ":") for line in lines]


def _find_class(app: Sphinx, env: Any, node: Any, content: nodes.Element) -> nodes.reference | None:
    """Finds a class, or `module.name`, that is written without its package, as this project's docstrings do."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not ("." in target or target[:1].isupper()):
        return None
    domain = env.get_domain("py")
    found = [name for name in domain.objects if name.endswith(f".{target}")]
    if len(found) != 1:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, content)
