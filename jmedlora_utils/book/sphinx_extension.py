"""What the book asks of Sphinx beyond its settings; `_config.yml` names it among the extensions.

* Search finds Japanese words: Sphinx's own index takes a whole run of Japanese for one word.
* A paragraph or heading that is mostly Japanese says so in its `lang`, for the forms of its characters and for readers aloud.
* With a public address, every page gets its social card and the book its sitemap. The address is `html.baseurl` of
  `_config.yml`, which `book` takes from the environment where it is set there, or else the Pages address that follows from
  `repository.url`. Without one, nothing is added.
* The first page carries citation tags, from `CITATION.cff`.
* The API page reads docstrings as they are written: bars and stars stand for themselves, and names of classes become links.
"""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
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
_JAPANESE = re.compile(r"[々〆ぁ-ゖァ-ヺー一-鿿㐀-䶿]{2,}")
_JAPANESE_LETTER = re.compile(r"[々〆ぁ-ゖァ-ヺー一-鿿㐀-䶿]")
_BULLET = re.compile(r"\s*(?:[*-] )?")
_LITERAL = re.compile(r"(`+[^`]*`+)")


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
    """Where the book will stand, with a slash at its end; empty while it is not known.

    Args:
        baseurl: Address as set; it goes first.
        repository: Address of a repository on GitHub, which Pages serves at `https://<owner>.github.io/<name>/`.
    """
    if baseurl:
        return f"{baseurl.rstrip('/')}/"
    parts = urlsplit(repository.rstrip("/")).path.strip("/").split("/")
    if not repository.startswith("https://github.com/") or len(parts) != 2:
        return ""
    owner, name = parts[0].lower(), parts[1].removesuffix(".git")
    return f"https://{owner}.github.io/" + ("" if name.lower() == f"{owner}.github.io" else f"{name}/")


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers everything; called by Sphinx."""
    search.languages["en"] = BilingualSearch
    address = public_address(app.config.html_baseurl or "", app.config.html_theme_options.get("repository_url", ""))
    if address:
        app.setup_extension("sphinx_sitemap")
        app.setup_extension("sphinxext.opengraph")
        app.connect("config-inited", lambda app, config: _publish(config, address))
        app.connect("build-finished", _write_card)
    app.connect("doctree-read", _mark_japanese)
    app.connect("html-page-context", _cite)
    app.connect("build-finished", _copy_citation)
    app.connect("autodoc-process-docstring", _plain_marks, priority=100)
    app.connect("missing-reference", _find_class)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _mark_japanese(app: Sphinx, doctree: nodes.document) -> None:
    """Docutils writes the class `language-ja` as `lang="ja"`."""
    for node in doctree.findall(lambda node: isinstance(node, (nodes.paragraph, nodes.title))):
        text = node.astext()
        if 2 * len(_JAPANESE_LETTER.findall(text)) > sum(map(str.isalnum, text)):
            node["classes"].append("language-ja")


def _publish(config: Config, address: str) -> None:
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


def _write_card(app: Sphinx, failed: Exception | None) -> None:
    if failed is None and app.builder.format == "html":
        draw_card(Path(app.outdir) / CARD, citation()["title"], app.config.html_baseurl)


def draw_card(path: Path, title: str, address: str) -> Path:
    """Draws the picture that a link to the book shows elsewhere, a PNG of `CARD_SIZE` pixels."""
    from matplotlib.patches import Rectangle

    from jmedlora_utils.figures import plotting

    figure, axes = plotting.new_figure(width=CARD_SIZE[0] / 100, height=CARD_SIZE[1] / 100)
    ax = axes[0, 0]
    ax.set(xlim=(0, 12), ylim=(0, 6.3))
    ax.set_axis_off()
    name, _, rest = title.partition(": ")
    ax.text(0.7, 4.6, name, fontsize=58, fontweight="bold", color=plotting.PALETTE["black"])
    ax.text(0.7, 3.9, rest, fontsize=24, color=plotting.PALETTE["black"])
    ax.text(0.7, 0.5, address.split("://")[-1].rstrip("/"), fontsize=18, color=plotting.PALETTE["grey"])
    frozen, tall, wide = ((0.7, 1.2), 2.2, 2.2, "grey"), ((3.6, 1.2), 0.5, 2.2, "blue"), ((4.4, 2.9), 2.2, 0.5, "vermilion")
    for corner, width, height, colour in (frozen, tall, wide):
        ax.add_patch(Rectangle(corner, width, height, color=plotting.PALETTE[colour]))
    ax.text(3.25, 2.3, "+", fontsize=34, ha="center", va="center", color=plotting.PALETTE["black"])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, bbox_inches=None)
    return path


def citation() -> dict[str, Any]:
    """`CITATION.cff`."""
    return yaml.safe_load((paths.ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def _copy_citation(app: Sphinx, failed: Exception | None) -> None:
    """The page of references links to it."""
    if failed is None and app.builder.format == "html":
        shutil.copy(paths.ROOT / "CITATION.cff", app.outdir)


def _cite(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
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
    """Lets a bar or a star in a docstring stand for itself; reST reads `|K|` as a substitution."""
    for number, line in enumerate(lines):
        start = _BULLET.match(line).end()  # type: ignore[union-attr]  # the pattern also matches nothing
        pieces = _LITERAL.split(line[start:])
        pieces[::2] = [re.sub(r"([|*])", r"\\\1", piece) for piece in pieces[::2]]
        lines[number] = line[:start] + "".join(pieces)


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
