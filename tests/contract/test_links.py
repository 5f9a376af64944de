"""Links to elsewhere: well-formed, and where the committed sources say. The workflow `book.yml` asks whether they answer."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from jmedlora_utils.core import paths
from jmedlora_utils.data import fetch

URL = re.compile(r"https?://[^\s`\"'<>\\|\])}]+")
LOCAL = ("localhost", "127.0.0.1")
PAGES = [paths.ROOT / "README.md", paths.ROOT / "LICENSE-prose", *paths.BOOK.rglob("*.md"), *paths.NOTEBOOKS.glob("*.ipynb")]
REGISTRY = yaml.safe_load((paths.PACKAGE_DATA / "models.yaml").read_text(encoding="utf-8"))
MODELS = {name: entry for part in REGISTRY.values() for name, entry in part.items()}
# Read elsewhere than on the model's own page, as the entry says: a copy of its settings, and the page of its family.
READ_ELSEWHERE = {"swallow-70b-instruct", "qwen3-swallow-8b"}


def addresses() -> list[tuple[str, str]]:
    files = [*PAGES, paths.PACKAGE_DATA / "models.yaml"]
    found = [(path, url) for path in files for url in URL.findall(path.read_text(encoding="utf-8"))]
    return sorted({(str(path.relative_to(paths.ROOT)), url) for path, url in found if not url.endswith("…")})


def bibliography() -> dict:
    from pybtex.database import parse_file

    return parse_file(paths.BOOK / "references.bib").entries


def test_addresses_are_well_formed() -> None:
    assert len(addresses()) > 10
    for where, url in addresses():
        parts = urlsplit(url)
        local = parts.hostname in LOCAL
        assert local or (parts.scheme == "https" and re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc)), f"{where}: {url}"
        assert not re.search(r"[.,;:]$|//", parts.path), f"{where}: {url}"


def test_arxiv_numbers_and_dois_have_their_form_and_stand_for_the_same_paper() -> None:
    entries = bibliography()
    for key, entry in entries.items():
        fields = entry.fields
        if "arxiv.org" in fields.get("url", ""):
            assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", fields["url"]), key
        if "doi" in fields:
            assert re.fullmatch(r"10\.\d{4,9}/\S+", fields["doi"]), key
    readme = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    doi, arxiv = entries["sukeda2024jmedlora"].fields["doi"], entries["sukeda2023jmedlora"].fields["url"]
    assert f"(https://doi.org/{doi})" in readme and f"({arxiv})" in readme
    cited = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["preferred-citation"]["doi"] == doi


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_was_read_on_its_own_page_at_its_own_commit(name: str) -> None:
    entry, source = MODELS[name], urlsplit(MODELS[name]["source"])
    assert source.netloc == "huggingface.co"
    own = source.path.startswith(f"/{entry['hub_id']}/") or source.path == f"/{entry['hub_id']}"
    assert own != (name in READ_ELSEWHERE), f"{entry['hub_id']}: {entry['source']}"
    if commit := re.search(r"/([0-9a-f]{40})(/|$)", source.path):
        assert commit[1] == entry["revision"]


def test_the_examinations_come_from_pinned_commits_that_the_evidence_names() -> None:
    for source in fetch.SOURCES:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", source.repository) and re.fullmatch("[0-9a-f]{40}", source.commit)
    igakuqa = fetch.source_of("igakuqa")
    said = (paths.RESULTS / "published" / "README.md").read_text(encoding="utf-8")
    assert f"`{igakuqa.repository}` at {igakuqa.commit}" in said


@pytest.mark.parametrize("page", [path for path in PAGES if path.suffix == ".md"], ids=lambda path: str(path.relative_to(paths.ROOT)))
def test_links_to_files_of_the_repository_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```[\s\S]*?```|`[^`]*`", "", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", text):
        if not urlsplit(target).scheme:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
